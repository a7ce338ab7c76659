"""
Means over seeds, their differences, and aggregates over games and seeds, with bootstrap intervals.

Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
https://arxiv.org/abs/2108.13264; the numbers are those of their package rliable (which needs an older pandas), by SciPy's
bootstrap. Intervals are 95 per cent unless said, from the percentiles of bootstraps of the seeds,
stratified by game and agent. They never leave the range of the scores, as Student's do where few seeds fall into two
groups; but with few seeds they are too narrow, as nothing is drawn that was not seen. Of one seed there is nothing to
resample, and the ends of its interval are NaN.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap, trim_mean

Array = NDArray[np.float64]
REPS = 2000
LEVEL = 0.95
BATCH = 500  # resamples at once, for memory


class Estimate(NamedTuple):
    """A point estimate with the ends of its interval, each of the same shape."""

    point: Array
    low: Array
    high: Array

    def __format__(self, spec: str) -> str:
        """Format a single number as "point [low, high]", or alone where there is no interval."""
        point, low, high = (format(part.item(), spec) for part in self)
        return point if np.isnan(self.low) else f"{point} [{low}, {high}]"


def mean(scores: ArrayLike, reps: int = REPS, level: float = LEVEL) -> Estimate:
    """
    Estimate the mean over the seeds.

    :param scores: (seeds, ...)
    :param reps: resamples
    :param level: probability of the interval
    :return: estimates (...)
    """
    return _estimate([np.asarray(scores, dtype=np.float64)], lambda x: x.mean(axis=-1), reps, level)


def difference(x: ArrayLike, y: ArrayLike, reps: int = REPS, level: float = LEVEL) -> Estimate:
    """
    Estimate the mean of x less that of y; the seeds of both are resampled apart.

    :param x: scores (seeds,)
    :param y: scores (other seeds,)
    :param reps: resamples
    :param level: probability of the interval
    :return: estimate ()
    """
    both = [np.asarray(scores, dtype=np.float64) for scores in (x, y)]
    return _estimate(both, lambda a, b: a.mean(axis=-1) - b.mean(axis=-1), reps, level)


def iqm(scores: Mapping[str, Array], reps: int = REPS) -> dict[str, Estimate]:
    """
    Estimate the interquartile mean over seeds and games.

    :param scores: for each agent (seeds, games, T)
    :param reps: resamples
    :return: for each agent estimates (T,)
    """
    return {
        agent: _estimate(_games(x), lambda *games: trim_mean(np.concatenate(games, axis=-1), 0.25, axis=-1), reps)
        for agent, x in scores.items()
    }


def median(scores: Mapping[str, Array], reps: int = REPS) -> dict[str, Estimate]:
    """
    Estimate the median over games of the mean over seeds, the measure of the MIRL paper's Figures 2 and 3.

    :param scores: for each agent (seeds, games, T)
    :param reps: resamples
    :return: for each agent estimates (T,)
    """
    return {
        agent: _estimate(_games(x), lambda *games: np.median([game.mean(axis=-1) for game in games], axis=0), reps)
        for agent, x in scores.items()
    }


def performance_profile(
    scores: Mapping[str, Array], thresholds: Sequence[float] | Array, reps: int = REPS
) -> dict[str, Estimate]:
    """
    Estimate the fraction of runs with a score above each threshold.

    :param scores: for each agent (seeds, games)
    :param thresholds: (n,)
    :param reps: resamples
    :return: for each agent estimates (n,)
    """
    levels = np.asarray(thresholds, dtype=np.float64)
    return {
        agent: _estimate(
            _games((x[..., None] > levels).astype(np.float64)),
            lambda *games: np.concatenate(games, axis=-1).mean(axis=-1),
            reps,
        )
        for agent, x in scores.items()
    }


def probability_of_improvement(
    scores: Mapping[str, Array], pairs: Sequence[tuple[str, str]], reps: int = REPS, level: float = LEVEL
) -> dict[str, Estimate]:
    """
    Estimate the probability that a run of x scores higher than one of y in a game drawn at random; ties count half.

    :param scores: for each agent (seeds, games)
    :param pairs: (x, y)
    :param reps: resamples
    :param level: probability of the interval
    :return: for each pair, named "x,y", estimate ()
    """

    def probability(*games: Array) -> Array:
        half = len(games) // 2
        wins = [_share_of_wins(x, y) for x, y in zip(games[:half], games[half:], strict=True)]
        return np.mean(wins, axis=0)

    return {f"{x},{y}": _estimate([*_games(scores[x]), *_games(scores[y])], probability, reps, level) for x, y in pairs}


def _share_of_wins(x: Array, y: Array) -> Array:
    """(..., seeds), (..., other seeds) -> (...)."""
    x, y = x[..., :, None], y[..., None, :]
    return ((x > y) + 0.5 * (x == y)).mean(axis=(-2, -1))


def _games(scores: Array) -> list[Array]:
    """(seeds, games, ...) -> for each game (seeds, ...)."""
    return list(np.moveaxis(np.asarray(scores, dtype=np.float64), 1, 0))


def _estimate(samples: Sequence[Array], statistic: Callable[..., Array], reps: int, level: float = LEVEL) -> Estimate:
    """
    Resample each of the samples by itself.

    :param samples: each (seeds, ...)
    :param statistic: vectorised; of samples (..., seeds)
    """
    point = np.asarray(statistic(*(np.moveaxis(sample, 0, -1) for sample in samples)))
    if min(map(len, samples)) < 2:
        nothing = np.full_like(point, np.nan)
        return Estimate(point, nothing, nothing)
    drawn = bootstrap(
        samples, lambda *resampled, axis: statistic(*resampled), n_resamples=reps, batch=BATCH, vectorized=True, axis=0,
        confidence_level=level, method="percentile", random_state=np.random.default_rng(0),
    )  # fmt: skip
    return Estimate(point, np.asarray(drawn.confidence_interval.low), np.asarray(drawn.confidence_interval.high))
