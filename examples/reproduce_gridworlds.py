"""Figure 1 of Grau-Moya, Leibfried and Vrancx (ICLR 2019): MIRL against its baselines on two gridworlds.

    python examples/reproduce_gridworlds.py                                   # the paper's numbers, half a minute
    python examples/reproduce_gridworlds.py --gamma 0.999 --prior-lr 2e-4     # the authors' later advice

Writes evaluations.csv, correct_action.csv, summary.md and figure1.png into --out. Needs the extra `plots`.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.stats import ttest_rel

import sb3_mirl  # noqa: F401  registers the gridworlds
from sb3_mirl import plots
from sb3_mirl.common.files import claimed
from sb3_mirl.envs.gridworld import MAPS
from sb3_mirl.tabular import QLearning, SoftQLearning, TabularMDP, TabularMIRL, soft_value_iteration, train_in_parallel
from sb3_mirl.tabular.agents import TabularAgent

Array = NDArray[np.float64]

EVAL_FREQ, EVAL_EPISODES, EVAL_STEPS = 100, 30, 100  # section 5.1
ACTION_WINDOW = EVAL_FREQ  # steps over which the executed actions are counted
EARLY = 100_000  # the x-axis of the paper's figure ends about here
SMOOTHING = 10  # snapshots; the authors' answer to the reproducers
NEAR = 1.0  # "at the optimum" is a smoothed return within this of the best policy's

AGENTS: dict[str, Callable[[str, float, float, int], TabularAgent]] = {
    "ql": lambda env, gamma, _, seed: QLearning(env, gamma=gamma, seed=seed),
    "sql": lambda env, gamma, _, seed: SoftQLearning(env, gamma=gamma, seed=seed),
    "sql_m": lambda env, gamma, _, seed: SoftQLearning(env, exploration="marginal", gamma=gamma, seed=seed),
    "mirl": lambda env, gamma, prior_lr, seed: TabularMIRL(env, gamma=gamma, prior_lr=prior_lr, seed=seed),
}
LINES: dict[str, Any] = {"ql": "-", "sql": (0, (4, 1.5)), "sql_m": (0, (1, 1)), "mirl": "-"}  # where curves overlap


@dataclass(frozen=True)
class World:
    """A world, its correct action, and in which cells it counts (None: everywhere)."""

    env_id: str
    action: int
    cell: int | None
    title: str
    correct: str
    shown: int  # steps on the figure's x-axis: until nothing changes any more


WORLDS = {
    "corridor": World("MirlCorridor-v0", 1, None, "3 × 20 corridor", "right, in every cell", 120_000),
    "square": World("MirlSquare-v0", 3, 3 * 8 + 6, "8 × 8 world", "left, beside the goal", 12_000),
}


@dataclass(frozen=True)
class Result:
    """One agent in one world: ``returns`` (seeds, snapshots), ``correct`` (seeds, windows), and the last prior and policy."""

    timesteps: Array
    returns: Array
    windows: Array
    correct: Array
    priors: Array
    policy: Array


def run(options: argparse.Namespace) -> dict[str, dict[str, Result]]:
    """Train and evaluate ``options.seeds`` agents of each kind in each world, all at once."""
    agents = {
        (world, agent): [make(WORLDS[world].env_id, options.gamma, options.prior_lr, seed) for seed in range(options.seeds)]
        for world in WORLDS
        for agent, make in AGENTS.items()
    }
    train_in_parallel(
        [one for group in agents.values() for one in group], options.timesteps, progress_bar=True, eval_freq=EVAL_FREQ,
        n_eval_episodes=EVAL_EPISODES, max_eval_steps=EVAL_STEPS, eval_exploration=options.eval_exploration,
        record_actions=True,
    )  # fmt: skip
    return {world: {agent: result(WORLDS[world], agents[world, agent]) for agent in AGENTS} for world in WORLDS}


def result(world: World, agents: list[TabularAgent]) -> Result:
    """What is shown of the agents of one kind."""
    records = [one.records for one in agents]
    windows, correct = zip(*(correct_actions(world, record.states, record.actions) for record in records), strict=True)
    return Result(
        timesteps=records[0].evaluation_timesteps.astype(float),
        returns=np.array([record.evaluation_returns.mean(axis=1) for record in records]),
        windows=windows[0],
        correct=np.array(correct),
        priors=np.array([one.prior for one in agents]),
        policy=agents[0].policy,
    )


def correct_actions(world: World, states: NDArray[np.int32], actions: NDArray[np.int32]) -> tuple[Array, Array]:
    """The end of each window of steps, and the share of correct actions in it (NaN where the cell was not visited)."""
    counted = np.ones(len(states), dtype=bool) if world.cell is None else states == world.cell
    starts = np.arange(0, len(states), ACTION_WINDOW)
    visits = np.add.reduceat(counted.astype(float), starts)
    right = np.add.reduceat((counted & (actions == world.action)).astype(float), starts)
    with np.errstate(invalid="ignore"):
        return np.minimum(starts + ACTION_WINDOW, len(states)).astype(float), right / visits


def optimum(world: World) -> float:
    """The best policy's mean return, by planning at a high beta and a discount near 1."""
    mdp = TabularMDP.from_env(gym.make(world.env_id), discount=1 - 1e-9)
    return float(mdp.initial @ soft_value_iteration(mdp, beta=1e6).v)


