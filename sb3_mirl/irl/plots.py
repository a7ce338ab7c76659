"""Pictures of networks and of what a route model says: each function draws on matplotlib Axes and returns them.

Needs the extra ``plots``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, norm

from sb3_mirl.common.extras import extra
from sb3_mirl.irl.network import Array, RoadNetwork, add_up

with extra("plots"):
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.patheffects import withStroke

if TYPE_CHECKING:
    from sb3_mirl.irl.routes import MaxEntRouteChoice

_INK, _FAINT, _FLOW, _PATH, _PLACES = "#3c4048", "#c4c4bd", "#D55E00", "#0072B2", "#009E73"
_ASIDE = 0.12  # of a street's usual length, by which the two directions are drawn apart
_WIDEST = 7.0  # points


def route_map(
    ax: Axes,
    network: RoadNetwork,
    values: ArrayLike,
    path: ArrayLike | None = None,
    destinations: Sequence[int] = (),
    probabilities: ArrayLike | None = None,
) -> Axes:
    """A map: the network in grey, values as line widths, and, if given, the path so far and destinations as discs (Figure 4).

    :param network: with ``coordinates``
    :param values: (E,), such as expected flows, or (S,) where the states are segments; 0 is not drawn
    :param path: states
    :param destinations: states, numbered from 1 on in the map
    :param probabilities: of the destinations: the discs' areas; by default equal
    :raises ValueError: the network has no coordinates, or ``values`` has another shape
    """
    lines, per_line = _lines(network), np.asarray(values, dtype=np.float64)
    segments = network.coordinates is not None and network.coordinates.ndim == 3
    if segments and per_line.shape == (network.n_edges,):
        per_line = add_up(network.head, per_line, network.n_states)
    if per_line.shape != (len(lines),):
        raise ValueError(f"values must be one number per edge, ({network.n_edges},), got {per_line.shape}")
    ax.add_collection(LineCollection(list(lines), colors=_FAINT, linewidths=0.5, zorder=1))
    used = np.flatnonzero(per_line > 1e-3 * per_line.max(initial=0))
    widths = _WIDEST * np.sqrt(per_line[used] / per_line.max(initial=1e-300))
    ax.add_collection(
        LineCollection(list(lines[used]), colors=_FLOW, linewidths=widths, alpha=0.8, capstyle="round", zorder=2)
    )
    if path is not None:
        states = np.asarray(path)
        route = lines[states] if segments else lines[network.find_edges(states[:-1], states[1:])]
        ax.add_collection(LineCollection(list(route), colors=_PATH, linewidths=3.2, capstyle="round", zorder=3))
        ax.plot(*_centre(network, int(states[0])), "o", color=_PATH, markersize=7, zorder=4)
    halo = withStroke(linewidth=2.5, foreground="white")
    sizes = np.full(len(destinations), 0.3) if probabilities is None else np.asarray(probabilities)
    for number, (state, size) in enumerate(zip(destinations, sizes, strict=True), start=1):
        x, y = _centre(network, state)
        ax.scatter([x], [y], s=60 + 1500 * size, color=_PLACES, alpha=0.55, linewidths=0, zorder=5)
        label = str(number) if probabilities is None else f"{number}: {size:.2f}"
        ax.annotate(label, (x, y), ha="center", va="center", fontsize=9, color=_INK, zorder=6, path_effects=[halo])
    ax.autoscale_view()
    ax.set_aspect("equal")
    ax.axis("off")
    return ax


def weights(
    ax: Axes,
    model: "MaxEntRouteChoice",
    features: Sequence[str] | None = None,
    relative_to: str | int | None = None,
    worth: float = 1.0,
    level: float = 0.95,
) -> Axes:
    """The weights with their intervals, one row per feature; relative to one of them as costs in its unit (Figure 3).

    :param features: names, by default all
    :param relative_to: as in ``summary``, such as a mile of interstate
    :param worth: as in ``summary``, such as the seconds that it takes
    :param level: of the intervals, which are asymptotic
    """
    table = model.summary(relative_to, worth)
    chosen = [table.names.index(name) for name in (features or table.names)]
    centres, errors = (table.weights, table.errors) if relative_to is None else (table.ratios, table.ratio_errors)
    half = norm.ppf((1 + level) / 2) * np.where(np.isfinite(errors), errors, np.nan)
    for row, k in enumerate(chosen):
        ax.plot([centres[k] - half[k], centres[k] + half[k]], [row, row], color=_FLOW, linewidth=5, alpha=0.35, zorder=2)
        ax.plot(centres[k], row, "o", color=_FLOW, markersize=5, zorder=3)
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=1)
    ax.set_yticks(range(len(chosen)), [table.names[k] for k in chosen])
    ax.set_ylim(len(chosen) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("weight" if relative_to is None else f"cost, {table.relative_to}")
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


def destination_accuracy(ax: Axes, shares: ArrayLike, accuracy: ArrayLike, n_paths: int | None = None, **line: Any) -> Axes:
    """How often the most probable destination is the right one, by the share of the path that was seen (Figure 5).

    :param shares: (n,) in [0, 1]
    :param accuracy: (n,) in [0, 1]
    :param n_paths: draws Wilson's 95 % interval of so many paths
    :param line: arguments of ``ax.plot``
    """
    x, p = np.asarray(shares, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    style = {"color": _PLACES, "linewidth": 1.8, "marker": "o", "markersize": 4, **line}
    ax.plot(100 * x, 100 * p, **style)
    if n_paths is not None:
        tests = (binomtest(round(share * n_paths), n_paths) for share in p)
        low, high = np.transpose([test.proportion_ci(method="wilson") for test in tests])
        ax.fill_between(100 * x, 100 * low, 100 * high, color=style["color"], alpha=0.18, linewidth=0)
    ax.set(xlim=(0, 100), ylim=(0, 102), xlabel="% of the path seen", ylabel="destination right, %")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _lines(network: RoadNetwork) -> NDArray[np.float64]:
    """(S, 2, 2) for segments, else (E, 2, 2): the lines of the map, drawn on the right."""
    if network.coordinates is None:
        raise ValueError("the network has no coordinates: give RoadNetwork coordinates=, or read it by from_networkx")
    xy = network.coordinates
    lines = xy if xy.ndim == 3 else np.stack([xy[network.tail], xy[network.head]], axis=1)
    along = lines[:, 1] - lines[:, 0]
    length = np.linalg.norm(along, axis=1)
    right = np.stack([along[:, 1], -along[:, 0]], axis=1) / np.where(length > 0, length, 1)[:, None]
    return lines + _ASIDE * np.median(length) * right[:, None, :]


def _centre(network: RoadNetwork, state: int) -> Array:
    assert network.coordinates is not None
    place = network.coordinates[state]
    return place if place.ndim == 1 else place.mean(axis=0)
