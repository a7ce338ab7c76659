"""
Aggregates over games and seeds with bootstrap intervals, by rliable.

Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
https://arxiv.org/abs/2108.13264. Intervals are 95 per cent, from bootstraps of the seeds stratified by game. Where all
agents have only one seed there is nothing to resample, and the ends of the intervals are NaN.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rliable import library as rly
from rliable import metrics

Array = NDArray[np.float64]
REPS = 2000


class Estimate(NamedTuple):
    """A point estimate with the ends of its interval, each of the same shape."""

    point: Array
    low: Array
    high: Array


def iqm(scores: Mapping[str, Array], reps: int = REPS) -> dict[str, Estimate]:
    """
    Interquartile mean over seeds and games.

    :param scores: for each agent (seeds, games, T)
    :return: for each agent estimates (T,)
    """
    return _intervals(scores, lambda x: np.array([metrics.aggregate_iqm(x[..., t]) for t in range(x.shape[-1])]), reps)


def median(scores: Mapping[str, Array], reps: int = REPS) -> dict[str, Estimate]:
    """
    Median over games of the mean over seeds, the measure of the MIRL paper's Figures 2 and 3.

    :param scores: for each agent (seeds, games, T)
    :return: for each agent estimates (T,)
    """
    return _intervals(scores, lambda x: np.median(x.mean(axis=0), axis=0), reps)


def performance_profile(
    scores: Mapping[str, Array], thresholds: Sequence[float] | Array, reps: int = REPS
) -> dict[str, Estimate]:
    """
    Fraction of runs with a score above each threshold.

    :param scores: for each agent (seeds, games)
    :param thresholds: (n,)
    :return: for each agent estimates (n,)
    """
    levels = np.asarray(thresholds, dtype=np.float64)
    return _intervals(scores, lambda x: rly.score_distributions(x, levels), reps)


def probability_of_improvement(
    scores: Mapping[str, Array], pairs: Sequence[tuple[str, str]], reps: int = REPS
) -> dict[str, Estimate]:
    """
    Probability that a run of x scores higher than one of y in a game drawn at random; ties count half.

    :param scores: for each agent (seeds, games)
    :param pairs: (x, y)
    :return: for each pair, named "x,y", estimates (1,)
    """
    both = {f"{x},{y}": [scores[x], scores[y]] for x, y in pairs}
    with _seeded():
        points, ends = rly.get_interval_estimates(both, metrics.probability_of_improvement, reps=reps)
    return {key: _estimate(np.atleast_1d(points[key]), ends[key], len(both[key][0])) for key in both}


def _intervals(scores: Mapping[str, Array], aggregate: Callable[[Array], Array], reps: int) -> dict[str, Estimate]:
    with _seeded():
        points, ends = rly.get_interval_estimates(dict(scores), aggregate, reps=reps)
    return {agent: _estimate(points[agent], ends[agent], len(scores[agent])) for agent in scores}


def _estimate(point: Array, ends: Array, n_seeds: int) -> Estimate:
    low, high = np.asarray(ends, dtype=np.float64)
    unknown = np.full_like(low, np.nan)
    return Estimate(np.asarray(point), *((low, high) if n_seeds > 1 else (unknown, unknown)))


@contextmanager
def _seeded() -> Iterator[None]:
    """rliable draws from NumPy's global random numbers: the same intervals at each call, nobody else disturbed."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)
