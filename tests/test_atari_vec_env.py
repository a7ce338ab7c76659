"""AtariVecEnv as a VecEnv under SB3's algorithms, wrappers and callbacks (its games: test_atari_parity.py)."""

import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ale_py")

import gymnasium as gym
from sb3_contrib import QRDQN
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor, load_results
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize, VecVideoRecorder

from sb3_mirl import MIRL
from sb3_mirl.envs import AtariVecEnv
from sb3_mirl.envs.ale import ale_seed, rom_id, thread_count
from sb3_mirl.replay import FrameReplayBuffer

pytestmark = pytest.mark.atari

# ALE's seed equals gymnasium's: its sign bit is clear (see ale_seed)
SEED = 4


def random_actions(env: AtariVecEnv, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(env.action_space.n, size=env.num_envs)


def test_training_and_evaluation_defaults() -> None:
    training, evaluation = AtariVecEnv("Pong", 1), AtariVecEnv("Pong", 1, training=False)
    assert (training.clip_reward, training.episodic_life, training.max_episode_steps) == (True, True, 27_000)
    assert (evaluation.clip_reward, evaluation.episodic_life, evaluation.max_episode_steps) == (False, False, 4_500)
    assert AtariVecEnv("Pong", 1, frame_skip=1).max_episode_steps == 108_000
    assert AtariVecEnv("Pong", 1, training=False, clip_reward=True).clip_reward


# --- seeds and starts


def test_seeds() -> None:
    def frames(env: AtariVecEnv) -> np.ndarray:
        rng = np.random.default_rng(0)
        return np.stack([env.reset(), *(env.step(random_actions(env, rng))[0] for _ in range(40))])

    options = {"n_envs": 2, "repeat_action_probability": 0.25}
    env = AtariVecEnv("Seaquest", seed=1, **options)
    first = frames(env)
    np.testing.assert_array_equal(first, frames(AtariVecEnv("Seaquest", seed=1, num_threads=1, **options)))
    assert not np.array_equal(first, frames(AtariVecEnv("Seaquest", seed=2, **options)))
    assert not np.array_equal(first, frames(env)), "a reset without a seed goes on with the random stream"
    env.seed(1)
    np.testing.assert_array_equal(first, frames(env))
    # sub-environment i has seed + i, whatever the others do
    alone = AtariVecEnv("Seaquest", 1, seed=2, repeat_action_probability=0.25)
    rng = np.random.default_rng(0)
    actions = [random_actions(env, rng)[1:] for _ in range(40)]
    np.testing.assert_array_equal(first[:, 1:], np.stack([alone.reset(), *(alone.step(a)[0] for a in actions)]))
    unseeded = [frames(AtariVecEnv("Seaquest", **options)) for _ in range(2)]
    assert not np.array_equal(*unseeded)
    env.seed(2**32 - 1)
    env.reset()
    env.seed(-3)
    with pytest.raises(ValueError, match="seeds must be >= 0, got -3"):
        env.reset()


def test_ale_seed_is_gymnasiums() -> None:
    _, info = gym.make("PongNoFrameskip-v4").reset(seed=SEED)
    assert ale_seed(SEED) == info["seeds"][1]


@pytest.mark.parametrize(("game", "least"), [("Freeway", 0), ("Breakout", 1)])
def test_number_of_no_ops(game: str, least: int) -> None:
    env = AtariVecEnv(game, 4, SEED, noop_max=3)
    env.reset()
    frames: set[int] = set()
    for _ in range(10):
        _, info = env._vector.reset(list(range(4)), [-1] * 4)
        frames |= set(info["episode_frame_number"].tolist())
    assert frames == set(range(least, 4))


# --- names


@pytest.mark.parametrize(
    "game", ["SpaceInvaders", "SpaceInvadersNoFrameskip-v4", "ALE/SpaceInvaders-v5", "space_invaders", "space invaders"]
)
def test_names(game: str) -> None:
    assert rom_id(game) == "space_invaders"


@pytest.mark.parametrize("game", ["BreakoutDeterministic-v4", "Breakout-v0", "breakout", "BREAKOUT"])
def test_more_names(game: str) -> None:
    assert rom_id(game) == "breakout"


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"Unknown Atari game 'Braekout'. Did you mean 'Breakout'"):
        AtariVecEnv("Braekout")
    with pytest.raises(ValueError, match="'SpaceInvaders'"):
        AtariVecEnv("SpaceInvader-v5")
    with pytest.raises(ValueError, match="Unknown Atari game 'warlords'"):
        AtariVecEnv("warlords")
    with pytest.raises(TypeError, match="game must be a string"):
        AtariVecEnv(3)  # type: ignore[arg-type]


