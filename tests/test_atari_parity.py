"""AtariVecEnv plays the same games as SB3's AtariWrapper + VecFrameStack, and ends its episodes in the same way."""

from collections import Counter
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ale_py")
cv2 = pytest.importorskip("cv2")

import gymnasium as gym  # noqa: E402
from ale_py import roms  # noqa: E402
from stable_baselines3.common.atari_wrappers import MaxAndSkipEnv  # noqa: E402
from stable_baselines3.common.env_util import make_atari_env  # noqa: E402
from stable_baselines3.common.vec_env import VecFrameStack  # noqa: E402

from sb3_mirl.envs import AtariVecEnv  # noqa: E402
from sb3_mirl.envs.ale import make_vector, rom_id  # noqa: E402
from sb3_mirl.envs.flavours import FlavourVector  # noqa: E402

pytestmark = pytest.mark.atari

# ALE's seed equals gymnasium's: its sign bit is clear (see ale_seed)
SEED = 4
# largest difference of one pixel, largest mean difference of a frame, to SB3's frames: colour is pooled there, gray here.
# Zero where the objects that flicker or move have one colour.
FRAME_BOUNDS = {
    "Breakout": (0, 0.0),
    "SpaceInvaders": (0, 0.0),
    "Pong": (16, 0.06),
    "Seaquest": (20, 0.06),
    "Freeway": (20, 0.1),
    "Qbert": (32, 0.08),
    "MsPacman": (40, 0.15),
}
LIVES = {"Breakout": 5, "SpaceInvaders": 3, "Seaquest": 4, "Qbert": 4, "MsPacman": 3, "Pong": 0, "Freeway": 0}


