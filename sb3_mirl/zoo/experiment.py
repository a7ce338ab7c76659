"""The zoo's experiments with the shipped configurations, and with agents that go on where they stopped."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from rl_zoo3 import exp_manager
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import get_latest_run_id
from stable_baselines3.common.vec_env import VecEnv

from sb3_mirl.checkpoint import ResumableCheckpoint, go_on_at_next_learn, resume
from sb3_mirl.common.algorithm import GuardedAlgorithm
from sb3_mirl.common.off_policy import GuardedOffPolicy
from sb3_mirl.zoo.continuing import CHECKPOINTS, checkpoints_of

ALGORITHMS = ("softdqn", "mirl", "virel", "softa2c", "softpqn")
_PACKAGE = Path(__file__).parents[1]
# inside the package in a wheel, next to it in a clone
CONFIGS = _PACKAGE / "zoo_configs" if (_PACKAGE / "zoo_configs").is_dir() else _PACKAGE.parent / "zoo_configs"


def config_of(algo: str, conf: str | None = None) -> str | None:
    """
    What ``-conf`` stands for.

    :param algo: one of :data:`ALGORITHMS`; other algorithms have their configurations in the zoo
    :param conf: the zoo's option: a file, a module, or one of our presets; None for the default configuration
    :return: file or module
    :raises ValueError: if there is no such preset and no such module
    """
    if algo not in ALGORITHMS:
        return conf
    shipped = CONFIGS / (conf or "") / f"{algo}.yml"
    if shipped.is_file():
        return str(shipped)
    if conf is None:
        raise FileNotFoundError(f"The configuration {shipped} is missing: install sb3-mirl again, or give one by -conf.")
    if not conf.endswith((".yml", ".yaml", ".py")) and not _is_module(conf):
        presets = ", ".join(sorted(path.parent.name for path in CONFIGS.glob(f"*/{algo}.yml")))
        raise ValueError(f"-conf {conf} is neither a preset of {algo} ({presets}), nor a module, nor a .yml or .py file.")
    return conf


def check_config(config: str) -> None:
    """
    :param config: YAML file; others are Python, which says by itself what is wrong
    :raises OSError: if it cannot be opened
    :raises ValueError: if it holds no hyperparameters
    """
    if not config.endswith((".yml", ".yaml")):
        return
    content = Path(config).read_bytes()
    try:
        tasks = yaml.safe_load(content)
    except Exception as error:  # PyYAML lets errors of its converters through, IndexError among them
        raise ValueError(f"{config} is no YAML: {error}") from error
    if not isinstance(tasks, dict):
        raise ValueError(f"{config} must map environment ids to hyperparameters, got {type(tasks).__name__}.")
    for task, hyperparameters in tasks.items():
        if not isinstance(hyperparameters, dict) or not all(isinstance(name, str) for name in hyperparameters):
            raise ValueError(f"The entry {task!r} of {config} must map names to values, got {hyperparameters!r}.")


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


class Experiment(exp_manager.ExperimentManager):
    """
    The zoo's ``ExperimentManager``, but for four things: it finds the configurations and presets of ``sb3_mirl``;
    ``--save-freq`` also makes our agents' runs resumable, by checkpoints in the run's folder; ``-i`` continues; and runs
    started at the same instant get different folders.

    Where the agent's run has checkpoints (see :func:`~sb3_mirl.zoo.continuing.checkpoints_of`), ``-i`` resumes the newest
    undamaged one with its hyperparameters (``-params`` changes them), and ``-n`` is the number of steps of the whole run,
    as it was in the command that was interrupted. Where it has none, ``-i`` loads the agent with the configuration's
    hyperparameters, and ``-n`` is the number of further steps. Either way schedules go on, in a new folder of the zoo's.
    """

    def __init__(self, args: Any, algo: str, *positional: Any, config: str | None = None, **options: Any) -> None:
        super().__init__(args, algo, *positional, config=config_of(algo, config), **options)  # type: ignore[misc]

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        As in the zoo.

        :raises ValueError: if the configuration is malformed, or has nothing for the environment
        """
        check_config(self.config)
        try:
            hyperparameters, saved = super().read_hyperparameters()
        except KeyError as error:
            raise ValueError(f"{self.config} has no entry {error} for {self.env_name.gym_id}.") from error
        for name in ("policy", "n_timesteps"):
            if name not in hyperparameters:
                raise ValueError(f"{self.config} gives no {name} for {self.env_name.gym_id}.")
        return hyperparameters, saved

    def create_log_folder(self) -> None:
        """The run's folder, under the first number that no other run has taken."""
        while True:
            try:
                os.makedirs(self.save_path)
                break
            except FileExistsError:
                number = get_latest_run_id(self.log_path, self.env_name) + 1
                self.save_path = os.path.join(self.log_path, f"{self.env_name}_{number}")
                self.params_path = f"{self.save_path}/{self.env_name}"
        super().create_log_folder()

    def create_callbacks(self) -> None:
        """The zoo's callbacks, and one that makes the run resumable."""
        save_freq = self.save_freq  # which the zoo divides by the number of environments
        super().create_callbacks()
        if save_freq > 0 and self.algo in ALGORITHMS and not self.optimize_hyperparameters:
            folder = Path(self.save_path) / CHECKPOINTS
            self.callbacks.append(ResumableCheckpoint(folder, save_freq, verbose=self.verbose))

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        folder = checkpoints_of(Path(self.trained_agent))
        if folder is not None and self.algo in ALGORITHMS:
            return self._resume(folder, hyperparams, env)
        model = super()._load_pretrained_agent(hyperparams, env)
        if isinstance(model, GuardedAlgorithm):
            _go_on(model)
            self.n_timesteps += model.num_timesteps
        return model

    def _resume(self, folder: Path, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        given = set(self.custom_hyperparams or {}) - {"policy", "policy_kwargs"}
        changed = {name: value for name, value in hyperparams.items() if name in given}
        model = resume(folder, env, self.device, verbose=self.verbose, tensorboard_log=self.tensorboard_log, **changed)
        print(f"Resuming {folder.parent}: {model.num_timesteps} of {self.n_timesteps} steps are done")
        best = folder.parent / "best_model.zip"
        if best.is_file():
            # the record of evaluations goes on too, and may find no better one
            shutil.copy(best, self.save_path)
        return model


def _go_on(model: GuardedAlgorithm) -> None:
    go_on_at_next_learn(model)
    if not isinstance(model, GuardedOffPolicy):
        return
    if model.replay_buffer is None or model.replay_buffer.size() == 0:
        print(
            f"The replay memory of this agent was not saved: it is filled by {model.learning_starts} random steps first "
            "(train with --save-freq or --save-replay-buffer to go on at once)."
        )
        # updates from a handful of transitions would undo the training
        model.learning_starts += model.num_timesteps


def install() -> None:
    """Makes the zoo's commands that are imported from now on use :class:`Experiment`."""
    exp_manager.ExperimentManager = Experiment  # type: ignore[misc]
