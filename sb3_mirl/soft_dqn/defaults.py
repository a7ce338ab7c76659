"""Hyperparameters that depend on the policy and on the length of the run: those that a user has left open."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_mirl.common.arguments import check_choice
from sb3_mirl.common.doubts import FEWEST_COPIES, FEWEST_STEPS, no_update
from sb3_mirl.soft_dqn.policies import CnnPolicy

Preset = Literal["auto", "paper"]

PAPER_BUDGET = 50_000_000
OTHER_BUDGET = 100_000
SHORTEST_MEMORY = 10_000  # transitions, also for runs that are shorter: they may be continued

PAPER: Mapping[str, float] = {
    "learning_rate": 2e-5,  # Table 3
    "buffer_size": 1_000_000,  # Table 3
    "learning_starts": 50_000,  # Mnih et al. 2015; the paper does not say
    "batch_size": 32,  # Table 3
    "n_steps": 1,  # Eq. 8
    "target_update_interval": 40_000,  # Table 3: 10 000 gradient updates
    "exploration_fraction": 0.02,  # 1e6 steps, Mnih et al. 2015
    "exploration_final_eps": 0.1,  # Mnih et al. 2015
    "beta_init": 0.01,  # Table 3
    "beta_lr": 3e-5,  # section 5.2
    "prior_lr": 5e-5,  # section 5.2
}
"""The values of the paper's Atari experiments."""


@dataclass(frozen=True)
class FallingRate:
    """
    A learning rate that falls to 0 with the run; two of the same start are equal, which SB3's schedules are not.

    :param start: rate at the beginning
    """

    start: float

    def __call__(self, progress_remaining: float) -> float:
        """
        Return the rate.

        :param progress_remaining: 1 at the beginning of a run, 0 at its end
        """
        return self.start * progress_remaining

    def __str__(self) -> str:
        return f"{self.start:g} falling to 0"


def sees_images(policy_class: type, observation_space: spaces.Space[Any]) -> bool:
    """
    Whether a policy learns from images.

    :param policy_class: of the model
    :param observation_space: of one observation
    :return: True for ``CnnPolicy`` and its subclasses, and for dictionaries with an image in them
    """
    if isinstance(observation_space, spaces.Dict):
        return any(is_image_space(part) for part in observation_space.spaces.values())
    return issubclass(policy_class, CnnPolicy)


def default_budget(preset: Preset, images: bool) -> int:
    """
    Return the length of a run for which no number is given.

    :param preset: see :func:`choose`
    :param images: whether the policy learns from images
    :return: environment steps
    """
    return PAPER_BUDGET if images or preset == "paper" else OTHER_BUDGET


def choose(preset: Preset, images: bool, budget: float, n_envs: int) -> dict[str, Any]:
    """
    Choose the hyperparameters of a run.

    At the paper's budget of 5e7 steps, images get the paper's values; in shorter runs everything that is counted in steps
    becomes shorter, and the rates higher. Without images the values are those that learn classic control.

    :param preset: "auto", or "paper" for the paper's values whatever the policy and the length
    :param images: whether the policy learns from images
    :param budget: environment steps of the run
    :param n_envs: number of environments
    :return: value by name of the argument, of all arguments that :data:`PAPER` names
    :raises ValueError: for an unknown preset
    """
    check_choice("preset", preset, get_args(Preset))
    if preset == "paper":
        return dict(PAPER)
    budget = max(int(budget), 1)
    chosen: dict[str, Any] = {**PAPER, **(_with_images(budget) if images else _without_images(budget))}
    chosen["buffer_size"] = min(max(budget, SHORTEST_MEMORY), 1_000_000)
    # the target network is updated at most once per call of `env.step`
    chosen["target_update_interval"] = max(int(chosen["target_update_interval"]), n_envs)
    return chosen


def _with_images(budget: int) -> dict[str, Any]:
    share = min(budget / PAPER_BUDGET, 1)
    return {
        "learning_rate": min(PAPER["learning_rate"] / math.sqrt(share), 1e-4),
        "learning_starts": min(50_000, budget // 20),
        "target_update_interval": max(40_000 * share, min(1_000, budget / 20)),
        "exploration_fraction": min(1_000_000 / budget, 0.2),
        "beta_lr": min(max(PAPER["beta_lr"], 12 / budget), 0.01),  # three times its time constant in a run
        "prior_lr": min(max(PAPER["prior_lr"], 5 / budget), 0.01),  # five times
    }


def _without_images(budget: int) -> dict[str, Any]:
    return {
        "learning_rate": FallingRate(2.5e-3),
        "learning_starts": min(1_000, budget // 20),
        "batch_size": 128,
        "n_steps": 5,  # with 1, a fifth of the runs on CartPole keeps the pole up after 5e4 steps, but drifts away
        "target_update_interval": min(500, budget / 20),  # with 200, some forget again what they had learned
        "exploration_fraction": 0.16,
        "exploration_final_eps": 0.05,
        "beta_init": 10.0,
        "prior_lr": min(max(PAPER["prior_lr"], 5 / budget), 0.01),
    }


def shown(chosen: Mapping[str, Any]) -> str:
    """
    Write hyperparameters in one line.

    :param chosen: value by name
    """
    return ", ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in chosen.items()
    )


def doubts(
    total_timesteps: float, learning_starts: float, exploration_fraction: float | None, copy_interval: float | None
) -> list[str]:
    """
    Say what keeps a run from learning.

    :param total_timesteps: environment steps of the run
    :param learning_starts: environment steps before the first update
    :param exploration_fraction: fraction of the run over which epsilon falls, None if it does not fall
    :param copy_interval: environment steps between two copies of the network into the target network, None if the target
        network follows in another way
    :return: sentences with numbers and advice; none for a run that can learn
    """
    if total_timesteps < FEWEST_STEPS:
        return []
    if why := no_update(total_timesteps, learning_starts):
        return [why]
    found = []
    if exploration_fraction is not None and exploration_fraction * total_timesteps <= learning_starts:
        found.append(
            f"Epsilon is at its end after {exploration_fraction * total_timesteps:g} steps, before learning starts at "
            f"{learning_starts:g}: raise exploration_fraction={exploration_fraction:g}, or lower learning_starts."
        )
    if copy_interval is not None and (copies := int((total_timesteps - learning_starts) / copy_interval)) < FEWEST_COPIES:
        found.append(
            f"The target network is copied {copies} times after learning has started, every {copy_interval:g} steps: lower "
            "target_update_interval."
        )
    return found
