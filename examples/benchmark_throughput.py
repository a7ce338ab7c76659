"""
Environment steps per second of training, side by side with SB3's DQN: same game, network, batch size and replay ratio.

    python examples/benchmark_throughput.py [--device auto] [--seconds 30] [--rounds 3] [--scaling] [--memory]
    python examples/benchmark_throughput.py --env-id CartPole-v1 --n-envs 1    # MlpPolicy, where environments cost nothing

The peers take turns, ``rounds`` times, each in a process of its own; the table gives medians, their ratio to SB3's DQN as
installed (1 environment) and tuned (8 or more environments, one update per 4 steps), and the replay ratio measured. CPU time
per step is that of the process, which other programs disturb less than the clock; less of it is better. Warm-up is not
counted. Where the processor has no bfloat16, and with --env-id, the peers that compute in it are left out.
On a GPU the figure shows steps per second, on the CPU ratios to SB3's tuned DQN; ``--plots-only`` draws it again.
``--scaling`` adds throughput against environments (1 to 128), batch size (16 to 512) and, with ``--env-id``, the width of the
network (64 to 1024), SB3's tuned DQN beside ours; ``--memory`` the memory of a full replay buffer of 1e6 transitions.
Writes throughput.csv, scaling.csv, memory.csv and throughput.png.
"""

import argparse
import platform
import resource
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import matplotlib

matplotlib.use("Agg")

import ale_py
import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch as th
from gymnasium import spaces
from matplotlib.ticker import NullLocator
from sb3_contrib import QRDQN
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack

from sb3_mirl import MIRL, SoftDQN
from sb3_mirl.common.workers import usable_cpus
from sb3_mirl.envs import AtariVecEnv
from sb3_mirl.plots import COLOURS
from sb3_mirl.replay import FrameReplayBuffer
from sb3_mirl.soft_dqn.soft_dqn import computes_bfloat16, update_ratio

BUFFER = 50_000
T = TypeVar("T")
SIZES = {
    "n_envs": (1, 2, 4, 8, 16, 32, 64, 128),
    "batch_size": (16, 32, 64, 128, 256, 512),
    "width": (64, 128, 256, 512, 1024),  # of MlpPolicy
}
AXES = {"n_envs": "environments", "batch_size": "transitions in a minibatch", "width": "units of each of two hidden layers"}
TUNED = "x SB3 tuned"  # a column
DQN_TARGET = dict(beta_schedule="constant", beta_init=float("inf"))


class Clock(BaseCallback):
    """Stops training some seconds after an environment step."""

    def __init__(self, seconds: float, after: int) -> None:
        super().__init__()
        self.seconds, self.after, self.start = seconds, after, 0.0
        self.first = (0.0, 0.0, 0.0)

    def _now(self) -> tuple[float, float, float]:
        return self.num_timesteps, getattr(self.model, "_n_updates", 0), time.process_time()

    def _on_step(self) -> bool:
        if not self.start and self.num_timesteps >= self.after:
            self.first, self.start = self._now(), time.perf_counter()
        return not self.start or time.perf_counter() - self.start < self.seconds

    def result(self) -> dict[str, float]:
        if self.model.device.type == "cuda":
            th.cuda.synchronize()
        elapsed = time.perf_counter() - self.start
        steps, updates, cpu = (now - first for now, first in zip(self._now(), self.first, strict=True))
        rates = dict(steps_per_s=steps / elapsed, updates_per_s=updates / elapsed, cpu_us_per_step=cpu / max(steps, 1) * 1e6)
        return dict(rates, steps_per_update=steps / max(updates, 1))


def sb3_env(args: argparse.Namespace, n_envs: int) -> VecEnv:
    if args.env_id:
        return make_vec_env(args.env_id, n_envs, seed=0)
    gym.register_envs(ale_py)
    many_cores = usable_cpus() >= n_envs > 1
    kind = SubprocVecEnv if many_cores else DummyVecEnv
    return VecFrameStack(make_atari_env(f"{args.game}NoFrameskip-v4", n_envs, seed=0, vec_env_cls=kind), 4)


def our_env(args: argparse.Namespace) -> VecEnv:
    return sb3_env(args, args.n_envs) if args.env_id else AtariVecEnv(args.game, args.n_envs, seed=0)


