"""One run of an experiment: an agent trained on a game with a seed, evaluated at every snapshot, resumable."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_mirl.atari.evaluation import EPSILON, N_EPISODES
from sb3_mirl.checkpoint import ResumableCheckpoint, resume
from sb3_mirl.common.files import claimed
from sb3_mirl.experiments.agents import AGENTS, make_agent
from sb3_mirl.experiments.snapshots import Report, SnapshotCallback
from sb3_mirl.soft_dqn import SoftDQN
from sb3_mirl.soft_dqn.soft_dqn import ENV_STEPS_PER_UPDATE

CHECKPOINT = "checkpoint"
EVALUATION_ENVS = 15


class Cell(NamedTuple):
    """What distinguishes the runs of one experiment."""

    game: str
    agent: str
    seed: int

    @property
    def folder(self) -> Path:
        """Where its files lie, relative to the experiment's."""
        return Path("cells", self.game, self.agent, f"seed_{self.seed}")

    @classmethod
    def of(cls, folder: Path) -> "Cell":
        """The inverse of :attr:`folder`, which may lie anywhere."""
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
    overrides: dict[str, float] = field(default_factory=dict)
    """Hyperparameters in place of the preset's."""
    checkpoints: bool = True
    """Keep the last snapshot with its replay memory until the run is done; without it a killed run starts again, and so
    does one of SB3's own DQN."""

    def check(self) -> None:
        """
        :raises ValueError: if no snapshot falls on the last step
        """
        if self.timesteps < self.snapshot_every or self.timesteps % self.snapshot_every:
            raise ValueError(
                f"timesteps={self.timesteps} must be a multiple of snapshot_every={self.snapshot_every}, "
                "so that the last snapshot is the trained agent."
            )
        rollout = math.lcm(ENV_STEPS_PER_UPDATE, self.n_envs)
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


def is_done(cell: Cell, settings: Settings, out: Path) -> bool:
    """
    Whether the cell was run to its end.

    :raises ValueError: if it was begun with other settings, or these cannot be read
    """
    folder = out / cell.folder
    if not (folder / "settings.json").exists():
        return False
    before, now = _read_settings(folder / "settings.json"), json.loads(json.dumps(asdict(settings)))
    different = [f"{k}: {before.get(k)} then, {now[k]} now" for k in now if before.get(k) != now[k]]
    if different:
        raise ValueError(f"{folder} was run with other settings ({'; '.join(different)}). Choose another --out.")
    return (folder / "done").exists()


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}). Remove its folder, or choose another --out.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds no settings but {settings!r}. Remove its folder, or choose another --out.")
    return settings


def run_cell(cell: Cell, suite: Suite, settings: Settings, out: Path, device: str, report: Report) -> None:
    """
    Trains and evaluates one cell; one that was killed is resumed at its last snapshot, see :func:`sb3_mirl.resume`. Does
    nothing if the cell is done.

    :param report: called with the number of environment steps done since the last call
    :raises FolderInUse: if another process runs this cell
    :raises KeyboardInterrupt: once a checkpoint is saved, if SIGINT or SIGTERM asked the training to end
    :raises ValueError: if the cell was begun with other settings
    """
    folder = out / cell.folder
    with claimed(folder):
        if not is_done(cell, settings, out):
            _train(cell, suite, settings, folder, device, report)


def _train(cell: Cell, suite: Suite, settings: Settings, folder: Path, device: str, report: Report) -> None:
    (folder / "settings.json").write_text(json.dumps(asdict(settings), indent=1))
    env = suite.make_env(cell.game, settings.n_envs, cell.seed, True)
    evaluation = suite.make_env(cell.game, min(EVALUATION_ENVS, settings.eval_episodes), cell.seed, False)
    resumable = settings.checkpoints and issubclass(AGENTS[cell.agent][0], SoftDQN)
    checkpoint = ResumableCheckpoint(folder / CHECKPOINT, settings.snapshot_every, keep=1)
    if resumable and checkpoint.exists():
        model = resume(checkpoint.folder, env, device)
    else:
        policy, hyperparameters = suite.hyperparameters(cell.game, settings)
        overridden = {**hyperparameters, **settings.overrides}
        model = make_agent(cell.agent, env, policy, overridden, seed=cell.seed, device=device)
    report(model.num_timesteps)
    # evaluated before it is saved: a checkpoint is never ahead of the evaluations
    callbacks: list[BaseCallback] = [SnapshotCallback(folder, evaluation, settings, report)]
    if resumable:
        callbacks.append(checkpoint)
    model.learn(settings.timesteps, callback=callbacks, log_interval=10**9)
    if checkpoint.interrupted:
        raise KeyboardInterrupt
    model.save(folder / "model")
    (folder / "done").touch()
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
    env.close()
    evaluation.close()
