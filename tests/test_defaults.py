"""What is chosen where a hyperparameter is left open, when, and what a run that cannot learn is told."""

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_mirl import MIRL, ResumableCheckpoint, SoftDQN, resume
from sb3_mirl.soft_dqn.defaults import PAPER, PAPER_BUDGET, FallingRate, choose, doubts, sees_images
from sb3_mirl.soft_dqn.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from tests.conftest import ScriptedEnv

BARE: dict[str, Any] = {"replay_buffer_kwargs": {"handle_timeout_termination": False}}
NET: dict[str, Any] = dict(policy_kwargs=dict(net_arch=[16]), device="cpu", seed=0)
BUDGETS = [100, 1_000, 45_000, 10**6, 10**7, PAPER_BUDGET, 10**9]


def small_image_env() -> FakeImageEnv:
    return FakeImageEnv(3, screen_height=36, screen_width=36, n_channels=4, channel_first=True)


def values_of(model: SoftDQN) -> dict[str, Any]:
    return {name: getattr(model, name) for name in PAPER if hasattr(model, name)}


class TestChoose:
    def test_images_get_the_papers_values_at_its_budget(self) -> None:
        assert choose("auto", True, PAPER_BUDGET, 8) == dict(PAPER)

    @pytest.mark.parametrize("images", [False, True])
    @pytest.mark.parametrize("budget", BUDGETS)
    def test_the_paper_preset_is_exact_everywhere(self, images: bool, budget: int) -> None:
        assert choose("paper", images, budget, 8) == dict(PAPER)

    @pytest.mark.parametrize("images", [False, True])
    @pytest.mark.parametrize("budget", BUDGETS)
    def test_every_run_can_learn(self, images: bool, budget: int) -> None:
        chosen = choose("auto", images, budget, 1)
        assert not doubts(budget, chosen["learning_starts"], chosen["exploration_fraction"], chosen["target_update_interval"])

    @pytest.mark.parametrize("images", [False, True])
    def test_values_change_in_one_direction_with_the_budget(self, images: bool) -> None:
        columns = {name: [choose("auto", images, budget, 1)[name] for budget in BUDGETS] for name in PAPER}
        for name in ("buffer_size", "learning_starts", "target_update_interval"):
            assert columns[name] == sorted(columns[name]), name
        for name in ("exploration_fraction", "beta_lr", "prior_lr", *(["learning_rate"] if images else [])):
            assert columns[name] == sorted(columns[name], reverse=True), name

    @pytest.mark.parametrize("images", [False, True])
    @pytest.mark.parametrize("budget", [0, 1, 7.0, 1e5])
    def test_values_are_valid_for_any_budget(self, images: bool, budget: float) -> None:
        chosen = choose("auto", images, budget, 64)
        MIRL("MlpPolicy", ScriptedEnv(), **chosen, **NET)  # type: ignore[arg-type]  # checks the ranges
        assert all(isinstance(chosen[name], int) for name, value in PAPER.items() if isinstance(value, int))
        assert chosen["target_update_interval"] >= 64

    def test_the_rate_falls(self) -> None:
        assert [FallingRate(2e-3)(remaining) for remaining in (1.0, 0.25, 0.0)] == [2e-3, 5e-4, 0.0]

    def test_an_unknown_preset_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"preset='atari' is not known, choose from 'auto', 'paper'"):
            MIRL("MlpPolicy", ScriptedEnv(), preset="atari", **NET)  # type: ignore[arg-type]

    def test_what_counts_as_images(self) -> None:
        image, numbers = spaces.Box(0, 255, (4, 36, 36), np.uint8), spaces.Box(-1, 1, (4,), np.float32)
        assert sees_images(CnnPolicy, image) and not sees_images(MlpPolicy, numbers)
        assert sees_images(MultiInputPolicy, spaces.Dict({"a": numbers, "b": image}))
        assert not sees_images(MultiInputPolicy, spaces.Dict({"a": numbers}))


class TestReturns:
    """Of n steps only where the whole setting is ours, and the memory can make them."""

    def steps_of(self, **arguments: Any) -> int:
        return MIRL(**{"policy": "MlpPolicy", "env": ScriptedEnv(), **NET, **arguments}).n_steps

    def test_the_one_liner_has_five(self) -> None:
        model = SoftDQN("MlpPolicy", ScriptedEnv(), **NET)
        assert model.n_steps == 5 and isinstance(model.replay_buffer, NStepReplayBuffer)
        assert self.steps_of(n_steps=2, learning_rate=1e-3) == self.steps_of(n_steps=2) == 2

    def test_others_have_one_as_in_dqn(self) -> None:
        assert self.steps_of(learning_rate=1e-3) == self.steps_of(preset="paper") == 1
        assert self.steps_of(replay_buffer_class=ReplayBuffer) == self.steps_of(optimize_memory_usage=True, **BARE) == 1
        assert self.steps_of(policy="CnnPolicy", env=small_image_env()) == 1
        assert self.steps_of(policy="MultiInputPolicy", env=SimpleMultiObsEnv()) == 1

    def test_a_memory_in_use_keeps_its_own(self) -> None:
        model = SoftDQN("MlpPolicy", ScriptedEnv(), **NET).learn(60)
        model.learning_rate = 1e-3
        model.learn(60)
        assert model.n_steps == 5 and model.replay_buffer.n_steps == 5  # type: ignore[union-attr]