def table(results: dict[str, dict[str, Result]], column: str, quantity: str) -> pd.DataFrame:
    """``quantity`` of all results as rows of world, agent, seed, timestep, ``column``."""
    frames = []
    for world, of_world in results.items():
        for agent, result in of_world.items():
            values = getattr(result, quantity)
            timesteps = result.timesteps if quantity == "returns" else result.windows
            index = pd.MultiIndex.from_product([[world], [agent], range(len(values)), timesteps.astype(int)])
            frames.append(pd.Series(values.ravel(), index=index, name=column))
    return pd.concat(frames).rename_axis(["world", "agent", "seed", "timestep"]).reset_index()


def scores(result: Result, best: float) -> dict[str, Array]:
    """The columns of summary.md, each (seeds,)."""
    smooth = plots.smoothed(result.returns, SMOOTHING)
    near = smooth >= best - NEAR
    reached = np.where(near.any(axis=1), result.timesteps[near.argmax(axis=1)], result.timesteps[-1])
    early = result.timesteps <= EARLY
    last_tenth = result.timesteps > 0.9 * result.timesteps[-1]
    last_windows = result.windows > 0.9 * result.windows[-1]
    return {
        "AUC, first 1e5 steps": result.returns[:, early].mean(axis=1),
        "AUC, all steps": result.returns.mean(axis=1),
        "final return": result.returns[:, last_tenth].mean(axis=1),
        "steps to the optimum": reached,
        "final correct action": np.nanmean(result.correct[:, last_windows], axis=1),
    }


