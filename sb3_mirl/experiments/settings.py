"""What an experiment consists of: its settings, its runs, and the suite of games that they are played on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from stable_baselines3.common.vec_env import VecEnv

from sb3_mirl.evaluation import EPSILON, N_EPISODES
from sb3_mirl.experiments.agents import check_hyperparameters
from sb3_mirl.soft_dqn.soft_dqn import update_ratio


class Run(NamedTuple):
    """What distinguishes the runs of one experiment."""

    game: str
    agent: str
    seed: int

    def __str__(self) -> str:
        return f"{self.game} {self.agent} seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Folder of its files, relative to the experiment's."""
        return Path("cells", self.game, self.agent.replace(":", "_"), f"seed_{self.seed}")  # as Windows allows no colons

    @classmethod
    def of(cls, folder: Path) -> "Run":
        """Return the run whose :attr:`folder` ends a path."""
        game, agent, seed = folder.parts[-3:]
        return cls(game, agent, int(seed.removeprefix("seed_")))


@dataclass(frozen=True)
class Settings:
    """What all runs of one experiment share; steps are environment steps."""

    timesteps: int
    snapshot_every: int
    preset: str
    n_envs: int = 8
    eval_exploration: tuple[str, ...] = ("prior",)
    eval_episodes: int = N_EPISODES
    eval_epsilon: float = EPSILON
    overrides: dict[str, float | str] = field(default_factory=dict)
    """Hyperparameters in place of the preset's."""
    checkpoints: bool = True
    """Keep the last snapshot with its replay memory until the run is done. Without it a killed run starts again, and so
    does one of SB3's own DQN."""

    def check(self) -> None:
        """
        Compare the settings with each other and with the agents.

        :raises ValueError: if no snapshot falls on the last step, or no agent has a hyperparameter of ``overrides``
        """
        check_hyperparameters(self.overrides)
        if self.timesteps < self.snapshot_every or self.timesteps % self.snapshot_every:
            raise ValueError(
                f"timesteps={self.timesteps} must be a multiple of snapshot_every={self.snapshot_every}, "
                "so that the last snapshot is the trained agent."
            )
        rollout = update_ratio(self.n_envs)[0] * self.n_envs
        if self.snapshot_every % rollout:
            raise ValueError(
                f"snapshot_every={self.snapshot_every} must be a multiple of {rollout}, the environment steps between two "
                f"updates with n_envs={self.n_envs}."
            )


class Suite(NamedTuple):
    """A family of games: functions of a module, so that worker processes can be given them."""

    name: str
    make_env: Callable[[str, int, int, bool], VecEnv]
    """(game, n_envs, seed, training) -> environment"""
    hyperparameters: Callable[[str, Settings], tuple[str, dict[str, Any]]]
    """(game, settings) -> policy and arguments of the agents"""
    games: tuple[str, ...] = ()
    """Those that are played by default."""
    presets: tuple[str, ...] = ("default",)
    """Names of the hyperparameters' settings, the default first."""
