"""The zoo's experiments with the shipped configurations, and with agents that go on where they stopped."""

import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import yaml
from rl_zoo3 import ALGOS, exp_manager
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import get_latest_run_id
from stable_baselines3.common.vec_env import VecEnv

from sb3_mirl.checkpoint import CheckpointError, ResumableCheckpoint, continue_at_next_learn, resume
from sb3_mirl.checkpoint.folder import CheckpointFolder
from sb3_mirl.common.algorithm import GuardedAlgorithm
from sb3_mirl.common.files import check_archive
from sb3_mirl.common.off_policy import end_trajectory
from sb3_mirl.hyperparameters import algorithms, config_file, presets

CHECKPOINTS = "checkpoints"  # in the folder of a run
ACTIONS = {"Box": "continuous", "Discrete": "discrete"}


def config_of(algo: str, conf: str | None = None) -> str | None:
    """
    Return the file or module that ``-conf`` stands for: it may be one of our presets, and None is the default configuration.
    The algorithms of others have theirs in the zoo.

    :raises ValueError: if there is no such preset and no such module
    """
    if algo not in algorithms():
        return conf
    shipped = config_file(algo, conf)
    if shipped.is_file():
        return str(shipped)
    assert conf is not None
    if not conf.endswith((".yml", ".yaml", ".py")) and not _is_module(conf):
        known = ", ".join(presets(algo))
        raise ValueError(f"-conf {conf} is neither a preset of {algo} ({known}), nor a module, nor a .yml or .py file.")
    return conf


def check_config(config: str) -> None:
    """
    Check a configuration in YAML; others are Python, which says by itself what is wrong.

    :raises OSError: if it cannot be opened
    :raises ValueError: if it holds no hyperparameters
    """
    if not config.endswith((".yml", ".yaml")):
        return
    content = Path(config).read_bytes()
    try:
        tasks = yaml.safe_load(content)
    except Exception as error:  # PyYAML lets errors of its converters through, IndexError among them
        raise ValueError(f"{config} is not YAML: {error}") from error
    if not isinstance(tasks, dict):
        raise ValueError(f"{config} must map environment ids to hyperparameters, got {type(tasks).__name__}.")
    for task, hyperparameters in tasks.items():
        if not isinstance(hyperparameters, dict) or not all(isinstance(name, str) for name in hyperparameters):
            raise ValueError(f"The entry {task!r} of {config} must map names to values, got {hyperparameters!r}.")


def checkpoints_of(agent: Path) -> Path | None:
    """
    Return the folder with the checkpoints of the run that an agent is from, None if there are none. The agent is a zip file in
    the run's folder, or the model of one of its checkpoints.
    """
    folder = agent.parent.parent if agent.parent.name.startswith("checkpoint_") else agent.parent / CHECKPOINTS
    return folder if CheckpointFolder(folder).paths() else None


