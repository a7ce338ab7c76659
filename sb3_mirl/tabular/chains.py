"""The Markov chain that a policy makes of an MDP, and where it spends its time.

Axes: S states, A actions. ``policy`` is always (S, A), rows summing to 1.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from sb3_mirl.tabular.mdp import Array, Matrix, TabularMDP

StateDistribution = Literal["discounted", "stationary", "behaviour"]

_DIRECT_STATES = 2000  # up to here a sparse LU factorisation is as quick as an iterative solver
_KRYLOV_RTOL = 1e-11
# the long-run distribution as the limit of a discount: it exists for every chain, periodic and reducible ones too
_NEAR_ONE = 1 - 1e-9


def checked_policy(mdp: TabularMDP, policy: ArrayLike) -> Array:
    """``policy`` as (S, A) float64.

    :raises ValueError: the shape is wrong or a row is no distribution
    """
    array = np.asarray(policy, dtype=np.float64)
    if array.shape != (mdp.n_states, mdp.n_actions):
        raise ValueError(f"policy must have the shape {(mdp.n_states, mdp.n_actions)}, got {array.shape}")
    bad = np.flatnonzero(~(np.isclose(array.sum(axis=1), 1, rtol=0, atol=1e-6) & (array >= 0).all(axis=1)))
    if bad.size:
        raise ValueError(f"policy[{bad[0]}] must be a distribution over actions, got {array[bad[0]]}")
    return array


def policy_matrix(mdp: TabularMDP, policy: Array) -> Matrix:
    """(S, S): P_pi(t|s) = sum_a pi(a|s) P(t|s,a); a row sums to 1 minus the probability that the episode ends."""
    if isinstance(mdp.matrix, np.ndarray):
        return np.einsum("sa,sat->st", policy, mdp.matrix.reshape(mdp.n_states, mdp.n_actions, mdp.n_states))
    from scipy.sparse import csr_array

    size = mdp.n_states * mdp.n_actions
    starts = np.arange(0, size + 1, mdp.n_actions)
    chooser = csr_array((policy.ravel(), np.arange(size), starts), shape=(mdp.n_states, size))
    return chooser @ mdp.matrix


def solve_chain(chain: Matrix, discount: float, right: Array) -> Array:
    """x (S,) with x - discount * chain @ x = right.

    :param chain: (S, S), non-negative, rows or columns summing to at most 1
    :param discount: in [0, 1)
    :param right: (S,)
    """
    if isinstance(chain, np.ndarray):
        return np.asarray(np.linalg.solve(np.eye(len(right)) - discount * chain, right), dtype=np.float64)
    from scipy.sparse import eye_array
    from scipy.sparse.linalg import bicgstab, gcrotmk, spsolve

    matrix = eye_array(len(right), format="csr") - discount * chain
    if len(right) > _DIRECT_STATES and discount < _NEAR_ONE:
        # bicgstab is the quickest and may break down, gcrotmk is slower and does not, a factorisation takes memory
        for solver in (bicgstab, gcrotmk):
            with np.errstate(all="ignore"):
                solution, failed = solver(matrix, right, rtol=_KRYLOV_RTOL)
            # its own residual may have drifted from the true one
            if not failed and np.linalg.norm(matrix @ solution - right) <= 10 * _KRYLOV_RTOL * np.linalg.norm(right):
                return solution
    return spsolve(matrix.tocsc(), right)


def _visits(mdp: TabularMDP, policy: Array, discount: float) -> Array:
    """(S,): sum_t discount^t Pr(s_t = s), normalised."""
    chain = policy_matrix(mdp, policy)
    visits = np.maximum(solve_chain(chain.T, discount, mdp.initial), 0)
    return visits / visits.sum()


def occupancy(mdp: TabularMDP, policy: ArrayLike) -> Array:
    """The discounted state distribution, (S,): p(s) of Grau-Moya et al. (2019), section 3.2, normalised to sum to 1.

    :param policy: (S, A)
    :raises ValueError: ``policy`` is none
    """
    return _visits(mdp, checked_policy(mdp, policy), mdp.discount)


def stationary_distribution(mdp: TabularMDP, policy: ArrayLike) -> Array:
    """How often each state is visited in the long run, (S,), when an ended episode starts anew from ``initial``.

    Definition 1 of Grau-Moya et al. (2019). A chain with several recurrent classes gets the mixture that ``initial``
    leads to, a periodic one its time average.

    :param policy: (S, A)
    :raises ValueError: ``policy`` is none
    """
    return _visits(mdp, checked_policy(mdp, policy), _NEAR_ONE)


def behaviour_policy(policy: ArrayLike, prior: ArrayLike, epsilon: float) -> Array:
    """(S, A): with probability epsilon an action from the prior, else the most probable one (ties shared).

    Grau-Moya et al. (2019), section 4.1, "Behavioural policy".

    :param policy: (S, A)
    :param prior: (A,)
    :param epsilon: in [0, 1]
    """
    policy, prior = np.asarray(policy), np.asarray(prior)
    best = policy >= policy.max(axis=1, keepdims=True) * (1 - 1e-9)
    return (1 - epsilon) * best / best.sum(axis=1, keepdims=True) + epsilon * prior


def state_distribution(mdp: TabularMDP, policy: Array, prior: Array, kind: StateDistribution, epsilon: float) -> Array:
    """(S,): which states the prior is averaged over.

    :param policy: (S, A)
    :param prior: (A,)
    :param kind: "discounted" (Eq. 6's own), "stationary" (under ``policy``, as gamma -> 1 in appendix A.1), or
        "behaviour" (stationary under the epsilon-greedy policy that acts while learning: what a learner sees)
    :param epsilon: exploration of "behaviour"
    :raises ValueError: ``kind`` is another word
    """
    if kind == "discounted":
        return _visits(mdp, policy, mdp.discount)
    if kind == "stationary":
        return _visits(mdp, policy, _NEAR_ONE)
    if kind == "behaviour":
        return _visits(mdp, behaviour_policy(policy, prior, epsilon), _NEAR_ONE)
    raise ValueError(f"state_distribution must be 'discounted', 'stationary' or 'behaviour', got {kind!r}")
