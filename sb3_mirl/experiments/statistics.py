"""
Means over seeds, their differences, and aggregates over games and seeds, with bootstrap intervals.

Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
https://arxiv.org/abs/2108.13264 (rliable). Intervals are 95 per cent, from the percentiles of bootstraps of the seeds,
stratified by game and agent. They never leave the range of the scores, as Student's do where few seeds fall into two
groups; but with few seeds they are too narrow, as nothing is drawn that was not seen. Of one seed there is nothing to
resample, and the ends of its interval are NaN.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sb3_mirl.common.extras import extra

with extra("plots"):
    from rliable import library as rly
    from rliable import metrics

Array = NDArray[np.float64]
REPS = 2000


class Estimate(NamedTuple):
    """A point estimate with the ends of its interval, each of the same shape."""

    point: Array
    low: Array
    high: Array

    def __format__(self, spec: str) -> str:
        """Format a single number as "point [low, high]", or alone where there is no interval."""
        point, low, high = (format(part.item(), spec) for part in self)
        return point if np.isnan(self.low) else f"{point} [{low}, {high}]"


def mean(scores: ArrayLike, reps: int = REPS) -> Estimate:
    """
    Estimate the mean over the seeds.

    :param scores: (seeds, ...)
    :return: estimates (...)
    """
    return _intervals({"": np.expand_dims(scores, 1)}, lambda x: x.mean(axis=(0, 1)), reps)[""]


def difference(x: ArrayLike, y: ArrayLike, reps: int = REPS) -> Estimate:
    """
    Estimate the mean of x less that of y; the seeds of both are resampled apart.

    :param x: scores (seeds,)
    :param y: scores (other seeds,)
    :return: estimate ()
    """
    both = [np.expand_dims(scores, 1) for scores in (x, y)]
    return _intervals({"": both}, lambda a, b: a.mean() - b.mean(), reps)[""]


def iqm(scores: Mapping[str, Array], reps: int = REPS) -> dict[str, Estimate]:
    """
    Estimate the interquartile mean over seeds and games.

    :param scores: for each agent (seeds, games, T)
    :return: for each agent estimates (T,)
    """
    return _intervals(scores, lambda x: np.array([metrics.aggregate_iqm(x[..., t]) for t in range(x.shape[-1])]), reps)


def median(scores: Mapping[str, Array], reps: int = REPS) -> dict[str, Estimate]:
    """
    Estimate the median over games of the mean over seeds, the measure of the MIRL paper's Figures 2 and 3.

    :param scores: for each agent (seeds, games, T)
    :return: for each agent estimates (T,)
    """
    return _intervals(scores, lambda x: np.median(x.mean(axis=0), axis=0), reps)


def performance_profile(
    scores: Mapping[str, Array], thresholds: Sequence[float] | Array, reps: int = REPS
) -> dict[str, Estimate]:
    """
    Estimate the fraction of runs with a score above each threshold.

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
    Estimate the probability that a run of x scores higher than one of y in a game drawn at random; ties count half.

    :param scores: for each agent (seeds, games)
    :param pairs: (x, y)
    :return: for each pair, named "x,y", estimate ()
    """
    both = {f"{x},{y}": [scores[x], scores[y]] for x, y in pairs}
    return _intervals(both, metrics.probability_of_improvement, reps)


def _intervals(
    scores: Mapping[str, Array | Sequence[Array]], aggregate: Callable[..., ArrayLike], reps: int
) -> dict[str, Estimate]:
    with _seeded():
        points, ends = rly.get_interval_estimates(dict(scores), aggregate, reps=reps)
    estimates = {}
    for key, samples in scores.items():
        n_seeds = min(map(len, samples)) if isinstance(samples, list) else len(samples)
        point = np.asarray(points[key])
        low, high = np.reshape(ends[key] if n_seeds > 1 else np.full_like(ends[key], np.nan), (2, *point.shape))
        estimates[key] = Estimate(point, low, high)
    return estimates


@contextmanager
def _seeded() -> Iterator[None]:
    """rliable draws from NumPy's global random numbers: the same intervals at each call, nobody else disturbed."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)
