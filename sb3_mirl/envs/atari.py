"""Atari at speed: the ALE's C++ vector environment behind Stable-Baselines3's ``VecEnv`` contract."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_mirl.envs.ale import CONTINUE_RNG, ale_seed, at_least, gym_spec, image_shape, make_vector, rom_id, thread_count
from sb3_mirl.envs.shared import SharedAttributesVecEnv

# 60 frames/s: 30 minutes of play in training, the 5 minutes of Mnih et al. (2015) in evaluation
TRAINING_FRAMES = 108_000
EVALUATION_FRAMES = 18_000


class AtariVecEnv(SharedAttributesVecEnv):
    """
    ``n_envs`` copies of one Atari game, stepped by C++ threads.

    Observations are uint8 of shape ``(n_envs, frame_stack, 84, 84)``, oldest frame first, newest last: channel-first
    images, so SB3 adds no transpose. In colour, each frame is its red, green and blue plane, ``(n_envs, 3 * frame_stack, 84,
    84)``, as from SB3's ``VecFrameStack`` and ``VecTransposeImage``. Rewards are float32 ``(n_envs,)``. One *step* is
    ``frame_skip`` emulator frames of 1/60 s; all lengths are in steps.

    The reference is SB3's ``make_atari_env`` + ``VecFrameStack(4)``. What each of them does:

    ==================  =======================================  ==============================================
    ..                  SB3's wrappers                           here
    ==================  =======================================  ==============================================
    start of a game     1..noop_max no-ops; FIRE for one step,   FIRE for one frame, then no-ops: 0..noop_max
                        action 2 for one step                    frames in all (at least the FIRE)
    loss of a life      done; then one no-op step, FIRE, 2       done; the game simply continues
    stack after a done  zeros but for the newest frame           the same, after a life loss as after a reset
    gray scale          of the pooled RGB frames                 ALE's gray palette, then pooled (a few levels)
    episode cap         ``max_num_frames``, no-ops included      ``max_episode_steps`` from the first observation
    ``episode["l"]``    emulator frames                          steps
    ==================  =======================================  ==============================================

    Rewards, lives, dones, returns and truncated observations are otherwise the same for the same actions. On a step that
    ends in game over, both show a frame partly of the step before (which no agent uses).

    ``infos[i]`` always has ``lives`` (0 at game over) and ``TimeLimit.truncated``; at a done also
    ``terminal_observation``; at the end of a whole game (game over or cap, never a life loss) also ``episode``: ``r`` the
    unclipped return of the game, ``l`` its length in steps, ``t`` seconds since construction.
    ``env_is_wrapped(Monitor)`` is therefore true, and ``evaluate_policy`` reports whole unclipped games even on a training
    environment; a ``VecMonitor`` on top would overwrite this record with clipped lives (``monitor_file`` writes the CSV).
    After a done by life loss, the newest frame of the next observation is that of ``terminal_observation``: no frame is
    skipped. Every step returns new arrays.

    Of ``ale_py``'s vector environment, continuous actions and batches of some of the games (``batch_size``) are left out:
    the actions are discrete, and SB3 steps all environments together.

    :param game: "Breakout", "BreakoutNoFrameskip-v4", "ALE/Breakout-v5", "breakout" (see
        :func:`sb3_mirl.envs.ale.rom_id`; the name selects the game and nothing else)
    :param n_envs: number of copies
    :param seed: sub-environment i is seeded by ``seed + i`` at the first ``reset()``, as after ``env.seed(seed)``
    :param training: False gives the evaluation environment: whole games, unclipped rewards, the short cap
    :param episodic_life: report the loss of a life as done (default: ``training``)
    :param clip_reward: give the sign of the reward (default: ``training``)
    :param max_episode_steps: steps after which a game is truncated and reset (default: 108000 frames in training, 18000
        in evaluation, divided by ``frame_skip``; Mnih et al. 2015, https://doi.org/10.1038/nature14236)
    :param noop_max: largest number of frames, uniform in 0..noop_max, that a game runs before the first observation
    :param use_fire_reset: press FIRE for one frame at the start of a game, where the game has that action
    :param frame_skip: emulator frames per step; the last two are max-pooled
    :param frame_stack: frames per observation
    :param grayscale: False gives colour frames
    :param img_height: height of the observations in pixels, at least 36 (what ``CnnPolicy`` needs) and not less than they
        have channels (SB3 takes the smallest axis for the channels); the screen has 210
    :param img_width: their width, likewise; the screen has 160
    :param maxpool: give the pixelwise maximum of the last two emulator frames of a step, not the last one alone
    :param mode: ALE's mode of the game, such as its two-ship or night variant (Machado et al. 2018). The C++ side knows the
        defaults only: other modes and difficulties are played in Python, as fast as with ``num_threads=1``
    :param difficulty: ALE's difficulty switch of the game
    :param repeat_action_probability: sticky actions, per frame (0.25 in Machado et al. 2018,
        https://arxiv.org/abs/1709.06009)
    :param full_action_space: all 18 actions instead of those that have an effect in the game
    :param num_threads: C++ threads (default: one per CPU this process may use, at most ``n_envs``)
    :param thread_affinity_offset: CPU to which the first thread is bound, the others following (default: the system chooses)
    :param monitor_file: path of a ``monitor.csv`` to write a line to at the end of each game, as SB3's ``Monitor`` does
    :raises ValueError: for an unknown game (with the nearest names), a number out of range, or a mode or difficulty that the
        game does not have
    :raises ImportError: on import of this module without ale_py
    """

    action_space: spaces.Discrete
    observation_space: spaces.Box
    metadata: dict[str, Any]
    render_mode = "rgb_array"

    mutable_attributes = ("clip_reward", "episodic_life", "max_episode_steps")
    individual_attributes = ("lives",)
    shared_methods = ("get_action_meanings",)

    def __init__(
        self,
        game: str,
        n_envs: int = 8,
        seed: int | None = None,
        *,
        training: bool = True,
        episodic_life: bool | None = None,
        clip_reward: bool | None = None,
        max_episode_steps: int | None = None,
        noop_max: int = 30,
        use_fire_reset: bool = True,
        frame_skip: int = 4,
        frame_stack: int = 4,
        grayscale: bool = True,
        img_height: int = 84,
        img_width: int = 84,
        maxpool: bool = True,
        mode: int | None = None,
        difficulty: int | None = None,
        repeat_action_probability: float = 0.0,
        full_action_space: bool = False,
        num_threads: int | None = None,
        thread_affinity_offset: int | None = None,
        monitor_file: str | None = None,
    ) -> None:
        self._arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self.game = rom_id(game)
        self.spec = gym_spec(self.game, mode, difficulty)
        self.training = training
        self.episodic_life = training if episodic_life is None else episodic_life
        self.clip_reward = training if clip_reward is None else clip_reward
        n_envs = at_least(1, "n_envs", n_envs)
        self.frame_skip = at_least(1, "frame_skip", frame_skip)
        self.frame_stack = at_least(1, "frame_stack", frame_stack)
        self.num_threads = thread_count(n_envs, num_threads)
        cap = (TRAINING_FRAMES if training else EVALUATION_FRAMES) // self.frame_skip
        self.max_episode_steps = at_least(1, "max_episode_steps", cap if max_episode_steps is None else max_episode_steps)
        if seed is not None:
            at_least(0, "seed", seed)
        self.grayscale, self.mode, self.difficulty = grayscale, mode, difficulty
        shape = image_shape(self.frame_stack, grayscale, img_height, img_width)
        self._planes = shape[0] // self.frame_stack  # channels of a frame
        self._vector: Any = make_vector(
            self.game,
            n_envs,
            noop_max=noop_max,
            mode=mode,
            difficulty=difficulty,
            num_threads=self.num_threads,
            thread_affinity_offset=thread_affinity_offset,
            frame_skip=self.frame_skip,
            stack_num=self.frame_stack,
            grayscale=grayscale,
            img_height=shape[1],
            img_width=shape[2],
            maxpool=maxpool,
            use_fire_reset=use_fire_reset,
            repeat_action_probability=repeat_action_probability,
            full_action_space=full_action_space,
        )
        self._action_meanings: list[str] = [action.name for action in self._vector.get_action_set()]
        super().__init__(n_envs, spaces.Box(0, 255, shape, np.uint8), spaces.Discrete(len(self._action_meanings)))
        self.metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 60 / frame_skip}
        # C++ converts Python lists faster than arrays
        self._reset_ids = list(range(n_envs))
        self._paddle_strengths = [1.0] * n_envs
        self._must_reset = True
        self._step_pending = False
        self._observations = np.zeros((n_envs, *shape), dtype=np.uint8)
        self._lives = np.zeros(n_envs, dtype=np.int32)
        self._returns = np.zeros(n_envs, dtype=np.int64)
        self._lengths = np.zeros(n_envs, dtype=np.int64)
        # per env: how many of the stack's oldest frames show the life before, and are to be zero
        self._stale_frames = np.zeros(n_envs, dtype=np.int64)
        self._start_time = time.time()
        self._monitor: ResultsWriter | None = None
        if monitor_file is not None:
            header: dict[str, float | str] = {"t_start": self._start_time, "env_id": self.spec.id if self.spec else self.game}
            self._monitor = ResultsWriter(monitor_file, header=header)
        # without a seed every env would get the time in seconds as the seed of its sticky actions
        self.seed(int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed)

    def reset(self) -> np.ndarray:
        """
        Start a new game in every sub-environment; a step under way is dropped.

        :return: observations, zeros but for the newest frame
        """
        vector = self._open_vector()
        if self._step_pending:
            self._receive()
        stacks, info = vector.reset(self._reset_ids, [ale_seed(seed) for seed in self._seeds])
        self._observations = self._images(stacks)
        self._must_reset = False
        self._lives = info["lives"]
        self.reset_infos = [{"lives": lives} for lives in self._lives.tolist()]
        for counter in (self._returns, self._lengths, self._stale_frames):
            counter[:] = 0
        self._reset_seeds()
        self._reset_options()
        return self._observations

    def step_async(self, actions: np.ndarray) -> None:
        """
        Hand the actions to the C++ threads and return at once (20 microseconds for 8 envs).

        :param actions: (n_envs,) integers in [0, action_space.n)
        :raises ValueError: for another shape or an action out of range
        :raises TypeError: for actions that are not integers
        :raises RuntimeError: before ``reset()``, after ``close()``, or while another step is under way
        """
        vector = self._open_vector()
        if self._must_reset:
            raise RuntimeError("step() before reset(): call reset() first")
        if self._step_pending:
            raise RuntimeError("step_async() while a step is under way: call step_wait() first")
        vector.send(self._checked(actions).tolist(), self._paddle_strengths)
        self._step_pending = True

    def step_wait(self) -> VecEnvStepReturn:
        """
        Wait for the step begun by :meth:`step_async`; games that ended have been reset.

        :return: observations, rewards (n_envs,) float32, dones (n_envs,) bool and the list of infos (see the class)
        :raises RuntimeError: without a step under way
        """
        if not self._step_pending:
            raise RuntimeError("step_wait() without a step under way: call step_async(actions) first")
        stacks, rewards, game_over, _, info = self._receive()
        observations, lives = self._images(stacks), info["lives"]
        self._returns += rewards
        self._lengths += 1
        self._blank_stale_frames(observations)
        timed_out = (self._lengths >= self.max_episode_steps) & ~game_over
        # lives can be 0 for some frames before the game is over (Qbert); game_over rows already show the next game
        life_lost = (lives < self._lives) & (lives > 0) & ~game_over & self.episodic_life
        dones = game_over | timed_out | life_lost
        infos: list[dict[str, Any]] = [{"lives": n, "TimeLimit.truncated": False} for n in lives.tolist()]
        for i in np.flatnonzero(dones).tolist():
            terminal_observation = self._images(info["final_obs"][i]) if game_over[i] else observations[i]
            terminal_observation = terminal_observation.copy()
            terminal_observation[: self._stale_frames[i] * self._planes] = 0
            infos[i]["terminal_observation"] = terminal_observation
            infos[i]["TimeLimit.truncated"] = bool(timed_out[i] and not life_lost[i])
            if game_over[i]:
                infos[i]["lives"] = 0
            if game_over[i] or timed_out[i]:
                infos[i]["episode"] = self._end_episode(i)
            else:
                observations[i, : -self._planes] = 0
                self._stale_frames[i] = self.frame_stack - 1
        if timed_out.any():
            late = np.flatnonzero(timed_out)
            fresh, info = self._open_vector().reset(late.tolist(), [CONTINUE_RNG] * len(late))
            observations[late], lives[late] = self._images(fresh[late]), info["lives"][late]
        for i in np.flatnonzero(dones).tolist():
            self.reset_infos[i] = {"lives": int(lives[i])}
        self._lives = lives
        self._observations = observations
        rewards = np.sign(rewards) if self.clip_reward else rewards
        return observations, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """End the C++ threads and close the monitor file; further calls do nothing."""
        # the destructor joins the threads, a step under way included
        self._vector = None
        self._step_pending = False
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None

    @property
    def lives(self) -> list[int]:
        """Lives left in each sub-environment's game, 0 throughout in games without lives."""
        return self._lives.tolist()

    def get_action_meanings(self) -> list[str]:
        """Return ALE's name of each action, for example ``["NOOP", "FIRE", "RIGHT", "LEFT"]``."""
        return list(self._action_meanings)

    def get_images(self) -> Sequence[np.ndarray | None]:
        """
        Return the newest frame of each sub-environment as the agent sees it: (img_height, img_width, 3) uint8.

        Without colour, its three channels are equal. For the game's whole screen play the model in
        ``gymnasium.make(env.spec, render_mode="rgb_array")`` under SB3's ``AtariWrapper``.
        """
        newest = self._observations[:, -self._planes :].transpose(0, 2, 3, 1)
        return list(np.broadcast_to(newest, (*newest.shape[:3], 3)).copy())

    def __reduce__(self) -> tuple[Any, ...]:
        # the emulators' state stays in C++: a copy is a new environment, and must not truncate the monitor file
        return partial(AtariVecEnv, **{**self._arguments, "monitor_file": None}), ()

    def _images(self, stacks: np.ndarray) -> np.ndarray:
        """Return frames as channels: (..., K, H, W) as they are, (..., K, H, W, 3) as (..., 3 K, H, W)."""
        if self.grayscale:
            return stacks
        planes = np.ascontiguousarray(np.moveaxis(stacks, -1, -3))  # (..., K, 3, H, W)
        return planes.reshape(*stacks.shape[:-4], *self.observation_space.shape)

    def _open_vector(self) -> Any:
        if self._vector is None:
            raise RuntimeError("This AtariVecEnv is closed: create a new one")
        return self._vector

    def _receive(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        self._step_pending = False
        return self._open_vector().recv()

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        # an exception in a C++ worker leaves recv() waiting for ever
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,):
            raise ValueError(f"actions must have shape ({self.num_envs},), one per sub-environment, got {actions.shape}")
        if actions.dtype.kind not in "iu":
            raise TypeError(f"actions must be integers, got dtype {actions.dtype}")
        n_actions = len(self._action_meanings)
        if actions.min() < 0 or actions.max() >= n_actions:
            raise ValueError(f"actions must lie in [0, {n_actions}), got {actions.tolist()}")
        return actions

    def _blank_stale_frames(self, observations: np.ndarray) -> None:
        if self._stale_frames.any():
            np.maximum(self._stale_frames - 1, 0, out=self._stale_frames)
            for i in np.flatnonzero(self._stale_frames):
                observations[i, : self._stale_frames[i] * self._planes] = 0

    def _end_episode(self, i: int) -> dict[str, float]:
        seconds = round(time.time() - self._start_time, 6)
        episode = {"r": float(self._returns[i]), "l": int(self._lengths[i]), "t": seconds}
        if self._monitor is not None:
            self._monitor.write_row(episode)
        self._returns[i] = self._lengths[i] = self._stale_frames[i] = 0
        return episode
