"""FrameReplayBuffer: SB3's replay buffer for stacked frames, in a seventh of the memory."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecNormalize

from sb3_mirl.replay.layout import ChannelsOrder, FrameLayout, frame_stack_of, per_env
from sb3_mirl.replay.pool import FramePool, upload, zeros
from sb3_mirl.replay.stacks import StackWriter

try:
    import psutil
except ImportError:  # optional, as in SB3
    psutil = None

# slots of the newest frames of the observation and of the next one, and everything else of a transition
_COLUMNS = ("_newest", "_next_newest", "actions", "rewards", "dones", "timeouts")


class FrameReplayBuffer(ReplayBuffer):
    """
    Replay buffer for stacked image observations that stores every frame once.

    A drop-in ``replay_buffer_class``: for the same indices its samples are bit by bit those of SB3's ``ReplayBuffer``,
    or of its ``NStepReplayBuffer`` for ``n_steps`` > 1; with frames in host memory the same numpy seed also draws the
    same indices. For stacks of four 84x84 frames a transition takes 7.2 kB instead of 56.5 kB. An episode start
    takes one frame more; where these exceed 1 in 80 transitions (very short episodes) the buffer grows accordingly.

    :param buffer_size: transitions to keep, over all environments
    :param observation_space: 3-D ``Box`` of uint8
    :param action_space: action space
    :param device: device of the samples
    :param n_envs: number of parallel environments
    :param optimize_memory_usage: accepted and without effect: every frame is stored once anyway,
        and terminal observations and timeouts are kept, unlike with SB3's variant
    :param handle_timeout_termination: mask ``dones`` that are timeouts, as in SB3
    :param n_steps: length of the n-step returns; for more than 1 the samples have ``discounts``
    :param gamma: discount factor of the n-step returns
    :param frame_stack: number of frames in one observation
    :param channels_order: axis along which frames are stacked, "first" or "last"; None: the smallest dimension, as in SB3
    :param storage_device: where the transitions are kept. On "cuda" the indices are drawn there too (by torch's
        generator), and neither adding nor sampling makes the host wait. Without a GPU it falls back to "cpu"
    :raises ValueError: if the observation space cannot hold stacks of ``frame_stack`` frames, or ``n_steps`` < 1
    """

    # tensors on the storage device, where SB3 has arrays
    actions: th.Tensor  # type: ignore[assignment]  # (C, N, action_dim)
    rewards: th.Tensor  # type: ignore[assignment]  # (C, N)
    dones: th.Tensor  # type: ignore[assignment]  # (C, N)
    timeouts: th.Tensor  # type: ignore[assignment]  # (C, N)

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        n_steps: int = 1,
        gamma: float = 0.99,
        frame_stack: int = 4,
        channels_order: ChannelsOrder | None = None,
        storage_device: th.device | str = "cpu",
    ) -> None:
        if n_steps < 1:
            raise ValueError(f"`n_steps` must be at least 1, not {n_steps}")
        self.layout = FrameLayout.of(observation_space, frame_stack, channels_order)
        # SB3's constructors are not called: they would allocate both observations of every transition
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.observation_space, self.action_space = observation_space, action_space
        self.obs_shape, self.action_dim = self.layout.shape, get_action_dim(action_space)
        self.device, self.n_envs = get_device(device), n_envs
        self.optimize_memory_usage, self.handle_timeout_termination = False, handle_timeout_termination
        self.n_steps, self.gamma = n_steps, gamma
        self.storage_device = get_device(storage_device)
        # one frame per row, those of K earlier rows, an episode start in every 80 rows and one in each environment
        n_frames = self.buffer_size + self.buffer_size // 80 + 3 * frame_stack
        pool = FramePool(n_frames, n_envs, self.layout.frame_words, self.layout.word, self.storage_device)
        self._allocate(StackWriter(pool, self.buffer_size, n_envs, frame_stack, self.layout.frame_words))
        self._warn_if_too_large()

    def _allocate(self, writer: StackWriter) -> None:
        def column(dtype: Any, *size: int) -> th.Tensor:
            return zeros((self.buffer_size, self.n_envs, *size), dtype, self.storage_device)

        self._writer = writer
        self._newest, self._next_newest = column(np.int32), column(np.int32)
        self.actions = column(self._maybe_cast_dtype(self.action_space.dtype), self.action_dim)
        self.rewards, self.dones, self.timeouts = (column(np.float32) for _ in range(3))
        # numpy's powers, as in SB3: torch's may differ in the last bit
        discounts = self.gamma ** np.arange(self.n_steps + 1, dtype=np.float32)
        self._discounts = th.from_numpy(discounts).to(self.storage_device)

    def _warn_if_too_large(self) -> None:
        available = np.inf if psutil is None or self.storage_device.type != "cpu" else psutil.virtual_memory().available
        if self.nbytes > available:
            warnings.warn(
                "This system does not have apparently enough memory to store the complete "
                f"replay buffer {self.nbytes / 1e9:.2f}GB > {available / 1e9:.2f}GB"
            )

    @property
    def pos(self) -> int:  # type: ignore[override]
        """Row of the next transition."""
        return self.n_added % self.buffer_size

    @property
    def full(self) -> bool:  # type: ignore[override]
        """Whether the next transition takes the place of another one."""
        return self.n_added >= self.buffer_size

    @property
    def nbytes(self) -> int:
        """Bytes allocated. In host memory, pages are only used once something is stored in them."""
        return self._writer.nbytes + sum(getattr(self, name).nbytes for name in _COLUMNS)

    frame_stack_of = staticmethod(frame_stack_of)

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Store one transition of every environment.

        A single environment's may come without the first axis.

        :param obs: (N, \\*obs_shape) uint8
        :param next_obs: (N, \\*obs_shape) uint8, the terminal observation where an episode ended
        :param action: (N, action_dim), or (N, \\*action_shape)
        :param reward: (N,)
        :param done: (N,)
        :param infos: one dictionary per environment; "TimeLimit.truncated" marks timeouts
        :raises ValueError: if any of them, or a terminal observation in ``infos``, has another shape, or if the observations
            are not stacked frames; nothing has been stored then
        """
        n = self.n_envs
        stacks, next_stacks = self.layout.split(obs, n), self.layout.split(next_obs, n, "next observations")
        actions = per_env("actions", action, n, self.action_space.shape or (), (self.action_dim,))
        dones = per_env("dones", done, n, ()).astype(np.float32).reshape(n)
        timeouts = np.zeros(n, dtype=np.float32)
        if len(infos) != n:
            raise ValueError(f"expected infos of {n} environments, got {len(infos)}")
        if self.handle_timeout_termination:
            timeouts[:] = [info.get("TimeLimit.truncated", False) for info in infos]
        for i in dones.nonzero()[0]:
            terminal = infos[i].get("terminal_observation")
            if terminal is not None and (shape := np.shape(terminal)) != self.layout.shape:
                raise ValueError(
                    f"expected terminal observations of shape {self.layout.shape}, got {shape}{self.layout.hint(shape)}"
                )
        action_dtype = self._maybe_cast_dtype(self.action_space.dtype)
        actions = np.ascontiguousarray(actions, dtype=action_dtype).reshape(n, self.action_dim)
        rewards = per_env("rewards", reward, n, ()).astype(np.float32).reshape(n)
        row = self.pos
        slots = self._writer.add(stacks, next_stacks, dones != 0)
        columns = upload(
            (*slots, actions, rewards, dones, timeouts), self.storage_device, pack=not self._writer.pool.host_sync_is_free
        )
        for name, column in zip(_COLUMNS, columns, strict=True):
            getattr(self, name)[row] = column

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """
        Draw transitions uniformly, with replacement.

        :param batch_size: number of transitions B
        :param env: normalises observations and rewards, if given
        :return: tensors on ``device``: observations (B, \\*obs_shape) uint8, actions (B, action_dim), next observations,
            dones (B, 1), rewards (B, 1), and for ``n_steps`` > 1 discounts (B, 1)
        :raises ValueError: if nothing has been stored yet
        """
        return self.sample_batches(1, batch_size, env)

    def sample_batches(self, n_batches: int, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """
        Draw the transitions that ``n_batches`` calls of :meth:`sample` in a row would draw, all at once.

        :param n_batches: number of minibatches M
        :param batch_size: transitions per minibatch B
        :param env: normalises observations and rewards, if given
        :return: as :meth:`sample`, with M * B transitions, one minibatch after the other
        :raises ValueError: if nothing has been stored yet, or if ``env`` normalises observations of another shape
        """
        size = self.size()
        if size == 0:
            raise ValueError("cannot sample from an empty replay buffer: add transitions first")
        if self._writer.pool.host_sync_is_free:
            draws = [
                (np.random.randint(0, size, size=batch_size), np.random.randint(0, high=self.n_envs, size=(batch_size,)))
                for _ in range(n_batches)
            ]
            rows, envs = (th.from_numpy(np.concatenate(index)) for index in zip(*draws, strict=True))
        else:
            rows = th.randint(size, (n_batches * batch_size,), device=self.storage_device)
            envs = th.randint(self.n_envs, (n_batches * batch_size,), device=self.storage_device)
        return self._gather(rows, envs, env)

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        envs = np.random.randint(0, high=self.n_envs, size=(len(batch_inds),))
        rows, env_indices = upload((np.asarray(batch_inds, dtype=np.int64), envs), self.storage_device, pack=False)
        return self._gather(rows, env_indices, env)

    def _gather(self, rows: th.Tensor, envs: th.Tensor, env: VecNormalize | None) -> ReplayBufferSamples:
        """Return the transitions at ``rows`` (B,) of environments ``envs`` (B,)."""
        if env is not None and env.norm_obs and env.observation_space.shape != self.layout.shape:
            raise ValueError(
                f"`env` normalises observations of shape {env.observation_space.shape}, but those stored have shape "
                f"{self.layout.shape}: pass the VecNormalize of the environment that filled this buffer"
            )
        first = rows * self.n_envs + envs  # index into (C * N)
        if self.n_steps > 1:
            last, rewards, discounts = self._n_step_returns(rows, envs, env)
        else:
            last, discounts = first, None
            rewards = self._normalized_reward(self.rewards.take(first), env)
        newest = th.cat([self._newest.take(first), self._next_newest.take(last)])
        pin_memory = self.storage_device.type == "cpu" and self.device.type == "cuda"
        # one gather for both, and they share no memory
        stacks = self.layout.join(self._writer.pool.stacks(newest, self.layout.frame_stack, pin_memory))
        obs, next_obs = (self._normalized_obs(half, env) for half in stacks.chunk(2))
        dones = self.dones.take(last) * (1 - self.timeouts.take(last))
        return ReplayBufferSamples(
            observations=self._to_device(obs),
            actions=self._to_device(self.actions.view(-1, self.action_dim).index_select(0, first)),
            next_observations=self._to_device(next_obs),
            dones=self._to_device(dones.view(-1, 1)),
            rewards=self._to_device(rewards.view(-1, 1)),
            discounts=None if discounts is None else self._to_device(discounts.view(-1, 1)),
        )

    def _n_step_returns(
        self, rows: th.Tensor, envs: th.Tensor, env: VecNormalize | None
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Return the index of the last transition of each return, the return, and the discount after it, (B,) each."""
        steps = th.arange(self.n_steps, device=self.storage_device)
        row_seq = (rows[:, None] + steps) % self.buffer_size  # (B, n)
        index = row_seq * self.n_envs + envs[:, None]
        # the newest row ends every return: what follows it is older, or not yet stored
        newest_row = (self.pos - 1) % self.buffer_size
        stop = (self.dones.take(index) != 0) | (self.timeouts.take(index) != 0) | (row_seq == newest_row)
        mask = stop.cumsum(dim=1) - stop.long() == 0  # up to the first stop, inclusive
        n = mask.sum(dim=1)
        discounted = self._normalized_reward(self.rewards.take(index), env) * self._discounts[:-1] * mask
        last = index.gather(1, (n - 1)[:, None]).view(-1)
        # on the host by numpy, whose order of summation SB3's results have
        on_host = discounted.device.type == "cpu"
        rewards = th.from_numpy(discounted.numpy().sum(axis=1)) if on_host else discounted.sum(dim=1)
        return last, rewards, self._discounts.index_select(0, n)

    def _normalized_obs(self, obs: th.Tensor, env: VecNormalize | None) -> th.Tensor:
        return obs if env is None else th.from_numpy(self._normalize_obs(obs.cpu().numpy(), env)).to(self.storage_device)

    def _normalized_reward(self, reward: th.Tensor, env: VecNormalize | None) -> th.Tensor:
        if env is None:
            return reward
        return th.from_numpy(self._normalize_reward(reward.cpu().numpy(), env)).to(self.storage_device)

    def _to_device(self, tensor: th.Tensor) -> th.Tensor:
        if tensor.device == self.device:
            return tensor
        return tensor.to(self.device, non_blocking=tensor.is_pinned() if self.device.type == "cuda" else False)

    def reset(self) -> None:
        """Remove every transition."""
        self._writer.reset()

    def truncate_last_trajectory(self) -> None:
        """
        Mark the newest transition of every environment as truncated, unless it ends an episode: n-step returns stop
        there. To be called before the environments are reset.
        """
        if self.size() > 0:
            newest = (self.pos - 1) % self.buffer_size
            self.timeouts[newest] = th.maximum(self.timeouts[newest], (self.dones[newest] == 0).float())

    # The methods of :class:`~sb3_mirl.replay.rows.ArrayRows`

    @property
    def n_added(self) -> int:
        """Number of rows added since the last reset."""
        return self._writer.n_steps

    @property
    def n_kept(self) -> int:
        """Number of rows of which something is kept: the buffer's, and older ones whose frames they use."""
        return self._writer.n_kept

    def read_rows(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Return copies of rows, with the frames that were new in them."""
        stored = np.arange(max(first, self.n_added - self.buffer_size), last) % self.buffer_size
        index = th.from_numpy(stored).to(self.storage_device)
        columns = {name: getattr(self, name).index_select(0, index).cpu().numpy() for name in _COLUMNS}
        return {**columns, "rows": stored, **self._writer.read(first, last)}

    def write_rows(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Put rows back, older ones first."""
        rows = arrays["rows"]
        self._writer.pool.write(arrays["slots"].astype(np.int64), arrays["frames"], arrays["previous"])
        for name in _COLUMNS:
            column = getattr(self, name)
            values = per_env(f"saved {name}", arrays[name], len(rows), column.shape[1:])
            column.index_copy_(0, *upload((rows, values), self.storage_device, pack=False))

    def get_position(self) -> dict[str, Any]:
        """Return everything but the rows."""
        return self._writer.get_position()

    def set_position(self, position: dict[str, Any]) -> None:
        """Continue where another buffer was, whose rows are to be written next."""
        self._writer.set_position(position)

    def __getstate__(self) -> dict[str, Any]:
        columns = {name: getattr(self, name)[: self.size()].cpu().numpy() for name in _COLUMNS}
        return {name: value for name, value in {**vars(self), **columns}.items() if name != "_discounts"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        columns = {name: state.pop(name) for name in _COLUMNS}
        writer = state.pop("_writer")
        # release 0.1.0 saved `pos` and `full`
        vars(self).update({name: value for name, value in state.items() if name not in ("pos", "full")})
        self.storage_device = writer.pool.device
        self._allocate(writer)
        for name, column in columns.items():
            getattr(self, name)[: self.size()] = th.from_numpy(column)
