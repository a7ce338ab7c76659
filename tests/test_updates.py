"""Target, loss, beta and prior updates: reductions to DQN and SoftDQN, and the order of Algorithm 1."""

import math
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.nn import functional as F

from sb3_mirl import MIRL, PriorCallback, SoftDQN
from sb3_mirl.soft_dqn import update
from tests.conftest import ScriptedEnv


def weights(model: DQN) -> th.Tensor:
    return th.cat([p.detach().flatten() for p in model.q_net.parameters()])


def run(cls: type[SoftDQN], small: dict[str, Any], steps: int = 400, **kwargs: Any) -> SoftDQN:
    return cls("MlpPolicy", DummyVecEnv([ScriptedEnv] * 3), **{**small, **kwargs}).learn(steps)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_softdqn_at_infinite_beta_is_dqn(small: dict[str, Any], n_steps: int) -> None:
    """The same network, memory and minibatches: one call of train gives DQN's weights."""
    small.update(n_steps=n_steps, gamma=0.9)
    adam = dict(net_arch=[16], optimizer_kwargs=dict(eps=1e-8, fused=False))
    dqn = DQN("MlpPolicy", ScriptedEnv(), **{**small, "policy_kwargs": adam}).learn(300)
    soft = SoftDQN(
        "MlpPolicy",
        ScriptedEnv(),
        **{**small, "policy_kwargs": adam},
        beta_schedule="constant",
        beta_init=math.inf,
        update_path="eager",
    ).learn(10)
    soft.policy.q_net.load_state_dict(dqn.q_net.state_dict())
    soft.policy.q_net_target.load_state_dict(dqn.q_net_target.state_dict())
    soft.policy.optimizer.load_state_dict(deepcopy(dqn.policy.optimizer.state_dict()))
    soft.replay_buffer = dqn.replay_buffer
    before = weights(dqn)
    for model in (dqn, soft):
        np.random.seed(5)
        model.train(gradient_steps=20, batch_size=16)
    assert not th.equal(before, weights(dqn))
    th.testing.assert_close(weights(soft), weights(dqn), rtol=0, atol=1e-6)


@pytest.mark.parametrize("schedule", ["inverse_loss", "linear", "constant"])
def test_mirl_with_a_frozen_prior_is_softdqn(small: dict[str, Any], schedule: str) -> None:
    soft = run(SoftDQN, small, beta_schedule=schedule)
    frozen = run(MIRL, small, beta_schedule=schedule, prior_lr=0.0, exploration="uniform")
    assert th.equal(weights(soft), weights(frozen)) and soft.beta == frozen.beta
    np.testing.assert_array_equal(soft.prior, frozen.prior)
    learned = run(MIRL, small, beta_schedule=schedule, prior_lr=0.05)
    assert not th.equal(weights(soft), weights(learned))


def test_one_update_by_hand(small: dict[str, Any]) -> None:
    """Loss, beta and the order of lines 7 and 8: beta follows the loss before the step."""
    model = MIRL("MlpPolicy", ScriptedEnv(), beta_init=0.5, beta_lr=0.25, **small)
    model.learn(60, callback=None)
    model.policy.log_prior.copy_(th.tensor([0.2, 0.3, 0.5]).double().log())
    beta = model.beta
    np.random.seed(1)
    data = model.replay_buffer.sample(8)  # type: ignore[union-attr]
    with th.no_grad():
        z = (th.tensor([0.2, 0.3, 0.5]) * (beta * model.q_net_target(data.next_observations)).exp()).sum(1)
        target = data.rewards[:, 0] + (1 - data.dones[:, 0]) * model.gamma * z.log() / beta
        loss = F.smooth_l1_loss(model.q_net(data.observations).gather(1, data.actions)[:, 0], target)
    np.random.seed(1)
    model.train(gradient_steps=1, batch_size=8)
    assert model.mean_loss is not None and model.mean_loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert model.beta == pytest.approx(0.75 * beta + 0.25 / loss.item(), rel=1e-5)


def test_entropy_bonus_adds_log_a_over_beta_where_the_episode_goes_on(small: dict[str, Any]) -> None:
    model = SoftDQN("MlpPolicy", ScriptedEnv(), **small).learn(100)
    assert model.replay_buffer is not None
    data = model.replay_buffer.sample(200)
    rule = model.update_rule()
    without, with_bonus = (
        update.make_batch(model.policy, data, rule._replace(entropy_bonus=bonus)).targets for bonus in (False, True)
    )
    expected = 0.99 * (1 - data.dones.squeeze(1)) * math.log(3) / model.beta
    th.testing.assert_close(with_bonus - without, expected, rtol=1e-5, atol=1e-3)
    assert 0 < data.dones.sum() < 200
    for bonus in (False, True):  # and the flag reaches it
        assert SoftDQN("MlpPolicy", ScriptedEnv(), entropy_bonus=bonus, **small).update_rule().entropy_bonus is bonus