def random_actions(env: AtariVecEnv, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(env.action_space.n, size=env.num_envs)


def hidden_actions(fire: bool, real_reset: bool) -> Generator[int, tuple[bool, bool], None]:
    """What SB3's EpisodicLifeEnv and FireResetEnv play inside `reset()`; is sent (done, game over) after each action."""
    if not real_reset:
        yield 0
    for action in (1, 2) if fire else ():
        done, over = yield action
        if done and not over:
            yield 0


def play_hidden(env: AtariVecEnv, observation: np.ndarray, real_reset: bool) -> tuple[np.ndarray, bool]:
    """The observation on which SB3's wrappers would return from `reset()`, and whether a done fell on it."""
    plan = hidden_actions("FIRE" in env.get_action_meanings(), real_reset)
    ended = False
    try:
        action = next(plan)
        while True:
            observation, _, dones, infos = env.step(np.array([action]))
            ended = bool(dones[0])
            action = plan.send((ended, "episode" in infos[0]))
    except StopIteration:
        return observation, ended


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("game", FRAME_BOUNDS)
def test_same_games_as_sb3(game: str, training: bool) -> None:
    """Rewards, lives, dones, truncation, returns and lengths are equal; frames within the bounds. Sticky actions included."""
    cap = 300
    # the evaluation half with sticky actions: ALE's random stream must be the same, too
    sticky = 0.0 if training else 0.25
    ours = AtariVecEnv(
        game,
        1,
        SEED,
        training=training,
        noop_max=0,
        use_fire_reset=False,
        max_episode_steps=cap,
        repeat_action_probability=sticky,
    )
    theirs = VecFrameStack(
        make_atari_env(
            f"{game}NoFrameskip-v4",
            seed=SEED,
            wrapper_kwargs={"noop_max": 0, "clip_reward": training, "terminal_on_life_loss": training},
            env_kwargs={"max_num_frames_per_episode": 4 * cap, "repeat_action_probability": sticky},
        ),
        4,
    )
    rng, seen, differences = np.random.default_rng(0), Counter[str](), []
    ours_obs, _ = play_hidden(ours, ours.reset(), True)
    theirs.reset()
    for _ in range(700):
        actions = random_actions(ours, rng)
        ours_obs, ours_rewards, ours_dones, (info,) = ours.step(actions)
        theirs_obs, theirs_rewards, theirs_dones, (expected,) = theirs.step(actions)
        assert ours_rewards[0] == theirs_rewards[0]
        assert ours_dones[0] == theirs_dones[0]
        for key in ("lives", "TimeLimit.truncated"):
            assert info[key] == expected[key], key
        assert ("episode" in info) == ("episode" in expected)
        seen["rewards"] += ours_rewards[0] != 0
        stale = False
        if ours_dones[0]:
            over = "episode" in info
            seen["games" if over else "lives"] += 1
            if over:
                assert info["episode"]["r"] == expected["episode"]["r"]
                assert info["episode"]["l"] == -(-expected["episode"]["l"] // 4)
            if not over or info["TimeLimit.truncated"]:
                pair = info["terminal_observation"][-1], expected["terminal_observation"][..., -1]
                differences.append(np.abs(np.subtract(*pair, dtype=np.int16)))
            # SB3 returns the observation before the reset, where its FIRE ended the episode
            ours_obs, stale = play_hidden(ours, ours_obs, over)
        if not stale:
            differences.append(np.abs(np.subtract(ours_obs[0, -1], theirs_obs[0, ..., -1], dtype=np.int16)))
    assert seen["games"] >= 2
    assert seen["rewards"] > 0 or game == "Freeway"
    assert (seen["lives"] > 0) == (training and LIVES[game] > 0)
    assert len(differences) > 650
    largest, mean = FRAME_BOUNDS[game]
    assert max(d.max() for d in differences) <= largest
    assert max(d.mean() for d in differences) <= mean


@pytest.mark.parametrize(
    ("game", "options", "flavour"),
    [
        ("MsPacman", {}, {}),
        ("Pong", {}, {}),
        ("Qbert", {}, {}),
        ("Seaquest", {"grayscale": False}, {}),
        ("Pong", {"img_height": 50, "img_width": 70}, {}),
        ("SpaceInvaders", {"maxpool": False}, {}),
        ("Breakout", {"img_height": 210, "img_width": 160, "grayscale": False}, {}),
        ("Freeway", {}, {"mode": 3, "difficulty": 1}),
        ("SpaceInvaders", {"grayscale": False}, {"mode": 9}),
        ("Pong", {"img_width": 100}, {"difficulty": 3, "repeat_action_probability": 0.25}),
    ],
)
def test_frames_are_pooled_screens(game: str, options: dict[str, Any], flavour: dict[str, Any]) -> None:
    """Bit for bit: ALE's screen, maximum of the last two frames of four, OpenCV's area interpolation."""
    gray, pooled = options.get("grayscale", True), options.get("maxpool", True)
    screens = gym.make(
        f"{game}NoFrameskip-v4", obs_type="grayscale" if gray else "rgb", frameskip=1 if pooled else 4, **flavour
    )
    if pooled:
        screens = MaxAndSkipEnv(screens, 4)
    env = AtariVecEnv(game, 1, SEED, training=False, noop_max=0, use_fire_reset=False, **options, **flavour)
    size = options.get("img_width", 84), options.get("img_height", 84)
    screen, _ = screens.reset(seed=SEED)
    observation, rng = env.reset(), np.random.default_rng(0)
    for _ in range(200):
        expected = cv2.resize(screen, size, interpolation=cv2.INTER_AREA)
        planes = expected[None] if gray else expected.transpose(2, 0, 1)
        np.testing.assert_array_equal(observation[0, -len(planes) :], planes)
        actions = random_actions(env, rng)
        observation, (reward,), (done,), _ = env.step(actions)
        screen, expected_reward, terminated, _, _ = screens.step(actions[0])
        assert done == terminated and reward == expected_reward
        if done:
            break


def test_flavours_are_other_games() -> None:
    default, *others = (
        AtariVecEnv("Freeway", 1, SEED, **flavour)
        for flavour in ({}, {"mode": 0, "difficulty": 0}, {"mode": 3}, {"difficulty": 1})
    )
    reference = record(default, 60)
    same = [all(np.array_equal(*pair) for pair in zip(record(env, 60), reference, strict=True)) for env in others]
    assert same == [True, False, False]
    unwrapped = [gym.make(env.spec).unwrapped for env in (default, *others)]
    assert [(env._game_mode, env._game_difficulty) for env in unwrapped] == [(None, None), (0, 0), (3, None), (None, 1)]
    kinds = [type(env._vector).__name__ for env in (default, *others)]
    assert kinds == ["ALEVectorInterface"] * 2 + ["FlavourVector"] * 2, "the C++ side plays what it can"


def record(env: AtariVecEnv, n_steps: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [env.reset(), *(value for _ in range(n_steps) for value in env.step(random_actions(env, rng))[:3])]


@pytest.mark.parametrize(
    ("game", "options"),
    [
        ("Breakout", {"use_fire_reset": True}),
        ("Qbert", {"grayscale": False, "img_height": 60, "repeat_action_probability": 0.25}),
        ("Pong", {"maxpool": False, "frame_skip": 1, "stack_num": 2, "full_action_space": True}),
    ],
)
def test_the_stand_in_for_other_flavours_plays_as_the_vector_environment(game: str, options: dict[str, Any]) -> None:
    """In the default flavour, with the no-ops that neither draws."""
    common = {
        "frame_skip": 4,
        "stack_num": 4,
        "grayscale": True,
        "img_height": 84,
        "img_width": 84,
        "maxpool": True,
        "use_fire_reset": False,
        "repeat_action_probability": 0.0,
        "full_action_space": False,
        **options,
    }
    rom = rom_id(game)
    ours = FlavourVector(roms.get_rom_path(rom), 2, None, None, noop_max=1, **common)
    theirs = make_vector(rom, 2, noop_max=0, mode=None, difficulty=None, num_threads=1, thread_affinity_offset=None, **common)
    assert [action.name for action in ours.get_action_set()] == [action.name for action in theirs.get_action_set()]
    rng, over = np.random.default_rng(0), 0
    for seeds in ([3, 4], [-1, 5]):
        observations, info = ours.reset([0, 1], seeds)
        expected, expected_info = theirs.reset([0, 1], seeds)
        np.testing.assert_array_equal(observations, expected)
        for _ in range(250 if game == "Breakout" else 100):
            np.testing.assert_array_equal(info["lives"], expected_info["lives"])
            actions = rng.integers(len(ours.get_action_set()), size=2).tolist()
            for vector in (ours, theirs):
                vector.send(actions, [1.0, 1.0])
            *result, info = ours.recv()
            *expected_result, expected_info = theirs.recv()
            for value, wanted in zip(result, expected_result, strict=True):
                np.testing.assert_array_equal(value, wanted)
            for i in result[2].nonzero()[0]:
                np.testing.assert_array_equal(info["final_obs"][i], expected_info["final_obs"][i])
                over += 1
    assert over > 0 or game != "Breakout"


@pytest.mark.parametrize("last", [2, 4])
def test_a_step_of_the_stand_in_ends_with_the_game(last: int) -> None:
    """As in C++, which does not look at the frame on which the game is over."""
    game = AtariVecEnv("Breakout", 1, SEED, difficulty=1)._vector._games[0]
    game.reset(SEED)
    ale, before, acts = game.ale, game.screens[0].copy(), []

    class Ending:
        def act(self, *action: Any) -> int:
            acts.append(action)
            return ale.act(*action) + 1

        def game_over(self) -> bool:
            return len(acts) == last

        def getScreenGrayscale(self, screen: np.ndarray) -> None:
            screen[:] = 77

    game.ale = Ending()
    assert game.step(0, 1.0) == len(acts) == last
    np.testing.assert_array_equal(game.screens[0], before if last == 2 else np.maximum(before, 77))


def test_no_ops_of_the_stand_in() -> None:
    """As many frames as the C++ side's: FIRE and no-ops, at most ``noop_max``."""
    env = AtariVecEnv("Breakout", 4, SEED, noop_max=3, difficulty=1)
    frames: set[int] = set()
    for _ in range(10):
        env.reset()
        frames |= {game.ale.getEpisodeFrameNumber() for game in env._vector._games}
    assert frames == {1, 2, 3}


@pytest.mark.parametrize(
    ("game", "options"),
    [
        ("Breakout", {}),
        ("Seaquest", {}),
        ("Pong", {}),
        ("Breakout", {"grayscale": False}),
        ("Breakout", {"grayscale": False, "mode": 4, "img_height": 40, "img_width": 50}),
    ],
)
def test_stacks_are_those_of_vec_frame_stack(game: str, options: dict[str, Any]) -> None:
    """Observations and terminal observations, over life losses, ends of games and truncations."""
    env = AtariVecEnv(game, 2, SEED, max_episode_steps=140, **options)
    reference = VecFrameStack(AtariVecEnv(game, 2, SEED, max_episode_steps=140, frame_stack=1, **options), 4)
    np.testing.assert_array_equal(env.reset(), reference.reset())
    rng, seen = np.random.default_rng(0), Counter[str]()
    for _ in range(600):
        actions = random_actions(env, rng)
        observations, rewards, dones, infos = env.step(actions)
        expected_observations, expected_rewards, expected_dones, expected_infos = reference.step(actions)
        np.testing.assert_array_equal(observations, expected_observations)
        np.testing.assert_array_equal(rewards, expected_rewards)
        np.testing.assert_array_equal(dones, expected_dones)
        for info, expected, done in zip(infos, expected_infos, dones, strict=True):
            assert ("terminal_observation" in info) == done
            if done:
                np.testing.assert_array_equal(info["terminal_observation"], expected["terminal_observation"])
                seen["truncated" if info["TimeLimit.truncated"] else "over" if "episode" in info else "life"] += 1
    assert seen["truncated"] > 0
    assert game == "Pong" or seen["life"] > 0
    assert game != "Breakout" or seen["over"] > 0


# --- ends of episodes


def test_truncation_shows_the_last_observation_and_starts_a_new_game() -> None:
    """Against a twin that plays on; ALE's own cap would leave the last frame half-written."""
    short = AtariVecEnv("Pong", 3, SEED, max_episode_steps=50)
    long = AtariVecEnv("Pong", 3, SEED)
    np.testing.assert_array_equal(short.reset(), long.reset())
    rng = np.random.default_rng(0)
    for step in range(1, 51):
        actions = random_actions(short, rng)
        observations, _, dones, infos = short.step(actions)
        expected, _, _, _ = long.step(actions)
        assert dones.all() == dones.any() == (step == 50)
    for i in range(3):
        np.testing.assert_array_equal(infos[i]["terminal_observation"], expected[i])
        assert infos[i]["TimeLimit.truncated"] and infos[i]["episode"]["l"] == 50
    assert not observations[:, :-1].any() and observations[:, -1].any()
    # the next 50 steps are a game of their own
    for step in range(1, 51):
        _, _, dones, infos = short.step(random_actions(short, rng))
        assert dones.all() == dones.any() == (step == 50)


def test_life_loss_continues_the_game() -> None:
    """Against an evaluation twin: the same screens, but the stack begins anew at each life."""
    env = AtariVecEnv("Breakout", 4, SEED)
    plain = AtariVecEnv("Breakout", 4, SEED, training=False)
    np.testing.assert_array_equal(env.reset(), plain.reset())
    rng, lost, since_loss = np.random.default_rng(0), 0, np.full(4, 9)
    for _ in range(200):
        actions = random_actions(env, rng)
        observations, _, dones, infos = env.step(actions)
        expected, _, plain_dones, plain_infos = plain.step(actions)
        np.testing.assert_array_equal(observations[:, -1], expected[:, -1])
        since_loss += 1
        for i in range(4):
            assert infos[i]["lives"] == plain_infos[i]["lives"]
            if dones[i] and not plain_dones[i]:
                assert "episode" not in infos[i] and not infos[i]["TimeLimit.truncated"]
                np.testing.assert_array_equal(infos[i]["terminal_observation"][-1], expected[i, -1])
                lost, since_loss[i] = lost + 1, 0
            if plain_dones[i]:
                assert dones[i] and infos[i]["lives"] == 0 and env.reset_infos[i] == {"lives": 5}
                since_loss[i] = 9
            blank = max(3 - since_loss[i], 0)
            assert not observations[i, :blank].any()
            np.testing.assert_array_equal(observations[i, blank:], expected[i, blank:])
    assert lost > 10


@pytest.mark.parametrize("game", ["Breakout", "Qbert", "Asterix", "Boxing", "Enduro"])
def test_episode_records_over_a_long_run(game: str) -> None:
    """Returns and lengths of whole games equal own sums of an unclipped twin's rewards; clipping is the sign."""
    options = {"n_envs": 2, "seed": SEED, "max_episode_steps": 250}
    env, unclipped = AtariVecEnv(game, **options), AtariVecEnv(game, clip_reward=False, episodic_life=False, **options)
    env.reset(), unclipped.reset()
    rng, returns, lengths, episodes = np.random.default_rng(1), np.zeros(2), np.zeros(2), 0
    for _ in range(600):
        actions = random_actions(env, rng)
        before = env.lives
        observations, rewards, dones, infos = env.step(actions)
        _, true_rewards, game_ends, true_infos = unclipped.step(actions)
        assert rewards.dtype == np.float32 and dones.dtype == np.bool_ and observations.dtype == np.uint8
        np.testing.assert_array_equal(rewards, np.sign(true_rewards))
        returns, lengths = returns + true_rewards, lengths + 1
        for i in range(2):
            assert ("episode" in infos[i]) == game_ends[i]
            if game_ends[i]:
                assert dones[i]
                for info in (infos[i], true_infos[i]):
                    assert (info["episode"]["r"], info["episode"]["l"]) == (returns[i], lengths[i])
                    assert info["TimeLimit.truncated"] == (lengths[i] == 250 and info["lives"] == before[i])
                returns[i] = lengths[i] = 0
                episodes += 1
            else:
                assert dones[i] == (0 < infos[i]["lives"] < before[i])
    assert episodes >= 4


# --- rare coincidences, with a scripted C++ side


class ScriptedVector:
    """One sub-environment whose every step is (reward, game over, lives); frames are numbered from 1."""

    def __init__(self, script: list[tuple[int, bool, int]], pixels: tuple[int, ...] = (84, 84)) -> None:
        self.script, self.frame, self.pixels = iter(script), 1, pixels

    def _stack(self) -> np.ndarray:
        self.frame += 1
        return self._filled(np.arange(self.frame - 4, self.frame, dtype=np.uint8))

    def _filled(self, frames: np.ndarray) -> np.ndarray:
        return np.ones((1, 4, *self.pixels), np.uint8) * frames.reshape(-1, *[1] * len(self.pixels))

    def reset(self, indices: list[int], seeds: list[int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        self.frame = 101
        return self._stack() * self._filled(np.array([0, 0, 0, 1], dtype=np.uint8)), {"lives": np.array([3])}

    def send(self, actions: list[int], paddle_strengths: list[float]) -> None:
        self.step = next(self.script)

    def recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        reward, over, lives = self.step
        stack = self._stack()
        info = {"lives": np.array([lives]), "final_obs": stack.copy()}
        return stack, np.array([reward]), np.array([over]), np.array([False]), info


def run_script(
    script: list[tuple[int, bool, int]], colour: bool = False, **options: int
) -> tuple[AtariVecEnv, list[tuple[np.ndarray, bool, dict]]]:
    env = AtariVecEnv("Breakout", 1, grayscale=not colour, **options)
    env._vector = ScriptedVector(script, (84, 84, 3) if colour else (84, 84))
    env.reset()
    steps = [env.step(np.array([0])) for _ in script]
    return env, [(observations[0, :, 0, 0], bool(dones[0]), infos[0]) for observations, _, dones, infos in steps]


def test_no_lives_left_is_not_yet_the_end() -> None:
    """Qbert stays at 0 lives for some frames before the game is over; a bonus life is no loss."""
    _, steps = run_script([(0, False, 1), (0, False, 0), (0, False, 0), (0, True, 3)])
    assert [done for _, done, _ in steps] == [True, False, False, True]
    _, steps = run_script([(0, False, 4), (0, False, 4), (0, False, 3)])
    assert [done for _, done, _ in steps] == [False, False, True]


def test_life_loss_on_the_last_step_is_terminal() -> None:
    """As in SB3: not to be bootstrapped from, yet the game is over and a new one starts with all lives."""
    env, steps = run_script([(2, False, 3), (5, False, 2), (0, False, 3)], max_episode_steps=2)
    _, done, info = steps[1]
    assert done and not info["TimeLimit.truncated"] and info["lives"] == 2
    assert (info["episode"]["r"], info["episode"]["l"]) == (7, 2)
    assert env.reset_infos[0] == {"lives": 3}
    assert not steps[2][1], "three lives after two: a new game, not a loss"


def test_lives_after_a_truncation_are_those_of_the_new_game() -> None:
    _, steps = run_script([(0, False, 2), (0, False, 2), (0, False, 2)], max_episode_steps=2)
    assert steps[1][2]["TimeLimit.truncated"]
    assert steps[2][1], "two lives after the new game's three"


@pytest.mark.parametrize("colour", [False, True])
def test_game_over_soon_after_a_life_loss(colour: bool) -> None:
    _, steps = run_script([(0, False, 3), (0, False, 2), (0, False, 2), (1, True, 3)], colour)
    planes = 3 if colour else 1

    def frames(pixels: np.ndarray) -> list[int]:
        numbers = pixels.reshape(4, planes)
        assert (numbers == numbers[:, :1]).all()
        return numbers[:, 0].tolist()

    assert frames(steps[1][2]["terminal_observation"][:, 0, 0]) == [100, 101, 102, 103]
    assert frames(steps[1][0]) == [0, 0, 0, 103]
    assert frames(steps[2][0]) == [0, 0, 103, 104]
    assert frames(steps[3][2]["terminal_observation"][:, 0, 0]) == [0, 103, 104, 105]


def test_reset_forgets_the_game_under_way() -> None:
    env, _ = run_script([(9, False, 3)] * 3, max_episode_steps=4)
    env._vector = ScriptedVector([(1, False, 3)] * 4)
    env.reset()
    records = [env.step(np.array([0]))[3][0].get("episode") for _ in range(4)]
    assert records[:3] == [None] * 3 and (records[3]["r"], records[3]["l"]) == (4, 4)
