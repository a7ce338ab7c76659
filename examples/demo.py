"""
What the package is for, in five minutes on two cores: Figure 1 of the paper; an agent that learns a game with a learned
prior, beside DQN and random play; and one minute of a real Atari game.

    python examples/demo.py [--out results/demo] [--seed 0] [--quick]

Needs the extras of `pip install '.[all]'`. What is done is kept: the same command goes on after it.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from reproduce_minatar import RANDOM, play_at_random
from stable_baselines3 import DQN

from sb3_mirl.experiments import AGENTS, MINATAR, Run, Settings, run_all
from sb3_mirl.experiments.results import collect

GAME = "freeway"
TABULAR = {"ql": "Q-learning", "sql": "SQL", "sql_m": "SQL_m", "mirl": "MIRL"}
PLAYERS = {"dqn": "DQN (SoftDQN at β = ∞)", "mirl": "MIRL"}
# of both agents; the paper's are for runs that are 300 times as long
HYPERPARAMETERS = {
    "learning_rate": 1e-3,
    "learning_starts": 2_000,
    "target_update_interval": 2_000,
    "exploration_fraction": 0.5,
    "beta_lr": 3e-5,
    "prior_lr": 5e-4,
}


class Size(NamedTuple):
    """How long the parts are."""

    gridworlds: list[str]  # arguments of reproduce_gridworlds.py
    freeway: Settings
    atari: list[str]  # arguments of quickstart.py
    film: int  # steps of the game in it


def settings(timesteps: int, snapshots: int, games: int) -> Settings:
    return Settings(
        timesteps, timesteps // snapshots, "default", eval_exploration=("none",), eval_episodes=games,
        overrides=HYPERPARAMETERS, checkpoints=False,
    )  # fmt: skip


WHOLE = Size([], settings(160_000, 4, 10), ["--timesteps", "5000"], 600)
QUICK = Size(
    ["--seeds", "2", "--timesteps", "2000"],
    settings(3_200, 1, 2),
    ["--game", "Pong", "--timesteps", "200", "--eval-episodes", "1"],
    60,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/demo"))
    parser.add_argument("--seed", type=int, default=0, help="of the second and third part")
    parser.add_argument("--quick", action="store_true", help="try in a minute whether everything works; nothing is learned")
    args = parser.parse_args()
    size, out = QUICK if args.quick else WHOLE, args.out
    parts = {
        "Figure 1 of the paper: MIRL and its baselines on two gridworlds": ("half a minute", gridworlds, out / "gridworlds"),
        "MIRL beside DQN on MinAtar's Freeway": ("two to four minutes", freeway, out / GAME),
        "A real Atari game, Breakout: train, save, reload, play": ("two minutes", atari, out / "breakout"),
    }
    print("Three parts, five minutes in all on two cores:")
    for number, (title, (duration, _, _)) in enumerate(parts.items(), 1):
        print(f"  {number}. {title} ({duration})")
    for number, (title, (_, part, folder)) in enumerate(parts.items(), 1):
        print(f"\n=== {number}. {title}", flush=True)
        start = time.perf_counter()
        try:
            part(size, args.seed, folder)
        except KeyboardInterrupt:
            sys.exit("Interrupted: the same command goes on with this part.")
        print(f"({time.perf_counter() - start:.0f} s)", flush=True)
    print("\nWhat to open:")
    for path, what in (
        ("gridworlds/figure1.png", "the paper's Figure 1"),
        (f"{GAME}/{GAME}.gif", "random play, DQN and MIRL side by side"),
        (f"{GAME}/{GAME}.png", "how they learned, and the course of MIRL's prior"),
        ("breakout/prior_and_beta.png", "prior and temperature of the minute of Atari"),
    ):
        print(f"  {out / path}: {what}")
    print(f"  tensorboard --logdir {out}: the runs' curves")


def gridworlds(size: Size, seed: int, out: Path) -> None:
    example("reproduce_gridworlds.py", out, *size.gridworlds, stdout=subprocess.DEVNULL)
    returns = pd.read_csv(out / "evaluations.csv").query("world == 'corridor' and timestep <= 100_000")
    means = returns.groupby("agent")["mean_return"].mean().sort_values(ascending=False)
    print("Mean return in the 3 x 20 corridor while learning: " + ", ".join(f"{TABULAR[a]} {m:.1f}" for a, m in means.items()))


def freeway(size: Size, seed: int, out: Path) -> None:
    runs = [Run(GAME, agent, seed) for agent in PLAYERS]
    if run_all(runs, MINATAR, size.freeway, out, jobs=len(runs), device="cpu"):
        sys.exit(1)
    collect(out)
    play_at_random(out, size.freeway.eval_episodes)
    snapshots = pd.read_csv(out / "snapshots.csv").query("seed == @seed")
    last = snapshots[snapshots["timesteps"] == size.freeway.timesteps].set_index("agent")["score"]
    chance = pd.read_csv(out / RANDOM)["score"].item()
    print(f"Streets crossed per game, mean of {size.freeway.eval_episodes} games, after {size.freeway.timesteps:,} steps:")
    for name, score in {"random play": chance, **{PLAYERS[agent]: last[agent] for agent in PLAYERS}}.items():
        print(f"  {name:24}{score:6.1f}")
    with np.load(out / runs[-1].folder / "prior_history.npz") as data:
        history = dict(data)
    ranked = sorted(zip(history["prior"][-1], history["actions"], strict=True), reverse=True)
    print("What MIRL has learned of the actions, ρ(a): " + ", ".join(f"{name} {rho:.2f}" for rho, name in ranked))
    print(f"One run each, seed {seed}. Which of the two is ahead changes with it: reproduce_minatar.py compares several.")

    import _demo_pictures  # here, because every worker process imports this file, and needs no pictures

    models: dict[str, DQN | None] = {"random": None}
    for run, name in zip(runs, ("DQN", "MIRL"), strict=True):
        models[name] = AGENTS[run.agent][0].load(out / run.folder / "model.zip", device="cpu")
    _demo_pictures.film(GAME, models, out / f"{GAME}.gif", size.film)
    _demo_pictures.course(snapshots, chance, history, out / f"{GAME}.png")


def atari(size: Size, seed: int, out: Path) -> None:
    example("quickstart.py", out, *size.atari, "--seed", str(seed), env={**os.environ, "OMP_NUM_THREADS": "2"})
    print("A minute is enough to see that everything works, not to learn: Breakout takes --timesteps 2e6 and hours.")


def example(script: str, out: Path, *arguments: str, **options: object) -> None:
    """Run another example."""
    command = [sys.executable, str(Path(__file__).parent / script), "--out", str(out), *arguments]
    done = subprocess.run(command, **options)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