class Experiment(exp_manager.ExperimentManager):
    """
    The zoo's ``ExperimentManager``, but for these things: it finds the configurations and presets of ``sb3_mirl``;
    ``--save-freq`` also makes runs resumable, by checkpoints in the run's folder; agents go on where they stopped; runs
    started at the same instant get different folders, and what cannot start, or only searches, leaves none.

    ``-i <folder of a run>`` resumes the run at its newest undamaged checkpoint, with its hyperparameters (``-params``
    changes them); ``-n`` is the number of steps of the whole run, by default what it was in the command that was
    interrupted. ``-i <agent.zip>`` trains an agent for ``-n`` more steps: its run's replay memory goes on where there are
    checkpoints, and for the last agent of the run everything else too. Schedules go on either way, in a new folder of the
    zoo's.
    """

    resumes: ClassVar[bool] = False
    """Whether ``-i`` was a run's folder, in place of which the zoo gets the zip file that it asks for."""

    def __init__(self, args: Any, algo: str, *positional: Any, config: str | None = None, **options: Any) -> None:
        super().__init__(args, algo, *positional, config=config_of(algo, config), **options)  # type: ignore[misc]
        self._has_budget = self.n_timesteps > 0
        self._has_folder = False

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        """
        Prepare a training or a search, as in the zoo; nothing is left of one that cannot start.

        :return: the model and its hyperparameters as they are saved, None for a search
        :raises ValueError: if something is wrong with the configuration, the environment or the agent
        :raises SystemExit: if there is nothing to do
        """
        try:
            return super().setup_experiment()
        except BaseException as error:
            if self._has_folder:
                shutil.rmtree(self.save_path, ignore_errors=True)
            refused = re.search(r"as action spaces but ((\w+).*) was provided", str(error))
            if refused is None:
                raise
            kind = ACTIONS.get(refused[2], refused[2])
            raise ValueError(
                f"{self.env_name.gym_id} has {kind} actions, {refused[1]}, which {self.algo} does not take: choose another "
                "--algo."
            ) from error

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        Read the configuration as in the zoo.

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

    def _preprocess_action_noise(self, *args: Any) -> dict[str, Any]:
        return _Hyperparameters(super()._preprocess_action_noise(*args))

    def create_log_folder(self) -> None:
        """Make the run's folder, under the first number that no other run has taken; a search has none."""
        if self.optimize_hyperparameters:
            return
        while True:
            try:
                os.makedirs(self.save_path)
                break
            except FileExistsError:
                number = get_latest_run_id(self.log_path, self.env_name) + 1
                self.save_path = os.path.join(self.log_path, f"{self.env_name}_{number}")
                self.params_path = f"{self.save_path}/{self.env_name}"
        self._has_folder = True
        super().create_log_folder()

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """Make environments as in the zoo; a search logs no episodes."""
        return super().create_envs(n_envs, eval_env, no_log or self.optimize_hyperparameters)

    def create_callbacks(self) -> None:
        """Make the zoo's callbacks, and one that makes the run resumable."""
        save_freq = self.save_freq  # which the zoo divides by the number of environments
        super().create_callbacks()
        # ARS, alone of SB3's kind, has neither rollouts nor optimisers
        if save_freq > 0 and self.algo != "ars" and not self.optimize_hyperparameters:
            folder = Path(self.save_path) / CHECKPOINTS
            self.callbacks.append(ResumableCheckpoint(folder, save_freq, verbose=self.verbose))

    # Going on

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        agent = Path(self.trained_agent)
        folder = checkpoints_of(agent)
        if self.resumes:
            assert folder is not None
            return self._resume_to_the_end(folder, hyperparams, env)
        steps = int(check_archive(agent, [], "an algorithm's save")["num_timesteps"])
        run = None if folder is None else self._usable_checkpoint(folder, hyperparams, env)
        if run is not None and run.num_timesteps == steps and agent.stem != "best_model":
            model = run
        else:
            model = super()._load_pretrained_agent(hyperparams, env)
            _continue_without_state(model, run)
        if isinstance(model, GuardedAlgorithm) or model is run:
            self.n_timesteps += model.num_timesteps
        print(f"Going on with {agent}: {steps} steps are done, {self.n_timesteps} it will be in all")
        return model

    def _resume_to_the_end(self, folder: Path, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        model = self._newest(folder, hyperparams, env)
        if not self._has_budget:
            self.n_timesteps = model._total_timesteps
        if model.num_timesteps >= self.n_timesteps:
            raise SystemExit(
                f"sb3_mirl train: nothing is left to do, {model.num_timesteps} of {self.n_timesteps} steps are done. "
                "-n is the number of steps in all where -i is a folder; give -i a zip file in it for -n more steps."
            )
        print(f"Resuming {folder.parent}: {model.num_timesteps} of {self.n_timesteps} steps are done")
        return model

    def _usable_checkpoint(self, folder: Path, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm | None:
        try:
            return self._newest(folder, hyperparams, env)
        except (CheckpointError, ValueError) as error:
            print(f"The checkpoints beside the agent cannot be used here: {error}")
            return None

    def _newest(self, folder: Path, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        given = set(self.custom_hyperparams or {}) - {"policy", "policy_kwargs"}
        changed = {name: value for name, value in hyperparams.items() if name in given}
        options = {"verbose": self.verbose, "tensorboard_log": self.tensorboard_log, **changed}
        model = resume(folder, env, self.device, cls=ALGOS[self.algo], **options)
        best = folder.parent / "best_model.zip"
        if best.is_file():
            # the record of evaluations goes on too, and may find no better one
            shutil.copy(best, self.save_path)
        return model


class _Hyperparameters(dict[str, Any]):
    """A configuration, of whose ``policy_kwargs`` a search keeps what it does not sample: in the zoo it loses them."""

    def copy(self) -> "_Hyperparameters":
        return _Hyperparameters(self)

    def update(self, sampled: dict[str, Any]) -> None:  # type: ignore[override]
        kept = self.get("policy_kwargs") or {}
        super().update(sampled)
        if "policy_kwargs" in sampled:
            self["policy_kwargs"] = {**kept, **sampled["policy_kwargs"]}


def _continue_without_state(model: BaseAlgorithm, run: BaseAlgorithm | None) -> None:
    """
    Let ``learn`` go on with an agent whose state in the middle of the training was not saved; ``run`` is its run at another
    step, with the replay memory.
    """
    if isinstance(model, OffPolicyAlgorithm) and isinstance(run, OffPolicyAlgorithm):
        end_trajectory(run.replay_buffer)
        model.replay_buffer = run.replay_buffer
    if not isinstance(model, GuardedAlgorithm):
        return  # the zoo's algorithms go on in the zoo's way: with step 0
    continue_at_next_learn(model)
    memory = getattr(model, "replay_buffer", None)
    if isinstance(model, OffPolicyAlgorithm) and (memory is None or memory.size() == 0):
        print(
            f"The replay memory of this agent was not saved: it is filled by {model.learning_starts} random steps first "
            "(train with --save-freq or --save-replay-buffer to go on at once)."
        )
        # updates from a handful of transitions would undo the training
        model.learning_starts += model.num_timesteps


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def install() -> None:
    """Make the zoo's commands that are imported from now on use :class:`Experiment`."""
    exp_manager.ExperimentManager = Experiment  # type: ignore[misc]
