"""
The tabular agents on Gymnasium's small worlds: return of the greedy policy after 250 000 steps, mean [lowest, highest seed].

    python examples/toy_text.py [--seeds 10] [--steps 250_000]    # half a minute

``TabularMIRL`` with its defaults gives up all actions but one on FrozenLake, because its prior settles before a reward has
been seen; with a slower prior and a faster beta it does not.
"""

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from sb3_mirl.tabular import QLearning, SoftQLearning, TabularMIRL

ENVS = ("FrozenLake-v1", "Taxi-v4", "CliffWalking-v1")
AGENTS: dict[str, Callable[..., Any]] = {
    "QLearning": QLearning,
    "SoftQLearning": SoftQLearning,
    "TabularMIRL": TabularMIRL,
    "TabularMIRL, prior_lr=2e-5, beta_slope=1e-2": lambda env, seed: TabularMIRL(
        env, prior_lr=2e-5, beta_slope=1e-2, seed=seed
    ),
}


def main() -> None:
    """Train all agents in all worlds, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=250_000)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*prior.*")  # what the table shows
    print("|", *ENVS, "", sep=" | ")
    print("|---" * (len(ENVS) + 1) + "|")
    for name, make in AGENTS.items():
        cells = []
        for env_id in ENVS:
            returns = np.empty(args.seeds)
            for seed in range(args.seeds):
                agent = make(env_id, seed=seed).learn(
                    args.steps, eval_freq=args.steps, n_eval_episodes=300, max_eval_steps=200, eval_exploration="none"
                )
                returns[seed] = agent.records.evaluation_returns.mean()
            cells.append(f"{returns.mean():.2f} [{returns.min():.2f}, {returns.max():.2f}]")
        print(f"| {name}", *cells, "", sep=" | ", flush=True)


if __name__ == "__main__":
    main()
