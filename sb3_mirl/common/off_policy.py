"""What the off-policy algorithms of this package share beside :class:`GuardedAlgorithm`: their replay memory."""

import inspect
import io
import math
import pathlib
import warnings
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_pkl
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_mirl.common.algorithm import GuardedAlgorithm, Path
from sb3_mirl.common.arguments import check_range
from sb3_mirl.common.files import write_whole
from sb3_mirl.common.moments import drop_dead_moments
from sb3_mirl.replay import FrameReplayBuffer, check_same, describe


class GuardedOffPolicy(GuardedAlgorithm, OffPolicyAlgorithm):
    """
    A mixin before one of SB3's off-policy classes, ``class VIREL(GuardedOffPolicy, SAC)``, or a base by itself. Beside
    :class:`~sb3_mirl.common.algorithm.GuardedAlgorithm` it adds:

    - frames of stacked images stored once (:class:`~sb3_mirl.replay.FrameReplayBuffer`), chosen where it applies;
    - n-step returns with every replay buffer that can make them, and an error for the others;
    - no replay memory for a model that is loaded without an environment;
    - a loaded replay memory that is refused if it is of another kind than the model's;
    - steps of an optimiser that are refused if something is not finite (:meth:`descend`).
    """

    def check_arguments(self) -> None:
        """Check the arguments before anything is built; subclasses add theirs."""
        super().check_arguments()
        check_range("tau", self.tau, 0, 1)
        for name in ("batch_size", "buffer_size", "n_steps"):
            check_range(name, getattr(self, name), 1, math.inf, whole=True)
        check_range("learning_starts", self.learning_starts, 0, math.inf)
        check_range("gradient_steps", self.gradient_steps, -1, math.inf, whole=True)
        frequency = self.train_freq[0] if isinstance(self.train_freq, tuple) else self.train_freq
        if isinstance(frequency, int):  # SB3 says what else is wrong with it
            check_range("train_freq", frequency, 1, math.inf, whole=True)

    def _setup_model(self) -> None:
        self.check_arguments()
        chosen_class, without_env = self.replay_buffer_class, self.env is None
        if self.replay_buffer is None:
            # a model that is loaded to act has no environment, and gets a memory of one number while SB3 sets it up
            nothing = spaces.Discrete(1)
            self.replay_buffer = ReplayBuffer(1, nothing, nothing) if without_env else make_replay_buffer(self)
        self.replay_buffer_class = type(self.replay_buffer)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`n_steps=.*` is ignored")  # not by `make_replay_buffer`
            super()._setup_model()
        self.replay_buffer_class = chosen_class
        if without_env:
            self.replay_buffer = None

    def _setup_learn(
        self, total_timesteps: int, callback: Any = None, reset_num_timesteps: bool = True, *args: Any, **kwargs: Any
    ) -> tuple[int, BaseCallback]:
        if self.replay_buffer is None and self.env is not None:
            self.replay_buffer = make_replay_buffer(self)
        if reset_num_timesteps or self._last_obs is None:
            end_trajectory(self.replay_buffer)
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    def finish_step(self, step: dict[str, Any]) -> None:
        """Store the step at which a callback has ended the training, and count it."""
        self._update_info_buffer(step["infos"], step["dones"])
        names = ("replay_buffer", "buffer_actions", "new_obs", "rewards", "dones", "infos")
        self._store_transition(*(step[name] for name in names))
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        self._on_step()
        for index in np.flatnonzero(step["dones"]):
            self._episode_num += 1
            if step["action_noise"] is not None:
                step["action_noise"].reset(**(dict(indices=[index]) if self.n_envs > 1 else {}))

    def advice(self) -> str:
        """Return what to do where a loss is not finite, and the state that may be the cause."""
        return "Lower learning_rate, or scale the rewards."

    def check_finite(self, value: th.Tensor, name: str) -> None:
        """
        Refuse to learn from a number that is not finite.

        :param value: scalar
        :param name: of the value, for the message
        :raises ValueError: naming value and step, with :meth:`advice`
        """
        if not math.isfinite(value.item()):
            raise ValueError(
                f"The {name} is {value.item()} at step {self.num_timesteps}. Nothing was learned from it, and the model can "
                f"be saved. {self.advice()}"
            )

    def descend(self, optimizer: th.optim.Optimizer, loss: th.Tensor, name: str) -> None:
        """
        Take a step down a loss. Only the optimiser's own parameters get a gradient: an actor's loss has no use for those of
        the critics, which are a tenth of an update's work in SAC.

        :param optimizer: of the parameters to move
        :param loss: scalar
        :param name: of the loss, for the message
        :raises ValueError: if the loss or its gradient is not finite; no parameter has moved then
        """
        self.check_finite(loss, name)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        optimizer.zero_grad()
        loss.backward(inputs=parameters)
        norm = th.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        self.check_finite(norm, f"gradient of the {name}")
        optimizer.step()
        drop_dead_moments(optimizer)

    def save_replay_buffer(self, path: Path) -> None:
        """Save as in SB3; an older file is replaced when the new one is complete, so there must be room for both."""
        write_whole(path, "pkl", super().save_replay_buffer)

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        Load a memory as in SB3. The file is a pickle, which can run any code: load only what you trust.

        :raises ValueError: if the memory is of another kind than this model's (environments, spaces, returns, frames); the
            model's own memory stays then
        """
        memory = load_from_pkl(path, self.verbose)
        check_memory(self, memory, path)
        if isinstance(memory, HerReplayBuffer):
            if self.env is None:
                raise ValueError("A memory with hindsight needs the environment: load the model with env=...")
            memory.set_env(self.env)
            if truncate_last_traj:
                memory.truncate_last_trajectory()
        memory.device = self.device
        self.replay_buffer = memory


def make_replay_buffer(model: OffPolicyAlgorithm) -> ReplayBuffer:
    """
    Make the replay buffer of a model: of the class that it was given, else one that stores every frame once where
    observations are stacks of frames, else SB3's choice.

    :raises ValueError: if it cannot make the n-step returns that the model asks for
    """
    buffer_class, kwargs = model.replay_buffer_class, dict[str, Any]()
    if buffer_class is None:
        buffer_class, kwargs = _choose(model)
    if model.n_steps > 1:
        if not {"n_steps", "gamma"} <= set(inspect.signature(buffer_class).parameters):
            raise ValueError(
                f"{buffer_class.__name__} makes no n-step returns, got n_steps={model.n_steps}. SB3 has none for dictionary "
                "observations and for HER; otherwise leave replay_buffer_class to be chosen, or use n_steps=1."
            )
        kwargs.update(n_steps=model.n_steps, gamma=model.gamma)
    kwargs.update(model.replay_buffer_kwargs)
    if issubclass(buffer_class, HerReplayBuffer):
        kwargs["env"] = model.env
    return buffer_class(
        model.buffer_size,
        model.observation_space,
        model.action_space,
        device=model.device,
        n_envs=model.n_envs,
        optimize_memory_usage=model.optimize_memory_usage,
        **kwargs,
    )


def check_memory(model: OffPolicyAlgorithm, memory: Any, source: Any) -> None:
    """
    Compare a replay memory with the one that a model would make. Another capacity is adopted with a warning.

    :param model: its memory and its environment may be missing, if it only acts
    :param memory: what was read
    :param source: where, for the message
    :raises ValueError: if it differs in what changes the algorithm, or breaks it later
    """
    if not isinstance(memory, ReplayBuffer):
        raise ValueError(f"{source} does not hold a replay memory but a {type(memory).__name__}.")
    found = describe(memory)
    if model.replay_buffer is not None or model.env is not None:
        own = describe(model.replay_buffer or make_replay_buffer(model))
    else:
        names = ("observation_space", "action_space", "n_steps")
        own = {**found, **{name: getattr(model, name) for name in names}}
    ignored = {"rows"}
    if {found["class"], own["class"]} == {"ReplayBuffer", "FrameReplayBuffer"}:  # whose samples are the same
        ignored |= {"class", "frame_stack", "channels"}
    check_same(own, found, source, ignored)
    if found["rows"] != own["rows"]:
        warnings.warn(
            f"{source} has room for {found['rows'] * found['environments']} transitions and is used with that, in place of "
            f"buffer_size={model.buffer_size}."
        )


def end_trajectory(buffer: ReplayBuffer | None) -> None:
    """Keep n-step returns from running from the newest transitions into the episodes that a reset begins."""
    if isinstance(buffer, FrameReplayBuffer):
        buffer.truncate_last_trajectory()
    elif isinstance(buffer, NStepReplayBuffer) and buffer.size() > 0:
        newest = (buffer.pos - 1) % buffer.buffer_size
        buffer.timeouts[newest] = np.maximum(buffer.timeouts[newest], 1 - buffer.dones[newest])


def _choose(model: OffPolicyAlgorithm) -> tuple[type[ReplayBuffer], dict[str, Any]]:
    frame_stack = FrameReplayBuffer.frame_stack_of(model.env, model.observation_space)
    if frame_stack is not None and not model.optimize_memory_usage:
        return FrameReplayBuffer, {"frame_stack": frame_stack, "storage_device": _storage_device(model, frame_stack)}
    if isinstance(model.observation_space, spaces.Dict):
        return DictReplayBuffer, {}
    return (NStepReplayBuffer if model.n_steps > 1 else ReplayBuffer), {}


def _storage_device(model: OffPolicyAlgorithm, frame_stack: int) -> th.device:
    """Return the model's device if a full memory leaves a quarter of its free space, else the host."""
    if model.device.type != "cuda":
        return th.device("cpu")
    needed = model.buffer_size * int(th.Size(model.observation_space.shape or ()).numel()) / frame_stack
    free, _ = th.cuda.mem_get_info(model.device)
    return model.device if needed < 0.75 * free else th.device("cpu")