@pytest.mark.parametrize("path", ["fast", "eager"])
def test_gradients_are_clipped_to_their_bound(small: dict[str, Any], path: Any) -> None:
    kwargs = dict(net_arch=[16], optimizer_class=th.optim.SGD)
    arguments = {**small, "learning_rate": 0.5, "max_grad_norm": 1e-3, "policy_kwargs": kwargs, "update_path": path}
    model = SoftDQN("MlpPolicy", ScriptedEnv(), **arguments).learn(50)
    before = model.policy.parameters_to_vector()
    model.train(gradient_steps=1, batch_size=50)
    moved = np.linalg.norm(model.policy.parameters_to_vector() - before)
    assert moved == pytest.approx(0.5 * 1e-3, rel=1e-2)


def test_actions_are_those_of_the_online_network(small: dict[str, Any]) -> None:
    model = MIRL("MlpPolicy", ScriptedEnv(), exploration_final_eps=0.0, exploration_fraction=0.01, **small).learn(100)
    with th.no_grad():
        for parameter in model.q_net_target.parameters():
            parameter.neg_()
    obs = np.random.default_rng(0).uniform(-1, 1, (50, 4)).astype(np.float32)
    q = model.q_net(th.as_tensor(obs)).detach()
    model.policy.beta.fill_(1e4)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], q.argmax(-1))
    model._last_obs, model.exploration_rate = obs, 0.0
    np.testing.assert_array_equal(model._sample_action(0, None, 50)[0], q.argmax(-1))
    assert (q.argmax(-1) != model.q_net_target(th.as_tensor(obs)).argmax(-1)).any()


