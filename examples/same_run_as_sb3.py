"""
Is SoftDQN at beta = inf the algorithm of SB3's DQN? Both play and learn a whole run of MinAtar side by side.

    python examples/same_run_as_sb3.py --game seaquest --timesteps 2e5

Each has a process, environments, memory and random numbers of its own, from one seed. They are compared after every rollout
and its updates: actions, rewards, ends of episodes, epsilon and random numbers must be equal, weights up to rounding. SB3's
weights then replace ours, so that rounding cannot grow until a tie between two actions falls the other way. A line is printed
at every tenth of the run.

One thing is given to SB3's DQN: a coin for each environment, as it has with a single one. `--shared-coin` leaves its own, one
for all environments; the runs then part at once.

Needs `pip install minatar`; takes two cores. Exits with 1 if anything differs.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback

from sb3_mirl.experiments import AGENTS, MINATAR, Settings
from sb3_mirl.experiments.agents import make_agent

TOLERANCE = 1e-5  # of weights that are about 0.1


class CoinEachDQN(DQN):
    """SB3's DQN with a coin for each environment, and SoftDQN's way to draw random actions; SB3 throws one coin for all."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """Choose actions as SB3 does, for a batch of observations."""
        actions, state = self.policy.predict(observation, state, episode_start, deterministic=True)
        if deterministic:
            return actions, state
        coins, draws = np.random.rand(2, len(actions))
        random = (draws * int(self.action_space.n)).astype(int)
        return np.where(coins < self.exploration_rate, random, actions), state


AGENTS["sb3_dqn_coins"] = (CoinEachDQN, {})


class Did(NamedTuple):
    """What an agent did in one rollout and the updates after it."""

    steps: np.ndarray  # actions, rewards, dones and epsilon of each step of the environments
    random_numbers: np.ndarray  # the generator's state
    weights: np.ndarray  # of the online network, then of the target network


class Told(BaseCallback):
    """Calls ``tell(model, did)`` after every rollout and its updates."""

    def __init__(self, tell: Callable[[DQN, Did], None]) -> None:
        super().__init__()
        self.tell = tell
        self.steps: list[np.ndarray] = []

    def _on_step(self) -> bool:
        now = (self.locals[name] for name in ("actions", "rewards", "dones"))
        self.steps.append(np.concatenate([*now, [self.model.exploration_rate]]).astype(np.float64))
        return True

    def _on_rollout_start(self) -> None:
        if self.steps:
            key = np.random.get_state(legacy=False)["state"]["key"]
            self.tell(self.model, Did(np.stack(self.steps), key, weights(self.model)))
            self.steps.clear()

    def _on_training_end(self) -> None:
        self._on_rollout_start()


class Comparison:
    """Compares every rollout with the other process's, and takes over its weights."""

    def __init__(self, other: Connection, timesteps: int) -> None:
        self.other, self.timesteps = other, timesteps
        self.n_rollouts = self.n_different = self.n_reports = 0
        self.largest = 0.0

    def __call__(self, model: DQN, ours: Did) -> None:
        theirs: Did = self.other.recv()
        same = np.array_equal(ours.steps, theirs.steps) and np.array_equal(ours.random_numbers, theirs.random_numbers)
        self.n_rollouts, self.n_different = self.n_rollouts + 1, self.n_different + (not same)
        self.largest = max(self.largest, float(np.abs(ours.weights - theirs.weights).max()))
        online = list(model.q_net.parameters())
        vector = th.from_numpy(theirs.weights[: sum(p.numel() for p in online)])
        # in place: torch's vector_to_parameters would change the memory layout, on which the fused Adam relies
        for parameter, part in zip(online, vector.split([p.numel() for p in online]), strict=True):
            parameter.data.copy_(part.view(parameter.shape))
        if model.num_timesteps >= (self.n_reports + 1) * self.timesteps / 10:
            self.n_reports += 1
            print(f"{model.num_timesteps} steps: {self}", flush=True)

    def __str__(self) -> str:
        return (
            f"{self.n_rollouts} rollouts, {self.n_different} differ; largest difference of a weight after one of them: "
            f"{self.largest:.1e}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", choices=MINATAR.games, default="seaquest", help="(default: seaquest)")
    parser.add_argument("--timesteps", type=lambda text: int(float(text)), default=200_000, help="(default: 2e5)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--shared-coin", action="store_true", help="SB3's coin: one for all environments")
    args = parser.parse_args()
    _, hyperparameters = settings(args)
    if args.timesteps <= hyperparameters["learning_starts"]:
        sys.exit(f"Learning starts at step {hyperparameters['learning_starts']}: give more --timesteps.")
    os.environ["OMP_NUM_THREADS"] = "1"  # of the other process
    th.set_num_threads(1)
    ours, theirs = multiprocessing.Pipe()
    other = multiprocessing.get_context("spawn").Process(target=play_sb3, args=(theirs, args), daemon=True)
    other.start()
    theirs.close()
    compare = Comparison(ours, args.timesteps)
    make_run("dqn", args).learn(args.timesteps, Told(compare), log_interval=10**9)
    other.join()
    same = compare.n_different == 0 and compare.largest <= TOLERANCE
    print(f"The runs {'agree' if same else 'DIFFER'}: {compare} (tolerance {TOLERANCE:.0e}).")
    sys.exit(not same)


def play_sb3(to_ours: Connection, args: argparse.Namespace) -> None:
    """Train SB3's DQN in the other process, which says what it did."""
    model = make_run("sb3_dqn" if args.shared_coin else "sb3_dqn_coins", args)
    model.learn(args.timesteps, Told(lambda _, did: to_ours.send(did)), log_interval=10**9)


def settings(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    return MINATAR.hyperparameters(args.game, Settings(args.timesteps, args.timesteps, "default"))


def make_run(name: str, args: argparse.Namespace) -> DQN:
    env = MINATAR.make_env(args.game, 8, args.seed, True)
    policy, hyperparameters = settings(args)
    return make_agent(name, env, policy, hyperparameters, seed=args.seed, device="cpu")


def weights(model: DQN) -> np.ndarray:
    networks = (model.q_net, model.q_net_target)
    return th.cat([p.detach().flatten() for net in networks for p in net.parameters()]).numpy()


if __name__ == "__main__":
    main()
