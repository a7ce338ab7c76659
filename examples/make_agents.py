"""
Train the agents of ``examples/agents``, and strip them of what only training needs.

    python examples/make_agents.py                    # all of them, half an hour; those that are there already are kept
    python examples/make_agents.py --algo mirl --env CartPole-v1
    sb3_mirl benchmark --log-dir examples/agents --no-hub

Each is the best evaluation of one run with the shipped hyperparameters, seed 1. Needs the extra zoo, and ``minatar``.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from huggingface_sb3 import EnvironmentName

from sb3_mirl.zoo import ALGORITHMS

AGENTS = {  # environment steps, None for the budget of zoo_configs
    ("mirl", "CartPole-v1"): None,
    ("mirl", "Acrobot-v1"): None,
    ("mirl", "MountainCar-v0"): None,
    ("mirl", "LunarLander-v3"): None,
    ("virel", "Pendulum-v1"): None,
    ("softpqn", "MinAtar/Asterix-v1"): 200_000,
    ("softpqn", "MinAtar/Breakout-v1"): 200_000,
    ("softpqn", "MinAtar/Freeway-v1"): 200_000,
    ("softpqn", "MinAtar/Seaquest-v1"): 200_000,
    ("softpqn", "MinAtar/SpaceInvaders-v1"): 200_000,
}
HERE = Path(__file__).resolve().parent


def train(algo: str, env_id: str, steps: int | None, logs: Path) -> Path:
    """Run the zoo's command and return the folder of the run."""
    command = [sys.executable, "-m", "sb3_mirl", "train", "--algo", algo, "--env", env_id, "--seed", "1", "--device", "cpu"]
    command += ["-f", str(logs), "--eval-freq", "10000", "--eval-episodes", "20", "--n-eval-envs", "5", "--verbose", "0"]
    command += ["-n", str(steps)] if steps else []
    subprocess.run(command, check=True)
    return max((logs / algo).glob(f"{EnvironmentName(env_id)}_*"), key=lambda folder: folder.stat().st_mtime)


def strip(run: Path, algo: str, env_id: str, folder: Path) -> None:
    """Keep hyperparameters, statistics of normalisation and the best model, without optimisers' moments and targets."""
    name = EnvironmentName(env_id)
    folder.mkdir(parents=True)
    shutil.copytree(run / name, folder / name)
    model: Any = ALGORITHMS[algo].algorithm.load(run / "best_model.zip", device="cpu")
    for network in model.policy.modules():
        if hasattr(network, "optimizer"):
            network.optimizer.state.clear()
    for of_actor, of_target in (("q_net", "q_net_target"), ("critic", "critic_target")):
        if hasattr(model.policy, of_target):  # one storage is written once
            online, target = getattr(model.policy, of_actor), getattr(model.policy, of_target)
            for value, kept in zip(target.parameters(), online.parameters(), strict=True):
                value.data = kept.data
    model.save(folder / name)


def main() -> None:
    """Train and strip what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", help="only those of one algorithm")
    parser.add_argument("--env", help="only those of one environment")
    parser.add_argument("--logs", type=Path, default=Path("results/agents"), help="the whole runs")
    parser.add_argument("--out", type=Path, default=HERE / "agents")
    args = parser.parse_args()
    for (algo, env_id), steps in AGENTS.items():
        folder = args.out / algo / f"{EnvironmentName(env_id)}_1"
        if (args.algo or algo, args.env or env_id) == (algo, env_id) and not folder.exists():
            print(algo, env_id, flush=True)
            strip(train(algo, env_id, steps, args.logs), algo, env_id, folder)


if __name__ == "__main__":
    main()