@pytest.mark.parametrize("n_envs", [1, 3])
def test_batched_updates_equal_one_by_one(small: dict[str, Any], n_envs: int) -> None:
    models = []
    for path in ("fast", "eager"):
        model = MIRL("MlpPolicy", DummyVecEnv([ScriptedEnv] * n_envs), update_path=path, **small).learn(100)
        models.append(model)
    batched, plain = models
    plain.policy.load_state_dict(batched.policy.state_dict())
    plain.policy.optimizer.load_state_dict(deepcopy(batched.policy.optimizer.state_dict()))
    plain.replay_buffer = batched.replay_buffer
    drawn = batched.replay_buffer.sample(12 * 8)  # type: ignore[union-attr]
    position = [0]

    def replay(batch_size: int, env: Any = None) -> Any:
        rows = slice(position[0], position[0] + batch_size)
        position[0] += batch_size
        return type(drawn)(*(None if column is None else column[rows] for column in drawn))

    batched.replay_buffer.sample = replay  # type: ignore[union-attr,method-assign]
    for model in models:
        position[0] = 0
        model.train(gradient_steps=12, batch_size=8)
    assert plain.beta == pytest.approx(batched.beta, rel=1e-6)
    th.testing.assert_close(weights(plain), weights(batched), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_prior_is_folded_once_per_environment_step(
    small: dict[str, Any], n_envs: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replays Eq. (11) in a plain loop from the policies at the states in which actions were chosen."""
    model = MIRL("MlpPolicy", DummyVecEnv([ScriptedEnv] * n_envs), prior_lr=0.02, beta_init=3.0, **small)
    expected = np.full(3, 1 / 3)
    original = model._sample_action

    def spy(*args: Any, **kwargs: Any) -> Any:
        nonlocal expected
        if model.num_timesteps >= model.learning_starts:
            rho, beta = model.prior, model.beta
            q = model.q_net(th.as_tensor(model._last_obs)).detach().double().numpy()
            for row in q:
                pi = rho * np.exp(beta * (row - row.max()))
                expected = 0.98 * expected + 0.02 * pi / pi.sum()
        return original(*args, **kwargs)

    # of the class: an attribute of the model would be saved in its checkpoints
    monkeypatch.setattr(MIRL, "_sample_action", lambda self, *args, **kwargs: spy(*args, **kwargs))
    evaluation = EvalCallback(DummyVecEnv([ScriptedEnv] * 2), eval_freq=5, n_eval_episodes=1, verbose=0, warn=False)
    checkpoints = CheckpointCallback(20, str(tmp_path))
    model.learn(400, callback=[evaluation, checkpoints])
    np.testing.assert_allclose(model.prior, expected, atol=1e-6)
    assert abs(model.prior - 1 / 3).max() > 0.01


def test_nothing_is_learned_before_learning_starts(small: dict[str, Any]) -> None:
    model = MIRL("MlpPolicy", ScriptedEnv(), prior_lr=0.5, beta_init=0.01, **{**small, "learning_starts": 100})
    before = weights(model)
    model.learn(100)
    np.testing.assert_allclose(model.prior, np.full(3, 1 / 3), atol=1e-12)
    assert model.beta == 0.01 and th.equal(before, weights(model))


def test_prior_survives_fifty_million_updates() -> None:
    """At rate 2e-6 the fold of blocks of policies stays within 1e-6 of a float64 loop, and no action dies."""
    import numba

    from sb3_mirl import maths

    n_actions, block, lr, total = 18, 10_000, 2e-6, 50_000_000
    policies = np.random.default_rng(0).dirichlet(np.full(n_actions - 1, 0.05), size=block)
    policies = np.hstack([policies, np.zeros((block, 1))])  # the last action is never chosen

    @numba.njit  # type: ignore[untyped-decorator]
    def loop(rho: np.ndarray, pi: np.ndarray, n: int, rate: float) -> np.ndarray:
        for i in range(n):
            row = i % pi.shape[0]
            for a in range(rho.size):
                rho[a] = (1 - rate) * rho[a] + rate * pi[row, a]
        return rho

    reference = loop(np.full(n_actions, 1 / n_actions), policies, total, lr)
    log_prior, probs = maths.uniform_log_prior(n_actions), th.from_numpy(policies)
    for _ in range(total // block):
        log_prior = maths.floored_log_prior(maths.update_prior(log_prior.softmax(-1), probs, lr), 1e-8)
    np.testing.assert_allclose(log_prior.exp(), reference, atol=1e-6)
    assert reference[-1] < 1e-40 and log_prior[-1].exp().item() == pytest.approx(1e-8, rel=1e-3)


def test_linear_schedule_follows_environment_steps(small: dict[str, Any]) -> None:
    model = run(SoftDQN, small, beta_schedule="linear", beta_slope=0.01)
    assert model.beta == pytest.approx(0.01 * model.num_timesteps)
    assert run(SoftDQN, small, beta_schedule="linear", beta_slope=1.0, beta_max=7.0).beta == 7.0


def test_beta_stays_finite_where_the_loss_vanishes(small: dict[str, Any]) -> None:
    model = SoftDQN("MlpPolicy", ScriptedEnv(), beta_lr=0.5, beta_max=1e3, **small).learn(60)
    with th.no_grad():
        for p in [*model.q_net.parameters(), *model.q_net_target.parameters()]:
            p.zero_()
    model.replay_buffer.rewards[:] = 0  # type: ignore[union-attr]
    model.train(gradient_steps=200, batch_size=32)
    assert model.beta == pytest.approx(1e3) and model.beta <= 1e3


@pytest.mark.parametrize(("n_envs", "freq", "updates"), [(1, 4, 1), (2, 2, 1), (3, 4, 3), (6, 2, 3), (8, 1, 2), (64, 1, 16)])
def test_one_update_per_four_steps_whatever_n_envs(small: dict[str, Any], n_envs: int, freq: int, updates: int) -> None:
    model = SoftDQN("MlpPolicy", DummyVecEnv([ScriptedEnv] * n_envs), **small)
    assert (model.train_freq.frequency, model.gradient_steps) == (freq, updates)  # type: ignore[union-attr]
    assert freq * n_envs / updates == 4


def test_explicit_ratio_means_what_it_means_in_sb3(small: dict[str, Any], tmp_path: Any) -> None:
    env = DummyVecEnv([ScriptedEnv] * 8)
    model = SoftDQN("MlpPolicy", env, train_freq=2, **small)
    assert (model.train_freq.frequency, model.gradient_steps) == (2, 1)  # type: ignore[union-attr]
    model = SoftDQN("MlpPolicy", env, gradient_steps=-1, **small)
    assert (model.train_freq.frequency, model.gradient_steps) == (4, -1)  # type: ignore[union-attr]

    SoftDQN("MlpPolicy", env, **small).save(tmp_path / "auto")
    other_envs = SoftDQN.load(tmp_path / "auto", env=DummyVecEnv([ScriptedEnv] * 2))
    assert (other_envs.train_freq.frequency, other_envs.gradient_steps) == (2, 1)  # type: ignore[union-attr]
    overridden = SoftDQN.load(tmp_path / "auto", env=env, train_freq=16)
    assert overridden.train_freq.frequency == 16  # type: ignore[union-attr]


def test_same_seed_same_run_other_seed_other_run(small: dict[str, Any]) -> None:
    first, second = run(MIRL, small), run(MIRL, small)
    other = run(MIRL, {**small, "seed": 1})
    assert th.equal(weights(first), weights(second)) and first.beta == second.beta
    np.testing.assert_array_equal(first.prior, second.prior)
    assert not th.equal(weights(first), weights(other))


def test_two_prior_callbacks_are_refused(small: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="one PriorCallback, got 2"):
        MIRL("MlpPolicy", ScriptedEnv(), **small).learn(10, callback=[PriorCallback(), PriorCallback()])
