"""A finite Markov decision process as arrays.

Axes: S states, A actions. Everything that plans reads this one object.
"""

from typing import TYPE_CHECKING, Any, Union

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sb3_mirl.tabular.table import checked_table

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Array = NDArray[np.float64]
Matrix = Union[Array, "csr_array"]

_DENSE_ENTRIES = 2**20  # up to here (8 MB) a dense matrix is the faster one
_SPARSE_DENSITY = 0.1
_TOLERANCE = 1e-8  # how far a sum of probabilities may be off


class TabularMDP:
    """States, actions, rewards and where they lead.

    :param transition: (S, A, S); ``transition[s, a, t]`` is the probability of going on to t, so that a row sums to 1 minus
        the probability that the episode ends. For many states: any scipy sparse (S * A, S), row ``s * A + a``
    :param reward: (S, A), the expected reward of taking a in s
    :param initial: (S,), the distribution of the first state
    :param discount: gamma in [0, 1)
    :raises ValueError: a shape does not fit, a number is not finite, a probability is negative, a row sums to more
        than 1, ``initial`` does not sum to 1, or ``discount`` is outside [0, 1); state and action are named

    ``matrix`` holds the transitions as (S * A, S), sparse (scipy CSR) where that is smaller; ``termination`` (S, A) is
    the probability that the episode ends.
    """

    def __init__(self, transition: Any, reward: ArrayLike, initial: ArrayLike, discount: float) -> None:
        self.reward: Array = np.array(reward, dtype=np.float64)
        self.initial: Array = np.array(initial, dtype=np.float64)
        self.discount = float(discount)
        if self.reward.ndim != 2 or self.reward.size == 0:
            raise ValueError(f"reward must have the shape (states, actions), got {self.reward.shape}")
        self.n_states, self.n_actions = self.reward.shape
        self.matrix: Matrix = _as_matrix(transition, self.n_states, self.n_actions)
        self.termination: Array = self._checked_termination()
        self._check_rewards_and_start()
        for array in (self.reward, self.initial, self.termination):
            array.setflags(write=False)

    @property
    def transition(self) -> Array:
        """(S, A, S), dense: for looking at, not for large S."""
        dense = self.matrix if isinstance(self.matrix, np.ndarray) else self.matrix.toarray()
        return dense.reshape(self.n_states, self.n_actions, self.n_states)

    @classmethod
    def from_env(cls, env: gym.Env[Any, Any], discount: float = 0.99, initial: ArrayLike | None = None) -> "TabularMDP":
        """Read gymnasium's ``P`` table (FrozenLake, Taxi, CliffWalking, the gridworlds).

        A time limit is no part of it: the table does not know the time.

        :param env: ``env.unwrapped.P[s][a]`` lists ``(probability, next_state, reward, terminated)``
        :param discount: gamma in [0, 1)
        :param initial: (S,); by default ``env.unwrapped.initial_state_distrib``
        :raises ValueError: there is no ``P`` table, it is wrong somewhere, there is no start distribution; or as for the
            class
        """
        from scipy.sparse import coo_array

        table = getattr(env.unwrapped, "P", None)
        if table is None:
            raise ValueError(f"{env} has no transition table: TabularMDP.from_env needs env.unwrapped.P[state][action]")
        if initial is None:
            initial = getattr(env.unwrapped, "initial_state_distrib", None)
        if initial is None:
            raise ValueError(f"{env} has no initial_state_distrib: pass initial=, one probability per state")

        outcomes = checked_table(table)
        n_states, n_actions = len(outcomes), len(outcomes[0])
        reward = np.zeros((n_states, n_actions))
        rows, columns, probabilities = [], [], []
        for state in range(n_states):
            for action in range(n_actions):
                for probability, next_state, r, terminated in outcomes[state][action]:
                    reward[state, action] += probability * r
                    if not terminated:
                        rows.append(state * n_actions + action)
                        columns.append(next_state)
                        probabilities.append(probability)
        places = (np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64))
        transition = coo_array((probabilities, places), shape=(n_states * n_actions, n_states), dtype=np.float64)
        return cls(transition, reward, initial, discount)

    def _name(self, row: int) -> str:
        return f"state {row // self.n_actions}, action {row % self.n_actions}"

    def _checked_termination(self) -> Array:
        """(S, A): the probability that the episode ends, after checking the transitions."""
        for row, value in _first_bad_entry(self.matrix):
            raise ValueError(f"transition probabilities must be finite and not negative, got {value} at {self._name(row)}")
        sums = np.asarray(self.matrix.sum(axis=1)).ravel()  # (S * A,)
        worst = int(sums.argmax())
        if sums[worst] > 1 + _TOLERANCE:
            raise ValueError(
                f"the transitions of {self._name(worst)} sum to {sums[worst]:.9g}: "
                "they must sum to 1 minus the probability that the episode ends there"
            )
        return np.clip(1 - sums, 0, 1).reshape(self.n_states, self.n_actions)

    def _check_rewards_and_start(self) -> None:
        bad = np.flatnonzero(~np.isfinite(self.reward))
        if bad.size:
            raise ValueError(f"rewards must be finite, got {self.reward.flat[bad[0]]} at {self._name(int(bad[0]))}")
        if self.initial.shape != (self.n_states,):
            raise ValueError(f"initial must have the shape ({self.n_states},), got {self.initial.shape}")
        bad = np.flatnonzero(~(self.initial >= 0))
        if bad.size:
            raise ValueError(f"initial must hold probabilities, got {self.initial[bad[0]]} at state {bad[0]}")
        if abs(self.initial.sum() - 1) > _TOLERANCE:
            raise ValueError(f"initial must sum to 1, got {self.initial.sum():.9g}")
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount must be in [0, 1), got {self.discount}: the infinite sum needs it to converge")


def _as_matrix(transition: Any, n_states: int, n_actions: int) -> Matrix:
    """(S * A, S) float64, dense or CSR, whichever is smaller."""
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


def _first_bad_entry(matrix: Matrix) -> "list[tuple[int, float]]":
    """Row and value of the first entry that is no probability; empty if there is none."""
    values = matrix.ravel() if isinstance(matrix, np.ndarray) else matrix.data
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if not bad.size:
        return []
    index = int(bad[0])
    if isinstance(matrix, np.ndarray):
        return [(index // matrix.shape[1], float(values[index]))]
    return [(int(np.searchsorted(matrix.indptr, index, side="right")) - 1, float(values[index]))]