# --- the VecEnv contract


def test_spaces_and_attributes() -> None:
    env = AtariVecEnv("Breakout", 3, SEED)
    assert env.observation_space.shape == (4, 84, 84) and env.observation_space.dtype == np.uint8
    assert env.action_space.n == 4 and AtariVecEnv("Breakout", 1, full_action_space=True).action_space.n == 18
    assert env.frame_stack == 4 and env.get_attr("frame_stack") == [4, 4, 4]
    assert env.env_method("get_action_meanings", indices=[0, 2]) == [["NOOP", "FIRE", "RIGHT", "LEFT"]] * 2
    assert env.get_attr("spec")[0].id == "BreakoutNoFrameskip-v4"
    assert env.get_attr("render_mode", 1) == ["rgb_array"]
    env.reset()
    assert env.get_attr("lives") == [5, 5, 5] and env.reset_infos == [{"lives": 5}] * 3
    assert env.env_is_wrapped(Monitor) == [True] * 3 and env.env_is_wrapped(AtariWrapper, indices=0) == [False]
    assert not env.has_attr("action_masks") and not env.has_attr("_vector")
    with pytest.raises(AttributeError, match="offer get_action_meanings"):
        env.env_method("clone_state")
    with pytest.raises(IndexError):
        env.get_attr("spec", 3)


def test_set_attr() -> None:
    env = AtariVecEnv("Breakout", 3, SEED)
    env.set_attr("tag", 1)
    env.set_attr("tag", 2, indices=[1])
    assert env.get_attr("tag") == [1, 2, 1]
    env.set_attr("mark", "x", indices=2)
    assert env.get_attr("mark", indices=2) == ["x"]
    with pytest.raises(AttributeError, match=r"'mark' was set for the sub-environments \[2\] only"):
        env.get_attr("mark")
    with pytest.raises(AttributeError, match="fixed"):
        env.set_attr("frame_skip", 1)
    with pytest.raises(AttributeError, match="without `indices`"):
        env.set_attr("clip_reward", False, indices=[0])
    env.set_attr("max_episode_steps", 2)
    env.reset()
    env.step(np.zeros(3, dtype=int))
    assert env.step(np.zeros(3, dtype=int))[2].all()


def test_invalid_actions_are_refused_and_harmless() -> None:
    env = AtariVecEnv("Breakout", 2, SEED)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.zeros(2, dtype=int))
    env.reset()
    for actions in ([0, 4], [-1, 0]):
        with pytest.raises(ValueError, match=r"actions must lie in \[0, 4\)"):
            env.step(np.array(actions))
    for actions in ([0], [[0, 1]], 0):
        with pytest.raises(ValueError, match=r"shape \(2,\)"):
            env.step(np.array(actions))
    for actions in ([np.nan, 0.0], [0.0, 1.0], [True, False], ["a", "b"]):
        with pytest.raises(TypeError, match="must be integers"):
            env.step(np.array(actions))
    with pytest.raises(RuntimeError, match="step_async"):
        env.step_wait()
    env.step_async(np.zeros(2, dtype=np.uint8))
    with pytest.raises(RuntimeError, match="step_wait"):
        env.step_async(np.zeros(2, dtype=int))
    assert env.step_wait()[0].shape == (2, 4, 84, 84)


