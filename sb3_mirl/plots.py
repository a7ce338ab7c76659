"""Pictures of results: each function takes data and matplotlib Axes, and returns the Axes.

Needs the extra ``plots``. Runs come as (seeds, points), one row per training seed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t

from sb3_mirl.common.extras import extra

with extra("plots"):
    import matplotlib.pyplot as plt
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle, FancyArrowPatch, Polygon, Rectangle
    from matplotlib.ticker import EngFormatter

from sb3_mirl.irl.plots import destination_accuracy, route_map, weights  # noqa: F401  all pictures in one place

Array = NDArray[np.float64]

# Okabe and Ito's palette, which colour-blind readers can tell apart; MIRL's variants are a light and a dark orange
COLOURS = {"ql": "#0072B2", "dqn": "#0072B2", "sql": "#009E73", "sql_m": "#CC79A7", "mirl": "#D55E00"}
COLOURS |= {"mirl_u": "#E69F00", "mirl_mix": "#7A3300", "sb3_dqn": "#56B4E9"}
LABELS = {"ql": "QL", "dqn": "SoftDQN, β=∞", "sql": "SQL", "sql_m": "SQL$_m$", "mirl": "MIRL"}
LABELS |= {"mirl_u": "MIRL, uniform exploration", "mirl_mix": "MIRL, mixed exploration", "sb3_dqn": "SB3's DQN"}
"""One colour and one name per agent, for all pictures."""

# the same palette for actions, the most different colours first
ACTION_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

_INK, _FAINT, _PAPER, _GOAL = "#3c4048", "#b8b8b2", "#fbfbf8", "#F0E442"
_DIRECTIONS = ((0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 0.0))  # up, right, down, left as (x, y)


def mean_interval(values: ArrayLike, level: float = 0.95) -> tuple[Array, Array, Array]:
    """Return the mean over the first axis and its Student-t interval; NaN counts as missing.

    :param values: (seeds, ...)
    :return: mean, lower and upper end, (...); without an interval (NaN) where fewer than two seeds have a value
    """
    array = np.asarray(values, dtype=np.float64)
    n = np.isfinite(array).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(array, axis=0) / n
        variance = np.nansum((array - mean) ** 2, axis=0) / (n - 1)
        half = student_t.ppf((1 + level) / 2, n - 1) * np.sqrt(variance / n)
    return mean, mean - half, mean + half


def smoothed(values: ArrayLike, span: float) -> Array:
    """Return the exponential moving average along the last axis, weight 2 / (span + 1) on the newest; a NaN is passed over.

    :param values: (seeds, points)
    """
    array = np.atleast_2d(np.asarray(values, dtype=np.float64))
    return np.asarray(pd.DataFrame(array.T).ewm(span=span, ignore_na=True).mean().to_numpy().T, dtype=np.float64)


def learning_curve(ax: Axes, timesteps: ArrayLike, values: ArrayLike, agent: str, label: str | None = None) -> Axes:
    """Draw the mean over the seeds and its 95 % interval (Student's).

    :param timesteps: (points,)
    :param values: (seeds, points)
    :param agent: a key of ``COLOURS``
    :param label: by default the agent's name
    """
    return estimate_curve(ax, timesteps, mean_interval(values), agent, label)


def estimate_curve(
    ax: Axes,
    x: ArrayLike,
    estimate: tuple[ArrayLike, ArrayLike, ArrayLike],
    agent: str,
    label: str | None = None,
    runs: ArrayLike | None = None,
) -> Axes:
    """Draw an estimate and its interval along x.

    :param x: (points,)
    :param estimate: value, lower and upper end, each (points,); NaN ends draw no interval
    :param agent: a key of ``COLOURS``
    :param label: by default the agent's name
    :param runs: (seeds, points), drawn as thin lines
    """
    mean, low, high = (np.asarray(part, dtype=np.float64) for part in estimate)
    front = agent == "mirl"
    if runs is not None:
        ax.plot(np.asarray(x), np.asarray(runs).T, color=COLOURS[agent], linewidth=0.5, alpha=0.5, zorder=1)
    ax.fill_between(np.asarray(x), low, high, color=COLOURS[agent], alpha=0.18, linewidth=0, zorder=2 + front)
    ax.plot(
        np.asarray(x), mean, color=COLOURS[agent], label=label or LABELS[agent], linewidth=1.9 if front else 1.4,
        zorder=4 + front,
    )  # fmt: skip
    return ax


def estimate_bars(ax: Axes, estimates: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]]) -> Axes:
    """Draw one estimate per agent, the first on top: a line for its interval, a dot and a number for its value.

    :param estimates: for each agent, or pair of agents "x,y" (drawn as "x > y" in the colour of x): value, lower and upper
        end, each a number or (1,)
    """
    for row, (key, estimate) in enumerate(estimates.items()):
        value, low, high = (float(np.ravel(part)[0]) for part in estimate)
        colour = COLOURS[key.split(",")[0]]
        ax.plot([low, high], [-row, -row], color=colour, linewidth=7, alpha=0.35, solid_capstyle="butt")
        ax.plot(value, -row, "o", color=colour, markersize=6)
        ax.annotate(f"{value:.3g}", (value, -row), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=9)
    names = [" > ".join(LABELS[agent] for agent in key.split(",")) for key in estimates]
    ax.set_yticks([-row for row in range(len(names))], names)
    ax.set_ylim(-len(names) + 0.4, 0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


def seed_dots(
    ax: Axes, scores: Mapping[str, ArrayLike], estimates: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]]
) -> Axes:
    """Draw the scores of every seed as dots, a column per agent, with an estimate and its interval beside them.

    :param scores: for each agent (seeds,)
    :param estimates: for each agent value, lower and upper end, each a number; NaN ends draw no interval
    """
    for place, (agent, values) in enumerate(scores.items()):
        value, low, high = (float(np.ravel(part)[0]) for part in estimates[agent])
        ax.plot([place + 0.25] * 2, [low, high], color=COLOURS[agent], linewidth=4, alpha=0.35, solid_capstyle="butt")
        ax.plot(place + 0.25, value, "_", color=COLOURS[agent], markersize=10, markeredgewidth=2)
        ax.plot(np.full(np.size(values), place), np.ravel(values), "o", color=COLOURS[agent], markersize=4, alpha=0.7)
    ax.set_xticks([place + 0.1 for place in range(len(scores))], [LABELS[agent] for agent in scores], rotation=25, ha="right")
    ax.tick_params(axis="x", length=0, labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def gridworld(ax: Axes, rows: Sequence[str], policy: ArrayLike | None = None) -> Axes:
    """Draw a map of ``GridWorldEnv``, one unit per cell, (row, column) at x = column, y = -row.

    :param rows: the map: ``#`` wall, ``.`` free, ``G`` goal
    :param policy: (S, A); its most probable action is drawn as an arrow in each free cell
    """
    n_rows, n_columns = len(rows), len(rows[0])
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            face = {"#": _INK, "G": _GOAL}.get(cell, _PAPER)
            ax.add_patch(Rectangle((column - 0.5, -row - 0.5), 1, 1, facecolor=face, edgecolor=_FAINT, linewidth=0.5))
            if cell == "G":
                ax.text(column, -row, "★", ha="center", va="center_baseline", color=_INK, fontsize=9)
            elif cell == "." and policy is not None:
                dx, dy = _DIRECTIONS[int(np.argmax(np.asarray(policy)[row * n_columns + column]))]
                _arrow(ax, (column - 0.28 * dx, -row - 0.28 * dy), (column + 0.32 * dx, -row + 0.32 * dy), "#777a80", 0.7, 4)
    ax.set(xlim=(-0.6, n_columns - 0.4), ylim=(-n_rows + 0.4, 0.6), aspect="equal")
    ax.axis("off")
    return ax


def prior_rose(ax: Axes, prior: ArrayLike, centre: tuple[float, float], radius: float, agent: str = "mirl") -> Axes:
    """Draw the action prior as a compass: a petal per action, as long as it is probable; the dotted circle is uniform.

    :param prior: (4,), up, right, down, left
    :param centre: x, y
    :param radius: length of the longest petal
    """
    x, y = centre
    lengths = radius * np.asarray(prior) / np.max(prior)
    for probability, length, (dx, dy) in zip(np.asarray(prior), lengths, _DIRECTIONS, strict=True):
        along, across = np.array([dx, dy]) * length, np.array([-dy, dx]) * min(0.16 * radius, 0.4 * length)
        petal = [centre, centre + 0.6 * along + across, centre + along, centre + 0.6 * along - across]
        ax.add_patch(Polygon(petal, facecolor=COLOURS[agent], edgecolor="none", zorder=3))
        ha, va = ("right", "center", "left")[int(dx) + 1], ("top", "center", "bottom")[int(dy) + 1]
        gap = max(length, radius * 0.25 / np.max(prior)) + 0.12 * radius
        ax.text(x + gap * dx, y + gap * dy, f"{probability:.2f}", color=COLOURS[agent], fontsize=8, ha=ha, va=va)
    ax.add_patch(Circle(centre, radius * 0.25 / np.max(prior), fill=False, edgecolor="0.5", linewidth=0.8, linestyle=":"))
    return ax


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, width: float, head: float) -> None:
    style = f"-|>,head_length={head / 10},head_width={head / 22}"
    ax.add_patch(
        FancyArrowPatch(start, end, arrowstyle=style, mutation_scale=8, color=colour, linewidth=width, shrinkA=0, shrinkB=0)
    )


def plot_prior_history(history: Mapping[str, Any], title: str | None = None) -> Figure:
    """Draw the course of MIRL's prior and temperature in one figure: prior on top; beta, beta max_a Q and I(S; A) below.

    :param history: ``timesteps`` (T,), ``prior`` (T, A), ``beta`` (T,), ``beta_max_q`` (T,), ``mutual_information``
        (T,) in nats and ``actions`` (A,), as in the file of :meth:`sb3_mirl.PriorCallback.save`
    :param title: heading of the figure
    :raises ValueError: if the history has no point yet
    """
    figure = plt.figure(figsize=(10, 6.5), layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=[1.6, 1])
    prior_curves(figure.add_subplot(grid[0, :]), history).set_title("Action prior ρ(a)", loc="left")
    for column, (name, label) in enumerate(
        (("beta", "β"), ("beta_max_q", "β max$_a$ Q(s, a)"), ("mutual_information", "I(S; A) in nats"))
    ):
        ax = history_curve(figure.add_subplot(grid[1, column]), history, name, log=name != "mutual_information")
        ax.set_title(label, loc="left")
    if title is not None:
        figure.suptitle(title)
    return figure


def prior_curves(ax: Axes, history: Mapping[str, Any], n_named: int | None = None) -> Axes:
    """Draw the prior rho(a) of each action over environment steps, with names at the ends (Figure 4 of the MIRL paper).

    The six most probable actions at the end are in colour, the others grey; the dotted line is the uniform distribution.

    :param history: ``timesteps`` (T,), ``prior`` (T, A), ``actions`` (A,) names
    :param n_named: name only this many of the most probable actions
    :raises ValueError: if the history has no point yet
    """
    steps, prior, uniform = _steps(history), np.asarray(history["prior"]), 1 / np.shape(history["prior"])[1]
    colours = np.full(prior.shape[1], "#8a8a85")
    ranking = np.argsort(-prior[-1], kind="stable")
    colours[ranking[: len(ACTION_COLOURS)]] = ACTION_COLOURS[: len(ranking)]
    ax.axhline(uniform, color=_INK, linewidth=0.8, linestyle=":", zorder=0)
    if n_named is None:
        ax.annotate("uniform", (0, uniform), xytext=(4, 2), textcoords="offset points", fontsize=8, color=_INK)
    for place, action in reversed(list(enumerate(ranking))):
        ax.plot(steps, prior[:, action], color=colours[action], linewidth=1.8 if place < len(ACTION_COLOURS) else 0.8)
    ax.set_ylim(0, max(float(prior.max()), uniform) * 1.08)
    named = ranking[:n_named]
    label_ends(ax, float(steps[-1]), prior[-1][named], [str(history["actions"][a]) for a in named], colours[named])
    return step_axis(ax, float(steps[-1]))


def history_curve(ax: Axes, history: Mapping[str, Any], name: str, log: bool = True, **line: Any) -> Axes:
    """Draw one quantity of the prior's record over environment steps (Figures 7 and 8 of the MIRL paper).

    :param history: ``timesteps`` (T,) and ``name`` (T,)
    :param name: such as "beta", "beta_max_q" or "mutual_information"
    :param log: a log axis where the values span decades
    :param line: arguments of ``ax.plot``
    :raises ValueError: if the history has no point yet
    """
    steps, values = _steps(history), np.asarray(history[name], dtype=float)
    ax.plot(steps, values, **{"color": COLOURS["mirl"], "linewidth": 1.3, **line})
    return step_axis(log_where_wide(ax, values) if log else ax, float(steps[-1]))


def log_where_wide(ax: Axes, values: ArrayLike, decades: float = 1.5) -> Axes:
    """Make the y axis logarithmic where values span more than ``decades`` powers of ten; linear within (-1, 1) if not all
    are positive.

    :param values: all that is drawn on the axis
    """
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    least = finite.min(initial=np.inf)
    if 0 < least < finite.max(initial=0) / 10**decades:
        ax.set_yscale("log")
    elif least <= 0 and np.abs(finite).max() > 10**decades:
        ax.set_yscale("symlog", linthresh=1)
    return ax


def label_ends(ax: Axes, x: float, heights: ArrayLike, names: Sequence[str], colours: Sequence[str] | np.ndarray) -> Axes:
    """Name curves at their right end, moved apart where they would overlap, with a line back to the curve.

    :param ax: axes with their final limits, y axis linear
    :param x: right end of the curves
    :param heights: (n,) y at the end of each curve
    :param names: (n,)
    :param colours: (n,)
    """
    ends, (low, high), points = np.asarray(heights, dtype=float), ax.get_ylim(), 9 if len(names) < 10 else 7.5
    height_in_points = ax.get_position().height * ax.figure.get_figheight() * 72  # type: ignore[union-attr]
    gap = min(1.15 * points / height_in_points, 1 / len(ends)) * (high - low)
    order = np.argsort(ends, kind="stable")
    for i, y in zip(order, _moved_apart(ends[order], gap, high), strict=True):
        line = {"arrowstyle": "-", "color": colours[i], "linewidth": 0.6, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)}
        ax.annotate(
            names[i], (x, ends[i]), xytext=(1.025, (y - low) / (high - low)), textcoords="axes fraction", va="center",
            color=colours[i], fontsize=points, annotation_clip=False, arrowprops=line,
        )  # fmt: skip
    return ax


def step_axis(ax: Axes, last: float) -> Axes:
    """Show environment steps from 0 to ``last`` on the x axis, in thousands (k) and millions (M)."""
    ax.set_xlim(0, last)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set_xlabel("environment steps")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _moved_apart(heights: Array, gap: float, top: float) -> Array:
    """Sorted heights moved up to be ``gap`` apart, then down again below ``top``."""
    offsets = gap * np.arange(len(heights))
    up = np.maximum.accumulate(heights - offsets) + offsets
    return np.minimum.accumulate((np.minimum(up, top) - offsets)[::-1])[::-1] + offsets


def _steps(history: Mapping[str, Any]) -> NDArray[np.int64]:
    steps = np.asarray(history["timesteps"])
    if len(steps) == 0:
        raise ValueError("The prior's history is empty: nothing is recorded before learning_starts. Train for longer.")
    return steps
