"""FrameReplayBuffer against SB3's buffers, which store both observations of every transition."""

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer, RolloutBuffer
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_mirl import MIRL
from sb3_mirl.replay import FrameReplayBuffer, describe, rows_of
from sb3_mirl.replay.layout import FrameLayout
from sb3_mirl.replay.pool import FramePool, upload
from tests.conftest import OnTheDeviceOnly

K = 4
SPACE = spaces.Box(0, 255, (K, 4, 6), np.uint8)  # 24 bytes per frame: compared in words
ODD_SPACE = spaces.Box(0, 255, (K, 5, 5), np.uint8)  # 25 bytes: compared in bytes
LAST_SPACE = spaces.Box(0, 255, (10, 8, 2 * 3), np.uint8)  # two RGB frames, channels last
ACTIONS = spaces.Discrete(5)
EVENTS = ["go on", "terminate", "truncate", "lose life", "lose life, empty stack", "reset unseen", "jump unseen"]


class Stream:
    """
    Transitions of N environments, as SB3's collection hands them to a replay buffer.

    :param space: Channels-first or channels-last image space of ``stack`` frames
    :param n_envs: Number of environments
    :param seed: Seed of frames, actions and rewards
    :param n_colours: Different frames there are: few, so that frames repeat, one of them black
    :param reset_padding: What a reset puts before the first frame: "zeros", its "copies" or "other" frames
    """

    def __init__(self, space=SPACE, n_envs=1, seed=0, n_colours=3, reset_padding="zeros", stack=K):
        self.rng = np.random.default_rng(seed)
        self.space, self.n_envs, self.stack = space, n_envs, stack
        self.channels_first = space.shape[0] < space.shape[-1]
        frame_shape = list(space.shape)
        frame_shape[0 if self.channels_first else -1] //= stack
        self.palette = self.rng.integers(0, 256, (n_colours, *frame_shape), dtype=np.uint8)
        self.palette[0] = 0
        self.reset_padding = reset_padding
        self.stacks = [self.reset() for _ in range(n_envs)]  # a list of frames for each environment

    def frame(self):
        return self.palette[self.rng.integers(len(self.palette))]

    def reset(self):
        first = self.frame()
        padding = {"zeros": lambda: 0 * first, "copies": lambda: first, "other": self.frame}[self.reset_padding]
        return [padding() for _ in range(self.stack - 1)] + [first]

    def observations(self, stacks):
        return np.stack([np.concatenate(frames, axis=0 if self.channels_first else -1) for frames in stacks])

    def step(self, events):
        """
        :param events: One of EVENTS per environment
        :return: arguments for ``add``
        """
        obs = self.observations(self.stacks)
        next_stacks = [[*frames[1:], self.frame()] for frames in self.stacks]
        next_obs = self.observations(next_stacks)  # the terminal observation included
        done = np.array([event in EVENTS[1:5] for event in events])
        for env, event in enumerate(events):
            if event in ("terminate", "truncate", "reset unseen"):
                next_stacks[env] = self.reset()
            elif event == "lose life, empty stack":
                next_stacks[env] = [0 * self.palette[0]] * (self.stack - 1) + [next_stacks[env][-1]]
            elif event == "jump unseen":
                next_stacks[env] = [self.frame() for _ in range(self.stack)]
        self.stacks = next_stacks
        infos = [{"TimeLimit.truncated": True} if event == "truncate" else {} for event in events]
        actions = self.rng.integers(ACTIONS.n, size=self.n_envs)
        rewards = self.rng.normal(size=self.n_envs)
        return obs, next_obs, actions, rewards, done, infos

    def random_events(self, p_event=0.2):
        return [str(self.rng.choice(EVENTS[1:])) if self.rng.random() < p_event else "go on" for _ in range(self.n_envs)]


def both(buffer_size, n_envs=1, space=SPACE, n_steps=1, handle_timeout_termination=True, **kwargs):
    """Our buffer and SB3's for the same arguments."""
    common: dict[str, Any] = dict(device="cpu", n_envs=n_envs, handle_timeout_termination=handle_timeout_termination)
    ours = FrameReplayBuffer(buffer_size, space, ACTIONS, n_steps=n_steps, gamma=0.97, **common, **kwargs)
    if n_steps == 1:
        return ours, ReplayBuffer(buffer_size, space, ACTIONS, **common)
    return ours, NStepReplayBuffer(buffer_size, space, ACTIONS, n_steps=n_steps, gamma=0.97, **common)


def assert_equal_samples(ours, theirs):
    for name, mine, reference in zip(theirs._fields, ours, theirs, strict=True):
        if reference is None:
            assert mine is None
            continue
        assert mine.dtype == reference.dtype, name
        assert mine.shape == reference.shape, name
        assert mine.device == reference.device, name
        assert mine.numpy().tobytes() == reference.numpy().tobytes(), name