def test_reset_drops_a_step_under_way() -> None:
    env = AtariVecEnv("Breakout", 2, SEED)
    first = env.reset()
    env.step_async(np.ones(2, dtype=int))
    env.seed(SEED)
    np.testing.assert_array_equal(env.reset(), first)
    assert env.step(np.ones(2, dtype=int))[0].shape == first.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_envs": 0}, r"n_envs=0 must be an integer in \[1, inf\]"),
        ({"n_envs": 2.0}, "n_envs"),
        ({"frame_skip": 0}, "frame_skip"),
        ({"frame_stack": 0}, "frame_stack"),
        ({"noop_max": -1}, "noop_max"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"num_threads": 0}, "num_threads"),
        ({"repeat_action_probability": 1.5}, "repeat_action_probability"),
        ({"grayscale": "no"}, "grayscale='no' is not known, choose from True, False"),
        ({"maxpool": None}, "maxpool=None"),
        ({"img_height": 35}, r"img_height=35 must be an integer in \[36, inf\]"),
        ({"img_width": 84.0}, r"img_width=84.0 must be an integer in \[36, inf\]"),
        ({"frame_stack": 37, "img_width": 36}, "37 channels of 84x36 pixels"),
        ({"frame_stack": 14, "grayscale": False, "img_height": 40}, "42 channels of 40x84 pixels"),
        ({"mode": 3}, "mode=3 is not known, choose from None, 0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44"),
        ({"difficulty": -1}, "difficulty=-1 is not known, choose from None, 0, 1"),
        ({"thread_affinity_offset": -1}, "thread_affinity_offset"),
    ],
)
def test_invalid_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AtariVecEnv("Breakout", **options)


def test_step_runs_while_python_goes_on() -> None:
    env = AtariVecEnv("Breakout", 8, SEED)
    env.reset()
    actions, synchronous, waits = np.zeros(8, dtype=int), [], []
    for _ in range(5):
        start = time.perf_counter()
        env.step(actions)
        synchronous.append(time.perf_counter() - start)
        env.step_async(actions)
        time.sleep(5 * max(synchronous))
        start = time.perf_counter()
        env.step_wait()
        waits.append(time.perf_counter() - start)
    assert min(waits) < 0.3 * min(synchronous)


def test_steps_return_new_arrays() -> None:
    env = AtariVecEnv("Breakout", 2, SEED)
    first = env.reset()
    copy = first.copy()
    second, *_ = env.step(np.ones(2, dtype=int))
    env.step(np.ones(2, dtype=int))
    np.testing.assert_array_equal(first, copy)
    assert not np.shares_memory(first, second) and second.flags.writeable


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
@pytest.mark.parametrize("pending", [False, True])
def test_close_ends_the_threads(pending: bool) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/task"))

    before = count()
    env = AtariVecEnv("Breakout", 4, SEED, num_threads=2)
    env.reset()
    for _ in range(3):
        env.step(np.zeros(4, dtype=int))
    # OpenCV inside ALE starts no threads of its own
    assert count() == before + 2
    if pending:
        env.step_async(np.zeros(4, dtype=int))
    env.close()
    assert count() == before
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        env.step(np.zeros(4, dtype=int))
    with pytest.raises(RuntimeError, match="closed"):
        env.reset()


def test_thread_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert AtariVecEnv("Pong", 4).num_threads == 3
    assert (thread_count(64, None), thread_count(2, None), thread_count(2, 64)) == (3, 2, 2)


def test_pickle_gives_a_new_environment(tmp_path: Path) -> None:
    env = AtariVecEnv("Breakout", 2, seed=3, training=False, monitor_file=str(tmp_path / "monitor.csv"))
    first = env.reset()
    written = (tmp_path / "monitor.csv").read_text()
    copy = pickle.loads(pickle.dumps(env))
    assert (copy.game, copy.num_envs, copy.clip_reward) == ("breakout", 2, False)
    np.testing.assert_array_equal(copy.reset(), first)
    assert (tmp_path / "monitor.csv").read_text() == written


def test_missing_ale_py_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sb3_mirl.envs

    for module in ("sb3_mirl.envs.atari", "sb3_mirl.envs.ale"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ImportError, match=r"pip install '.\[atari\]'"):
        sb3_mirl.envs.AtariVecEnv  # noqa: B018


# --- rendering and records


