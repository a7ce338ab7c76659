"""What is logged, as TensorBoard reads it back."""

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_mirl import MIRL, PriorCallback, SoftDQN
from sb3_mirl.common import prior_callback
from tests.conftest import ScriptedEnv

SHARED_TAGS = {
    "rollout/ep_rew_mean",
    "rollout/ep_len_mean",
    "rollout/exploration_rate",
    "time/fps",
    "train/learning_rate",
    "train/loss",
    "train/beta",
    "train/beta_max_q",
}
PRIOR_TAGS = {
    "train/prior/NOOP",
    "train/prior/FIRE",
    "train/prior/RIGHT",
    "rollout/prior_entropy",
    "rollout/mutual_information",
    "rollout/kkt_gap",
}


def read(folder: Any) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


@pytest.mark.parametrize(("cls", "tags"), [(SoftDQN, SHARED_TAGS), (MIRL, SHARED_TAGS | PRIOR_TAGS)])
def test_tensorboard_curves(small: dict[str, Any], tmp_path: Any, cls: type[SoftDQN], tags: set[str]) -> None:
    model = cls("MlpPolicy", ScriptedEnv(), tensorboard_log=str(tmp_path), **small).learn(400)
    events = read(tmp_path / f"{cls.__name__}_1")
    assert tags <= set(events.Tags()["scalars"])
    last = events.Scalars("train/beta")[-1]  # one update before the end of the run
    assert last.step == 400 and last.value == pytest.approx(model.beta, rel=0.05) and last.value != model.beta_init


def test_prior_curves_say_what_the_model_holds(small: dict[str, Any], tmp_path: Any) -> None:
    model = MIRL("MlpPolicy", ScriptedEnv(), prior_lr=0.05, beta_init=3.0, tensorboard_log=str(tmp_path), **small).learn(400)
    events = read(tmp_path / "MIRL_1")
    last = [events.Scalars(f"train/prior/{name}")[-1].value for name in ("NOOP", "FIRE", "RIGHT")]
    np.testing.assert_allclose(last, model.prior, rtol=1e-5)
    entropy = -sum(p * math.log(p) for p in model.prior)
    assert events.Scalars("rollout/prior_entropy")[-1].value == pytest.approx(entropy, rel=1e-5)
    assert 0 <= events.Scalars("rollout/mutual_information")[-1].value <= math.log(3)
    groups = {tag.split("/")[0] for tag in events.Tags()["scalars"]}
    assert sorted(groups)[0] == "rollout", "the tab that opens begins with the returns"


def test_the_priors_course_is_drawn_now_and_then(small: dict[str, Any], tmp_path: Any, monkeypatch: Any) -> None:
    pytest.importorskip("matplotlib", reason="pip install matplotlib")
    monkeypatch.setattr(prior_callback, "FIGURES", 3)
    MIRL("MlpPolicy", ScriptedEnv(n_actions=18), prior_lr=0.05, tensorboard_log=str(tmp_path), **small).learn(600)
    events = read(tmp_path / "MIRL_1")
    images = events.Images("rollout/prior")
    assert len(images) == 3 and images[0].step < 200 and images[-1].width == 500
    history = {"timesteps": np.arange(3), "prior": np.array([[0.5, 0.5], [0.6, 0.4], [0.75, 0.25]])}
    (ax,) = prior_callback.prior_course(history, ["LEFT", "RIGHT"]).axes
    lower, upper = ax.collections
    assert lower.get_paths()[0].vertices[:, 1].max() == 0.75 and upper.get_paths()[0].vertices[:, 1].max() == 1.0


@pytest.mark.parametrize("cls", [SoftDQN, MIRL])
def test_hyperparameters_are_logged(small: dict[str, Any], tmp_path: Any, cls: type[SoftDQN]) -> None:
    cls("MlpPolicy", ScriptedEnv(), tensorboard_log=str(tmp_path), **small).learn(100)
    events = read(tmp_path / f"{cls.__name__}_1")
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert cls.__name__.encode() in content
    assert all(name.encode() in content for name in ("learning_rate", "beta_init", "target_update_interval"))


@pytest.mark.parametrize("steps", [60, 399], ids=["fewer than the window", "more"])
def test_mutual_information_and_kkt_gap_are_those_of_the_recent_states(small: dict[str, Any], steps: int) -> None:
    callback = PriorCallback(window=50)
    seen: list[np.ndarray] = []
    model = MIRL("MlpPolicy", DummyVecEnv([ScriptedEnv] * 3), prior_lr=0.01, beta_init=3.0, **small)
    original = callback.fold

    def spy(log_probs: Any, *others: Any) -> None:
        q, rho, beta = model.rollout_q_values, model.prior, model.beta
        assert q is not None
        weights = rho * np.exp(beta * (q.double() - q.double().amax(1, keepdim=True)).numpy())
        seen.extend(weights / weights.sum(1, keepdims=True))
        original(log_probs, *others)

    callback.fold = spy  # type: ignore[method-assign]
    model.learn(steps, callback=callback)
    assert (len(seen) < 50) == (steps == 60) and seen
    recent = np.array(seen[-50:])
    expected = (recent * np.log(recent / recent.mean(0))).sum(1).mean()
    assert callback.mutual_information() == pytest.approx(expected, rel=1e-6) and expected > 1e-6
    assert callback.kkt_gap() == pytest.approx((recent.mean(0) / model.prior).max() - 1, rel=1e-6)


