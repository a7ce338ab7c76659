"""
Memory of a long run: the resident set size over environment steps, and its growth once the replay buffer is full.

    python examples/benchmark_memory.py [--env CartPole-v1] [--timesteps 1e6] [--buffer-size 5e4] [--n-envs 1]
    python examples/benchmark_memory.py --env Breakout --timesteps 2e5 --buffer-size 2e4 --n-envs 8

Trains MIRL with TensorBoard logs. The warm-up, twice the capacity of the replay buffer, is drawn but left out of the
straight line that is fitted. Writes memory.csv (timesteps, rss_mb) and memory.png.
"""

import argparse
import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import psutil
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_mirl import MIRL, plots
from sb3_mirl.common.files import claimed

POINTS = 500


class MemoryCallback(BaseCallback):
    """Records the resident set size of the process every ``interval`` environment steps."""

    def __init__(self, interval: int) -> None:
        super().__init__()
        self.interval = interval
        self.timesteps: list[int] = []
        self.rss_mb: list[float] = []
        self._process = psutil.Process()

    def _on_step(self) -> bool:
        if self.num_timesteps >= (len(self.timesteps) + 1) * self.interval:
            self.timesteps.append(self.num_timesteps)
            self.rss_mb.append(self._process.memory_info().rss / 1e6)
        return True


def make_env(name: str, n_envs: int) -> tuple[str, VecEnv]:
    """:return: policy and environment, of gymnasium where it knows the id, else a game of Atari"""
    if name in gym.registry:
        return "MlpPolicy", make_vec_env(name, n_envs, seed=0)
    from sb3_mirl.envs import AtariVecEnv

    return "CnnPolicy", AtariVecEnv(name, n_envs, seed=0)


def growth(table: pd.DataFrame, warm_up: int) -> tuple[float, float]:
    """
    :param table: timesteps and rss_mb
    :param warm_up: environment steps left out
    :return: slope (MB per 1e5 environment steps) and intercept (MB) of the line through what follows the warm-up
    """
    flat = table[table["timesteps"] > warm_up]
    slope, intercept = np.polyfit(flat["timesteps"] / 1e5, flat["rss_mb"], 1)
    return float(slope), float(intercept)


def draw(table: pd.DataFrame, warm_up: int, line: tuple[float, float], title: str) -> plt.Figure:
    figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    ax.axvspan(0, warm_up, color="0.93", zorder=0)
    plots.history_curve(ax, table, "rss_mb", log=False)
    steps = np.array([warm_up, table["timesteps"].iloc[-1]])
    ax.plot(steps, line[1] + line[0] * steps / 1e5, color="0.3", linestyle="--", label=f"{line[0]:+.3f} MB per 1e5 steps")
    ax.set(ylabel="resident set size (MB)", title=title, ylim=(0, 1.1 * table["rss_mb"].max()))
    ax.legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1", help="a gymnasium id or an Atari game")
    parser.add_argument("--timesteps", type=float, default=1e6)
    parser.add_argument("--buffer-size", type=float, default=5e4, help="transitions")
    parser.add_argument("--n-envs", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("results/memory"))
    args = parser.parse_args()
    timesteps, capacity = int(args.timesteps), int(args.buffer_size)
    warm_up = 2 * capacity
    if timesteps < 2 * warm_up:
        parser.error(f"--timesteps {timesteps} must be at least 4 times --buffer-size {capacity}, to see what follows warm-up")
    with claimed(args.out):
        run(args, timesteps, capacity, warm_up)


def run(args: argparse.Namespace, timesteps: int, capacity: int, warm_up: int) -> None:
    policy, env = make_env(args.env, args.n_envs)
    model = MIRL(
        policy, env, buffer_size=capacity, learning_starts=min(1_000, capacity // 2), learning_rate=1e-4,
        target_update_interval=1_000, tensorboard_log=str(args.out / "tensorboard"), seed=0, device=args.device,
    )  # fmt: skip
    callback = MemoryCallback(max(timesteps // POINTS, args.n_envs))
    model.learn(timesteps, callback=callback)
    env.close()

    table = pd.DataFrame({"timesteps": callback.timesteps, "rss_mb": callback.rss_mb})
    table.to_csv(args.out / "memory.csv", index=False, float_format="%.3f")
    line = growth(table, warm_up)
    draw(table, warm_up, line, f"{args.env}, {args.n_envs} environment(s)").savefig(args.out / "memory.png", dpi=130)
    flat = table[table["timesteps"] > warm_up]["rss_mb"]
    assert model.logger.get_dir() is not None
    logs = sum(file.stat().st_size for file in os.scandir(model.logger.get_dir()))
    print(f"RSS after {warm_up} steps {flat.iloc[0]:.1f} MB, at the end {flat.iloc[-1]:.1f} MB, largest {flat.max():.1f} MB")
    print(f"Growth after warm-up: {line[0]:+.3f} MB per 1e5 environment steps; TensorBoard file {logs / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