def summary(results: dict[str, dict[str, Result]], options: argparse.Namespace, seconds: float) -> str:
    """summary.md: every score with its 95 % interval, and the paired difference of MIRL from each baseline."""
    lines = [
        "# Figure 1, reproduced",
        "",
        f"{options.seeds} training seeds, {options.timesteps} steps, gamma {options.gamma}, alpha_rho {options.prior_lr}, "
        f"evaluation exploration {options.eval_exploration!r}; {seconds:.0f} s. "
        "Mean and half-width of the 95 % interval over seeds (Student t).",
        "",
        "AUC: area under the curve divided by its length, the mean return. Final: over the last tenth of training. Steps to "
        f"the optimum: until the return (moving average, {SMOOTHING} snapshots) is within {NEAR:g} of the best policy's; ≥ if "
        "a seed never got there. Last rows: MIRL minus the baseline, seed by seed, with the p-value of a paired t-test "
        "from 3 seeds on.",
    ]
    for world, of_world in results.items():
        best = optimum(WORLDS[world])
        columns = {agent: scores(result, best) for agent, result in of_world.items()}
        names = list(columns["mirl"])
        lines += ["", f"## {WORLDS[world].title} (best policy: {best:.3f})", ""]
        lines += ["| agent | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        for agent, score in columns.items():
            cells = [with_interval(score[name], name) for name in names]
            if (score["steps to the optimum"] == options.timesteps).any():
                cells[names.index("steps to the optimum")] += " (≥)"
            lines.append(f"| {agent} | " + " | ".join(cells) + " |")
        for agent in [agent for agent in columns if agent != "mirl"]:
            cells = [paired(columns["mirl"][name], columns[agent][name], name) for name in names]
            lines.append(f"| mirl - {agent} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def with_interval(values: Array, name: str) -> str:
    """Mean ± half-width over the seeds."""
    mean, _, high = plots.mean_interval(values)
    digits = 0 if name.startswith("steps") else 3 if name.endswith("action") else 2
    return f"{mean:.{digits}f} ± {high - mean:.{digits}f}" if len(values) > 1 else f"{mean:.{digits}f}"


def paired(ours: Array, theirs: Array, name: str) -> str:
    """Mean difference ± half-width, and the paired t-test's p-value where there are differences enough to test."""
    text = with_interval(ours - theirs, name)
    if len(ours) < 3 or np.ptp(ours - theirs) == 0:
        return text
    return f"{text} (p {ttest_rel(ours, theirs).pvalue:.1g})"


def figure(results: dict[str, dict[str, Result]], path: Path) -> None:
    """The paper's three columns: world and learned prior, return, correct action."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10})
    fig, axes = plt.subplots(2, 3, figsize=(11, 5.6), width_ratios=[1.1, 1.3, 1.3], layout="constrained")
    for row, (name, of_world) in enumerate(results.items()):
        draw_world(axes[row, 0], name, of_world["mirl"])
        draw_returns(axes[row, 1], name, of_world)
        draw_actions(axes[row, 2], name, of_world)
    axes[0, 2].legend(frameon=False, loc="lower right")
    fig.savefig(path, dpi=150)
    plt.close(fig)


def draw_world(ax: Axes, name: str, result: Result) -> None:
    """The map with the learned policy's arrows, and the prior, mean over the seeds."""
    plots.gridworld(ax, MAPS[name], result.policy)
    below = name == "corridor"
    x, y, radius = (8.0, -7.0, 6.0) if below else (11.3, -2.9, 2.5)
    plots.prior_rose(ax, result.priors.mean(axis=0), (x, y), radius)
    lower = y - (4.3 if below else 1.3 * radius)
    ax.text(x, lower, "learned prior ρ(a)", ha="center", va="center", color=plots.COLOURS["mirl"])
    ax.set(xlim=(-0.6, 19.6 if below else 15), ylim=(-12 if below else -7.6, 0.6))
    ax.set_title(WORLDS[name].title, fontweight="bold")


def draw_returns(ax: Axes, name: str, of_world: dict[str, Result]) -> None:
    """The return while learning; for the corridor also, magnified, how it ends."""
    world, best = WORLDS[name], optimum(WORLDS[name])
    last = float(of_world["mirl"].timesteps[-1])
    shown = min(world.shown, last)
    panels = [(ax, (0.0, shown / 1000), (-45.0, best + 3))]
    if name == "corridor" and last > shown:
        inset = ax.inset_axes((0.5, 0.14, 0.46, 0.4))
        inset.set_title("end of training", fontsize=8, pad=2)
        inset.tick_params(labelsize=7)
        panels.append((inset, (shown / 1000, last / 1000), (best - 1.3, best + 0.4)))
    for panel, xlim, ylim in panels:
        panel.axhline(best, color="0.5", linewidth=0.8, linestyle="--", zorder=1)
        span = SMOOTHING if panel is ax else 10 * SMOOTHING
        for agent, result in of_world.items():
            plots.learning_curve(panel, result.timesteps / 1000, plots.smoothed(result.returns, span), agent)
            panel.lines[-1].set_linestyle(LINES[agent])
        panel.set(xlim=xlim, ylim=ylim)
    ax.annotate("best policy", (1, best), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="0.4", fontsize=8)
    ax.set(xlabel="environment steps (thousands)", title="mean return")


def draw_actions(ax: Axes, name: str, of_world: dict[str, Result]) -> None:
    """How often the correct action was executed while learning, exploration included."""
    for agent, result in of_world.items():
        plots.learning_curve(ax, result.windows / 1000, plots.smoothed(result.correct, SMOOTHING), agent)
        ax.lines[-1].set_linestyle(LINES[agent])
    shown = min(WORLDS[name].shown, of_world["mirl"].windows[-1])
    title = f"share of correct actions ({WORLDS[name].correct})"
    ax.set(xlabel="environment steps (thousands)", title=title, ylim=(0.2, 1), xlim=(0, shown / 1000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="training seeds (paper: 10)")
    parser.add_argument("--timesteps", type=int, default=250_000, help="environment steps (paper: 2.5e5)")
    parser.add_argument("--gamma", type=float, default=0.99, help="discount (paper: 0.99)")
    parser.add_argument("--prior-lr", type=float, default=2e-3, help="MIRL's alpha_rho (paper: 2e-3)")
    parser.add_argument(
        "--eval-exploration", choices=["own", "uniform", "none"], default="own", help="in evaluations (paper: own)"
    )
    parser.add_argument("--out", type=Path, default=Path("results/gridworlds"))
    options = parser.parse_args()
    with claimed(options.out):
        reproduce(options)


def reproduce(options: argparse.Namespace) -> None:
    start = time.perf_counter()
    results = run(options)
    seconds = time.perf_counter() - start

    table(results, "mean_return", "returns").to_csv(options.out / "evaluations.csv", index=False, float_format="%.4f")
    table(results, "correct_action", "correct").to_csv(options.out / "correct_action.csv", index=False, float_format="%.4f")
    text = summary(results, options, seconds)
    (options.out / "summary.md").write_text(text, encoding="utf-8")
    figure(results, options.out / "figure1.png")
    print(text)
    print(f"trained and evaluated in {seconds:.1f} s, {time.perf_counter() - start:.1f} s in all: see {options.out}/")


if __name__ == "__main__":
    main()