def assert_same_contents(ours, theirs, env=None):
    """Every stored transition, in every environment, is the same."""
    assert (ours.size(), ours.pos, ours.full) == (theirs.size(), theirs.pos, theirs.full)
    # each row often enough to meet every environment
    rows = np.tile(np.arange(theirs.size()), 8 * theirs.n_envs)
    np.random.seed(0)
    reference = theirs._get_samples(rows, env=env)
    np.random.seed(0)
    assert_equal_samples(ours._get_samples(rows, env=env), reference)


@st.composite
def events_of_steps(draw):
    """(steps, N) events; lengths drawn apart, as hypothesis's own lists are mostly short."""
    n_envs, n_steps = draw(st.integers(1, 3)), draw(st.integers(1, 80))
    row = st.lists(st.sampled_from(EVENTS[:1] * 8 + EVENTS[1:]), min_size=n_envs, max_size=n_envs)
    return draw(st.lists(row, min_size=n_steps, max_size=n_steps))


@settings(max_examples=120, deadline=None)
@given(
    events=events_of_steps(),
    rows=st.integers(1, 12),
    n_steps=st.sampled_from([1, 1, 2, 3, 9]),
    n_colours=st.sampled_from([1, 2, 3, 200]),
    reset_padding=st.sampled_from(["zeros", "copies", "other"]),
    seed=st.integers(0, 99),
    on_host=st.booleans(),
    handle_timeouts=st.booleans(),
)
def test_same_as_sb3_on_any_stream(events, rows, n_steps, n_colours, reset_padding, seed, on_host, handle_timeouts):
    n_envs = len(events[0])
    ours, theirs = both(rows * n_envs, n_envs, n_steps=n_steps, handle_timeout_termination=handle_timeouts)
    ours._writer.pool.host_sync_is_free = on_host
    stream = Stream(n_envs=n_envs, seed=seed, n_colours=n_colours, reset_padding=reset_padding)
    for step, row in enumerate(events):
        transition = stream.step(row)
        ours.add(*transition)
        theirs.add(*transition)
        if step % 7 == 0 or step == len(events) - 1:
            assert_same_contents(ours, theirs)


@pytest.mark.parametrize(
    ("space", "kwargs"),
    [
        (ODD_SPACE, {"frame_stack": 4}),
        (LAST_SPACE, {"frame_stack": 2}),
        (spaces.Box(0, 255, (2, 6, 3), np.uint8), {"frame_stack": 2, "channels_order": "first"}),
        (spaces.Box(0, 255, (1, 6, 8), np.uint8), {"frame_stack": 1}),
        (spaces.Box(0, 255, (6, 10, 8), np.uint8), {"frame_stack": 2}),
    ],
    ids=["odd frame size", "channels last, RGB", "channels order given", "one frame", "RGB"],
)
def test_layouts(space, kwargs):
    ours, theirs = both(30, n_envs=2, space=space, **kwargs)
    stream = Stream(space, n_envs=2, n_colours=50, stack=kwargs["frame_stack"])
    for _ in range(50):
        transition = stream.step(stream.random_events())
        ours.add(*transition)
        theirs.add(*transition)
    assert_same_contents(ours, theirs)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_same_seed_draws_same_batches_as_sb3(n_steps):
    ours, theirs = both(60, n_envs=3, n_steps=n_steps)
    stream = Stream(n_envs=3, n_colours=200)
    for step in range(45):
        transition = stream.step(stream.random_events())
        ours.add(*transition)
        theirs.add(*transition)
        np.random.seed(step)
        reference = [theirs.sample(7) for _ in range(3)]
        np.random.seed(step)
        assert_equal_samples(ours.sample(7), reference[0])
        np.random.seed(step)
        together = ours.sample_batches(3, 7)
        for i, batch in enumerate(reference):
            assert_equal_samples(type(batch)(*(None if x is None else x[7 * i : 7 * i + 7] for x in together)), batch)


def test_device_path_draws_from_all_and_only_stored_transitions():
    ours, theirs = both(20, n_envs=2)
    ours._writer.pool.host_sync_is_free = False
    stream = Stream(n_envs=2, n_colours=1000)
    for _ in range(7):
        transition = stream.step(["go on"] * 2)
        ours.add(*transition)
        theirs.add(*transition)
    rewards = ours.sample(1000).rewards.unique()
    assert np.array_equal(rewards.numpy(), np.unique(theirs.rewards[:7]))


@pytest.mark.parametrize("n_steps", [1, 3])
def test_sampling_on_the_device_asks_nothing_of_the_host(n_steps):
    buffer = FrameReplayBuffer(400, SPACE, ACTIONS, "meta", n_envs=2, storage_device="meta", n_steps=n_steps)
    stream = Stream(n_envs=2, n_colours=200)
    for events, grown in (("go on", False), ("terminate", True)):  # episodes of one step need more frames than there are
        for _ in range(300):
            buffer.add(*stream.step([events] * 2))
        assert (buffer._writer.pool.extra is not None) == grown
        with OnTheDeviceOnly():
            batch = buffer.sample_batches(3, 8)
        assert batch.observations.is_meta and batch.observations.shape == (24, *SPACE.shape)