def common(args: argparse.Namespace) -> dict[str, Any]:
    sizes = dict(learning_starts=args.warm_up, buffer_size=BUFFER, batch_size=args.batch_size)
    policy_kwargs = dict(net_arch=[args.width] * 2) if args.env_id else None
    # epsilon at its end, where training spends its time: SB3 does not evaluate the network for random actions
    epsilon = dict(exploration_fraction=1e-9, exploration_final_eps=0.05)
    sb3_defaults = dict(learning_rate=1e-4, target_update_interval=10_000, n_steps=1)  # ours have others
    return dict(sizes, device=args.device, policy_kwargs=policy_kwargs, **sb3_defaults, **epsilon)


def policy_of(args: argparse.Namespace) -> str:
    return "MlpPolicy" if args.env_id else "CnnPolicy"


def ours(args: argparse.Namespace, cls: type[SoftDQN], **kwargs: Any) -> Callable[[], OffPolicyAlgorithm]:
    return lambda: cls(policy_of(args), our_env(args), **{**common(args), **kwargs})


def sb3s(
    args: argparse.Namespace, cls: type[OffPolicyAlgorithm], n_envs: int, **kwargs: Any
) -> Callable[[], OffPolicyAlgorithm]:
    make: Callable[..., OffPolicyAlgorithm] = cls
    return lambda: make(policy_of(args), sb3_env(args, n_envs), **common(args), **kwargs)


def peers(args: argparse.Namespace) -> dict[str, Callable[[], OffPolicyAlgorithm]]:
    train_freq, gradient_steps = update_ratio(args.n_envs)
    tuned = dict(train_freq=train_freq, gradient_steps=gradient_steps)
    all_peers = {
        "SB3 DQN, 1 env (as installed)": sb3s(args, DQN, 1),
        f"SB3 DQN, {args.n_envs} envs (tuned)": sb3s(args, DQN, args.n_envs, **tuned),
        f"contrib QRDQN, {args.n_envs} envs": sb3s(args, QRDQN, args.n_envs, **tuned),
        "ours DQN, eager": ours(args, SoftDQN, update_path="eager", **DQN_TARGET),
        "ours DQN, fast": ours(args, SoftDQN, **DQN_TARGET),
        "ours SoftDQN, fast": ours(args, SoftDQN),
        "ours MIRL, fast": ours(args, MIRL),
        "ours DQN, fast, bfloat16": ours(args, SoftDQN, precision="bfloat16", **DQN_TARGET),
        "ours MIRL, fast, bfloat16": ours(args, MIRL, precision="bfloat16"),
    }
    has_bfloat16 = not args.env_id and computes_bfloat16(th.device(args.device))  # it is for convolutions
    return {name: make for name, make in all_peers.items() if has_bfloat16 or "bfloat16" not in name}


def measure(args: argparse.Namespace, peer: str, seconds: float) -> dict[str, float]:
    """In a fresh process: what one peer does to the process (torch's threads, the allocator) must not help another."""
    return in_fresh_process(train_for, args, peer, seconds)


def train_for(args: argparse.Namespace, peer: str, seconds: float) -> dict[str, float]:
    if args.device == "cpu":
        th.set_num_threads(usable_cpus())
    warnings.filterwarnings("ignore", message=".*cannot learn much")  # it is to be timed
    model, clock = peers(args)[peer](), Clock(seconds, 2 * args.warm_up)
    model.learn(10**9, callback=clock)
    result = clock.result()
    assert model.env is not None
    model.env.close()
    return result


def in_fresh_process(function: Callable[..., T], *args: Any) -> T:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def environments_alone(game: str, n_envs: int, seconds: float) -> float:
    env = AtariVecEnv(game, n_envs, seed=0)
    env.reset()
    rng, steps, start = np.random.default_rng(0), 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        env.step(rng.integers(0, int(env.action_space.n), n_envs))
        steps += n_envs
    rate = steps / (time.perf_counter() - start)
    env.close()
    return rate


def chosen(names: list[str], only: list[str] | None) -> list[str]:
    return [name for name in names if not only or any(part in name for part in only)]


def throughput(args: argparse.Namespace) -> pd.DataFrame:
    rows = []
    for round_ in range(args.rounds):
        for name in chosen(list(peers(args)), args.only):
            rows.append(dict(peer=name, round=round_, **measure(args, name, args.seconds)))
            print(f"  round {round_ + 1}/{args.rounds}  {name:34s} {rows[-1]['steps_per_s']:9.0f} env steps/s", flush=True)
    return pd.DataFrame(rows)


