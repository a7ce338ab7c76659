"""
CPU time of a training step of each class beside its parent in SB3, with the same arguments, in turns in one process.

    OMP_NUM_THREADS=1 python examples/benchmark_parents.py [--only VIREL ...] [--rounds 5] [--seconds 3]    # four minutes

Prints the median over rounds of the ratios within them; 1 is the parent's time.
"""

import argparse
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import torch as th
from benchmark_throughput import Clock
from stable_baselines3 import A2C, DDPG, DQN, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env

from sb3_mirl import MIRL, VIREL, ContinuousSQL, SoftA2C, SoftDQN
from sb3_mirl.envs.minatar import MinAtarCNN
from sb3_mirl.experiments.games import make_minatar_env

GREEDY = {"exploration_fraction": 1e-9, "exploration_final_eps": 0.05, "learning_rate": 1e-4, "n_steps": 1, "batch_size": 32}
EIGHT = {**GREEDY, "train_freq": 1, "gradient_steps": 2, "target_update_interval": 10_000, "learning_starts": 1000}
MINATAR = {**EIGHT, "policy_kwargs": {"features_extractor_class": MinAtarCNN, "net_arch": []}}
LANDER = {**EIGHT, "policy_kwargs": {"net_arch": [256, 256]}}
GROUPS: dict[str, tuple[Callable[[], Any], dict[str, tuple[type[BaseAlgorithm], dict[str, Any]]]]] = {
    "LunarLander-v3, 256 x 256, 8 environments": (
        lambda: make_vec_env("LunarLander-v3", 8, seed=0),
        {"DQN": (DQN, LANDER), "SoftDQN": (SoftDQN, LANDER), "MIRL": (MIRL, LANDER)},
    ),
    "MinAtar breakout, CNN, 8 environments": (
        lambda: make_minatar_env("breakout", 8, 0, True),
        {"DQN": (DQN, MINATAR), "SoftDQN": (SoftDQN, MINATAR), "MIRL": (MIRL, MINATAR)},
    ),
    "Pendulum-v1": (
        lambda: make_vec_env("Pendulum-v1", 1, seed=0),
        {
            "SAC": (SAC, {}),
            "VIREL": (VIREL, {}),
            "VIREL, residual_batch_size=4096": (VIREL, {"residual_batch_size": 4096, "learning_starts": 4200}),
        },
    ),
    "Pendulum-v1, 200 x 200, minibatches of 64": (
        lambda: make_vec_env("Pendulum-v1", 1, seed=0),
        {
            "DDPG": (DDPG, {"batch_size": 64, "policy_kwargs": {"net_arch": [200, 200]}}),
            "ContinuousSQL": (ContinuousSQL, {"learning_starts": 100}),
        },
    ),
    "CartPole-v1, 8 environments": (
        lambda: make_vec_env("CartPole-v1", 8, seed=0),
        {
            "A2C": (A2C, {}),
            "SoftA2C": (SoftA2C, {}),
            "SoftA2C, learned prior": (SoftA2C, {"prior_lr": 1e-4}),
            "SoftA2C, soft_q": (SoftA2C, {"update": "soft_q"}),
        },
    ),
}


def cost(model: BaseAlgorithm, seconds: float) -> float:
    """Train for some seconds and return the CPU time of a step."""
    clock = Clock(seconds, after=0)
    model.learn(10**9, clock, reset_num_timesteps=False, log_interval=None)
    return clock.result()["cpu_us_per_step"]


def main() -> None:
    """Measure the groups one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[""], help="groups with a class whose name contains one of these")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="for each class in each round")
    args = parser.parse_args()
    th.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*cannot learn much")
    for title, (make_env, peers) in GROUPS.items():
        if not any(part in name for part in args.only for name in peers):
            continue
        models: dict[str, Any] = {
            name: cls("MlpPolicy", make_env(), seed=0, device="cpu", **arguments)  # type: ignore[call-arg,arg-type]
            for name, (cls, arguments) in peers.items()
        }
        for model in models.values():
            while model.num_timesteps < getattr(model, "learning_starts", 0) + 500:
                cost(model, 0.1)
        rounds = [{name: cost(model, args.seconds) for name, model in models.items()} for _ in range(args.rounds)]
        parent = next(iter(models))
        ratios = {name: statistics.median(row[name] / row[parent] for row in rounds) for name in models}
        print(f"{title}: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()), flush=True)


if __name__ == "__main__":
    main()