def test_samples_own_their_memory():
    ours, theirs = both(10)
    stream = Stream(n_colours=200)
    for _ in range(10):
        transition = stream.step(["go on"])
        ours.add(*transition)
        theirs.add(*transition)
    batch = ours.sample(20)
    before = batch.next_observations.clone()
    batch.observations.zero_()
    assert th.equal(batch.next_observations, before)
    assert_same_contents(ours, theirs)


def test_arrays_may_be_reused_by_the_caller():
    """A reset written over the terminal observation must not be taken for it."""
    ours, theirs = both(10)
    stream = Stream(n_colours=200)
    obs, next_obs = np.zeros((2, 1, *SPACE.shape), dtype=np.uint8)
    for step in range(15):
        transition = stream.step(["terminate" if step % 4 == 0 else "go on"])
        obs[:], next_obs[:] = transition[:2]
        ours.add(obs, next_obs, *transition[2:])
        theirs.add(obs, next_obs, *transition[2:])
        obs, next_obs = next_obs, obs
        obs[:] = stream.observations(stream.stacks)
    assert_same_contents(ours, theirs)


class TestMemory:
    def test_a_million_transitions(self):
        resident = _resident_bytes()
        buffer = FrameReplayBuffer(1_000_000, spaces.Box(0, 255, (4, 84, 84), np.uint8), ACTIONS, n_envs=8)
        assert buffer.buffer_size == 125_000
        assert buffer.nbytes <= 7.2e9
        assert _resident_bytes() - resident < 100e6, "allocating must not touch the pages"

    def test_nbytes_counts_everything(self):
        buffer = FrameReplayBuffer(100, SPACE, ACTIONS)
        pool, writer = buffer._writer.pool, buffer._writer
        owners = (vars(buffer), vars(writer), vars(pool))
        values = [value for owner in owners for value in owner.values()]
        arrays = [value for value in values if isinstance(value, np.ndarray | th.Tensor)]
        assert abs(buffer.nbytes - sum(array.nbytes for array in arrays)) < 100

    def test_long_episodes_need_no_growth(self):
        buffer = FrameReplayBuffer(800, SPACE, ACTIONS, n_envs=2)
        before = buffer.nbytes
        stream = Stream(n_envs=2, n_colours=200)
        for step in range(2000):
            buffer.add(*stream.step(["terminate" if step % 100 == 99 else "go on"] * 2))
        assert buffer.nbytes == before

    def test_short_episodes_grow_it_no_more_than_their_starts(self):
        ours, theirs = both(400)
        first = len(ours._writer.pool.frames)
        stream = Stream(n_colours=200)
        for _ in range(2000):
            transition = stream.step(["terminate"])
            ours.add(*transition)
            theirs.add(*transition)
        assert ours._writer.pool.extra is not None
        frames = first + len(ours._writer.pool.extra)
        assert 800 < frames < 860
        assert_same_contents(ours, theirs)
        ours.reset()
        assert ours._writer.pool.extra is None
        theirs.reset()
        transition = stream.step(["go on"])
        ours.add(*transition)
        theirs.add(*transition)
        assert_same_contents(ours, theirs)


def _resident_bytes():
    psutil = pytest.importorskip("psutil")
    return psutil.Process().memory_info().rss


