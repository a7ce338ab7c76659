"""
Means, aggregates over games and seeds, and comparisons of agents, with bootstrap intervals and corrected p-values.

Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
https://arxiv.org/abs/2108.13264 (rliable). Intervals are 95 per cent, from the percentiles of bootstraps of the seeds,
stratified by game and agent. They never leave the range of the scores, as Student's do where few seeds fall into two
groups; but with few seeds they are too narrow, as nothing is drawn that was not seen. Of one seed there is nothing to
resample, and the ends of its interval are NaN.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from rliable import library as rly
from rliable import metrics
from scipy.stats import bootstrap, false_discovery_control, ttest_ind

Array = NDArray[np.float64]
REPS = 2000


class Estimate(NamedTuple):
    """A point estimate with the ends of its interval, each of the same shape."""

    point: Array
    low: Array
    high: Array

    def __format__(self, spec: str) -> str:
        """Format a single number as "point [low, high]", or alone where there is no interval."""
        point, low, high = (format(np.ravel(part)[0], spec) for part in self)
        return point if np.isnan(self.low).all() else f"{point} [{low}, {high}]"


def mean(scores: ArrayLike, reps: int = REPS) -> Estimate:
    """
    Estimate the mean over the seeds.

    :param scores: (seeds, ...)
    :return: estimates (...)
    """
    return _resampled((np.asarray(scores, dtype=np.float64),), lambda x, axis: x.mean(axis=axis), reps)


def difference(x: ArrayLike, y: ArrayLike, reps: int = REPS) -> Estimate:
    """
    Estimate the difference of two means; the seeds of both are resampled apart.

    :param x: scores (seeds,)
    :param y: scores to subtract, (other seeds,)
    :return: estimate ()
    """
    samples = (np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    return _resampled(samples, lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis), reps)


def compare(scores: pd.DataFrame, agents: Sequence[str], reps: int = REPS) -> pd.DataFrame:
    """
    Test each pair of agents in each game, by Welch's t-test, and correct for the number of tests.

    :param scores: game, agent, seed, score; one line per run
    :param agents: names, in the order of the table; a pair needs two seeds of each in a game
    :return: game, agent, other, difference (:class:`Estimate`: other's mean less agent's), p, p_holm (family-wise error
        rate), p_bh (false discovery rate, Benjamini & Hochberg 1995); p is NaN where no score differs from its mean
    """
    rows = []
    for game, runs in scores.groupby("game"):
        samples = {agent: runs.loc[runs["agent"] == agent, "score"].to_numpy() for agent in agents}
        for agent, other in itertools.combinations((a for a in agents if len(samples[a]) > 1), 2):
            x, y = samples[other], samples[agent]
            p = ttest_ind(x, y, equal_var=False).pvalue if np.ptp(x) + np.ptp(y) > 0 else np.nan
            rows.append((game, agent, other, difference(x, y, reps), p))
    table = pd.DataFrame(rows, columns=["game", "agent", "other", "difference", "p"])
    tested = table["p"].dropna()
    return table.assign(
        p_holm=pd.Series(holm(tested), tested.index), p_bh=pd.Series(false_discovery_control(tested), tested.index)
    )


def holm(p: ArrayLike) -> Array:
    """
    Correct p-values for their number, keeping the probability of any false discovery (Holm 1979).

    :param p: (n,)
    :return: (n,), in the same order
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values)
    steps = np.maximum.accumulate(np.arange(len(values), 0, -1) * values[order])
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(steps, 1)
    return corrected


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


def _resampled(samples: tuple[Array, ...], statistic: Callable[..., Array], reps: int) -> Estimate:
    point = statistic(*samples, axis=0)
    if min(map(len, samples)) < 2:
        return Estimate(point, np.full_like(point, np.nan), np.full_like(point, np.nan))
    interval = bootstrap(
        samples, statistic, axis=0, vectorized=True, n_resamples=reps, method="percentile", random_state=0
    ).confidence_interval  # fmt: skip
    return Estimate(point, np.asarray(interval.low), np.asarray(interval.high))


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