def summary(raw: pd.DataFrame) -> pd.DataFrame:
    """Medians over rounds, and ratios to SB3's DQN within each round: of steps per second, and of CPU time per step."""
    table = raw.groupby("peer", sort=False).median(numeric_only=True).drop(columns="round")
    for value, unit in {"steps_per_s": "", "cpu_us_per_step": "CPU "}.items():
        if value not in table:  # older files
            continue
        wide = raw.pivot(index="round", columns="peer", values=value)
        for reference in (name for name in table.index if name.startswith("SB3 DQN")):
            column = "x SB3 as installed" if "installed" in reference else TUNED
            table[unit + column] = wide.div(wide[reference], axis=0).median()
    return table


def scaling(args: argparse.Namespace) -> pd.DataFrame:
    """Throughput of MIRL and SB3's tuned DQN as work grows, medians over rounds in which all sizes take turns."""
    rows: list[dict[str, Any]] = []
    sizes = {vary: values for vary, values in SIZES.items() if args.env_id or vary != "width"}
    for round_ in range(args.rounds):
        for vary, value in ((vary, value) for vary, values in sizes.items() for value in values):
            varied = argparse.Namespace(**{**vars(args), vary: value})
            row: dict[str, Any] = dict(vary=vary, value=value)
            for column, peer in {"steps_per_s": "ours MIRL, fast", "sb3_steps_per_s": "(tuned)"}.items():
                name = next(name for name in peers(varied) if peer in name)
                row[column] = measure(varied, name, args.seconds / 3)["steps_per_s"]
            if vary == "n_envs" and not args.env_id:
                row["environments_alone"] = in_fresh_process(environments_alone, args.game, value, args.seconds / 3)
            rows.append(row)
            rates = f"{row['steps_per_s']:9.0f} env steps/s, SB3 {row['sb3_steps_per_s']:9.0f}"
            print(f"  round {round_ + 1}/{args.rounds}  {vary} {value:4d} {rates}", flush=True)
    return pd.DataFrame(rows).groupby(["vary", "value"], sort=False).median().reset_index()


