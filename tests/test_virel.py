"""VIREL: reductions to SAC, one update against written-out formulas, what it learns, bad input, files."""

import math
from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from stable_baselines3.her import HerReplayBuffer

from sb3_mirl import VIREL
from sb3_mirl.common.actions import ActionSpaceError

SMALL: dict[str, Any] = dict(
    learning_starts=50,
    buffer_size=1000,
    batch_size=32,
    learning_rate=1e-3,
    policy_kwargs=dict(net_arch=[16]),
    seed=0,
    device="cpu",
)


class OneStep(gym.Env[np.ndarray, np.ndarray]):
    """Episodes of one action: r = 1 - (a - s / 2)^2, so that at a temperature T the best policy has std sqrt(T / 2)."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.state, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.state, 1 - float((action[0] - self.state[0] / 2) ** 2), True, False, {}


class Scripted(gym.Env[np.ndarray, np.ndarray]):
    """Random observations, rewards from a function of the step."""

    def __init__(self, reward: Callable[[int], float] = lambda step: 1.0, action_space: Any = None) -> None:
        self.observation_space = spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = action_space or spaces.Box(-2, 2, (2,), np.float32)
        self.reward, self.total = reward, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.total += 1
        observation = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return observation, self.reward(self.total), self.total % 13 == 0, self.total % 20 == 0, {}


def virel(env: Any = "Pendulum-v1", **changed: Any) -> VIREL:
    return VIREL("MlpPolicy", env, **{**SMALL, **changed})


def assert_equal_weights(one: SAC, two: SAC) -> None:
    first, second = one.policy.state_dict(), two.policy.state_dict()
    assert list(first) == list(second)
    for name in first:
        assert th.equal(first[name], second[name]), name


class TestReductions:
    @pytest.mark.parametrize("ent_coef", [0.2, "auto", "auto_0.1"])
    def test_soft_critics_are_sac(self, ent_coef: Any) -> None:
        sac = SAC("MlpPolicy", "Pendulum-v1", ent_coef=ent_coef, **SMALL).learn(150)
        model = virel(ent_coef=ent_coef, critics="soft").learn(150)
        assert_equal_weights(sac, model)
        tuned = sac.ent_coef_tensor if sac.log_ent_coef is None else sac.log_ent_coef.exp()
        assert model.temperature == tuned.item()

    def test_with_a_schedule_and_state_dependent_exploration(self) -> None:
        changed = {**SMALL, "learning_rate": lambda progress: 3e-3 * progress, "use_sde": True, "target_update_interval": 2}
        sac = SAC("MlpPolicy", "Pendulum-v1", ent_coef="auto", **changed).learn(100)
        assert_equal_weights(sac, virel(ent_coef="auto", critics="soft", **changed).learn(100))

    @pytest.mark.parametrize("critics", ["hard", "mixed"])
    @pytest.mark.parametrize("temperature", [{"ent_coef": 0.0}, {"residual_scale": 0.0, "temperature_init": 0.0}])
    def test_without_temperature_it_is_sac_without_entropy(self, critics: str, temperature: dict[str, Any]) -> None:
        sac = SAC("MlpPolicy", "Pendulum-v1", ent_coef=0.0, **SMALL).learn(150)
        model = virel(critics=critics, **temperature).learn(150)
        assert_equal_weights(sac, model)
        assert model.temperature == 0

    def test_hard_critics_are_not_sac(self) -> None:
        hard, soft = (virel(ent_coef=0.2, critics=critics).learn(80) for critics in ("hard", "soft"))
        assert not th.equal(hard.critic.state_dict()["qf0.0.weight"], soft.critic.state_dict()["qf0.0.weight"])


# One update against formulas


def by_hand(model: VIREL, batch_size: int) -> dict[str, Any]:
    """What the next update must do: section 2 of the paper's algorithm as it is resolved in the class's documentation."""
    assert model.replay_buffer is not None
    policy = deepcopy(model.policy)
    actor, critic, critic_target = policy.actor, policy.critic, policy.critic_target
    old = model.temperature
    batch = model.replay_buffer.sample(batch_size)
    a, log_pi = actor.action_log_prob(batch.observations)
    std = actor.action_dist.distribution.stddev.mean().item()

    def draw(b: Any) -> tuple[th.Tensor, th.Tensor]:
        with th.no_grad():
            next_a, next_log_pi = actor.action_log_prob(b.next_observations)
            values = critic_target(b.next_observations, next_a)
            lowest = values[0]
            for value in values[1:]:
                lowest = th.minimum(lowest, value)
            return lowest.flatten(), next_log_pi.flatten()

    def hard(b: Any, drawn: tuple[th.Tensor, th.Tensor]) -> th.Tensor:
        discount = model.gamma if b.discounts is None else b.discounts.flatten()
        return b.rewards.flatten() + (1 - b.dones.flatten()) * discount * drawn[0]

    def soft(b: Any, drawn: tuple[th.Tensor, th.Tensor], t: float, rho: float) -> th.Tensor:
        discount = model.gamma if b.discounts is None else b.discounts.flatten()
        return rho * b.rewards.flatten() + (1 - b.dones.flatten()) * discount * (drawn[0] - t * drawn[1])

    drawn = draw(batch)
    q = [value.flatten() for value in critic(batch.observations, batch.actions)]

    b, of_b = batch, drawn
    if model.residual_batch_size is not None:
        b = model.replay_buffer.sample(model.residual_batch_size)
        of_b = draw(b)
    y = hard(b, of_b) if model.critics != "soft" else soft(b, of_b, old, 1.0)
    second = y
    if model.residual_estimator == "double":
        another = draw(b)
        second = hard(b, another) if model.critics != "soft" else soft(b, another, old, 1.0)
    q_b = [value.flatten().detach() for value in critic(b.observations, b.actions)]
    errors = [((y - q_i) * (second - q_i)).mean().item() for q_i in (q_b[:1] if model.critics == "mixed" else q_b)]
    residual = max(sum(errors) / len(errors), 0.0)
    new = old
    if model.ent_coef == "residual":
        wanted = min(max(model.residual_scale * residual, model.temperature_min), model.temperature_max)
        new = (1 - model.residual_lr) * old + model.residual_lr * wanted

    rho = model.soft_reward_scale if model.critics == "mixed" else 1.0
    targets = []
    for i in range(len(q)):
        is_hard = model.critics == "hard" or (model.critics == "mixed" and i == 0)
        targets.append(hard(batch, drawn) if is_hard else soft(batch, drawn, new, rho))
    critic_loss = 0.5 * sum(((q_i - y_i) ** 2).mean() for q_i, y_i in zip(q, targets, strict=True))
    rate = model.actor.optimizer.param_groups[0]["lr"]
    parameters = list(critic.parameters())
    for parameter, gradient in zip(parameters, th.autograd.grad(critic_loss, parameters), strict=True):
        parameter.data -= rate * gradient
    values = critic(batch.observations, a)
    lowest = values[0]
    for value in values[1:]:
        lowest = th.minimum(lowest, value)
    actor_loss = (new * log_pi - lowest.flatten()).mean()
    parameters = list(actor.parameters())
    for parameter, gradient in zip(parameters, th.autograd.grad(actor_loss, parameters), strict=True):
        parameter.data -= rate * gradient
    for target, online in zip(critic_target.parameters(), critic.parameters(), strict=True):
        target.data = (1 - model.tau) * target.data + model.tau * online.data
    log = {"ent_coef": new, "actor_loss": actor_loss.item(), "critic_loss": critic_loss.item(), "residual": residual}
    log |= {"entropy": -log_pi.mean().item(), "std": std}
    if model.critics == "mixed":
        log |= {"q_hard": q[0].mean().item(), "q_soft": th.stack(q[1:]).mean().item()}
    return {"policy": policy.state_dict(), "temperature": new, "log": log}


SGD = dict(net_arch=[16], optimizer_class=th.optim.SGD)


@pytest.mark.parametrize("critics", ["hard", "mixed", "soft"])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"ent_coef": 0.3},
        {"residual_estimator": "double"},
        {"residual_batch_size": 100},
        {"residual_batch_size": 70, "residual_estimator": "double"},
        {"temperature_max": 1.0, "temperature_min": 0.9},
        {"n_steps": 3},
        {"policy_kwargs": {**SGD, "n_critics": 3}},
    ],
    ids=["residual", "constant", "double", "batch", "batch-double", "bounds", "n-step", "three-critics"],
)
def test_one_update(critics: str, changed: dict[str, Any]) -> None:
    settings = {
        "policy_kwargs": SGD,
        "residual_lr": 0.3,
        "residual_scale": 0.3,
        "soft_reward_scale": 0.7,
        "learning_rate": 1e-2,
    }
    env = Scripted(lambda step: math.sin(step))
    model = virel(env, critics=critics, learning_starts=120, tau=0.1, **{**settings, **changed})
    model.learn(120)
    for seed in (1, 2):
        np.random.seed(seed)
        th.manual_seed(seed)
        expected = by_hand(model, batch_size=32)
        np.random.seed(seed)
        th.manual_seed(seed)
        model.train(1, batch_size=32)
        assert model.temperature == pytest.approx(expected["temperature"], abs=1e-6)
        for name, value in model.policy.state_dict().items():
            assert th.allclose(value, expected["policy"][name], rtol=0, atol=1e-6), name
        for name, value in expected["log"].items():
            assert model.logger.name_to_value[f"train/{name}"] == pytest.approx(value, abs=2e-6), name
    assert model._n_updates == 2
    if "ent_coef" not in changed:
        assert model.temperature != 1.0


def test_a_loss_has_no_gradient_beside_its_own_parameters() -> None:
    model = virel()
    obs = th.zeros(1, 3)
    loss = sum(q.sum() for q in model.critic(obs, model.actor(obs)))
    model.descend(model.actor.optimizer, loss, "actor's loss")
    assert all(p.grad is not None for p in model.actor.mu.parameters())
    assert all(p.grad is None for p in model.critic.parameters())


def test_a_separate_batch_waits_until_the_memory_holds_it() -> None:
    model = virel(residual_batch_size=100, temperature_init=0.7, n_steps=1)
    model.learn(99)
    assert model._n_updates > 10 and model.temperature == pytest.approx(0.7)
    assert "train/residual" not in model.logger.name_to_value
    model.learn(2, reset_num_timesteps=False)
    assert model.temperature != pytest.approx(0.7)


def test_the_targets_follow_at_their_interval() -> None:
    """At the first update of a round and then at each third, as in SAC."""
    model = virel(target_update_interval=3, learning_starts=60).learn(60)
    start = deepcopy(model.get_parameters())
    targets = []
    for updates in (0, 1, 3, 4):
        model.set_parameters(start)
        np.random.seed(0)
        th.manual_seed(0)
        model.train(updates, 16)
        targets.append(model.critic_target.state_dict()["qf0.0.weight"].clone())
    assert [th.equal(one, two) for one, two in pairwise(targets)] == [False, True, False]
    assert model._n_updates == 8


# What it learns

ONE_STEP: dict[str, Any] = dict(
    learning_rate=3e-3, batch_size=64, learning_starts=100, policy_kwargs=dict(net_arch=[32, 32]), device="cpu"
)


def policy_of(model: VIREL) -> tuple[np.ndarray, float]:
    """Errors of the mean at states from -0.9 to 0.9, and the mean standard deviation."""
    states = np.linspace(-0.9, 0.9, 13, dtype=np.float32)[:, None]
    actions = np.stack([model.predict(states)[0] for _ in range(400)])  # (400, 13, 1)
    return np.abs(actions.mean(axis=0) - states / 2), float(actions.std(axis=0).mean())


def test_boltzmann_policy_of_a_one_step_problem() -> None:
    model = VIREL("MlpPolicy", OneStep(), ent_coef=0.02, seed=1, **ONE_STEP).learn(650)
    errors, std = policy_of(model)
    assert errors.max() < 0.15
    assert std == pytest.approx(0.1, rel=0.25)


def test_the_temperature_vanishes_where_nothing_is_random() -> None:
    model = VIREL("MlpPolicy", OneStep(), residual_scale=1.0, seed=1, **ONE_STEP)
    assert model.temperature == 1.0
    model.learn(650)
    assert model.temperature < 0.02
    assert policy_of(model)[1] < 0.1


@pytest.mark.learning
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_one_liner_learns_pendulum(seed: int) -> None:
    """A random policy has about -1200, the best one about -150."""
    model = VIREL("MlpPolicy", "Pendulum-v1", seed=seed, device="cpu").learn(8_000)
    env = gym.make("Pendulum-v1")
    returns = []
    for episode in range(10):
        observation, _ = env.reset(seed=1000 + episode)
        total, over = 0.0, False
        while not over:
            observation, reward, _, over, _ = env.step(model.predict(observation, deterministic=True)[0])
            total += float(reward)
        returns.append(total)
    assert np.mean(returns) > -300


# Everything that SB3's users combine


def pendulums(n: int) -> DummyVecEnv:
    return DummyVecEnv([lambda: gym.make("Pendulum-v1")] * n)


@pytest.mark.parametrize("critics", ["hard", "mixed"])
@pytest.mark.parametrize(
    ("make_env", "changed"),
    [
        (lambda: pendulums(1), {"use_sde": True, "use_sde_at_warmup": True, "sde_sample_freq": 8}),
        (lambda: pendulums(1), {"action_noise": NormalActionNoise(np.zeros(1), np.full(1, 0.1)), "n_steps": 3}),
        (lambda: BitFlippingEnv(3, continuous=True), {"policy": "MultiInputPolicy", "replay_buffer_class": HerReplayBuffer}),
        (lambda: VecNormalize(pendulums(2)), {"residual_estimator": "double"}),
        (lambda: pendulums(8), {"gradient_steps": -1, "residual_batch_size": 64}),
        (lambda: SimpleMultiObsEnv(discrete_actions=False, random_start=False), {
            "policy": "MultiInputPolicy", "buffer_size": 250, "learning_starts": 150, "batch_size": 4,
        }),
        (lambda: FakeImageEnv(36, 36, n_channels=1, discrete=False), {
            "policy": "CnnPolicy", "policy_kwargs": dict(net_arch=[8], features_extractor_kwargs=dict(features_dim=8)),
            "learning_starts": 170, "batch_size": 4,
        }),
    ],
    ids=["gsde", "noise-n-step", "hindsight", "normalize", "eight", "dict", "image"],
)  # fmt: skip
def test_runs_with(make_env: Callable[[], VecEnv], changed: dict[str, Any], critics: Any) -> None:
    settings = {**SMALL, "policy": "MlpPolicy", **changed}
    model = VIREL(env=make_env(), critics=critics, **settings).learn(200)
    assert model.num_timesteps == 200 and model._n_updates > 0
    assert model.temperature != 1.0 and math.isfinite(model.temperature)
    assert all(th.isfinite(value).all() for value in model.policy.state_dict().values())


def test_without_a_number_it_learns_a_million_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = virel(tensorboard_log=str(tmp_path))

    def stop(locals_: dict[str, Any], _: Any) -> bool:
        return False

    model.learn(callback=stop)
    assert model._total_timesteps == 1_000_000
    assert [path.name for path in tmp_path.iterdir()] == ["VIREL_1"]


# Bad input

BAD = [
    ("ent_coef", "residuals", "ent_coef='residuals'.*'residual', 'auto', 'auto_<initial value>'.*a number >= 0"),
    ("ent_coef", "auto_zero", "ent_coef='auto_zero' is not known"),
    ("ent_coef", "auto_-1", "ent_coef='auto_-1' is not known"),
    ("ent_coef", True, "ent_coef=True is not known"),
    ("ent_coef", math.nan, r"ent_coef=nan must be a number in \[0, inf\)"),
    ("ent_coef", -0.1, r"ent_coef=-0.1 must be a number in \[0, inf\)"),
    ("critics", "twin", "critics='twin' is not known, choose from 'hard', 'mixed', 'soft'"),
    ("residual_estimator", "triple", "residual_estimator='triple' is not known, choose from 'td', 'double'"),
    ("residual_scale", -1.0, r"residual_scale=-1.0 must be a number in \[0, inf\)"),
    ("residual_scale", math.nan, "residual_scale=nan"),
    ("residual_lr", 0.0, r"residual_lr=0.0 must be a number in \(0, 1\]"),
    ("residual_lr", 1.5, "residual_lr=1.5"),
    ("residual_batch_size", 0, r"residual_batch_size=0 must be an integer in \[1, inf\]"),
    ("temperature_init", math.nan, "temperature_init=nan"),
    ("temperature_init", math.inf, "temperature_init=inf"),
    ("temperature_init", -1.0, "temperature_init=-1.0"),
    ("temperature_min", -1.0, "temperature_min=-1.0"),
    ("temperature_max", 0.0, r"temperature_max=0.0 must be a number in \(0, inf\]"),
    ("temperature_max", 0.5, r"temperature_init=1.0 must be a number in \[0, 0.5\]"),
    ("soft_reward_scale", 0.0, r"soft_reward_scale=0.0 must be a number in \(0, inf\)"),
    ("target_update_interval", 0, "target_update_interval=0"),
    ("gamma", 1.5, "gamma=1.5"),
]


class TestBadInput:
    @pytest.mark.parametrize(("name", "value", "message"), BAD, ids=[f"{name}={value}" for name, value, _ in BAD])
    def test_arguments(self, name: str, value: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            virel(**{name: value})

    def test_combinations(self) -> None:
        with pytest.raises(ValueError, match="temperature_max=0.5 must not be below temperature_min=0.7"):
            virel(temperature_min=0.7, temperature_max=0.5)
        with pytest.raises(ValueError, match='critics="mixed" needs.*got n_critics=1'):
            virel(critics="mixed", policy_kwargs=dict(n_critics=1))

    @pytest.mark.parametrize(
        ("space", "message"),
        [
            (spaces.Discrete(3), r"VIREL needs continuous actions, a space Box, got Discrete\(3\).*SoftDQN"),
            (spaces.Box(-np.inf, 1, (2,), np.float32), "VIREL needs actions between finite bounds, got Box.*TransformAction"),
        ],
    )
    def test_actions(self, space: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            virel(Scripted(action_space=space))
        assert issubclass(ActionSpaceError, AssertionError)  # what SB3 raises

    @pytest.mark.parametrize("ent_coef", ["residual", 0.1])
    def test_a_residual_that_is_not_finite(self, ent_coef: Any, tmp_path: Path) -> None:
        env = Scripted(lambda step: 1e30 if step == 90 else 0.0)
        model = virel(env, ent_coef=ent_coef, buffer_size=90, batch_size=512)
        with pytest.raises(ValueError, match=r"Bellman residual is inf at step 90\. Nothing .* temperature is 0\.\d+: lower"):
            model.learn(200)
        assert all(th.isfinite(value).all() for value in model.policy.state_dict().values())
        assert math.isfinite(model.temperature) and model._n_updates == 39
        model.save(tmp_path / "model")
        again = VIREL.load(tmp_path / "model", env=Scripted())
        assert again.temperature == model.temperature
        again.learn(100)

    def test_a_gradient_that_is_not_finite(self) -> None:
        model = virel()
        before = {name: value.clone() for name, value in model.policy.state_dict().items()}
        weight = next(model.actor.parameters())
        loss = (weight - weight.detach()).square().sum().sqrt()  # 0, whose gradient is 0 / 0
        with pytest.raises(ValueError, match=r"gradient of the actor's loss is nan at step 0\. Nothing was learned"):
            model.descend(model.actor.optimizer, loss, "actor's loss")
        assert all(th.equal(before[name], value) for name, value in model.policy.state_dict().items())

    def test_a_reward_that_is_no_number(self) -> None:
        model = virel(Scripted(lambda step: math.nan if step == 70 else 0.0))
        with pytest.raises(ValueError, match="reward of environment 0 is nan at step 70"):
            model.learn(100)
        assert model.num_timesteps == 69 and model.replay_buffer is not None and model.replay_buffer.size() == 69


class TestFiles:
    @pytest.mark.parametrize("ent_coef", ["residual", "auto", "auto_0.1", 0.3])
    def test_save_and_load(self, ent_coef: Any, tmp_path: Path) -> None:
        model = virel(ent_coef=ent_coef, critics="mixed", residual_scale=0.5).learn(80)
        assert model.ent_coef == ent_coef
        model.save(tmp_path / "model")
        assert model.ent_coef == ent_coef
        again = VIREL.load(tmp_path / "model", env=gym.make("Pendulum-v1"))
        assert again.ent_coef == ent_coef and again.critics == "mixed" and again.residual_scale == 0.5
        assert again.temperature == model.temperature
        assert_equal_weights(model, again)
        again.learn(60)
        assert again._n_updates > model._n_updates and (again.temperature != model.temperature or ent_coef == 0.3)
        acting = VIREL.load(tmp_path / "model")
        assert acting.replay_buffer is None
        observation = np.zeros((1, 3), dtype=np.float32)
        np.testing.assert_array_equal(*(m.predict(observation, deterministic=True)[0] for m in (model, acting)))

    def test_parameters(self, tmp_path: Path) -> None:
        model = virel().learn(80)
        parameters = deepcopy(model.get_parameters())
        temperature = model.temperature
        model.learn(60, reset_num_timesteps=False)
        assert model.temperature != temperature
        model.set_parameters(parameters)
        assert model.temperature == temperature
        model.train(1, 16)
        assert model.temperature != temperature  # it is not cut off from what is saved
        assert model.get_parameters()["ent_coef_state"]["value"].item() == model.temperature
        model.save(tmp_path / "model")
        other = virel(seed=5)
        other.set_parameters(str(tmp_path / "model"))
        assert other.temperature == model.temperature

    def test_another_temperature_than_the_files(self, tmp_path: Path) -> None:
        virel(temperature_init=0.4).save(tmp_path / "model")
        assert VIREL.load(tmp_path / "model", ent_coef=0.05).temperature == pytest.approx(0.05)
        virel(ent_coef=0.3).save(tmp_path / "model")
        assert VIREL.load(tmp_path / "model", ent_coef="residual").temperature == pytest.approx(0.3)

    def test_files_of_sac(self, tmp_path: Path) -> None:
        sac = SAC("MlpPolicy", "Pendulum-v1", **SMALL)
        sac.save(tmp_path / "sac")
        with pytest.raises(ValueError, match=r"saved by another algorithm than VIREL.*load_state_dict"):
            VIREL.load(tmp_path / "sac")
        model = virel(seed=7)
        model.load_weights(tmp_path / "sac.zip")
        assert_equal_weights(sac, model)

    @pytest.mark.parametrize("ent_coef", ["residual", "auto", 0.3])
    def test_sac_does_not_take_our_files_for_its_own(self, ent_coef: Any, tmp_path: Path) -> None:
        model = virel(ent_coef=ent_coef)
        model.save(tmp_path / "virel")
        with pytest.raises(ValueError, match=r"saved by VIREL: load it by sb3_mirl.VIREL.load.*load_state_dict"):
            SAC.load(tmp_path / "virel")
        sac = SAC("MlpPolicy", "Pendulum-v1", **SMALL)
        sac.policy.load_state_dict(model.policy.state_dict())
        assert_equal_weights(sac, model)