class TestState:
    @pytest.mark.parametrize("n_added", [0, 9, 20, 73])
    @pytest.mark.parametrize("p_event", [0.02, 0.9])
    def test_pickle_goes_on_alike(self, n_added, p_event):
        ours, theirs = both(40, n_envs=2, n_steps=2)
        stream = Stream(n_envs=2, n_colours=200)
        for _ in range(n_added):
            transition = stream.step(stream.random_events(p_event))
            ours.add(*transition)
            theirs.add(*transition)
        loaded = pickle.loads(pickle.dumps(ours))
        assert loaded.nbytes == ours.nbytes
        for _ in range(60):
            if theirs.size():
                assert_same_contents(loaded, theirs)
            transition = stream.step(stream.random_events(p_event))
            loaded.add(*transition)
            theirs.add(*transition)

    def test_loaded_stream_is_continued_without_a_break(self):
        buffer = FrameReplayBuffer(40, SPACE, ACTIONS)
        stream = Stream(n_colours=200)
        buffer.add(*stream.step(["go on"]))
        loaded = pickle.loads(pickle.dumps(buffer))
        live = loaded._writer.pool.live
        loaded.add(*stream.step(["go on"]))
        assert loaded._writer.pool.live == live + 1

    def test_only_the_filled_part_is_written(self):
        space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
        buffer = FrameReplayBuffer(1000, space, ACTIONS)
        stream = Stream(space)
        for _ in range(10):
            buffer.add(*stream.step(["go on"]))
        # ten frames, the reset's, the newest stack
        assert len(pickle.dumps(buffer)) - len(pickle.dumps(space)) < 17 * 84 * 84

    def test_through_sb3(self, tmp_path):
        def make():
            env = FakeImageEnv(n_channels=1, screen_height=36, screen_width=36)
            env.observation_space.seed(0)
            return env

        def learn(**kwargs):
            env = VecFrameStack(DummyVecEnv([make, make]), 4)
            policy_kwargs = dict(features_extractor_kwargs=dict(features_dim=8))
            model = DQN("CnnPolicy", env, buffer_size=200, learning_starts=10, policy_kwargs=policy_kwargs, seed=0, **kwargs)
            return model.learn(60).learn(60)  # the second call resets the environments without a done

        model, reference = learn(replay_buffer_class=FrameReplayBuffer), learn()
        assert isinstance(model.replay_buffer, FrameReplayBuffer)
        for ours, theirs in zip(model.policy.parameters(), reference.policy.parameters(), strict=True):
            assert th.equal(ours, theirs)
        model.save_replay_buffer(tmp_path / "buffer")
        model.replay_buffer = None
        model.load_replay_buffer(tmp_path / "buffer")
        assert_same_contents(model.replay_buffer, reference.replay_buffer)

    def test_reset_and_extend(self):
        ours, theirs = both(10)
        stream = Stream(n_colours=200)
        for _ in range(7):
            ours.add(*stream.step(["go on"]))
        ours.reset()
        assert ours.size() == 0
        steps = [stream.step(stream.random_events()) for _ in range(13)]
        ours.extend(*zip(*steps, strict=True))
        theirs.extend(*zip(*steps, strict=True))
        assert_same_contents(ours, theirs)

    def test_truncated_trajectory_ends_returns(self):
        ours, theirs = both(20, n_envs=2, n_steps=5)
        stream = Stream(n_envs=2, n_colours=200)
        for buffer_row in range(6):
            transition = stream.step(["terminate" if buffer_row == 3 else "go on", "go on"])
            ours.add(*transition)
            theirs.add(*transition)
            if buffer_row == 3:
                ours.truncate_last_trajectory()
                theirs.timeouts[3, 1] = True
        assert_same_contents(ours, theirs)
        empty = FrameReplayBuffer(20, SPACE, ACTIONS)
        empty.truncate_last_trajectory()
        assert not empty.timeouts.any()


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("norm_obs", [True, False])
def test_vec_normalize(n_steps, norm_obs):
    env = VecFrameStack(DummyVecEnv([lambda: FakeImageEnv(screen_height=6, screen_width=8, n_channels=1)]), K)
    normalize = VecNormalize(VecTransposeImage(env), norm_obs=norm_obs)
    normalize.reset()
    for _ in range(20):
        normalize.step([0])
    space = spaces.Box(0, 255, (K, 6, 8), np.uint8)
    ours, theirs = both(20, space=space, n_steps=n_steps)
    stream = Stream(space, n_colours=200)
    for _ in range(30):
        transition = stream.step(stream.random_events())
        ours.add(*transition)
        theirs.add(*transition)
    assert_same_contents(ours, theirs, env=normalize)
    assert (ours.sample(5, env=normalize).observations.dtype == th.float32) == norm_obs


