"""
Is SoftDQN at beta = inf the algorithm of SB3's DQN? Both play and learn a whole run of MinAtar side by side.

    python examples/same_run_as_sb3.py --game seaquest --timesteps 2e5

Each has a process, environments, memory and random numbers of its own, from one seed. They are compared after every rollout
and its updates: actions, rewards, ends of episodes, epsilon and random numbers must be equal, weights up to rounding. SB3's
weights then replace ours, so that rounding cannot grow until a tie between two actions falls the other way.

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

from sb3_mirl.experiments import Settings, minatar
from sb3_mirl.experiments.agents import make_agent

TOLERANCE = 1e-5  # of weights that are about 0.1


class Did(NamedTuple):
    """What an agent did in one rollout and the updates after it."""

    steps: list[np.ndarray]  # actions, rewards, dones and epsilon of each step of the environments
    random_numbers: np.ndarray  # the generator's state
    weights: np.ndarray  # of the online network, then of the target network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", choices=minatar.GAMES, default="seaquest", help="(default: seaquest)")
    parser.add_argument("--timesteps", type=lambda text: int(float(text)), default=200_000, help="(default: 2e5)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--shared-coin", action="store_true", help="SB3's coin: one for all environments")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the other process
    th.set_num_threads(1)
    ours, theirs = multiprocessing.Pipe()
    other = multiprocessing.get_context("spawn").Process(target=play_sb3, args=(theirs, args), daemon=True)
    other.start()
    theirs.close()
    compare = Comparison(ours, args.timesteps)
    train(make_run("dqn", args), args.timesteps, compare)
    other.join()
    sys.exit(compare.n_different > 0 or compare.largest > TOLERANCE)


def play_sb3(to_ours: Connection, args: argparse.Namespace) -> None:
    """The other process: SB3's DQN, which says what it did."""
    name = "sb3_dqn" if args.shared_coin else "sb3_dqn_coins"
    train(make_run(name, args), args.timesteps, lambda model, did: to_ours.send(did))


def make_run(name: str, args: argparse.Namespace) -> DQN:
    env = minatar.make_env(args.game, 8, args.seed, True)
    policy, hyperparameters = minatar.hyperparameters(args.game, Settings(args.timesteps, args.timesteps, "default"))
    return make_agent(name, env, policy, hyperparameters, seed=args.seed, device="cpu")


def train(model: Any, timesteps: int, tell: Callable[[DQN, Did], None]) -> None:
    """Learns, and calls ``tell(model, did)`` after the updates of every rollout."""
    steps: list[np.ndarray] = []
    store, update = model._store_transition, model.train

    def watched_store(buffer: Any, actions: Any, observations: Any, rewards: Any, dones: Any, infos: Any) -> None:
        steps.append(np.concatenate([actions, rewards, dones, [model.exploration_rate]]).astype(np.float64))
        store(buffer, actions, observations, rewards, dones, infos)

    def watched_update(gradient_steps: int, batch_size: int = 100) -> None:
        update(gradient_steps, batch_size)
        tell(model, Did(steps.copy(), np.random.get_state(legacy=False)["state"]["key"], weights(model)))
        steps.clear()

    model._store_transition, model.train = watched_store, watched_update
    model.learn(timesteps, log_interval=10**9)


class Comparison:
    """Compares every rollout with the other process's, and takes over its weights."""

    def __init__(self, other: Connection, timesteps: int) -> None:
        self.other = other
        self.n_rollouts = self.n_different = 0
        self.largest = 0.0
        self._timesteps, self._n_reports = timesteps, 0

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
        if model.num_timesteps >= (self._n_reports + 1) * self._timesteps / 10:
            self._n_reports += 1
            print(
                f"{model.num_timesteps} steps, {self.n_rollouts} rollouts: {self.n_different} differ; "
                f"largest difference of a weight after one of them: {self.largest:.1e}",
                flush=True,
            )


def weights(model: DQN) -> np.ndarray:
    networks = (model.q_net, model.q_net_target)
    return th.cat([p.detach().flatten() for net in networks for p in net.parameters()]).numpy()


if __name__ == "__main__":
    main()
