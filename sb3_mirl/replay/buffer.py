"""FrameReplayBuffer: SB3's replay buffer for stacked frames, in a seventh of the memory."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_mirl.replay.layout import ChannelsOrder, FrameLayout, frame_stack_of
from sb3_mirl.replay.pool import upload
from sb3_mirl.replay.storage import StoredFrames


class FrameReplayBuffer(StoredFrames):
    """
    Replay buffer for stacked image observations that stores every frame once.

    A drop-in ``replay_buffer_class``: for the same indices its samples are bit by bit those of SB3's ``ReplayBuffer``,
    or of its ``NStepReplayBuffer`` for ``n_steps`` > 1; with frames in host memory the same numpy seed also draws the
    same indices. For stacks of four 84x84 frames a transition takes 7.2 kB instead of 56.5 kB. An episode start
    takes one frame more; where these exceed 1 in 80 transitions (very short episodes) the buffer grows accordingly.

    :param buffer_size: Transitions to keep, over all environments
    :param observation_space: 3-D ``Box`` of uint8
    :param action_space: Action space
    :param device: Device of the samples
    :param n_envs: Number of parallel environments
    :param optimize_memory_usage: Accepted and without effect: every frame is stored once anyway,
        and terminal observations and timeouts are kept, unlike with SB3's variant
    :param handle_timeout_termination: Mask ``dones`` that are timeouts, as in SB3
    :param n_steps: Length of the n-step returns; for more than 1 the samples have ``discounts``
    :param gamma: Discount factor of the n-step returns
    :param frame_stack: Number of frames in one observation
    :param channels_order: Axis along which frames are stacked, "first" or "last"; None: the smallest dimension, as in SB3
    :param storage_device: Where the transitions are kept. On "cuda" the indices are drawn there too (by torch's
        generator), and neither adding nor sampling makes the host wait. Without a GPU it falls back to "cpu"
    :raises ValueError: if the observation space cannot hold stacks of ``frame_stack`` frames, or ``n_steps`` < 1
    """

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
        # not ReplayBuffer's __init__, which would allocate both observations of every transition
        super(ReplayBuffer, self).__init__(buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        self.n_steps = n_steps
        self.gamma = gamma
        self.storage_device = get_device(storage_device)
        # numpy's powers, as in SB3: torch's may differ in the last bit
        self._discounts = th.from_numpy(gamma ** np.arange(n_steps + 1, dtype=np.float32)).to(self.storage_device)
        self._allocate()
        self._warn_if_too_large()

    @staticmethod
    def frame_stack_of(env: VecEnv | None, observation_space: spaces.Space) -> int | None:
        """
        Whether this buffer suits an environment, and with which ``frame_stack``.

        :param env: The vector environment: SB3's ``VecFrameStack``, one with an integer attribute ``frame_stack``, or one
            whose sub-environments have gymnasium's ``FrameStackObservation``, below any of SB3's transparent wrappers
        :param observation_space: The agent's observation space
        :return: Frames per observation, or None if its observations are not known to be stacked uint8 images
        """
        return frame_stack_of(env, observation_space)

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

        :param obs: (N, \\*obs_shape) uint8
        :param next_obs: (N, \\*obs_shape) uint8, the terminal observation where an episode ended
        :param action: (N, action_dim) or (N,)
        :param reward: (N,)
        :param done: (N,)
        :param infos: One dictionary per environment; "TimeLimit.truncated" marks timeouts
        :raises ValueError: if the observations have another shape or are not stacked frames
        """
        dones = np.asarray(done, dtype=np.float32).reshape(self.n_envs)
        timeouts = np.zeros(self.n_envs, dtype=np.float32)
        if self.handle_timeout_termination:
            timeouts[:] = [info.get("TimeLimit.truncated", False) for info in infos]
        actions = np.ascontiguousarray(action, dtype=self._maybe_cast_dtype(self.action_space.dtype))
        newest, next_newest = self._writer.add(
            self.layout.split(obs, self.n_envs), self.layout.split(next_obs, self.n_envs), dones != 0
        )
        row = {
            "_newest": newest,
            "_next_newest": next_newest,
            "actions": actions.reshape(self.n_envs, self.action_dim),
            "rewards": np.asarray(reward, dtype=np.float32).reshape(self.n_envs),
            "dones": dones,
            "timeouts": timeouts,
        }
        values = upload(list(row.values()), self.storage_device, pack=not self._writer.pool.host_sync_is_free)
        for name, value in zip(row, values, strict=True):
            getattr(self, name)[self.pos] = value
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full = True
            self.pos = 0

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """
        Draw transitions uniformly, with replacement.

        :param batch_size: Number of transitions B
        :param env: Normalises observations and rewards, if given
        :return: Tensors on ``device``: observations (B, \\*obs_shape) uint8, actions (B, action_dim), next observations,
            dones (B, 1), rewards (B, 1), and for ``n_steps`` > 1 discounts (B, 1)
        :raises ValueError: if nothing has been stored yet
        """
        return self.sample_batches(1, batch_size, env)

    def sample_batches(self, n_batches: int, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """
        The transitions that ``n_batches`` calls of :meth:`sample` in a row would draw, gathered at once.

        :param n_batches: Number of minibatches M
        :param batch_size: Transitions per minibatch B
        :param env: Normalises observations and rewards, if given
        :return: As :meth:`sample`, with M * B transitions, one minibatch after the other
        :raises ValueError: if nothing has been stored yet
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
        """The transitions at ``rows`` (B,) of environments ``envs`` (B,)."""
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
        """Index of the last transition of each return, the return, and the discount after it, (B,) each."""
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
        return last, _sum_of_steps(discounted), self._discounts.index_select(0, n)

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
        super().reset()
        self._writer.reset()

    def truncate_last_trajectory(self) -> None:
        """
        Mark the newest transition of every environment as truncated, unless it is an episode's end: n-step returns stop
        there. For an environment that is going to be reset before the next transition is added.
        """
        if self.size() > 0:
            newest = (self.pos - 1) % self.buffer_size
            self.timeouts[newest] = th.maximum(self.timeouts[newest], (self.dones[newest] == 0).float())


def _sum_of_steps(terms: th.Tensor) -> th.Tensor:
    """(B, n) -> (B,). On the host by numpy, whose order of summation SB3's results have."""
    if terms.device.type == "cpu":
        return th.from_numpy(terms.numpy().sum(axis=1))
    return terms.sum(dim=1)