class TestErrors:
    @pytest.mark.parametrize(
        ("space", "kwargs", "message"),
        [
            (spaces.Box(-1, 1, (4, 84, 84), np.float32), {}, "uint8"),
            (spaces.Box(0, 255, (84, 84), np.uint8), {}, "3-D Box"),
            (spaces.Discrete(3), {}, "stacked images"),
            (spaces.Dict(a=SPACE), {}, "stacked images"),
            (spaces.Box(0, 255, (3, 84, 84), np.uint8), {}, "3 channels"),
            (spaces.Box(0, 255, (84, 84, 4), np.uint8), {"channels_order": "up"}, "'up'"),
            (SPACE, {"frame_stack": 0}, "0 frames"),
            (SPACE, {"n_steps": 0}, "n_steps"),
        ],
    )
    def test_constructor(self, space, kwargs, message):
        with pytest.raises(ValueError, match=message):
            FrameReplayBuffer(10, space, ACTIONS, **kwargs)

    @pytest.mark.parametrize("frame", [0, 1, 2])
    @pytest.mark.parametrize("good_steps", [0, 1, 30])
    def test_observations_that_are_not_stacked(self, good_steps, frame):
        ours, theirs = both(20, n_envs=2)
        stream = Stream(n_envs=2, n_colours=200)
        for _ in range(good_steps):
            transition = stream.step(stream.random_events())
            ours.add(*transition)
            theirs.add(*transition)
        obs, next_obs, *rest = stream.step(["go on"] * 2)
        next_obs[1, frame, 0, 0] ^= 1
        with pytest.raises(ValueError, match=r"not stacks of 4 frames: in environments \[1\]"):
            ours.add(obs, next_obs, *rest)
        if good_steps:  # nothing of the refused transition remains
            assert_same_contents(ours, theirs)

    @pytest.mark.parametrize(
        ("following", "advice"),
        [
            ([1, 2, 3, 4], "return a new array from every step"),
            ([5, 1, 2, 3], "stack frames with the newest last"),
            ([3, 4, 5, 6], "They are 2 frames apart: skip frames below the frame stack"),
            ([4, 5, 6, 7], "They are 3 frames apart"),
            ([0, 0, 0, 5], "report done where a game or a life ends"),
            ([5, 5, 5, 5], "report done where a game or a life ends"),
            ([2, 3, 9, 5], "no wrapper above the frame stack"),
        ],
    )
    def test_advice_fits_the_cause(self, following, advice):
        buffer = FrameReplayBuffer(20, SPACE, ACTIONS)
        stacks = np.array([[1, 2, 3, 4], following], dtype=np.uint8)
        obs, next_obs = stacks.reshape(2, 1, K, 1, 1) * np.ones(SPACE.shape, np.uint8)
        with pytest.raises(ValueError, match=f"not stacks of 4 frames: in environments .0. .*{advice}"):
            buffer.add(obs, next_obs, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
        buffer.add(obs, next_obs, np.zeros(1), np.zeros(1), np.ones(1), [{}])

    def test_missing_terminal_observation_is_stored_as_given(self):
        """A vector environment without ``terminal_observation``: SB3 stores the reset observation."""
        ours, theirs = both(6)
        stream = Stream(n_colours=200)
        for step in range(20):
            obs, next_obs, *rest = stream.step(["terminate" if step % 3 == 2 else "go on"])
            if step % 3 == 2:
                next_obs = stream.observations(stream.stacks)
            ours.add(obs, next_obs, *rest)
            theirs.add(obs, next_obs, *rest)
        assert_same_contents(ours, theirs)

    def test_empty(self):
        with pytest.raises(ValueError, match="empty replay buffer"):
            FrameReplayBuffer(20, SPACE, ACTIONS).sample(3)

    def test_optimize_memory_usage_changes_nothing(self):
        buffer = FrameReplayBuffer(20, SPACE, ACTIONS, optimize_memory_usage=True)
        assert buffer.handle_timeout_termination
        assert not buffer.optimize_memory_usage
        assert buffer.nbytes == FrameReplayBuffer(20, SPACE, ACTIONS).nbytes


class TestShapes:
    """Arrays of the right size, but of another shape, are refused, and nothing of their transition remains."""

    N = 2

    @pytest.fixture
    def filled(self):
        ours, theirs = both(20, n_envs=self.N)
        stream = Stream(n_envs=self.N, n_colours=200)
        for _ in range(5):
            transition = stream.step(["go on"] * self.N)
            ours.add(*transition)
            theirs.add(*transition)
        return ours, theirs, stream

    @pytest.mark.parametrize(
        ("position", "change", "message"),
        [
            (0, lambda x: x.reshape(2, 4, 6, 4), r"expected observations of shape \(2, 4, 4, 6\), got \(2, 4, 6, 4\): a w"),
            (1, lambda x: x.reshape(2, 4, 6, 4), r"expected next observations of shape \(2, 4, 4, 6\), got \(2, 4, 6, 4\): a"),
            (0, lambda x: x.reshape(1, 8, 4, 6), r"got \(1, 8, 4, 6\)$"),
            (0, lambda x: x.reshape(2, 96), r"got \(2, 96\)$"),
            (0, lambda x: x[0], r"got \(4, 4, 6\)$"),
            (1, lambda x: x[:1], r"got \(1, 4, 4, 6\)$"),
            (0, lambda x: x / np.float32(255), r"expected observations of dtype uint8, got float32 .*: leave images unscaled"),
            (1, lambda x: x.astype(int) - 300, "expected next observations of dtype uint8, got int64 with values from -"),
            (2, lambda x: x.reshape(1, 2), r"expected actions of shape \(2,\), got \(1, 2\)"),
            (2, lambda x: x[:1], r"expected actions of shape \(2,\), got \(1,\)"),
            (3, lambda x: x.reshape(2, 1), r"expected rewards of shape \(2,\), got \(2, 1\)"),
            (3, lambda x: x[0], r"expected rewards of shape \(2,\), got \(\)"),
            (4, lambda x: x.reshape(1, 2), r"expected dones of shape \(2,\), got \(1, 2\)"),
            (5, lambda x: x[:1], "expected infos of 2 environments, got 1"),
        ],
    )  # fmt: skip
    def test_add(self, filled, position, change, message):
        ours, theirs, stream = filled
        transition = list(stream.step(["go on"] * self.N))
        transition[position] = change(transition[position])
        with pytest.raises(ValueError, match=message):
            ours.add(*transition)
        assert_same_contents(ours, theirs)

    def test_terminal_observation(self, filled):
        ours, theirs, stream = filled
        obs, next_obs, actions, rewards, done, infos = stream.step(["terminate", "go on"])
        for bad in (next_obs[0].reshape(4, 6, 4), next_obs[0, -1]):
            infos = [{"terminal_observation": bad}, {"terminal_observation": None}]
            with pytest.raises(ValueError, match=r"expected terminal observations of shape \(4, 4, 6\), got \(4, 6"):
                ours.add(obs, next_obs, actions, rewards, done, infos)
        assert_same_contents(ours, theirs)
        infos = [{"terminal_observation": next_obs[0]}, {"terminal_observation": 0}]  # the second one did not end
        for buffer in (ours, theirs):
            buffer.add(obs, next_obs, actions, rewards, done, infos)
        assert_same_contents(ours, theirs)

    def test_square_images(self):
        """The usual sizes, channels last at the end of an episode, where no check of the stacks sees them."""
        space = spaces.Box(0, 255, (4, 36, 36), np.uint8)
        obs = np.arange(4 * 36 * 36).astype(np.uint8).reshape(1, 36, 36, 4)
        memory = FrameReplayBuffer(10, space, spaces.Discrete(2), "cpu")
        with pytest.raises(ValueError, match=r"of shape \(1, 4, 36, 36\), got \(1, 36, 36, 4\): .*VecNormalize\(VecTransp"):
            memory.add(obs, obs, np.array([0]), np.array([0.0]), np.array([True]), [{}])

    def test_shapes_that_sb3_takes(self):
        """One environment without its axis; whole numbers of other types; actions in both shapes, and of several numbers."""
        box = spaces.Box(-1, 1, (2, 3), np.float32)
        for actions in (ACTIONS, box):
            ours = FrameReplayBuffer(20, SPACE, actions, "cpu")
            theirs = ReplayBuffer(20, SPACE, actions, "cpu")
            stream = Stream(n_colours=200)
            for squeeze, events in ((False, "go on"), (True, "go on"), (True, "terminate"), (False, "truncate")):
                obs, next_obs, action, reward, done, infos = stream.step([events])
                if actions is box:
                    action = stream.rng.normal(size=(1, 6) if squeeze else (1, 2, 3))
                elif squeeze:
                    action = action.reshape(1, 1)
                transition = [obs.astype(np.int64), next_obs, action, reward, done]
                if squeeze:
                    transition = [value[0] for value in transition[:2]] + [action, reward[0], done[0]]
                for buffer in (ours, theirs):
                    buffer.add(*transition, infos)
            assert_same_contents(ours, theirs)

    def test_normalisation_of_another_environment(self):
        ours, _ = both(20, space=SPACE)
        ours.add(*Stream().step(["go on"]))
        images = DummyVecEnv([lambda: FakeImageEnv(screen_height=4, screen_width=6, n_channels=1)])
        other = VecNormalize(VecFrameStack(images, K))
        with pytest.raises(ValueError, match=r"shape \(4, 6, 4\), but those stored have shape \(4, 4, 6\): pass the VecNorm"):
            ours.sample(3, env=other)
        other.norm_obs = False  # rewards alone have no shape
        assert ours.sample(3, env=other).observations.shape == (3, *SPACE.shape)

    @pytest.mark.parametrize("kwargs", [{"n_envs": 1}, {"buffer_size": 42}, {"space": ODD_SPACE}, {"frame_stack": 2}])
    def test_saved_rows_of_another_memory(self, filled, kwargs):
        rows = rows_of(filled[0])
        other = rows_of(both(**{"buffer_size": 20, "n_envs": self.N, **kwargs})[0])
        with pytest.raises(ValueError, match=r"expected (rows|stacks) of shape \(.*\), got \("):
            other.set_position(rows.get_position())

    @pytest.mark.parametrize("frames", [True, False])
    def test_saved_columns_of_another_shape(self, filled, frames):
        buffer = filled[0 if frames else 1]
        arrays = rows_of(buffer).read_rows(0, 5)
        for name, wrong in (("rewards", arrays["rewards"][:, :1]), ("actions", arrays["actions"][0])):
            with pytest.raises(ValueError, match=rf"expected saved {name} of shape \(5, 2.*got \("):
                rows_of(buffer).write_rows({**arrays, name: wrong})

    def test_images_that_a_wrapper_keeps_untransposed(self):
        """VecNormalize between the frame stack and SB3's transposition."""
        env = VecFrameStack(DummyVecEnv([lambda: FakeImageEnv(screen_height=36, screen_width=36, n_channels=1)]), K)
        arguments = dict(learning_starts=100, buffer_size=100, device="cpu")
        model = MIRL("CnnPolicy", VecNormalize(env, norm_obs=False), **arguments)
        assert isinstance(model.replay_buffer, FrameReplayBuffer)
        with pytest.raises(ValueError, match=r"got \(1, 36, 36, 4\): a wrapper between the frame stack and the agent"):
            model.learn(20)
        advised = VecNormalize(VecTransposeImage(env), norm_obs=False)
        assert MIRL("CnnPolicy", advised, **arguments).learn(20).replay_buffer.size() == 20


class TestDescribe:
    """Everything that changes the algorithm, or breaks later, differs; nothing else does."""

    @staticmethod
    def make(cls=FrameReplayBuffer, space=SPACE, rows=20, n_envs=1, actions=ACTIONS, **kwargs):
        return cls(rows * n_envs, space, actions, "cpu", n_envs=n_envs, **kwargs)

    @pytest.mark.parametrize(
        ("changed", "names"),
        [
            ({"rows": 30}, {"rows"}),
            ({"n_envs": 3}, {"environments"}),
            ({"actions": spaces.Discrete(4)}, {"action_space"}),
            ({"space": spaces.Box(0, 254, SPACE.shape, np.uint8)}, {"observation_space"}),
            ({"n_steps": 3, "gamma": 0.99}, {"n_steps", "gamma"}),
            ({"frame_stack": 2}, {"frame_stack"}),
            ({"space": spaces.Box(0, 255, (6, 6, 4), np.uint8)}, {"observation_space", "channels"}),
            ({"handle_timeout_termination": False}, {"handle_timeout_termination"}),
            ({"gamma": 0.5}, set()),
            ({"storage_device": "meta"}, set()),
            ({"cls": ReplayBuffer}, {"class", "frame_stack", "channels"}),
        ],
    )
    def test_frames(self, changed, names):
        assert self.differences(self.make(), self.make(**changed)) == names

    @staticmethod
    def differences(first, second):
        first, second = describe(first), describe(second)
        return {name for name in first | second if first.get(name) != second.get(name)}

    def test_n_steps(self):
        three = dict(n_steps=3, gamma=0.9)
        assert describe(self.make(**three))["gamma"] == 0.9
        for cls in (FrameReplayBuffer, NStepReplayBuffer):
            assert self.differences(self.make(cls, **three), self.make(cls, n_steps=3, gamma=0.5)) == {"gamma"}
        frames_only = self.differences(self.make(**three), self.make(NStepReplayBuffer, **three))
        assert frames_only == {"class", "frame_stack", "channels"}

    def test_contents_make_no_difference(self):
        for cls in (FrameReplayBuffer, ReplayBuffer):
            empty, filled = self.make(cls), self.make(cls)
            for transition in [Stream().step(["go on"]) for _ in range(30)]:
                filled.add(*transition)
            assert describe(empty) == describe(filled) == describe(pickle.loads(pickle.dumps(filled)))

    def test_other_buffers(self):
        goals = spaces.Dict({name: spaces.Box(-1, 1, (2,)) for name in ("observation", "achieved_goal", "desired_goal")})
        assert describe(self.make(DictReplayBuffer, goals))["observation_space"] == goals
        lean = self.make(ReplayBuffer, optimize_memory_usage=True, handle_timeout_termination=False)
        assert self.differences(lean, self.make(ReplayBuffer, handle_timeout_termination=False)) == {"optimize_memory_usage"}

        def her(**kwargs):
            return HerReplayBuffer(20, goals, ACTIONS, None, "cpu", **kwargs)

        assert self.differences(her(), her(n_sampled_goal=2)) == {"n_sampled_goal"}
        assert self.differences(her(), her(goal_selection_strategy="final")) == {"goal_selection_strategy"}
        assert self.differences(her(), her(copy_info_dict=True)) == {"copy_info_dict"}
        assert self.differences(her(), self.make(DictReplayBuffer, goals)) >= {"class", "n_sampled_goal"}
        rollout = RolloutBuffer(8, goals["observation"], ACTIONS, "cpu", gamma=0.9, gae_lambda=0.8)
        assert (describe(rollout)["gamma"], describe(rollout)["gae_lambda"]) == (0.9, 0.8)

    def test_a_model_states_the_same(self):
        """What there is to compare with when a memory is loaded: the memory that the model made."""
        env = VecFrameStack(DummyVecEnv([TestFrameStackOf.image_env] * 2), K)
        model = MIRL("CnnPolicy", env, buffer_size=100, n_steps=2, gamma=0.9, device="cpu")
        found = describe(model.replay_buffer)
        assert found == {
            "class": "FrameReplayBuffer",
            "rows": 50,
            "environments": 2,
            "observation_space": model.observation_space,
            "action_space": model.action_space,
            "n_steps": 2,
            "gamma": 0.9,
            "optimize_memory_usage": False,
            "handle_timeout_termination": True,
            "frame_stack": K,
            "channels": "first",
        }


def test_one_copy_to_the_device_keeps_contents():
    arrays = [
        np.arange(3, dtype=np.int64),
        np.arange(7, dtype=np.uint8).reshape(7, 1),
        np.array([1.5, -2.5], dtype=np.float32),
        np.zeros((0, 4), dtype=np.int32),
        np.array([[-5]], dtype=np.int32),
    ]
    for array, tensor in zip(arrays, upload(arrays, th.device("cpu"), pack=True), strict=True):
        assert tensor.shape == array.shape
        assert np.array_equal(tensor.numpy(), array)
        assert tensor.numpy().dtype == array.dtype


def test_pool_growth_keeps_what_is_live():
    pool = FramePool(3, 2, 1, np.int64, th.device("cpu"))
    contents: dict[int, int] = {}
    order: list[int] = []
    rng = np.random.default_rng(0)
    for value in range(300):
        given = min(int(rng.integers(0, 3)), len(order))
        pool.give_back(given)
        for slot in order[:given]:
            del contents[slot]
        order = order[given:]
        slots = pool.take(1)
        assert int(slots[0]) not in contents, "a live frame would be overwritten"
        pool.write(slots, np.array([[value]]), np.zeros(1, np.int32))
        contents[int(slots[0])] = value
        order.append(int(slots[0]))
        assert pool.live == len(order)
        stored = pool.stacks(th.tensor(order), 1)[:, 0, 0].tolist()
        assert stored == [contents[slot] for slot in order]
    assert pool.extra is not None


class TestFrameStackOf:
    @staticmethod
    def image_env():
        return FakeImageEnv(screen_height=36, screen_width=36, n_channels=1)

    def stacked(self, n=4):
        return VecFrameStack(DummyVecEnv([self.image_env]), n)

    @pytest.mark.parametrize("n", [1, 2, 4])
    def test_vec_frame_stack(self, n):
        env = self.stacked(n)
        assert FrameReplayBuffer.frame_stack_of(env, env.observation_space) == n
        wrapped = VecMonitor(VecTransposeImage(env))
        assert FrameReplayBuffer.frame_stack_of(wrapped, wrapped.observation_space) == n
        kept = VecNormalize(wrapped, norm_obs=False)
        assert FrameReplayBuffer.frame_stack_of(kept, kept.observation_space) == n

    def test_attribute(self):
        env = DummyVecEnv([self.image_env])
        env.frame_stack = 3
        space = spaces.Box(0, 255, (3, 36, 36), np.uint8)
        assert FrameReplayBuffer.frame_stack_of(env, space) == 3
        assert FrameReplayBuffer.frame_stack_of(env, SPACE) is None, "4 channels are no stack of 3"
        env.frame_stack = True
        assert FrameReplayBuffer.frame_stack_of(env, space) is None, "a flag, not a number"

    def test_gymnasium_frame_stack(self):
        def make():
            grey = gym.wrappers.TransformObservation(
                self.image_env(), lambda image: image[..., 0], spaces.Box(0, 255, (36, 36), np.uint8)
            )
            return gym.wrappers.FrameStackObservation(grey, 4)

        env = DummyVecEnv([make, make])
        assert FrameReplayBuffer.frame_stack_of(env, env.observation_space) == 4
        ours, theirs = both(20, n_envs=2, space=env.observation_space)
        obs = env.reset()
        for _ in range(30):
            actions = np.zeros(2, dtype=int)
            next_obs, rewards, dones, infos = env.step(actions)
            final = next_obs.copy()
            for i in np.flatnonzero(dones):
                final[i] = infos[i]["terminal_observation"]
            for buffer in (ours, theirs):
                buffer.add(obs, final, actions, rewards, dones, infos)
            obs = next_obs
        assert_same_contents(ours, theirs)

    def test_not_stacked(self):
        class Unknown(VecEnvWrapper):
            def reset(self):
                return self.venv.reset()

            def step_wait(self):
                return self.venv.step_wait()

        plain = DummyVecEnv([self.image_env])
        normalized = VecNormalize(self.stacked())
        unknown = Unknown(self.stacked())
        sideways = VecFrameStack(DummyVecEnv([self.image_env]), 4, channels_order="first")
        vector = VecFrameStack(DummyVecEnv([lambda: gym.make("CartPole-v1")]), 4)
        # four channels at the end, which are not the four frames
        of_four = VecFrameStack(DummyVecEnv([lambda: FakeImageEnv(36, 36, n_channels=4)]), 4, channels_order="first")
        for env in (plain, normalized, unknown, sideways, of_four, vector):
            assert FrameReplayBuffer.frame_stack_of(env, env.observation_space) is None
        assert FrameReplayBuffer.frame_stack_of(None, SPACE) is None


def test_layout_splits_into_frames_and_joins_them():
    layout = FrameLayout.of(LAST_SPACE, 2)
    observations = np.random.default_rng(0).integers(0, 256, (3, *LAST_SPACE.shape), dtype=np.uint8)
    frames = layout.split(observations, 3)
    assert frames.shape == (3, 2, 10 * 8 * 3 // 8)
    assert np.array_equal(frames[1, 0].view(np.uint8).reshape(10, 8, 3), observations[1, ..., :3])
    assert np.array_equal(layout.join(th.from_numpy(frames)).numpy(), observations)