def test_images_show_the_newest_frame(tmp_path: Path) -> None:
    env = AtariVecEnv("Breakout", 4, SEED)
    env.reset()
    observations, *_ = env.step(np.ones(4, dtype=int))
    images = env.get_images()
    assert [image.shape for image in images if image is not None] == [(84, 84, 3)] * 4
    assert all(image is not None and image.flags.writeable for image in images)
    assert not any(np.shares_memory(image, observations) for image in images)
    for channel in range(3):
        np.testing.assert_array_equal(np.stack(images)[..., channel], observations[:, -1])  # type: ignore[arg-type]
    colour = AtariVecEnv("Breakout", 2, SEED, grayscale=False, img_height=42, img_width=60)
    newest = colour.reset()[:, -3:]
    np.testing.assert_array_equal(np.stack(colour.get_images()), newest.transpose(0, 2, 3, 1))  # type: ignore[arg-type]
    assert np.ptp(newest, axis=1).max() > 50
    tiled = env.render("rgb_array")
    assert tiled is not None and tiled.shape == (168, 168, 3)
    np.testing.assert_array_equal(tiled[:84, 84:, 0], observations[1, -1])


def test_a_window_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2")
    env = AtariVecEnv("Breakout", 1, SEED)
    env.reset()
    if sys.platform == "linux":
        for name in ("DISPLAY", "WAYLAND_DISPLAY"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(RuntimeError, match=r'has no display: use render\("rgb_array"\)'):
            env.render("human")

    def without_windows(*_: object) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "imshow", without_windows)
    with pytest.raises(RuntimeError, match=r"cannot open a window .*not implemented.*VecVideoRecorder"):
        env.render("human")


def test_video_recorder(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    env = VecVideoRecorder(AtariVecEnv("Breakout", 2, SEED), str(tmp_path), lambda step: step == 0, video_length=5)
    assert env.frames_per_sec == 15
    env.reset()
    for _ in range(6):
        env.step(np.ones(2, dtype=int))
    env.close()
    assert (tmp_path / "rl-video-step-0-to-step-5.mp4").stat().st_size > 0


def test_monitor_file(tmp_path: Path) -> None:
    env = AtariVecEnv("Breakout", 4, SEED, max_episode_steps=100, monitor_file=str(tmp_path / "breakout"))
    env.reset()
    rng, episodes = np.random.default_rng(0), []
    for _ in range(250):
        episodes += [info["episode"] for info in env.step(random_actions(env, rng))[3] if "episode" in info]
    env.close()
    table = load_results(str(tmp_path))
    assert len(episodes) >= 8
    assert table["r"].tolist() == [episode["r"] for episode in episodes]
    assert table["l"].tolist() == [episode["l"] for episode in episodes]
    assert "BreakoutNoFrameskip-v4" in (tmp_path / "breakout.monitor.csv").read_text()


# --- under SB3's algorithms, wrappers and callbacks


class RandomPolicy:
    def __init__(self, env: AtariVecEnv) -> None:
        self.env, self.rng = env, np.random.default_rng(0)

    def predict(self, observation: np.ndarray, **_: object) -> tuple[np.ndarray, None]:
        return random_actions(self.env, self.rng), None


@pytest.mark.filterwarnings("error")
def test_evaluate_policy_reports_whole_games_on_a_training_environment() -> None:
    options = {"n_envs": 3, "seed": SEED, "max_episode_steps": 250}
    training = AtariVecEnv("Qbert", **options)
    evaluation = AtariVecEnv("Qbert", training=False, **options)
    results = [
        evaluate_policy(RandomPolicy(env), env, n_eval_episodes=6, return_episode_rewards=True)  # type: ignore[arg-type]
        for env in (training, evaluation)
    ]
    assert results[0] == results[1]
    # Qbert pays 25 per cube: clipped returns could not exceed the length
    assert max(results[0][0]) >= 100 and len(results[0][0]) == 6  # type: ignore[arg-type, type-var]


SMALL = {"policy_kwargs": {"features_extractor_kwargs": {"features_dim": 16}}, "device": "cpu"}
OFF_POLICY = {"buffer_size": 200, "learning_starts": 20, "batch_size": 4, "train_freq": 4, **SMALL}


@pytest.mark.parametrize(("algorithm", "options"), [(DQN, OFF_POLICY), (QRDQN, OFF_POLICY), (PPO, {"n_steps": 32, **SMALL})])
def test_algorithms(algorithm: type[DQN], options: dict[str, object], tmp_path: Path) -> None:
    env = AtariVecEnv("Breakout", 2, max_episode_steps=30)
    evaluation = AtariVecEnv("Breakout", 2, SEED, training=False, max_episode_steps=40)
    callback = EvalCallback(evaluation, n_eval_episodes=3, eval_freq=40, log_path=str(tmp_path), verbose=0, warn=True)
    model = algorithm("CnnPolicy", env, seed=0, **options)  # type: ignore[arg-type]
    assert model.get_env() is env, "no transposition, no Monitor is wrapped around it"
    model.learn(128, callback=callback)
    lengths = np.load(tmp_path / "evaluations.npz")["ep_lengths"]
    assert lengths.shape[1] == 3 and (lengths == 40).all()
    assert {record["l"] for record in model.ep_info_buffer} == {30}  # type: ignore[union-attr]
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=AtariVecEnv("Breakout", 2, SEED), device="cpu")
    observations = env.reset()
    np.testing.assert_array_equal(
        loaded.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"grayscale": False}, (12, 84, 84)),
        ({"img_height": 36, "img_width": 50, "frame_stack": 2, "thread_affinity_offset": 0}, (2, 36, 50)),
        ({"grayscale": False, "mode": 12, "difficulty": 1, "img_height": 48}, (12, 48, 84)),
    ],
    ids=["colour", "size", "flavour"],
)
def test_mirl_learns_from_what_ale_offers(options: dict[str, Any], shape: tuple[int, int, int]) -> None:
    env = AtariVecEnv("Breakout", 4, SEED, **options)
    arguments: dict[str, Any] = {**SMALL, "buffer_size": 400, "learning_starts": 100, "batch_size": 8, "seed": 0}
    model = MIRL("CnnPolicy", env, **arguments).learn(300)
    assert model.get_env() is env and env.observation_space.shape == shape
    assert model.q_net.features_extractor.cnn[0].in_channels == shape[0]
    memory = model.replay_buffer
    assert isinstance(memory, FrameReplayBuffer)
    assert memory.layout.frame_stack == env.frame_stack
    assert memory.layout.frame_bytes == np.prod(shape) // env.frame_stack
    assert memory.nbytes < 1.3 * 400 * memory.layout.frame_bytes, "every frame once"
    assert model.policy.optimizer.state, "it has learned"


