"""Soft policies of an MDP at given rewards, and their derivatives.

Axes: T times (1 without a horizon), S states, A actions, K features. Two models where transitions are random:

    causal  Q = r + gamma sum_t P(t|s,a) V(t)                       maximum causal entropy (Ziebart 2010)
    path    Q = r + 1/beta log sum_t P(t|s,a) exp(beta gamma V(t))  Eq. 4 of Ziebart et al. (2008): risk seeking

both with V = 1/beta log sum_a rho(a) exp(beta Q), pi = rho exp(beta (Q - V)); without randomness they are the same. Their
derivatives have one form, dQ = f + gamma M dV and dV = sum_a pi dQ, where M is P for the causal model and, for paths, P tilted
by what follows, P(t|s,a) exp(beta gamma V(t)) / sum: the marginals of Eq. 4, which Algorithm 1's forward pass with P is not.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csc_array, csr_array, eye_array
from scipy.sparse.linalg import splu
from scipy.special import logsumexp

from sb3_mirl.irl.network import Array
from sb3_mirl.tabular import TabularMDP, soft_backward_induction, soft_value_iteration

_TOLERANCE = 1e-12
_NEWTON_STEPS = 200


@dataclass
class SoftPolicy:
    """What is optimal for given rewards.

    ``q`` and ``policy`` (T, S, A), ``v`` (T, S); ``transitions`` T times M (S * A, S); ``timed`` says whether there is a
    horizon.
    """

    q: Array
    v: Array
    policy: Array
    transitions: list[csr_array]
    discount: float
    timed: bool

    def follow(self, source: Array) -> Array:
        """D (T, S) of D = source + gamma M^T (D pi): discounted visits, if ``source`` (T, S) begins at each state."""
        if not self.timed:
            chain = self._chain(0)
            factors = splu(csc_array(eye_array(chain.shape[0]) - self.discount * chain.T))
            return np.asarray(factors.solve(source[0]))[None]
        visits = source.copy()
        for t in range(len(visits) - 1):
            visits[t + 1] += self.step(t, visits[t, :, None] * self.policy[t])
        return visits

    def step(self, t: int, counts: Array) -> Array:
        """(S,): gamma M^T counts, where ``counts`` (S, A) lead to."""
        return self.discount * np.asarray(self.transitions[t].T @ counts.ravel())

    def sensitivities(self, features: Array) -> tuple[Array, Array]:
        """dQ (T, S, A, K) and dV (T, S, K) by the weights of ``features`` (S, A, K)."""
        n_times, (n_states, _, n_features) = len(self.q), features.shape
        dq, dv = np.empty((n_times, *features.shape)), np.zeros((n_times + 1, n_states, n_features))
        if not self.timed:
            own = np.einsum("sa,sak->sk", self.policy[0], features)
            dv[0] = splu(csc_array(eye_array(n_states) - self.discount * self._chain(0))).solve(own)
            dv[1] = dv[0]
        for t in reversed(range(n_times)):
            dq[t] = features + self.discount * np.asarray(self.transitions[t] @ dv[t + 1]).reshape(features.shape)
            dv[t] = np.einsum("sa,sak->sk", self.policy[t], dq[t])
        return dq, dv

    def information(self, features: Array, visits: Array, beta: float, tilted: bool) -> Array:
        """(K, K): sum over visits of beta^2 Cov(dQ) under the policy; with ``tilted``, and under the transitions.

        :param visits: (T, S)
        """
        dq, dv = self.sensitivities(features)
        n_features = features.shape[2]
        centred = dq - np.einsum("tsa,tsak->tsk", self.policy, dq)[:, :, None]
        weights = visits[:, :, None] * self.policy  # (T, S, A)
        flat = centred.reshape(-1, n_features)
        result = (flat * weights.reshape(-1, 1)).T @ flat
        for t in range(len(dq)) if tilted else ():
            after, counts = self.discount * dv[t + 1 if self.timed else t], weights[t].ravel()  # (S, K), (S * A,)
            mean = np.asarray(self.transitions[t] @ after)  # (S * A, K)
            arrivals = np.asarray(self.transitions[t].T @ counts)  # (S,)
            # where the episode ends, what follows is 0, which counts in the mean and not in the squares
            result += (after * arrivals[:, None]).T @ after - (mean * counts[:, None]).T @ mean
        return beta**2 * result

    def _chain(self, t: int) -> csr_array:
        """(S, S): the transitions under the policy."""
        n_states, n_actions = self.policy.shape[1:]
        places = np.arange(n_states * n_actions)
        starts = np.arange(0, n_states * n_actions + 1, n_actions)
        return csr_array((self.policy[t].ravel(), places, starts), shape=(n_states, len(places))) @ self.transitions[t]


Solver = Callable[[Array], SoftPolicy]
"""Rewards (S, A) to what is optimal for them."""


def causal_solver(mdp: TabularMDP, beta: float, prior: Array, horizon: int | None, discount: float) -> Solver:
    """Maximum causal entropy.

    :param prior: (A,) rho
    """
    transition = csr_array(mdp.matrix)
    dense_or_sparse = mdp.transition if isinstance(mdp.matrix, np.ndarray) else mdp.matrix

    def solve(reward: Array) -> SoftPolicy:
        problem = TabularMDP(dense_or_sparse, reward, mdp.initial, mdp.discount)
        if horizon is None:
            # not from the values of the call before: those may do already, and several Newton steps are more exact than none
            soft = soft_value_iteration(problem, beta, prior)
            return SoftPolicy(soft.q[None], soft.v[None], soft.policy[None], [transition], discount, False)
        soft = soft_backward_induction(problem, beta, horizon, prior, discount)
        return SoftPolicy(soft.q, soft.v[:-1], soft.policy, [transition] * horizon, discount, True)

    return solve


def path_solver(mdp: TabularMDP, beta: float, prior: Array, horizon: int | None, discount: float) -> Solver:
    """The path distribution of Eq. 4, with the policy of Eq. 5.

    :param prior: (A,) rho
    """
    with np.errstate(divide="ignore"):
        log_prior = np.log(prior)
    matrix = csr_array(mdp.matrix)
    matrix.eliminate_zeros()
    log_transition = np.log(matrix.data)
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    with np.errstate(divide="ignore"):
        log_end = np.log(mdp.termination.ravel())  # (S * A,)

    def backup(reward: Array, v: Array) -> tuple[Array, Array, Array, csr_array]:
        """q (S, A), T v (S,), policy (S, A) and the tilted transitions."""
        scores = log_transition + beta * discount * v[matrix.indices]
        top = log_end.copy()  # (S * A,)
        np.maximum.at(top, row, scores)
        total = np.exp(log_end - top) + np.bincount(row, np.exp(scores - top[row]), minlength=len(top))
        log_mean = top + np.log(total)
        tilted = csr_array((np.exp(scores - log_mean[row]), matrix.indices, matrix.indptr), shape=matrix.shape)
        q = reward + log_mean.reshape(reward.shape) / beta
        exponents = log_prior + beta * q
        log_sum = logsumexp(exponents, axis=1)
        return q, log_sum / beta, np.exp(exponents - log_sum[:, None]), tilted

    def solve(reward: Array) -> SoftPolicy:
        if horizon is not None:
            v, found = np.zeros(mdp.n_states), []
            for _ in range(horizon):
                found.append(backup(reward, v))
                v = found[-1][1]
            q, values, policy, tilted = zip(*reversed(found), strict=True)
            return SoftPolicy(np.stack(q), np.stack(values), np.stack(policy), list(tilted), discount, True)
        v = np.zeros(mdp.n_states)
        for _ in range(_NEWTON_STEPS):
            one, after, pi, matrices = backup(reward, v)
            solution = SoftPolicy(one[None], after[None], pi[None], [matrices], discount, False)
            if np.abs(after - v).max() <= _TOLERANCE * max(1.0, np.abs(after).max()):
                return solution
            chain = solution._chain(0)
            v = v + splu(csc_array(eye_array(len(v)) - discount * chain)).solve(after - v)
        raise RuntimeError("the values did not converge")

    return solve