def test_history_is_bounded_and_keeps_the_whole_course(small: dict[str, Any]) -> None:
    callback = PriorCallback(max_points=16)
    MIRL("MlpPolicy", ScriptedEnv(), **small).learn(1000, callback=callback)
    steps = callback.history["timesteps"]
    assert 8 <= len(steps) <= 16 and steps[0] < 200 and steps[-1] > 900
    assert len(set(np.diff(steps))) == 1, "the points stay evenly spaced"
    assert callback.history["prior"].shape == (len(steps), 3)
    np.testing.assert_allclose(callback.history["prior"].sum(1), 1)


def test_actions_without_names_are_numbered_also_in_other_processes(small: dict[str, Any]) -> None:
    """Asking a worker process for a method it does not have would end it."""
    env = SubprocVecEnv([lambda: __import__("gymnasium").make("CartPole-v1")] * 2)
    model = MIRL("MlpPolicy", env, **small).learn(100)
    assert model.prior_callback is not None and model.prior_callback.action_names == ["action_0", "action_1"]
    env.close()


def test_replay_ratio_is_logged_at_the_start(small: dict[str, Any], capsys: Any) -> None:
    SoftDQN("MlpPolicy", DummyVecEnv([ScriptedEnv] * 8), batch_size=32, verbose=1, **small).learn(16)
    assert "One gradient update of 32 transitions per 4 environment steps" in capsys.readouterr().out


@pytest.mark.parametrize(("steps", "most", "interval"), [(40, 64, 1), (100, 64, 4), (1000, 64, 32), (1000, 8, 8)])
def test_long_histories_begin_with_points_far_apart(
    small: dict[str, Any], monkeypatch: pytest.MonkeyPatch, steps: int, most: int, interval: int
) -> None:
    """Which the run would have come to anyway: it ends with the same points as one that thins them out."""
    small["learning_starts"] = steps // 4
    histories, intervals = [], []
    for first in (most, 1):
        monkeypatch.setattr(prior_callback, "FIRST_INTERVAL", first)
        callback = PriorCallback(max_points=20)

        def look(*_: Any, callback: PriorCallback = callback) -> bool:
            intervals.append(callback.interval)
            return True

        MIRL("MlpPolicy", ScriptedEnv(), **small).learn(steps, [callback, look])
        histories.append(callback.history)
    assert (intervals[0], intervals[steps]) == (interval, 1)
    for name, values in histories[0].items():
        np.testing.assert_array_equal(values, histories[1][name], err_msg=name)
    assert len(histories[0]["timesteps"]) > 10


def test_means_do_not_depend_on_when_they_were_asked_for() -> None:
    """Nor on the turns of the ring, with several environments."""
    rng, often, once = np.random.default_rng(0), *(prior_callback.RecentPolicies(50, 3) for _ in range(2))
    for i in range(47):
        log_probs = np.log(rng.dirichlet(np.ones(3), size=4))
        once.add(log_probs)
        often.add(log_probs)
        often.mutual_information()
        if i % 5 == 0:
            often.state_dict()
    for key, value in once.state_dict().items():
        np.testing.assert_array_equal(value, often.state_dict()[key])


@pytest.mark.parametrize("n_folded", [3, 12, 47], ids=["window not full", "a turn", "several"])
def test_a_record_goes_on_from_a_file_also_from_one_of_before_the_running_sums(n_folded: int) -> None:
    """Until then it held the policies themselves, in a ring."""
    rng = np.random.default_rng(0)
    policies = rng.dirichlet(np.ones(3), size=n_folded + 5)
    recent = prior_callback.RecentPolicies(10, 3)
    ring = np.full((10, 3), np.nan)
    for i, policy in enumerate(policies[:n_folded]):
        recent.add(np.log(policy)[None])
        ring[i % 10] = np.log(policy)
    saved = {"n_calls": 1, "interval": 1, "points": {}}
    now, older = PriorCallback(window=10), PriorCallback(window=10)
    now.load_state_dict({**saved, "recent": recent.state_dict()})
    older.load_state_dict({**saved, "recent": th.from_numpy(ring), "n_folded": n_folded})
    for callback in (now, older):
        assert callback._recent is not None
        for policy in policies[n_folded:]:
            callback._recent.add(np.log(policy)[None])
    for policy in policies[n_folded:]:
        recent.add(np.log(policy)[None])
    last = policies[-10:]
    expected = (last * np.log(last / last.mean(0))).sum(1).mean()
    assert recent.mutual_information() == pytest.approx(expected, rel=1e-12)
    assert now.mutual_information() == recent.mutual_information(), "to the last bit"
    assert older.mutual_information() == pytest.approx(expected, rel=1e-12)


def test_running_sums_do_not_drift() -> None:
    """After ten thousand turns, with policies that are almost certain in between."""
    rng, recent = np.random.default_rng(0), prior_callback.RecentPolicies(50, 4)
    for _ in range(2000):
        recent.add(np.log(np.maximum(rng.dirichlet(np.full(4, 0.01), size=7), 1e-300)))
    last = rng.dirichlet(np.ones(4), size=50)
    recent.add(np.log(last[:43]))
    recent.add(np.log(last[43:]))
    assert recent.mutual_information() == pytest.approx((last * np.log(last / last.mean(0))).sum(1).mean(), rel=1e-11)
    assert recent.kkt_gap(np.log(np.full(4, 0.25))) == pytest.approx(4 * last.mean(0).max() - 1, rel=1e-11)