def test_off_policy_learning_is_deterministic() -> None:
    def weights() -> np.ndarray:
        model = DQN("CnnPolicy", AtariVecEnv("Breakout", 2), seed=3, **OFF_POLICY).learn(120)  # type: ignore[arg-type]
        return np.concatenate([p.detach().numpy().ravel() for p in model.policy.parameters()])

    np.testing.assert_array_equal(weights(), weights())


def test_replay_buffer_receives_the_terminal_observations() -> None:
    env = AtariVecEnv("Breakout", 2, SEED, max_episode_steps=25)
    model = DQN("CnnPolicy", env, seed=0, **{**OFF_POLICY, "learning_starts": 1000})  # type: ignore[arg-type]
    model.learn(200)
    buffer = model.replay_buffer
    assert buffer is not None
    ends = np.argwhere(buffer.dones[:100] > 0)
    timeouts = buffer.timeouts[:100] > 0
    assert 6 <= timeouts.sum() < len(ends)
    for step, i in ends:
        # one step apart, also where the game ended
        np.testing.assert_array_equal(buffer.next_observations[step, i, :-1], buffer.observations[step, i, 1:])
        if step < 99:
            assert not buffer.observations[step + 1, i, :-1].any()


def test_wrappers() -> None:
    normalized = VecNormalize(AtariVecEnv("Breakout", 2, SEED), norm_obs=False)
    normalized.reset()
    assert normalized.step(np.ones(2, dtype=int))[1].shape == (2,)
    with pytest.warns(UserWarning, match="already wrapped with a `Monitor`"):
        monitored = VecMonitor(AtariVecEnv("Breakout", 2, SEED, max_episode_steps=5))
    monitored.reset()
    for _ in range(5):
        _, _, _, infos = monitored.step(np.zeros(2, dtype=int))
    assert infos[0]["episode"]["l"] == 5