class TestModels:
    def test_values_are_chosen_when_a_run_begins(self) -> None:
        model = MIRL("MlpPolicy", DummyVecEnv([ScriptedEnv] * 2), **NET)
        assert values_of(model) == choose("auto", False, model.default_budget, 2)
        model.learn(400)
        chosen = choose("auto", False, 400, 2)
        assert values_of(model) == model.chosen == chosen != choose("auto", False, model.default_budget, 2)
        assert model.replay_buffer is not None and model.replay_buffer.buffer_size * 2 == chosen["buffer_size"]
        assert model.exploration_rate == pytest.approx(chosen["exploration_final_eps"])
        assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(chosen["learning_rate"](0.0))
        assert model._n_updates > 0 and model.num_timesteps == 400
        model.learn(200, reset_num_timesteps=False)
        assert values_of(model) == chosen, "a run that goes on keeps its values"
        model.learn(800)
        assert values_of(model) == {**choose("auto", False, 800, 2), "buffer_size": chosen["buffer_size"]}
        assert model.replay_buffer.size() * 2 == 1400, "the memory that has been filled stays"

    def test_images_have_a_default_budget_of_their_own(self) -> None:
        kwargs = dict(buffer_size=100, policy_kwargs=dict(features_extractor_kwargs=dict(features_dim=8)), device="cpu")
        model = SoftDQN("CnnPolicy", small_image_env(), **kwargs)  # type: ignore[arg-type]
        assert model.default_budget == PAPER_BUDGET
        paper = {name: value for name, value in PAPER.items() if name != "prior_lr"}
        assert values_of(model) == {**paper, "buffer_size": 100}
        small = SoftDQN("MlpPolicy", ScriptedEnv(), **NET)
        assert small.default_budget < PAPER_BUDGET
        assert SoftDQN("MlpPolicy", ScriptedEnv(), preset="paper", buffer_size=10, **NET).default_budget == PAPER_BUDGET

    def test_learn_without_a_number_takes_the_default_budget(self) -> None:
        model = SoftDQN("MlpPolicy", ScriptedEnv(), **NET)
        model.learn(callback=lambda *_: False)
        assert model._total_timesteps == model.chosen_for == model.default_budget

    @pytest.mark.parametrize("preset", ["auto", "paper"])
    def test_explicit_values_are_never_touched(self, preset: Any) -> None:
        given: dict[str, Any] = dict(
            learning_rate=lambda progress: 1e-3 * progress,
            buffer_size=77,
            learning_starts=11,
            batch_size=5,
            n_steps=2,
            target_update_interval=13,
            exploration_fraction=0.77,
            exploration_final_eps=0.33,
            beta_init=3.5,
            beta_lr=0.0,
            prior_lr=0.0,
        )
        assert set(given) == set(PAPER), "of each a value"
        model = MIRL("MlpPolicy", ScriptedEnv(), preset=preset, **given, **NET).learn(200)
        assert values_of(model) == given and not model.chosen
        assert model.beta == 3.5
        # the values that would be chosen are explicit, too
        same = MIRL("MlpPolicy", ScriptedEnv(), **PAPER, **NET)  # type: ignore[arg-type]
        with pytest.warns(UserWarning, match="There is no update"):
            same.learn(120)
        assert values_of(same) == dict(PAPER)

    def test_values_set_on_the_model_are_explicit(self) -> None:
        model = MIRL("MlpPolicy", ScriptedEnv(), **NET)
        model.learning_starts, model.exploration_final_eps = 123, 0.4
        model.policy.beta.fill_(7.0)
        model.learn(100, callback=lambda *_: False)
        assert (model.learning_starts, model.exploration_final_eps, model.beta) == (123, 0.4, 7.0)
        assert "learning_starts" not in model.chosen and "batch_size" in model.chosen

    def test_an_untrained_model_starts_at_the_runs_beta(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def by_budget(*args: Any) -> dict[str, Any]:
            return {**choose(*args), "beta_init": 5.0 if args[2] == 100 else 2.0}

        monkeypatch.setattr("sb3_mirl.soft_dqn.soft_dqn.choose", by_budget)
        model = SoftDQN("MlpPolicy", ScriptedEnv(), beta_schedule="constant", **NET)
        assert model.beta == 2.0
        model.learn(100)
        assert model.beta == 5.0
        model.learn(200)
        assert model.beta == 5.0 and model.beta_init == 2.0, "what has been learned goes on"

    def test_chosen_values_are_shown_and_saved(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        model = MIRL("MlpPolicy", ScriptedEnv(), verbose=1, gamma=0.9, batch_size=16, **NET).learn(400)
        (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("Chosen for 400 steps")]
        assert f"learning_starts={model.learning_starts}," in line and "batch_size" not in line
        assert "learning_rate=0.0025 falling to 0," in line
        before = values_of(model)
        model.save(tmp_path / "model")
        loaded = MIRL.load(tmp_path / "model", env=ScriptedEnv(), learning_rate=0.5)
        assert values_of(loaded) == {**before, "learning_rate": 0.5}
        loaded.learn(5_000, callback=lambda *_: False)
        assert values_of(loaded) == {**before, "learning_rate": 0.5}, "a trained model keeps the values of its file"

    def test_a_model_saved_before_its_run_still_chooses(self, tmp_path: Path) -> None:
        MIRL("MlpPolicy", ScriptedEnv(), **NET).save(tmp_path / "model")
        model = MIRL.load(tmp_path / "model", env=ScriptedEnv(), batch_size=7).learn(400)
        assert values_of(model) == {**choose("auto", False, 400, 1), "batch_size": 7}

    def test_a_resumed_run_keeps_its_values(self, tmp_path: Path) -> None:
        class Stop(BaseCallback):
            def _on_step(self) -> bool:
                return self.num_timesteps < 200

        model = MIRL("MlpPolicy", ScriptedEnv(), **NET)
        model.learn(400, callback=[ResumableCheckpoint(tmp_path, save_freq=100), Stop()])
        resumed = resume(tmp_path, ScriptedEnv(), cls=MIRL)
        resumed.learn(600)
        assert values_of(resumed) == choose("auto", False, 400, 1)

    def test_files_of_release_010_keep_their_numbers(self) -> None:
        model = MIRL.load("tests/data/0.1.0/mirl.zip", device="cpu")
        before = values_of(model)
        assert None not in before.values() and not model.chosen
        model.set_env(DummyVecEnv([lambda: _env_of(model)]))
        model.learn(5, callback=lambda *_: False)
        assert values_of(model) == before


def _env_of(model: SoftDQN) -> gym.Env[Any, Any]:
    class Env(ScriptedEnv):
        def _observation(self) -> np.ndarray:
            return self.observation_space.sample()

    env = Env()
    env.observation_space, env.action_space = model.observation_space, model.action_space
    return env


class TestDoubts:
    """One warning, with numbers and advice."""

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            (
                dict(learning_starts=400),
                r"400 steps cannot learn much: There is no update, because learning starts after 400 ",
            ),
            (dict(learning_starts=100, exploration_fraction=0.25), r"Epsilon is at its end after 100 steps, .* starts at 100"),
            (dict(target_update_interval=39), r"The target network is copied 9 times after learning has started, every 39 "),
            (dict(preset="paper"), r"There is no update, because learning starts after 50000 steps"),
        ],
    )
    def test_a_run_that_cannot_learn(self, kwargs: dict[str, Any], message: str) -> None:
        with pytest.warns(UserWarning, match=message) as record:
            SoftDQN("MlpPolicy", ScriptedEnv(), **NET, **kwargs).learn(400)
        assert len(record) == 1

    def test_all_doubts_in_one_warning(self) -> None:
        found = doubts(1000, 500, 0.1, 100)
        assert len(found) == 2 and "Epsilon" in found[0] and "copied 5 times" in found[1]

    @pytest.mark.parametrize(
        "kwargs",
        [
            {},
            dict(target_update_interval=36),
            dict(target_update_interval=300, tau=0.5),
            dict(learning_starts=100, exploration_fraction=0.01, exploration_initial_eps=0.1, exploration_final_eps=0.1),
        ],
    )
    def test_other_runs_are_not_warned(self, kwargs: dict[str, Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = SoftDQN("MlpPolicy", ScriptedEnv(), **NET, **kwargs).learn(400)
            model.learn(5, reset_num_timesteps=False)


@pytest.mark.learning
@pytest.mark.parametrize("algo", [MIRL, SoftDQN])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_one_liner_learns(algo: type[SoftDQN], seed: int) -> None:
    """50 000 steps of CartPole, about a minute each."""
    model = algo("MlpPolicy", "CartPole-v1", seed=seed, device="cpu").learn(50_000)
    env = Monitor(gym.make("CartPole-v1"))
    env.reset(seed=1000 + seed)
    score, _ = evaluate_policy(model, env, 20)
    assert score >= 195
