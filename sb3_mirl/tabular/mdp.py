"""A finite Markov decision process as arrays. Axes: S states, A actions. Everything that plans reads this one object."""

from typing import TYPE_CHECKING, Any, Union

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sb3_mirl.tabular.gym_tables import TOLERANCE, as_env, pair, read_outcomes, table_fault

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Array = NDArray[np.float64]
Matrix = Union[Array, "csr_array"]

_DENSE_ENTRIES = 2**20  # up to here (8 MB) a dense matrix is the faster one
_SPARSE_DENSITY = 0.1


class TabularMDP:
    """A finite Markov decision process.

    :param transition: (S, A, S); ``transition[s, a, t]`` is the probability of going on to t, so that a row sums to 1 minus
        the probability that the episode ends. For many states: any scipy sparse (S * A, S), row ``s * A + a``
    :param reward: (S, A), the expected reward of taking a in s
    :param initial: (S,), the distribution of the first state
    :param discount: gamma in [0, 1)
    :raises ValueError: if a shape does not fit, a number is not finite, a probability is negative, a row sums to more than 1,
        ``initial`` does not sum to 1, or ``discount`` is outside [0, 1); the message names the state and action

    ``matrix`` holds the transitions as (S * A, S), sparse (scipy CSR) where that is smaller; ``termination`` (S, A) is
    the probability that the episode ends.
    """

    def __init__(self, transition: Any, reward: ArrayLike, initial: ArrayLike, discount: float) -> None:
        self.reward: Array = np.array(reward, dtype=np.float64)
        if self.reward.ndim != 2 or self.reward.size == 0:
            raise ValueError(f"reward must have the shape (states, actions), got {self.reward.shape}")
        self.n_states, self.n_actions = self.reward.shape
        self.matrix: Matrix = _as_matrix(transition, self.n_states, self.n_actions)
        self.termination: Array = self._checked_termination()
        bad = np.flatnonzero(~np.isfinite(self.reward))
        if bad.size:
            raise ValueError(f"rewards must be finite, got {self.reward.flat[bad[0]]} at {pair(bad[0], self.n_actions)}")
        self.initial: Array = checked_distribution("initial", initial, self.n_states)
        self.discount = float(discount)
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount must be in [0, 1), got {self.discount}: the infinite sum needs it to converge")
        for array in (self.reward, self.initial, self.termination):
            array.setflags(write=False)

    @property
    def transition(self) -> Array:
        """(S, A, S), dense: for looking at, not for large S."""
        dense = self.matrix if isinstance(self.matrix, np.ndarray) else self.matrix.toarray()
        return dense.reshape(self.n_states, self.n_actions, self.n_states)

    @classmethod
    def from_env(cls, env: gym.Env[Any, Any] | str, discount: float = 0.99, initial: ArrayLike | None = None) -> "TabularMDP":
        """Read gymnasium's ``P`` table (FrozenLake, Taxi, CliffWalking, the gridworlds).

        The table must be what an agent meets; see ``table_fault`` for the rule, which the tabular agents share. A time limit
        is left out: the table does not know the time.

        :param env: an environment, or its id; ``env.unwrapped.P[s][a]`` lists
            ``(probability, next_state, reward, terminated)``
        :param discount: gamma in [0, 1)
        :param initial: (S,); by default ``env.unwrapped.initial_state_distrib``
        :raises ValueError: if the environment does not do what its table says, the table is wrong somewhere, or there is no
            start distribution; or as for the class
        """
        from scipy.sparse import coo_array

        env = as_env(env)
        fault = table_fault(env)
        if fault is not None:
            raise ValueError(f"{env} cannot be read as a table: {fault}")
        if initial is None:
            initial = getattr(env.unwrapped, "initial_state_distrib", None)
        if initial is None:
            raise ValueError(f"{env} has no initial_state_distrib: pass initial=, one probability per state")
        probability, next_state, reward, terminated = read_outcomes(env)
        n_states, n_actions, _ = probability.shape
        state, action, k = np.nonzero((probability > 0) & ~terminated)
        entries = (probability[state, action, k], (state * n_actions + action, next_state[state, action, k]))
        transition = coo_array(entries, shape=(n_states * n_actions, n_states), dtype=np.float64)
        return cls(transition, (probability * reward).sum(axis=2), initial, discount)

    def _checked_termination(self) -> Array:
        """Check the transitions; return the probability that the episode ends (S, A)."""
        matrix: Any = self.matrix
        values = matrix.ravel() if isinstance(matrix, np.ndarray) else matrix.data
        bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        if bad.size:
            dense = isinstance(matrix, np.ndarray)
            row = bad[0] // self.n_states if dense else np.flatnonzero(matrix.indptr <= bad[0])[-1]
            where = pair(row, self.n_actions)
            raise ValueError(f"transition probabilities must be finite and not negative, got {values[bad[0]]} at {where}")
        sums = np.asarray(self.matrix.sum(axis=1)).ravel()  # (S * A,)
        worst = int(sums.argmax())
        if sums[worst] > 1 + TOLERANCE:
            raise ValueError(
                f"the transitions of {pair(worst, self.n_actions)} sum to {sums[worst]:.9g}: "
                "they must sum to 1 minus the probability that the episode ends there"
            )
        return np.clip(1 - sums, 0, 1).reshape(self.n_states, self.n_actions)


def checked_distribution(name: str, values: ArrayLike, n: int) -> Array:
    """Return ``values`` as (n,) float64, a copy.

    :raises ValueError: if they are not ``n`` probabilities that sum to 1
    """
    array = np.array(values, dtype=np.float64)
    total = float(array.sum())
    if array.shape != (n,) or not (array >= 0).all() or not abs(total - 1) <= TOLERANCE:
        raise ValueError(f"{name} must hold {n} probabilities that sum to 1, got {array} (sum {total:.9g})")
    return array if abs(total - 1) < 1e-12 else array / total


def _as_matrix(transition: Any, n_states: int, n_actions: int) -> Matrix:
    """Return the transitions as (S * A, S) float64, dense or CSR, whichever is smaller."""
    from scipy.sparse import csr_array, issparse

    shape = (n_states * n_actions, n_states)
    if issparse(transition):
        if transition.shape != shape:
            raise ValueError(f"a sparse transition must be (states * actions, states), {shape}, got {transition.shape}")
        sparse = csr_array(transition, dtype=np.float64)
        sparse.sum_duplicates()
    else:
        dense = np.array(transition, dtype=np.float64)
        if dense.shape != (n_states, n_actions, n_states):
            raise ValueError(f"transition must have the shape {(n_states, n_actions, n_states)}, got {dense.shape}")
        dense = dense.reshape(shape)
        if dense.size <= _DENSE_ENTRIES or np.count_nonzero(dense) > _SPARSE_DENSITY * dense.size:
            return dense
        sparse = csr_array(dense)
    size = shape[0] * shape[1]
    return sparse.toarray() if size <= _DENSE_ENTRIES or sparse.nnz > _SPARSE_DENSITY * size else sparse