def memory(device: str, capacity: int = 1_000_000, n_envs: int = 8) -> pd.DataFrame:
    """Bytes taken by filling a replay buffer with random frames in episodes of 1000 steps; SB3's by its layout."""
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    buffer = FrameReplayBuffer(capacity, space, spaces.Discrete(18), device, n_envs, storage_device=device)
    rng = np.random.default_rng(0)
    stack = np.zeros((n_envs, 4, 84, 84), np.uint8)
    for step in range(capacity // n_envs):
        done = np.full(n_envs, step % 1000 == 999)
        frame = rng.integers(0, 256, (n_envs, 1, 84, 84), dtype=np.uint8)
        following = np.concatenate([stack[:, 1:], frame], axis=1)
        buffer.add(stack, following, np.zeros((n_envs, 1), np.int64), np.zeros(n_envs), done, [{}] * n_envs)
        stack = np.concatenate([np.zeros_like(following[:, 1:]), frame], axis=1) if done[0] else following
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    vram = th.cuda.max_memory_allocated() if buffer.storage_device.type == "cuda" else 0
    sb3 = capacity * (2 * 4 * 84 * 84 + 20)
    return pd.DataFrame([dict(transitions=buffer.size() * n_envs, rss_gb=peak / 1e9, vram_gb=vram / 1e9, sb3_gb=sb3 / 1e9)])


def draw(table: pd.DataFrame, scale: pd.DataFrame | None, title: str, absolute: bool) -> plt.Figure:
    """Draw environment steps per second where ``absolute`` or SB3's tuned DQN did not run, else ratios to its."""
    relative = TUNED in table and not absolute
    label = "throughput, SB3's tuned DQN = 1" if relative else "environment steps per second"
    unit = float(table["steps_per_s"].filter(like="(tuned)").iloc[0]) if relative else 1.0
    columns = 1 if scale is None else 1 + scale["vary"].nunique()
    size = (2 + 5 * columns, 1.2 + 0.4 * max(len(table), 6))
    figure, axes = plt.subplots(1, columns, figsize=size, squeeze=False, layout="constrained")
    figure.suptitle(title, fontsize="medium")
    names = [name.replace("ours DQN", "SoftDQN as DQN").removeprefix("ours ") for name in table.index]
    colors = [COLOURS["mirl" if "MIRL" in name else "dqn"] if "ours" in name else "#999999" for name in table.index]
    bars = axes[0, 0].barh(names, table[TUNED if relative else "steps_per_s"], color=colors)
    axes[0, 0].bar_label(bars, fmt="%.2f" if relative else "%.0f", padding=3)
    axes[0, 0].invert_yaxis()
    axes[0, 0].margins(x=0.12)
    axes[0, 0].set(xlabel=label)
    axes[0, 0].tick_params(axis="y", length=0)
    if scale is not None:
        for axis, (vary, part) in zip(axes[0, 1:], scale.groupby("vary", sort=False), strict=True):
            for column, name, colour in (
                ("steps_per_s", "MIRL", COLOURS["mirl"]),
                ("sb3_steps_per_s", "SB3's DQN", "#999999"),
            ):
                if column in part:
                    axis.plot(part["value"], part[column] / unit, "o-", color=colour, label=name)
            # environments alone are some twenty times as fast: on the same axis they would press the curves flat
            alone = part["environments_alone"].dropna() / unit if "environments_alone" in part else []
            rest = f"\nenvironments alone: {min(alone):.3g} to {max(alone):.3g}" if len(alone) else ""
            axis.set_title(f"Training{rest}", loc="left", fontsize="medium")
            axis.set(xscale="log", yscale="log", xlabel=AXES[vary], ylabel=label)
            axis.legend(frameon=False)
            axis.set_xticks(part["value"], [f"{value}" for value in part["value"]])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.grid(axis="y", color="0.9")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def machine(device: th.device) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor()
    cores = f"{usable_cpus()} cores of {cpu}"
    if device.type == "cuda":
        return f"{th.cuda.get_device_name(device)}, {cores}"
    return f"{cores} ({th.backends.cpu.get_cpu_capability()})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--game", default="Breakout")
    parser.add_argument("--env-id", help="an environment of gymnasium, with MlpPolicy, in place of an Atari game")
    parser.add_argument("--n-envs", type=int, help="8 on the CPU, 64 on a GPU by default")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--width", type=int, default=64, help="units of each of two hidden layers, with --env-id (default: 64)"
    )
    parser.add_argument("--seconds", type=float, default=30, help="per measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=1000, help="environment steps before the first update, and after it")
    parser.add_argument("--only", nargs="*", help="peers whose name contains one of these")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--plots-only", action="store_true", help="measure nothing, draw what there is in --out")
    parser.add_argument("--out", type=Path, default=Path("results/throughput"))
    args = parser.parse_args()
    device = th.device("cuda" if args.device == "auto" and th.cuda.is_available() else args.device.replace("auto", "cpu"))
    args.device, args.n_envs = device.type, args.n_envs or (64 if device.type == "cuda" else 8)
    title = f"{args.env_id or args.game}, batch {args.batch_size}"
    files = {name: args.out / f"{name}.csv" for name in ("throughput", "scaling")}
    if args.plots_only:
        if not files["throughput"].exists():
            raise SystemExit(f"There is no {files['throughput']}: run the benchmark first.")
    else:
        title += f", {machine(device)}"
        args.out.mkdir(parents=True, exist_ok=True)
        print(f"Training throughput: {title}, torch {th.__version__}", flush=True)
        throughput(args).to_csv(files["throughput"], index=False)
        if args.scaling:
            scaling(args).to_csv(files["scaling"], index=False)
        if args.memory:
            used = in_fresh_process(memory, args.device)
            used.to_csv(args.out / "memory.csv", index=False)
            print(used.round(2).to_string(index=False))
    table = summary(pd.read_csv(files["throughput"]))
    table = table.loc[chosen(list(table.index), args.only)]
    print(table.round(2).to_string())
    scale = pd.read_csv(files["scaling"]) if args.scaling or (args.plots_only and files["scaling"].exists()) else None
    draw(table, scale, title, absolute=device.type == "cuda").savefig(args.out / "throughput.png", dpi=130)
    print(f"Tables and figure in {args.out}")


if __name__ == "__main__":
    main()
