"""What a user sees who gives something wrong: one row per call, with the error's type and its message."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_mirl import MIRL, PriorCallback, SoftDQN, maths
from sb3_mirl.atari import normalized_score
from sb3_mirl.envs import GridWorldEnv
from sb3_mirl.replay import FrameReplayBuffer
from sb3_mirl.tabular import (
    QLearning,
    SoftQLearning,
    TabularMDP,
    TabularMIRL,
    soft_value_iteration,
    solve_mutual_information,
)
from tests.conftest import SMALL, ScriptedEnv

Q, LOG_PRIOR, PRIOR = th.zeros(2, 3), th.zeros(3), th.full((3,), 1 / 3)
NAN_PRIOR, NEGATIVE, NOT_ONE = th.tensor([math.nan, 0.5, 0.5]), th.tensor([-0.5, 1.0, 0.5]), th.tensor([0.5, 0.5, 0.5])
FRAMES = spaces.Box(0, 255, (4, 8, 8), np.uint8)


class OtherSpaces(ScriptedEnv):
    """ScriptedEnv that declares other spaces."""

    def __init__(self, observation: spaces.Space[Any] | None = None, action: spaces.Space[Any] | None = None) -> None:
        super().__init__()
        self.observation_space = observation or self.observation_space  # type: ignore[assignment]
        self.action_space = action or self.action_space  # type: ignore[assignment]


class Table(gym.Env[int, int]):
    """Two states and one action, of which the table may be wrong."""

    def __init__(self, changed: Any = None, start: Any = (1.0, 0.0)) -> None:
        self.P: Any = {0: {0: [(1.0, 1, 0.0, False)]}, 1: {0: [(1.0, 1, 0.0, True)]}}
        self.P = {**self.P, **changed} if isinstance(changed, dict) and changed else self.P if changed is None else changed
        self.initial_state_distrib = np.array(start)
        self.observation_space, self.action_space = spaces.Discrete(2), spaces.Discrete(1)


def mirl(env: gym.Env[Any, Any] | None = None, **arguments: Any) -> MIRL:
    return MIRL("MlpPolicy", env or ScriptedEnv(), **{**SMALL, **arguments})


def mdp(**changed: Any) -> TabularMDP:
    arrays: dict[str, Any] = dict(
        transition=np.full((2, 2, 2), 0.5), reward=np.zeros((2, 2)), initial=[0.5, 0.5], discount=0.9
    )
    return TabularMDP(**{**arrays, **changed})


def atari(game: Any = "Breakout", **arguments: Any) -> Any:
    pytest.importorskip("ale_py", reason="pip install '.[atari]'")
    from sb3_mirl.envs import AtariVecEnv

    return AtariVecEnv(game, **arguments)


def add_frames_that_do_not_follow() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 1, 4, 8, 8), dtype=np.uint8)
    FrameReplayBuffer(10, FRAMES, spaces.Discrete(2), "cpu").add(
        frames[0], frames[1], np.zeros(1), np.zeros(1), np.zeros(1), [{}]
    )


ARGUMENTS = [
    ("beta_schedule", "exponential", "beta_schedule='exponential' is not known.*'inverse_loss', 'linear', 'constant'"),
    ("exploration", "softmax", "'prior', 'uniform', 'marginal'"),
    ("update_path", "slow", "update_path='slow' is not known, choose from 'fast', 'eager'"),
    ("precision", "float16", "precision='float16' is not known, choose from 'float32', 'bfloat16'"),
    ("entropy_bonus", "False", "entropy_bonus='False' is not known, choose from False, True"),
    ("beta_init", 0.0, r"beta_init=0.0 must be a number in \(0, inf\)"),
    ("beta_init", math.inf, r"beta_init=inf must be a number in \(0, inf\)"),
    ("beta_init", math.nan, "beta_init=nan"),
    ("beta_init", True, "beta_init=True must be a number"),
    ("beta_lr", -1e-5, r"beta_lr=-1e-05 must be a number in \[0, 1\]"),
    ("beta_slope", 0, r"beta_slope=0"),
    ("beta_max", -1, r"beta_max=-1"),
    ("prior_lr", 1.5, r"prior_lr=1.5 must be a number in \[0, 1\]"),
    ("prior_lr", "5e-5", "prior_lr='5e-5' must be a number"),
    ("prior_floor", 0.5, r"prior_floor=0.5 must be a number in \[0, 0.333333\]"),
    ("exploration_mix", 2, "exploration_mix=2"),
    ("gamma", 1.1, "gamma=1.1"),
    ("tau", -0.1, "tau=-0.1"),
    ("learning_rate", -1e-4, "learning_rate=-0.0001"),
    ("exploration_final_eps", 1.2, "exploration_final_eps=1.2"),
    ("batch_size", 0, "batch_size=0"),
    ("batch_size", 2.5, r"batch_size=2.5 must be an integer in \[1, inf\]"),
    ("buffer_size", 0, "buffer_size=0"),
    ("buffer_size", 1e6, "buffer_size=1000000.0 must be an integer"),
    ("n_steps", 0, "n_steps=0"),
    ("learning_starts", -1, "learning_starts=-1"),
    ("max_grad_norm", 0, "max_grad_norm=0"),
    ("target_update_interval", 0, "target_update_interval=0"),
    ("stats_window_size", "100", "stats_window_size='100' must be an integer"),
    ("gradient_steps", -2, r"gradient_steps=-2 must be an integer in \[-1, inf\]"),
    ("train_freq", 0, "train_freq=0 must be an integer"),
    ("train_freq", (4, "steps"), "either .step. or .episode. not .steps."),
    ("seed", 1.5, "seed=1.5 must be an integer"),
    ("seed", -1, "seed=-1"),
]

ROWS: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    # spaces, policies, devices
    ("action-box", lambda: MIRL("MlpPolicy", "Pendulum-v1"), ValueError, r"needs discrete actions.*got Box.*sb3_mirl\.VIREL"),
    ("action-multidiscrete", lambda: mirl(OtherSpaces(action=spaces.MultiDiscrete([2, 2]))),
     ValueError, r"MultiDiscrete\(\[2 2.*SoftA2C"),
    ("action-multibinary", lambda: mirl(OtherSpaces(action=spaces.MultiBinary(2))), AssertionError, "MultiBinary.*SoftA2C"),
    ("action-from-1", lambda: mirl(OtherSpaces(action=spaces.Discrete(3, start=1))),
     ValueError, "counted from 0.*start=1.*TransformAction"),
    ("obs-dict-mlp", lambda: mirl(OtherSpaces(spaces.Dict({"a": FRAMES}))), ValueError, "use `MultiInputPolicy`"),
    ("obs-tuple", lambda: mirl(OtherSpaces(spaces.Tuple([FRAMES]))), NotImplementedError, "Tuple.* not supported"),
    ("obs-vector-cnn", lambda: SoftDQN("CnnPolicy", ScriptedEnv(), buffer_size=10),
     AssertionError, "NatureCNN only with images"),
    ("policy-unknown", lambda: MIRL("MLPPolicy", ScriptedEnv()), ValueError, "Policy MLPPolicy unknown"),
    ("env-unknown", lambda: MIRL("MlpPolicy", "NoSuch-v0"), gym.error.Error, "NoSuch"),
    ("argument-unknown", lambda: mirl(prior_rate=0.1), TypeError, "MIRL has no argument 'prior_rate'"),
    ("device-unknown", lambda: mirl(device="tpu9"), RuntimeError, "Invalid device string: 'tpu9'"),
    ("exploration-softdqn", lambda: SoftDQN("MlpPolicy", ScriptedEnv(), exploration="prior"),
     ValueError, "'uniform', 'marginal'"),
    # calls of an agent
    ("learn-text", lambda: mirl().learn("100"), ValueError, "total_timesteps='100' must be a number"),
    ("learn-negative", lambda: mirl().learn(-1), ValueError, "total_timesteps=-1"),
    ("learn-log-interval", lambda: mirl().learn(30, log_interval=0), ValueError, "log_interval=0"),
    ("predict-shape", lambda: mirl().predict(np.zeros(7)), ValueError, r"observation shape \(7,\).*\(4,\)"),
    ("callback-on-softdqn", lambda: SoftDQN("MlpPolicy", ScriptedEnv(), **SMALL).learn(9, PriorCallback()),
     ValueError, "SoftDQN has none"),
    ("callback-points", lambda: PriorCallback(max_points=1), ValueError, r"max_points=1 must be an integer in \[2"),
    ("callback-window", lambda: PriorCallback(window=0), ValueError, "window=0"),
    ("callback-empty", lambda: PriorCallback().save("prior.npz"), ValueError, r"give it to learn\(callback"),
    # formulas
    ("soft-value-beta-text", lambda: maths.soft_value(Q, LOG_PRIOR, "1"), ValueError, r"in \[0, inf\], got '1'"),
    ("soft-value-prior-nan", lambda: maths.soft_value(Q, NAN_PRIOR.log(), 1.0), ValueError, "log_prior must hold.*nan"),
    ("soft-value-prior-none", lambda: maths.soft_value(Q, th.full((3,), -math.inf), 1.0), ValueError, "not all of them 0"),
    ("log-probs-prior-inf", lambda: maths.boltzmann_log_probs(Q, LOG_PRIOR + math.inf, 1.0),
     ValueError, "log_prior must hold"),
    ("soft-value-prior-length", lambda: maths.soft_value(Q, th.zeros(4), 1.0), ValueError, r"\(2, 3\) and \(4,\)"),
    ("update-prior-nan", lambda: maths.update_prior(NAN_PRIOR, PRIOR, 0.1), ValueError, "prior must hold probabilities.*nan"),
    ("update-prior-negative", lambda: maths.update_prior(NEGATIVE, PRIOR, 0.1), ValueError, "-0.5, 1.0, 0.5"),
    ("update-prior-sum", lambda: maths.update_prior(NOT_ONE, PRIOR, 0.1), ValueError, "sum to 1, got .0.5, 0.5, 0.5"),
    ("update-prior-probs", lambda: maths.update_prior(PRIOR, NOT_ONE, 0.1), ValueError, "probs must hold probabilities"),
    ("update-prior-rate-text", lambda: maths.update_prior(PRIOR, PRIOR, ".1"), ValueError, r"in \[0, 1\], got '.1'"),
    ("update-prior-rate-nan", lambda: maths.update_prior(PRIOR, PRIOR, math.nan), ValueError, "got nan"),
    ("mixed-prior-negative", lambda: maths.mixed_with_uniform(NEGATIVE, 0.1), ValueError, "prior must hold"),
    ("floor-prior-nan", lambda: maths.floored_log_prior(NAN_PRIOR, 0.1), ValueError, "prior must hold"),
    ("floor-bool", lambda: maths.floored_log_prior(PRIOR, True), ValueError, "for 3 actions, got True"),
    ("uniform-prior-text", lambda: maths.uniform_log_prior("3"), ValueError, "at least one action, got n_actions='3'"),
    ("linear-beta-text", lambda: maths.linear_beta("3", 0.1), ValueError, "got step='3'"),
    ("inverse-loss-nan", lambda: maths.inverse_loss_beta(th.tensor(1.0), th.tensor(math.nan), 0.1),
     ValueError, "a number, got nan"),
    ("inverse-loss-negative", lambda: maths.inverse_loss_beta(th.tensor(1.0), th.tensor(-1.0), 0.1),
     ValueError, "not negative.*got -1.0"),
    # planning
    ("planner-beta-text", lambda: soft_value_iteration(mdp(), "1"), ValueError, "positive and finite, got '1'"),
    ("planner-prior-nan", lambda: soft_value_iteration(mdp(), 1.0, [math.nan, 1]),
     ValueError, "2 probabilities that sum to 1"),
    ("solver-prior-sum", lambda: solve_mutual_information(mdp(), 1.0, initial_prior=[0.5, 0.6]),
     ValueError, r"got \[0.5 0.6\]"),
    ("solver-prior-negative", lambda: solve_mutual_information(mdp(), 1.0, initial_prior=[-0.5, 1.5]),
     ValueError, r"got \[-0.5"),
    ("solver-prior-length", lambda: solve_mutual_information(mdp(), 1.0, initial_prior=[1.0]),
     ValueError, "hold 2 probabilities"),
    ("solver-epsilon-text", lambda: solve_mutual_information(mdp(), 1.0, epsilon="a"),
     ValueError, "epsilon='a' must be a number"),
    ("mdp-ragged", lambda: mdp(transition=[[[1, 0], [1]], [[1, 0], [0, 1]]]), ValueError, "inhomogeneous shape"),
    ("mdp-shape", lambda: mdp(transition=None), ValueError, r"must have the shape \(2, 2, 2\), got \(\)"),
    ("table-empty", lambda: TabularMDP.from_env(Table([])), ValueError, "at least one entry"),
    ("table-number", lambda: TabularMDP.from_env(Table(5)), ValueError, "dictionary or list.*got 5"),
    ("table-no-actions", lambda: TabularMDP.from_env(Table({0: {}})), ValueError, "the actions of state 0"),
    ("table-state-missing", lambda: TabularMDP.from_env(Table({7: {0: []}})),
     ValueError, "has no state 2: states and actions are counted from 0"),
    ("table-actions-differ", lambda: TabularMDP.from_env(Table({1: {0: [], 1: []}})),
     ValueError, "state 1 has 2 actions, and state 0 has 1"),
    ("table-outcome-length", lambda: TabularMDP.from_env(Table({0: {0: [(1.0, 1, 0.0)]}})),
     ValueError, r"got \(1.0, 1, 0.0\) at state 0, action 0"),
    ("table-next-state-fraction", lambda: TabularMDP.from_env(Table({0: {0: [(1.0, 0.7, 0.0, False)]}})),
     ValueError, "integer, got 0.7"),
    ("table-probability-negative", lambda: TabularMDP.from_env(Table({0: {0: [(-1.0, 1, 0, True), (2.0, 1, 0, True)]}})),
     ValueError, r"in \[0, 1\], got -1.0"),
    ("table-probability-sum", lambda: TabularMDP.from_env(Table({0: {0: [(0.5, 1, 0.0, False)]}})),
     ValueError, "sum to 1, got 0.5"),
    ("table-reward-nan", lambda: TabularMDP.from_env(Table({0: {0: [(1.0, 1, math.nan, False)]}})),
     ValueError, "finite, got nan at state 0"),
    # tabular agents; the compiled loop would read and write beside its arrays
    ("agent-table-next-state", lambda: QLearning(Table({0: {0: [(1.0, 7, 0.0, False)]}})),
     ValueError, r"in 0..1, got 7 at state 0, action 0"),
    ("agent-table-next-negative", lambda: QLearning(Table({0: {0: [(1.0, -1, 0.0, False)]}})), ValueError, r"in 0..1, got -1"),
    ("agent-table-start", lambda: QLearning(Table(start=(0.5, 0.1))),
     ValueError, "initial_state_distrib must hold 2 probabilities"),
    ("agent-spaces", lambda: QLearning("CartPole-v1"), ValueError, "Discrete observation space, got Box"),
    ("agent-gamma-text", lambda: QLearning("MirlSquare-v0", gamma="x"), ValueError, "gamma='x' must be a number"),
    ("agent-epsilon-nan", lambda: SoftQLearning("MirlSquare-v0", epsilon=math.nan), ValueError, "epsilon=nan"),
    ("agent-beta-text", lambda: TabularMIRL("MirlSquare-v0", beta_slope="x"), ValueError, "beta_slope='x'"),
    ("agent-decay-nan", lambda: TabularMIRL("MirlSquare-v0", prior_decay=math.nan), ValueError, "prior_decay=nan"),
    ("agent-seed", lambda: QLearning("MirlSquare-v0", seed=-1), ValueError, "seed=-1 must be an integer"),
    ("agent-learn-text", lambda: QLearning("MirlSquare-v0").learn("5"), ValueError, "total_timesteps='5'"),
    ("agent-eval-episodes", lambda: QLearning("MirlSquare-v0").learn(9, 3, 0), ValueError, "n_eval_episodes=0"),
    ("agent-eval-exploration", lambda: QLearning("MirlSquare-v0").learn(9, eval_exploration="greedy"),
     ValueError, "'own', 'uniform', 'none'"),
    ("agent-predict", lambda: QLearning("MirlSquare-v0").predict(np.array([3, 64])), ValueError, r"in 0..63, got \[3, 64\]"),
    # gridworlds
    ("grid-unknown", lambda: GridWorldEnv("maze"), ValueError, r"unknown map 'maze': choose one of \['corridor', 'square'\]"),
    ("grid-none", lambda: GridWorldEnv(None), ValueError, r"list of equally long rows, got the lengths \[\]"),
    ("grid-numbers", lambda: GridWorldEnv([1, 2]), ValueError, r"must be strings, got \[1, 2\]"),
    ("grid-nested", lambda: GridWorldEnv([[".", "G"]]), ValueError, "must be strings"),
    ("grid-reward", lambda: GridWorldEnv(goal_reward=math.nan), ValueError, "goal_reward=nan"),
    ("grid-render", lambda: GridWorldEnv(render_mode="human"), ValueError, "render_mode='human'.*'ansi', 'rgb_array'"),
    ("grid-action", lambda: GridWorldEnv().step(7), ValueError, "actions must be in 0..3, got 7"),
    # Atari
    ("score-game", lambda: normalized_score("NoSuchGame", 1),
     ValueError, "no reference scores for 'NoSuchGame': .* Alien, Assault"),
    ("score-game-type", lambda: normalized_score(5, 1), TypeError, "must be a string.*got 5 of type int"),
    ("score-text", lambda: normalized_score("Alien", "much"), ValueError, "convert string to float: 'much'"),
    ("atari-game", lambda: atari("SpaceInvader"),
     ValueError, "Unknown Atari game 'SpaceInvader'. Did you mean 'SpaceInvaders'"),
    ("atari-game-far", lambda: atari("NoSuchGame"), ValueError, r"get_all_rom_ids\(\) lists the games"),
    ("atari-envs", lambda: atari(n_envs=0), ValueError, r"n_envs=0 must be an integer in \[1, inf\]"),
    ("atari-sticky-text", lambda: atari(repeat_action_probability="a"), ValueError, "repeat_action_probability='a'"),
    ("atari-seed", lambda: atari(seed="a"), ValueError, r"seed='a' must be an integer in \[0, inf\]"),
    # replay memory
    ("replay-not-stacked", add_frames_that_do_not_follow, ValueError, r"not stacks of 4 frames: in environments \[0\]"),
    ("replay-space", lambda: FrameReplayBuffer(9, spaces.Box(0, 1, (4,)), spaces.Discrete(2)),
     ValueError, "3-D Box of uint8, not Box"),
    ("replay-frames", lambda: FrameReplayBuffer(9, FRAMES, spaces.Discrete(2), frame_stack=3),
     ValueError, "cannot be a stack of 3"),
    ("replay-empty", lambda: FrameReplayBuffer(9, FRAMES, spaces.Discrete(2)).sample(2), ValueError, "empty replay buffer"),
]  # fmt: skip


@pytest.mark.parametrize(("argument", "value", "message"), ARGUMENTS, ids=[f"{row[0]}={row[1]}" for row in ARGUMENTS])
def test_argument_out_of_range(argument: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mirl(**{argument: value})


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_bad_input(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_argument_out_of_range_at_load(tmp_path: Path) -> None:
    mirl().save(tmp_path / "m")
    with pytest.raises(ValueError, match="prior_lr=-1"):
        MIRL.load(tmp_path / "m", prior_lr=-1)


def test_other_algorithms_policies_are_refused() -> None:
    from stable_baselines3.dqn.policies import DQNPolicy
    from stable_baselines3.sac.policies import SACPolicy

    for policy in (DQNPolicy, SACPolicy):
        with pytest.raises(ValueError, match=f"subclass of sb3_mirl.soft_dqn.SoftQPolicy.*{policy.__name__}"):
            MIRL(policy, ScriptedEnv(), **SMALL)  # type: ignore[arg-type]


def test_what_is_unusual_and_right_is_taken() -> None:
    """One action, a memory smaller than the minibatch, learning from the first step on."""
    model = mirl(OtherSpaces(action=spaces.Discrete(1)), buffer_size=5, batch_size=8, learning_starts=0).learn(40)
    assert model._n_updates == 10 and model.prior == [1.0]
    assert model.predict(np.zeros(4, np.float32))[0] == 0


class TestZoo:
    """``python -m sb3_mirl train`` with configurations that are wrong."""

    @pytest.mark.parametrize(
        ("text", "error", "message"),
        [
            ("CartPole-v1:\n  policy: [", ValueError, "bad.yml is not YAML: while parsing"),
            ("- CartPole-v1", ValueError, "must map environment ids to hyperparameters, got list"),
            (
                "CartPole-v1: MlpPolicy",
                ValueError,
                "entry 'CartPole-v1' of .*bad.yml must map names to values, got 'MlpPolicy'",
            ),
            ("Acrobot-v1: {policy: MlpPolicy}", ValueError, "not found for mirl-CartPole-v1 in .*bad.yml"),
            (
                "CartPole-v1: {policy: MlpPolicy, n_timesteps: 9, prior_rate: 1}",
                TypeError,
                "MIRL has no argument 'prior_rate': did you mean 'prior_lr'",
            ),
            ("CartPole-v1: {policy: MlpPolicy, n_timesteps: 9, prior_lr: 2}", ValueError, "prior_lr=2 must be"),
            ("CartPole-v1: {policy: MlpPolicy}", ValueError, "bad.yml gives no n_timesteps for CartPole-v1"),
        ],
        ids=["syntax", "list", "entry", "env", "argument", "value", "steps"],
    )
    def test_configuration(
        self, text: str, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("rl_zoo3", reason="pip install '.[zoo]'")
        (tmp_path / "bad.yml").write_text(text)
        with pytest.raises(SystemExit, match=message) as stopped:
            self.train(monkeypatch, tmp_path, "-conf", str(tmp_path / "bad.yml"))
        assert isinstance(stopped.value.__context__, error)
        assert not list(tmp_path.rglob("CartPole-v1_*"))

    def test_preset(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("rl_zoo3", reason="pip install '.[zoo]'")
        with pytest.raises(SystemExit, match="-conf tabel3 is neither a preset of mirl"):
            self.train(monkeypatch, tmp_path, "-conf", "tabel3")

    @staticmethod
    def train(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> None:
        from sb3_mirl.__main__ import main

        monkeypatch.chdir(folder)
        for name in ("PATH", "PYTHONPATH"):
            monkeypatch.setenv(name, "")
        monkeypatch.setattr("sys.argv", ["sb3_mirl", "train", "--algo", "mirl", "--env", "CartPole-v1", "-n", "10", *options])
        main()
