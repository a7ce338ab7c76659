"""A synthetic city with a road hierarchy, and drivers with known tastes; nothing is downloaded."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack
from scipy.sparse.csgraph import connected_components

from sb3_mirl.irl import RoadNetwork
from sb3_mirl.irl.graphs import TURNS, one_hot, segment_transitions, turns_at

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

BLOCK = 0.1  # miles between crossings
TYPES = ("interstate", "highway", "major road", "minor road", "local")
MPH = np.array([65, 50, 40, 30, 20])
SPEEDS = tuple(f"{mph} mph" for mph in MPH)
LANES = ("4 lanes", "3 lanes", "2 lanes", "1 lane")
PER_SECOND = -0.11  # reward of a second of travel

# seconds per mile of a type, a speed and a number of lanes (they add up), and per turn
SECONDS = {
    **dict(zip(TYPES, (55.4, 66.0, 80.0, 92.0, 112.0), strict=True)),
    **dict(zip(SPEEDS, (0.0, 6.0, 12.0, 18.0, 34.0), strict=True)),
    **dict(zip(LANES, (0.0, 4.0, 8.0, 14.0), strict=True)),
    **dict(zip(TURNS, (1.4, 6.9, 3.4, 11.4, 8.4, 31.4), strict=True)),
}
BASE = (SPEEDS[0], LANES[0])
"""The levels that the others are measured from: miles per type, speed and lanes all sum to the miles of the path, so that
the paper's 22 features have rank 20."""


class City(NamedTuple):
    """The network, the weights of its drivers (K,), and the seconds (E,) that the segment entered takes at its speed."""

    network: RoadNetwork
    weights: Array
    seconds: Array


def make_city(n_segments: int, seed: int = 0) -> City:
    """A perturbed grid of about ``n_segments`` one-way segments, the states, with features on the turns between them.

    Every 4th line is a minor road, every 8th a major one, every 24th a highway, every 48th an interstate. A quarter of the
    local streets is missing, a tenth is one-way, and there are some diagonals.
    """
    generator = np.random.default_rng(seed)
    side = max(round((n_segments / 3.27) ** 0.5), 5)
    xy, tail, head, rank = _streets(side, generator)
    miles = BLOCK * np.linalg.norm(xy[tail] - xy[head], axis=1)
    speed = np.clip(rank + generator.integers(-1, 2, len(rank)) * (rank > 0), 0, len(SPEEDS) - 1)
    lanes = np.clip(rank - 1 + generator.integers(-1, 2, len(rank)), 0, len(LANES) - 1)
    names = [*TYPES, *SPEEDS[1:], *LANES[1:], *TURNS]
    per_mile = hstack([one_hot(rank, len(TYPES)), one_hot(speed, len(SPEEDS))[:, 1:], one_hot(lanes, len(LANES))[:, 1:]])
    per_segment = csr_array(per_mile.multiply(miles[:, None]))
    left, entered = segment_transitions(tail, head)
    turns = one_hot(turns_at(tail, head, xy, left, entered), len(TURNS))
    network = RoadNetwork(
        left,
        entered,
        hstack([per_segment[entered], turns]).toarray(),
        n_states=len(tail),
        feature_names=names,
        length=miles[entered],
        segment_length=miles,
        coordinates=np.stack([xy[tail], xy[head]], axis=1),
    )
    weights = PER_SECOND * np.array([SECONDS[name] for name in names])
    return City(network, weights, (3600 * miles / MPH[speed])[entered])


def _streets(side: int, generator: np.random.Generator) -> tuple[Array, Ints, Ints, Ints]:
    """Crossings (n, 2) in blocks, and of each directed street the crossings it joins and the rank of its type."""
    row, column = np.divmod(np.arange(side * side), side)
    xy = np.stack([column, row], axis=1) + generator.uniform(-0.25, 0.25, (side * side, 2))
    tails, heads, ranks = [], [], []
    for step, line, there in (
        (1, row, column < side - 1),
        (side, column, row < side - 1),
        (side + 1, None, (column < side - 1) & (row < side - 1) & (generator.random(side * side) < 0.04)),
    ):
        first = np.flatnonzero(there)
        rank = np.full(len(first), 4) if line is None else _rank(line[first])
        kept = (rank < 4) | (generator.random(len(first)) < 0.75)
        tails.append(first[kept])
        heads.append(first[kept] + step)
        ranks.append(rank[kept])
    tail, head, rank = np.concatenate(tails), np.concatenate(heads), np.concatenate(ranks)
    back = (rank < 4) | (generator.random(len(rank)) < 0.9)
    tail, head, rank = np.r_[tail, head[back]], np.r_[head, tail[back]], np.r_[rank, rank[back]]
    joined = csr_array((np.ones(len(tail)), (tail, head)), shape=(len(xy), len(xy)))
    part = connected_components(joined, connection="strong")[1]
    largest = part == np.bincount(part).argmax()
    kept = largest[tail] & largest[head]
    return xy, tail[kept], head[kept], rank[kept]


def _rank(line: Ints) -> Ints:
    """The type of a grid's line, as an index into ``TYPES``."""
    return np.select([line % 48 == 24, line % 24 == 12, line % 8 == 4, line % 4 == 2], [0, 1, 2, 3], default=4)
