"""Minimisers for a few dozen weights, where a step may lead to where the objective is infinite.

``minimise`` is a proximal BFGS method with a curvature to begin with; ``exponentiated_gradient`` the paper's online
alternative. Both call ``report`` once per iteration, and give what they have when they are interrupted.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from tqdm import tqdm

from sb3_mirl.irl.network import Array

Function = Callable[[Array], tuple[float, Array]]
"""Weights (K,) to value and gradient (K,); the value is infinite where it is not defined."""

_REFRESH = 8  # iterations
_ARMIJO = 1e-4
_SHORTEST_STEP = 1e-12
_ROUNDING = 1e-13  # of a value: differences below it say nothing
_SMALL = 0.05  # of the mean weight: below it, exponentiated gradients add rather than multiply
_LARGEST_STEP = 0.3  # of an exponent
_FLOOR = 1e-9  # of the largest curvature: what is flatter is taken for flat


class Report(Protocol):
    """Told after each iteration: the weights (K,), the value to be minimised, and the gap."""

    def __call__(self, x: Array, value: float, gap: float) -> None: ...


class Progress(tqdm):
    """A ``Report`` that shows a bar.

    :param verbose: 0 shows nothing
    """

    def __init__(self, title: str, verbose: int) -> None:
        super().__init__(desc=title, unit=" iterations", disable=not verbose)

    def __call__(self, x: Array, value: float, gap: float) -> None:
        self.set_postfix_str(f"log likelihood per path {-value:.6f}, gap {gap:.1e}", refresh=False)
        self.update()


@dataclass
class Minimum:
    """``x`` (K,), its ``value``, and the ``gap``: the largest component of the (smallest sub-) gradient."""

    x: Array
    value: float
    gap: float
    converged: bool = False
    interrupted: bool = False
    n_iterations: int = 0
    n_gradients: int = 0
    values: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def warn(self, tolerance: float, way_out: str) -> None:
        """Warn if it is not known to be the minimum."""
        if self.interrupted:
            warnings.warn(f"interrupted after {self.n_iterations} iterations: the best weights are kept")
        elif not self.converged:
            warnings.warn(
                f"the fit ended after {self.n_iterations} iterations at a gap of {self.gap:.2g}, above tolerance={tolerance}"
                f"{way_out}"
            )


def minimise(
    function: Function,
    start: Array,
    curvature: Callable[[Array], Array] | None = None,
    l1: float = 0.0,
    tolerance: float = 1e-6,
    max_iterations: int = 500,
    report: Report | None = None,
) -> Minimum:
    """The minimum of function(x) + l1 sum |x|.

    Each step minimises a quadratic model plus the l1 term, and is shortened until the objective falls; the model's matrix is
    updated by BFGS, which keeps it positive definite where the function is not convex (Powell's damping).

    :param curvature: weights to a (K, K) matrix near the Hessian, symmetric and positive semidefinite; asked at the start and
        after every 8 iterations. By default the identity, once
    :raises ValueError: the function is infinite at ``start``
    """
    x = start.copy()
    value, gradient = function(x)
    if not np.isfinite(value):
        raise ValueError("the minimisation must begin where the objective is finite")
    result = Minimum(x, value + l1 * np.abs(x).sum(), _gap(x, gradient, l1), n_gradients=1)
    stalled = 0
    try:
        matrix = np.eye(len(x)) if curvature is None else _positive(curvature(x))
        while True:
            result.values.append(result.value)
            result.gaps.append(result.gap)
            if report is not None:
                report(result.x, result.value, result.gap)
            result.converged = result.gap <= tolerance
            if result.converged or result.n_iterations >= max_iterations or stalled >= 3:
                return result
            direction = _direction(matrix, x, gradient, l1)
            step = _search(function, x, result, float(gradient @ direction), direction, l1)
            if step is None:
                return result
            new, new_gradient, new_value = step
            matrix = _bfgs(matrix, new - x, new_gradient - gradient)
            gap = _gap(new, new_gradient, l1)
            noise = _ROUNDING * max(1.0, abs(new_value))
            stalled = stalled + 1 if new_value > result.value - noise and gap >= result.gap else 0
            x, gradient = new, new_gradient
            result.x, result.value, result.gap = x, new_value, gap
            result.n_iterations += 1
            if curvature is not None and result.n_iterations % _REFRESH == 0:
                matrix = _positive(curvature(x))
    except KeyboardInterrupt:
        result.interrupted = True
        return result


def _search(
    function: Function, x: Array, result: Minimum, slope: float, direction: Array, l1: float
) -> tuple[Array, Array, float] | None:
    """The first of ever shorter steps that is good enough: the point, its gradient and value; None if there is none."""
    penalty = l1 * np.abs(x).sum()
    length = 1.0
    while length > _SHORTEST_STEP:
        new = x + length * direction
        value, gradient = function(new)
        result.n_gradients += 1
        if np.isfinite(value):
            new_penalty = l1 * np.abs(new).sum()
            expected = length * slope + new_penalty - penalty
            value += new_penalty
            if value <= result.value + _ARMIJO * min(expected, 0.0) + _ROUNDING * max(1.0, abs(value)):
                return new, gradient, value
            # where the parabola through both values and the slope has its minimum
            excess = value - result.value - expected
            length *= float(np.clip(-0.5 * expected / excess, 0.1, 0.5)) if excess > 0 else 0.5
        else:
            length *= 0.25
    return None


def _direction(matrix: Array, x: Array, gradient: Array, l1: float) -> Array:
    """The d that minimises gradient . d + d . matrix d / 2 + l1 sum |x + d|."""
    if l1 == 0:
        return np.asarray(-np.linalg.solve(matrix, gradient), dtype=np.float64)
    d = np.zeros_like(x)
    for _ in range(500):  # coordinate descent
        largest = 0.0
        for k in range(len(x)):
            slope = gradient[k] + matrix[k] @ d
            aim = x[k] + d[k] - slope / matrix[k, k]
            moved = np.sign(aim) * max(abs(aim) - l1 / matrix[k, k], 0.0) - x[k] - d[k]
            d[k] += moved
            largest = max(largest, abs(moved))
        if largest <= 1e-12 * max(1.0, np.abs(x).max()):
            break
    return d


def _bfgs(matrix: Array, s: Array, y: Array) -> Array:
    """The matrix that takes ``s`` to ``y`` (or, where the curvature is not positive, part of the way)."""
    image = matrix @ s
    along = float(s @ image)
    if along <= 0:
        return matrix
    if y @ s < 0.01 * along:  # Powell (1978)
        mixed = 0.99 * along / (along - y @ s)
        y = mixed * y + (1 - mixed) * image
    return matrix - np.outer(image, image) / along + np.outer(y, y) / (y @ s)


def _gap(x: Array, gradient: Array, l1: float) -> float:
    """The largest component of the smallest subgradient."""
    at_zero = np.maximum(np.abs(gradient) - l1, 0)
    return float(np.max(np.where(x != 0, np.abs(gradient + l1 * np.sign(x)), at_zero), initial=0.0))


def _positive(matrix: Array) -> Array:
    """The matrix with eigenvalues raised to a small positive one."""
    eigenvalues, vectors = np.linalg.eigh(matrix)
    largest = max(float(eigenvalues[-1]), np.finfo(float).tiny)
    return np.asarray((vectors * np.maximum(eigenvalues, _FLOOR * largest)) @ vectors.T)


def exponentiated_gradient(
    function: Callable[[Array, int | None], tuple[float, Array]],
    shares: Array,
    start: Array,
    rate: float = 0.1,
    l1: float = 0.0,
    tolerance: float = 1e-4,
    max_iterations: int = 100,
    seed: int = 0,
    report: Report | None = None,
) -> Minimum:
    """Online exponentiated gradient descent with both signs, one group of the objective's terms per step.

    The pair c+ exp(-eta g), c- exp(eta g) of Kivinen and Warmuth (1997) for the weight x = c+ - c- keeps c+ c- as it is: so
    x = 2 c sinh(u) with u <- u - eta g, which multiplies large weights and adds to small ones. eta falls with the square root
    of the iteration; the result is an average of the steps in which the later ones count more.

    :param function: weights (K,) and the number of a group to the group's mean value and gradient, or with None, once per
        iteration and at the average, to those of the whole objective; without the l1 term
    :param shares: (G,) the groups' shares in the objective
    :param start: (K,) not 0, but for weights whose sign is not known
    :param rate: eta in the first iteration
    :param tolerance: it ends when an iteration lowers the value by no more
    :param max_iterations: passes through all groups, in random order
    """
    generator = np.random.default_rng(seed)
    value, gradient = function(start, None)
    if not np.isfinite(value):
        raise ValueError("the minimisation must begin where the objective is finite")
    small = _SMALL * max(float(np.abs(start).mean()), np.finfo(float).tiny)  # 2 c
    u, average, total_weight = np.arcsinh(start / small), start.copy(), 0.0
    result = Minimum(start.copy(), value + l1 * np.abs(start).sum(), _gap(start, gradient, l1), n_gradients=1)
    try:
        for iteration in range(1, max_iterations + 1):
            for group in generator.permutation(len(shares)):
                value, gradient = function(small * np.sinh(u), int(group))
                if not np.isfinite(value):  # a step too far: back to where it is finite, as the average of such points is
                    u, rate = np.arcsinh(average / small), rate / 2
                    continue
                gradient = gradient * shares[group] * len(shares) + l1 * np.tanh(u)
                u = u - np.clip(rate / np.sqrt(iteration) * gradient, -_LARGEST_STEP, _LARGEST_STEP)
                total_weight += iteration
                average = average + (small * np.sinh(u) - average) * iteration / total_weight
            value, gradient = function(average, None)
            result.n_gradients += 2  # the groups' together are one
            value, before = value + l1 * np.abs(average).sum(), result.value
            if value < before:
                result.x, result.value, result.gap = average.copy(), value, _gap(average, gradient, l1)
            result.n_iterations = iteration
            result.values.append(result.value)
            result.gaps.append(result.gap)
            if report is not None:
                report(result.x, result.value, result.gap)
            result.converged = 0 <= before - value <= tolerance
            if result.converged:
                break
    except KeyboardInterrupt:
        result.interrupted = True
    return result
