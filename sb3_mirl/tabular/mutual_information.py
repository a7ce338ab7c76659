"""The policy and the prior that solve the mutual-information-regularised problem of a known MDP.

    max over pi, rho of  E sum_t gamma^t (r - 1/beta log pi(a|s) / rho(a))      (Grau-Moya et al. 2019, Eq. 6)

is solved by two steps in turn (forward-backward Blahut-Arimoto; Tanaka, Sandberg and Skoglund 2017): the soft policy of a
prior, and the average of that policy as the next prior. With d the normalised state distribution, the second step is
rho(a) <- rho(a) c(a) with the *fitness* c(a) = sum_s d(s) exp(beta (Q(s,a) - V(s))), the gradient of the objective
in rho: at an optimum c = 1 where rho is positive and c <= 1 where it is zero. The problem is not concave, so that this
(KKT) condition is necessary, not sufficient: there may be several local optima, and a symmetric start can sit on a saddle.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import rel_entr, softmax

from sb3_mirl.common.arguments import check_range
from sb3_mirl.tabular.mdp import Array, TabularMDP
from sb3_mirl.tabular.planning import SoftSolution, StateDistribution, checked_prior, soft_value_iteration, state_distribution

_DEAD = 1e-6  # a prior probability that shrinks below this is taken to vanish
_SMALLEST = 1e-300  # zero is absorbing: no step may reach it by rounding


@dataclass(frozen=True)
class MutualInformationSolution:
    """A stationary point of Eq. (6), or where the iteration stopped.

    ``prior`` (A,), ``policy`` and ``q`` (S, A), ``v`` (S,); ``objective`` is the value of Eq. (6), sum_s initial(s) v(s).
    ``fitness`` (A,) is c(a) and ``converged`` says whether c = 1 on the live actions and c <= 1 on the dead ones, to the
    tolerance: a fitness above 1 at prior 0 is a useful action that was killed (zero is absorbing). ``weights`` (S,) is
    the state distribution that the prior averages over, and ``mutual_information`` is I(S; A) under it, in nats per step.
    ``objectives`` holds the objective of every accepted iteration.
    """

    prior: Array
    policy: Array
    q: Array
    v: Array
    objective: float
    fitness: Array
    mutual_information: float
    converged: bool
    weights: Array
    objectives: Array


@dataclass(frozen=True)
class _Point:
    """A prior with all that follows from it."""

    prior: Array  # (A,)
    soft: SoftSolution
    weights: Array  # (S,)
    log_fitness: Array  # (A,)
    objective: float

    @property
    def excess(self) -> Array:
        """(A,): c - 1."""
        with np.errstate(over="ignore"):
            return np.expm1(self.log_fitness)

    @property
    def gap(self) -> float:
        """How far the KKT condition is from holding: 0 at a stationary point."""
        return float(np.where(self.prior > 0, np.abs(self.excess), self.excess).max(initial=0))

    @property
    def reachable_gap(self) -> float:
        """The same without the actions at zero, which no iteration brings back."""
        return float(np.abs(self.excess[self.prior > 0]).max())

    @property
    def change(self) -> float:
        """The distance to the next prior: unlike the gap, it gets small while an action is still dying."""
        live = self.prior > 0
        return float(self.prior[live] @ np.abs(self.excess[live]))


def mutual_information(policy: Array, weights: Array) -> float:
    """Return I(S; A) = sum_s d(s) KL(pi(.|s) || sum_s d(s) pi(.|s)) in nats (Proposition 1 of Grau-Moya et al. 2019).

    The twin of ``maths.mutual_information``, where all states have equal weights.

    :param policy: (S, A), rows summing to 1
    :param weights: (S,) d, the state distribution
    """
    return float(weights @ rel_entr(policy, weights @ policy).sum(axis=1))


def solve_mutual_information(
    mdp: TabularMDP,
    beta: float,
    state_distribution: StateDistribution = "discounted",
    epsilon: float = 0.1,
    initial_prior: ArrayLike | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 5000,
) -> MutualInformationSolution:
    """Return the policy and the prior that are optimal for each other.

    With "discounted" the objective rises at every iteration to a stationary point of Eq. (6). The other two are fixed
    points, not optima, for gamma < 1: "stationary" is what the sampling of section 3.2 estimates, "behaviour" is where a
    learner converges whose states come from its own epsilon-greedy behaviour.

    Source: Grau-Moya et al. (2019), Eqs. 6 to 11; Tanaka, Sandberg and Skoglund (2017), arXiv 1708.09096.

    :param beta: inverse temperature, positive
    :param state_distribution: "discounted", "stationary" or "behaviour"
    :param epsilon: exploration of "behaviour", in [0, 1]
    :param initial_prior: (A,), by default uniform; an action at zero stays there
    :param tolerance: largest deviation of the fitness accepted
    :param max_iterations: evaluations of a prior; when they do not suffice, ``converged`` is False
    :raises ValueError: if an argument is outside its range
    """
    check_range("epsilon", epsilon, 0, 1)

    def point_at(prior: Array, near: _Point | None = None) -> _Point:
        return _evaluate(mdp, beta, prior, state_distribution, epsilon, near)

    point = point_at(checked_prior(mdp, initial_prior))
    objectives = [point.objective]
    stretch = 1.0  # exponent of the fitness: 1 is Blahut-Arimoto's step, more is over-relaxation
    for _ in range(max_iterations):
        buried = _without_dying_actions(point, tolerance)
        if buried is not None:
            candidate = point_at(buried, point)
            if candidate.gap <= tolerance:
                point = candidate
        if point.reachable_gap <= tolerance:
            break
        candidate = point_at(_stepped(point, stretch), point)
        ascends = state_distribution == "discounted"
        better = candidate.objective > point.objective if ascends else candidate.change < point.change
        if better or stretch <= 1:
            point = candidate
            objectives.append(point.objective)
        if better:
            stretch *= 1.5
        elif stretch > 1 or ascends:
            stretch = 1.0
        else:  # a fixed point without an objective: go on, but with less of each step
            stretch = max(stretch / 2, 1e-3)
    with np.errstate(over="ignore"):
        fitness = np.exp(point.log_fitness)
    soft, information = point.soft, mutual_information(point.soft.policy, point.weights)
    return MutualInformationSolution(
        point.prior, soft.policy, soft.q, soft.v, point.objective, fitness, information, point.gap <= tolerance, point.weights,
        np.array(objectives),
    )  # fmt: skip


def _evaluate(
    mdp: TabularMDP, beta: float, prior: Array, kind: StateDistribution, epsilon: float, near: _Point | None
) -> _Point:
    values, visits = (None, None) if near is None else (near.soft.v, near.weights)
    soft = soft_value_iteration(mdp, beta, prior, initial_values=values)
    weights = state_distribution(mdp, soft.policy, prior, kind, epsilon, visits)
    return _Point(prior, soft, weights, _log_fitness(soft, weights, beta), float(mdp.initial @ soft.v))


def _log_fitness(soft: SoftSolution, weights: Array, beta: float) -> Array:
    """(A,): log sum_s d(s) exp(beta (Q(s,a) - V(s))). SciPy's logsumexp passes over the array several times more."""
    visited = weights > 0
    x = beta * (soft.q - soft.v[:, None])[visited]  # of a dead action it may be of any size
    largest = x.max(axis=0)
    x -= largest
    return np.log(weights[visited] @ np.exp(x, out=x)) + largest


def _stepped(point: _Point, stretch: float) -> Array:
    live = point.prior > 0
    stepped = np.zeros_like(point.prior)
    stepped[live] = np.maximum(softmax(np.log(point.prior[live]) + stretch * point.log_fitness[live]), _SMALLEST)
    return stepped


def _without_dying_actions(point: _Point, tolerance: float) -> Array | None:
    """The prior without the actions that are about to vanish, if that is all that separates it from an optimum."""
    dying = (point.prior > 0) & (point.prior < _DEAD) & (point.log_fitness <= tolerance)
    settled = np.abs(point.excess[~dying & (point.prior > 0)]) <= 1e-3
    if not dying.any() or not settled.all():
        return None
    prior = np.where(dying, 0.0, point.prior)
    return prior / prior.sum()
