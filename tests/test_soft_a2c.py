"""SoftA2C: reductions to A2C, costs, gradients against the literal losses, the learned prior."""

import math
import sys
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_mirl import MIRL, PriorCallback, SoftA2C, maths
from sb3_mirl.tabular import TabularMDP, solve_mutual_information
from tests.conftest import ScriptedEnv

TINY: dict[str, Any] = dict(seed=0, device="cpu", policy_kwargs=dict(net_arch=[8]))
PRIOR = [0.6, 0.3, 0.1]


class Truncated(ScriptedEnv):
    """ScriptedEnv whose episodes are ended by a time limit."""

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, ends, _, info = super().step(action)
        return observation, reward, False, ends, info


class Peeks(BaseCallback):
    """Asks the policy about other states at every step, as evaluations do."""

    def _on_step(self) -> bool:
        self.model.predict(np.ones((2, 4), np.float32), deterministic=True)
        return True


class OnRollout(BaseCallback):
    """Calls a function at the end of each rollout."""

    def __init__(self, function: Callable[[Any], None]) -> None:
        super().__init__()
        self.function = function

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.function(self.model)


def make(env: Any = None, n_envs: int = 3, **arguments: Any) -> SoftA2C:
    env = DummyVecEnv([lambda: ScriptedEnv(length=7)] * n_envs) if env is None else env
    return SoftA2C("MlpPolicy", env, **{**TINY, **arguments})


def weights(model: A2C) -> th.Tensor:
    return th.cat([p.detach().flatten() for p in model.policy.parameters()])


def snapshot(model: SoftA2C) -> dict[str, np.ndarray]:
    buffer = model.rollout_buffer
    names = ("observations", "actions", "rewards", "values", "returns", "advantages", "episode_starts", "costs", "kl")
    return {name: getattr(buffer, name).copy() for name in names}


def rollouts(model: SoftA2C, n: int) -> list[dict[str, np.ndarray]]:
    """What n rollouts held, each with the policy that collected it."""
    found: list[dict[str, Any]] = []

    def note(model: Any) -> None:
        found.append({**snapshot(model), "policy": deepcopy(model.policy), "last_obs": model._last_obs})

    model.learn(n * model.n_steps * model.n_envs, callback=OnRollout(note))
    return found


def flat_gradient(loss: th.Tensor, policy: ActorCriticPolicy) -> th.Tensor:
    gradients = th.autograd.grad(loss, list(policy.parameters()), allow_unused=True)
    zeros = [th.zeros_like(p) for p in policy.parameters()]
    return th.cat([(z if g is None else g).flatten() for g, z in zip(gradients, zeros, strict=True)])


class TestReductions:
    @pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
    def test_naive_is_a2c_to_the_last_bit(self, env_id: str) -> None:
        a2c = A2C("MlpPolicy", make_vec_env(env_id, 4), ent_coef=0.01, **deepcopy(TINY)).learn(800)
        naive = make(make_vec_env(env_id, 4), entropy="naive").learn(800)
        proper = make(make_vec_env(env_id, 4)).learn(800)
        assert th.equal(weights(naive), weights(a2c))
        assert not th.equal(weights(naive), weights(proper))
        assert naive.rollout_buffer.costs.any()

    def test_without_temperature_it_is_a2c(self) -> None:
        a2c = A2C("MlpPolicy", make_vec_env("CartPole-v1", 4), **deepcopy(TINY)).learn(400)
        assert th.equal(weights(make(make_vec_env("CartPole-v1", 4), ent_coef=0.0).learn(400)), weights(a2c))

    def test_a_given_uniform_prior_is_none(self) -> None:
        one, two = make(prior=[1 / 3] * 3).learn(300), make().learn(300)
        assert th.equal(weights(one), weights(two)) and th.equal(one.policy.log_prior, two.policy.log_prior)

    def test_a_given_prior_stays_without_a_rate(self) -> None:
        model = make(prior=PRIOR).learn(300)
        np.testing.assert_allclose(model.prior, PRIOR, rtol=1e-12)
        assert not th.equal(weights(model), weights(make().learn(300)))
        assert not np.allclose(make(prior=PRIOR, prior_lr=0.01).learn(300).prior, PRIOR)

    def test_the_general_loss_is_a2cs_for_a_uniform_prior(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = make().learn(300)
        monkeypatch.setattr(SoftA2C, "_has_plain_reference", lambda self: False)
        th.testing.assert_close(weights(make().learn(300)), weights(plain), rtol=0, atol=1e-5)

    def test_the_users_policy_kwargs_stay_theirs(self) -> None:
        given: dict[str, Any] = {"net_arch": [8]}
        make(policy_kwargs=given)
        assert given == {"net_arch": [8]}


class TestCosts:
    @pytest.mark.parametrize("peeks", [False, True])
    @pytest.mark.parametrize("prior", [None, PRIOR])
    def test_they_are_those_of_the_states_acted_in(self, prior: list[float] | None, peeks: bool) -> None:
        model = make(prior=prior, ent_coef=0.3)
        found: list[dict[str, Any]] = []
        note = OnRollout(lambda m: found.append({**snapshot(m), "policy": deepcopy(m.policy)}))
        model.learn(60, callback=[Peeks(), note] if peeks else [note])
        log_rho = th.as_tensor(np.log(prior or [1 / 3] * 3))
        for rollout in found:
            distribution = rollout["policy"].get_distribution(th.as_tensor(rollout["observations"]).flatten(0, 1))
            log_pi = distribution.distribution.logits.double()
            kl = (log_pi.exp() * (log_pi - log_rho)).sum(-1).detach().view(5, 3)
            np.testing.assert_allclose(rollout["kl"], kl, atol=1e-6)
            np.testing.assert_allclose(rollout["costs"], 0.3 * kl, atol=1e-6)

    def test_also_without_learn(self) -> None:
        model = make()
        model._setup_learn(100)
        plain = Peeks()
        plain.init_callback(model)
        assert model.env is not None
        assert model.collect_rollouts(model.env, plain, model.rollout_buffer, model.n_steps)
        assert plain.n_calls == model.n_steps and model.rollout_buffer.costs.all()

    @pytest.mark.parametrize("entropy", ["proper", "naive"])
    @pytest.mark.parametrize("entropy_bonus", [False, True])
    @pytest.mark.parametrize("env", [ScriptedEnv, Truncated])
    def test_returns_and_advantages(self, entropy: Any, entropy_bonus: bool, env: type[ScriptedEnv]) -> None:
        tau, n_envs = 0.4, 3
        model = make(
            DummyVecEnv([lambda: env(length=4)] * n_envs), entropy=entropy, entropy_bonus=entropy_bonus, ent_coef=tau,
            prior=PRIOR, gae_lambda=0.7, gamma=0.9, n_steps=10,
        )  # fmt: skip
        (rollout,) = rollouts(model, 1)
        columns = {name: th.as_tensor(rollout[name], dtype=th.float64) for name in ("rewards", "costs", "values")}
        starts = th.as_tensor(np.concatenate([rollout["episode_starts"][1:], model._last_episode_starts[None]]))  # type: ignore[index]
        last = rollout["policy"].predict_values(th.as_tensor(rollout["last_obs"])).detach().double().T
        costs = columns["costs"] * (entropy == "proper") - tau * math.log(3) * entropy_bonus
        next_values = th.cat([columns["values"][1:], last])
        expected = maths.soft_returns(columns["rewards"], costs, 0.9 * (1 - starts.double()), next_values, 0.7)
        np.testing.assert_allclose(rollout["returns"], expected, atol=1e-5)
        np.testing.assert_allclose(rollout["advantages"], expected - columns["values"], atol=1e-5)
        assert (rollout["costs"] > 0).all(), "the costs are recorded in any case"

    def test_rewards_stay_the_environments(self) -> None:
        seen: list[np.ndarray] = []

        class Note(BaseCallback):
            def _on_step(self) -> bool:
                seen.append(self.locals["rewards"].copy())
                return True

        model = make(ent_coef=0.5)
        model.learn(15, callback=Note())
        np.testing.assert_array_equal(model.rollout_buffer.rewards, np.stack(seen))

    def test_time_limits_bootstrap_and_terminations_do_not(self) -> None:
        lasts, values = [], []
        for env in (ScriptedEnv, Truncated):
            model = make(DummyVecEnv([lambda env=env: env(length=5)]), ent_coef=0.2)
            (rollout,) = rollouts(model, 1)
            lasts.append(rollout["rewards"][-1, 0])
            final = model.env.buf_infos[0]["terminal_observation"]  # type: ignore[union-attr]
            values.append(rollout["policy"].predict_values(th.as_tensor(final[None])).item())
        assert lasts[1] - lasts[0] == pytest.approx(0.99 * values[1], abs=1e-6)

    @pytest.mark.parametrize(
        "space", [spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)], ids=lambda s: type(s).__name__
    )
    def test_other_spaces_pay_for_the_lack_of_entropy(self, space: spaces.Space[Any]) -> None:
        class Other(ScriptedEnv):
            def __init__(self) -> None:
                super().__init__(length=7)
                self.action_space = space  # type: ignore[assignment]

            def step(self, action: Any) -> Any:
                return super().step(0)

        model = make(DummyVecEnv([Other] * 2), ent_coef=0.1, entropy_bonus=True)
        (rollout,) = rollouts(model, 1)
        distribution = rollout["policy"].get_distribution(th.as_tensor(rollout["observations"]).flatten(0, 1))
        np.testing.assert_allclose(rollout["costs"], -0.1 * distribution.entropy().detach().view(5, 2), atol=1e-6)
        with pytest.raises(AttributeError, match="Discrete actions only"):
            model.prior  # noqa: B018

    def test_without_a_closed_form_it_is_the_log_probability(self) -> None:
        model = make(make_vec_env("Pendulum-v1", 2), use_sde=True, ent_coef=0.1, policy_kwargs=dict(squash_output=True))
        found: list[tuple[np.ndarray, np.ndarray]] = []
        note = OnRollout(lambda m: found.append((m.rollout_buffer.costs.copy(), m.rollout_buffer.log_probs.copy())))
        model.learn(10, callback=note)
        assert model.policy.action_dist.entropy() is None
        np.testing.assert_allclose(found[0][0], 0.1 * found[0][1], rtol=1e-5)

    def test_policies_of_others_need_no_buffer_for_the_uniform_reference(self) -> None:
        env = DummyVecEnv([ScriptedEnv] * 2)
        model = SoftA2C(ActorCriticPolicy, env, **deepcopy(TINY)).learn(50)  # type: ignore[arg-type]
        assert model.rollout_buffer.costs.all()
        np.testing.assert_allclose(model.prior, 1 / 3)
        with pytest.raises(ValueError, match="need a policy with an action prior .*got ActorCriticPolicy"):
            SoftA2C(ActorCriticPolicy, env, prior_lr=0.1, **deepcopy(TINY))  # type: ignore[arg-type]

    def test_costs_are_added_to_the_users_buffer(self) -> None:
        class Mine(RolloutBuffer):
            pass

        model = make(rollout_buffer_class=Mine)
        assert isinstance(model.rollout_buffer, Mine) and model.rollout_buffer_class is Mine
        assert th.equal(weights(model.learn(60)), weights(make().learn(60)))
        with pytest.raises(ValueError, match="needs a rollout buffer with costs, got"):
            plain = Mine(5, model.observation_space, model.action_space, n_envs=3)
            model.collect_rollouts(model.env, Peeks(), plain, 5)  # type: ignore[arg-type]


class TestGradients:
    """Through the class: SGD at rate 1 without a bound, so that one rollout's change of the weights is minus a gradient."""

    def one_update(self, **arguments: Any) -> tuple[SoftA2C, dict[str, Any], th.Tensor]:
        sgd = dict(net_arch=[8], optimizer_class=th.optim.SGD)
        model = make(learning_rate=1.0, max_grad_norm=math.inf, policy_kwargs=sgd, n_steps=4, **arguments)
        with th.no_grad():  # away from the uniform policy, where much vanishes
            model.policy.action_net.weight.mul_(100)
        before = weights(model)
        (rollout,) = rollouts(model, 1)
        return model, rollout, before - weights(model)

    def evaluated(self, rollout: dict[str, Any]) -> tuple[ActorCriticPolicy, th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
        policy = rollout["policy"]
        observations = th.as_tensor(rollout["observations"]).flatten(0, 1)
        actions = th.as_tensor(rollout["actions"]).flatten().long()
        values, _, _ = policy.evaluate_actions(observations, actions)
        log_pi = policy.action_dist.distribution.logits
        chosen = log_pi.gather(1, actions[:, None])[:, 0]
        return policy, actions, values.flatten(), log_pi, chosen

    @pytest.mark.parametrize("prior", [None, PRIOR])
    @pytest.mark.parametrize("tau", [0.02, 0.4])
    def test_soft_q_is_the_literal_loss(self, tau: float, prior: list[float] | None) -> None:
        """1/2 (Q - y)^2 / tau, Q = V + tau log(pi / rho), y = c + G, at the theory's vf_coef."""
        _, rollout, change = self.one_update(update="soft_q", ent_coef=tau, vf_coef=1 / (2 * tau), prior=prior)
        policy, actions, values, _, chosen = self.evaluated(rollout)
        log_rho = th.as_tensor(np.log(prior or [1 / 3] * 3)).float()
        q = values + tau * (chosen - log_rho[actions])
        y = th.as_tensor(rollout["costs"] + rollout["returns"]).flatten()
        expected = flat_gradient(((q - y) ** 2 / (2 * tau)).mean(), policy)
        assert change.abs().max() > 0.05
        th.testing.assert_close(change, expected, rtol=1e-4, atol=2e-5)

    @pytest.mark.parametrize("prior", [None, PRIOR])
    @pytest.mark.parametrize("entropy", ["proper", "naive"])
    def test_policy_gradient_is_the_papers(self, entropy: Any, prior: list[float] | None) -> None:
        """Eqs. (84) to (86): -log pi Delta + tau KL + c / 2 (V - G)^2, c = 2 vf_coef."""
        _, rollout, change = self.one_update(ent_coef=0.4, vf_coef=0.25, prior=prior, entropy=entropy)
        policy, _, values, log_pi, chosen = self.evaluated(rollout)
        log_rho = th.as_tensor(np.log(prior or [1 / 3] * 3)).float()
        delta, target = (th.as_tensor(rollout[name]).flatten() for name in ("advantages", "returns"))
        kl = (log_pi.exp() * (log_pi - log_rho)).sum(-1)
        loss = -(chosen * delta).mean() + 0.4 * kl.mean() + 0.5 * ((values - target) ** 2).mean() / 2
        th.testing.assert_close(change, flat_gradient(loss, policy), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("update", ["soft_q", "policy_gradient"])
    def test_normalised_advantages(self, update: Any) -> None:
        _, rollout, change = self.one_update(update=update, ent_coef=0.4, vf_coef=0.0, prior=PRIOR, normalize_advantage=True)
        policy, actions, _, log_pi, chosen = self.evaluated(rollout)
        log_rho = th.as_tensor(np.log(PRIOR)).float()
        kl = (log_pi.exp() * (log_pi - log_rho)).sum(-1)
        advantages = th.as_tensor(rollout["advantages"]).flatten()
        if update == "soft_q":
            advantages = advantages - 0.4 * (chosen - log_rho[actions] - kl)
        advantages = ((advantages - advantages.mean()) / advantages.std()).detach()
        loss = -(chosen * advantages).mean() + (0.4 * kl.mean() if update == "policy_gradient" else 0)
        th.testing.assert_close(change, flat_gradient(loss, policy), rtol=1e-4, atol=1e-5)


class TwoPhase(gym.Env[int, int]):
    """State 0 once, then state 1, where the episode goes on with probability 0.8; reward 1 for the action of the state."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = spaces.Discrete(2), spaces.Discrete(2)
        self.state = 0

    @staticmethod
    def mdp() -> TabularMDP:
        transition = np.zeros((2, 2, 2))
        transition[0, :, 1], transition[1, :, 1] = 1, 0.8
        return TabularMDP(transition=transition, reward=np.eye(2), initial=[1.0, 0.0], discount=0.5)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = 0
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        reward, ends = float(action == self.state), self.state == 1 and self.np_random.random() >= 0.8
        self.state = 1
        return 1, reward, ends, False, {}


class TestLearnedPrior:
    def test_folds_in_order_after_the_costs(self) -> None:
        """One fold per environment and step by hand, from policies and costs of the same rollout."""
        model = make(prior=PRIOR, prior_lr=0.2, ent_coef=0.3)
        (rollout,) = rollouts(model, 1)
        observations = th.as_tensor(rollout["observations"])
        rho = np.array(PRIOR)
        for t in range(5):
            pi = rollout["policy"].get_distribution(observations[t]).distribution.probs.detach().numpy()
            kl = (pi * np.log(pi / rho)).sum(-1)
            np.testing.assert_allclose(rollout["costs"][t], 0.3 * kl, atol=1e-6)
            for row in pi:
                rho = rho + 0.2 * (row - rho)
        np.testing.assert_allclose(model.prior, rho, atol=1e-6)

    def test_discounted_folds_weigh_by_age(self) -> None:
        model = make(prior=PRIOR, prior_lr=0.2, prior_states="discounted", gamma=0.5, n_steps=10)
        (rollout,) = rollouts(model, 1)
        observations, rho, ages = th.as_tensor(rollout["observations"]), np.array(PRIOR), np.zeros(3, int)
        assert rollout["episode_starts"][1:].any()
        for t in range(10):
            ages = np.where(rollout["episode_starts"][t], 0, ages + 1)
            pi = rollout["policy"].get_distribution(observations[t]).distribution.probs.detach().numpy()
            for row, age in zip(pi, ages, strict=True):
                rho = rho + 0.2 * 0.5**age * (row - rho)
        np.testing.assert_allclose(model.prior, rho, atol=1e-6)

    def test_ages_go_on_over_rollouts(self) -> None:
        model = make(prior_lr=0.1, prior_states="discounted", gamma=0.9, n_steps=2).learn(12)
        np.testing.assert_allclose(model.prior_weights, [0.9**3] * 3)

    def test_the_users_prior_callback_is_taken(self) -> None:
        own = PriorCallback()
        model = make(prior_lr=0.01).learn(60, callback=[own])
        assert model.prior_callback is own and len(own.history["timesteps"]) == 20
        assert np.isfinite(own.history["beta_max_q"]).all()
        np.testing.assert_allclose(own.history["prior"][-1], model.prior)

    def test_beta_max_q_is_that_of_the_soft_q_function(self) -> None:
        own = PriorCallback()
        model = make(ent_coef=0.25, prior=PRIOR)
        obs: list[th.Tensor] = []

        class Note(BaseCallback):
            def _on_step(self) -> bool:
                obs.append(th.as_tensor(self.model._last_obs))  # type: ignore[arg-type]
                return True

        model.learn(3, callback=[own, Note()])
        policy = make(ent_coef=0.25, prior=PRIOR).policy
        log_ratio = policy.get_distribution(obs[0]).distribution.logits - th.as_tensor(np.log(PRIOR))
        q = policy.predict_values(obs[0]) + 0.25 * log_ratio
        assert own.history["beta_max_q"][0] == pytest.approx((q.amax(-1) / 0.25).mean().item(), rel=1e-5)

    @pytest.mark.slow  # a minute of CPU for both
    @pytest.mark.parametrize(
        ("states", "update", "expected"),
        [("stationary", "soft_q", (0.0623, 0.9377)), ("discounted", "policy_gradient", (0.5597, 0.4403))],
    )
    def test_two_phase_ends_at_the_solvers_prior(self, states: Any, update: Any, expected: tuple[float, float]) -> None:
        solution = solve_mutual_information(TwoPhase.mdp(), 2.0, state_distribution=states)
        np.testing.assert_allclose(solution.prior, expected, atol=1e-3)
        own = PriorCallback()
        model = SoftA2C(
            "MlpPolicy", make_vec_env(TwoPhase, 32), gamma=0.5, ent_coef=0.5, prior_lr=6e-4, prior_states=states,
            update=update, learning_rate=3e-3, seed=0, device="cpu",
        )  # fmt: skip
        model.learn(40_000, callback=own)
        history = own.history["prior"]
        np.testing.assert_allclose(history[len(history) // 2 :].mean(0), expected, atol=0.03)

    @pytest.mark.parametrize("update", ["policy_gradient", pytest.param("soft_q", marks=pytest.mark.slow)])
    def test_corridor(self, update: Any) -> None:
        """Seen: 0.04 from the exact solution after 1e5 steps, 0.01 after 3e5. A dozen seconds."""
        tau, own = 3.0, PriorCallback()
        mdp = TabularMDP.from_env("MirlCorridor-v0", 0.99)
        exact = solve_mutual_information(mdp, 1 / tau, state_distribution="stationary").prior
        assert exact.max() > 0.85  # and the start is uniform
        model = SoftA2C(
            "MlpPolicy", make_vec_env("MirlCorridor-v0", 32, seed=0), n_steps=8, gae_lambda=0.95, ent_coef=tau,
            prior_lr=1e-3, update=update, learning_rate=1e-2, policy_kwargs={"net_arch": []}, seed=0, device="cpu",
        )  # fmt: skip
        model.learn(120_000, callback=own, log_interval=10**9)
        history = own.history["prior"]
        np.testing.assert_allclose(history[-len(history) // 10 :].mean(0), exact, atol=0.05)


class TestInTraining:
    def test_evaluations_change_nothing(self) -> None:
        evaluation = EvalCallback(DummyVecEnv([ScriptedEnv]), eval_freq=3, n_eval_episodes=1, verbose=0, warn=False)
        one = make(prior_lr=0.01, update="soft_q").learn(120, callback=evaluation)
        two = make(prior_lr=0.01, update="soft_q").learn(120)
        assert th.equal(weights(one), weights(two)) and th.equal(one.policy.log_prior, two.policy.log_prior)

    def test_it_logs(self, tmp_path: Any) -> None:
        from stable_baselines3.common.logger import configure

        model = make(prior_lr=0.01, ent_coef=0.2, update="soft_q")
        model.set_logger(configure(str(tmp_path), ["csv"]))
        costs: list[float] = []
        model.learn(30, log_interval=2, callback=OnRollout(lambda m: costs.append(m.rollout_buffer.costs.mean())))
        header, row = (tmp_path / "progress.csv").read_text().splitlines()[:2]
        logged = dict(zip(header.split(","), row.split(","), strict=True))
        a2c = {"train/entropy_loss", "train/policy_loss", "train/value_loss", "train/explained_variance"}
        assert {*a2c, "train/n_updates", "train/learning_rate", "train/prior/NOOP", "rollout/kkt_gap", "time/fps"} <= set(
            logged
        )
        assert float(logged["train/beta"]) == 5
        assert float(logged["rollout/information_cost"]) == pytest.approx(costs[1], rel=1e-5)
        assert float(logged["train/kl"]) == pytest.approx(costs[1] / 0.2, rel=1e-5)

    def test_dictionaries_normalisation_and_processes(self) -> None:
        class Named(ScriptedEnv):
            def __init__(self) -> None:
                super().__init__(length=7)
                self.observation_space = spaces.Dict(a=self.observation_space)  # type: ignore[assignment]

            def _observation(self) -> Any:
                return {"a": super()._observation()}

        env = VecNormalize(DummyVecEnv([Named] * 2))
        model = SoftA2C("MultiInputPolicy", env, prior_lr=0.01, update="soft_q", **deepcopy(TINY)).learn(60)
        assert model.rollout_buffer.costs.all()
        processes = SubprocVecEnv([ScriptedEnv] * 2, start_method="fork" if sys.platform == "linux" else None)
        try:
            assert th.equal(weights(make(processes).learn(60)), weights(make(DummyVecEnv([ScriptedEnv] * 2)).learn(60)))
        finally:
            processes.close()

    def test_nan_rewards_stop_it_before_anything_is_learned(self) -> None:
        model = make(DummyVecEnv([lambda: ScriptedEnv(bad_step=18)]), prior=PRIOR, prior_lr=0.1)
        priors: list[np.ndarray] = []

        class Note(BaseCallback):
            def _on_step(self) -> bool:
                priors.append(self.model.prior)  # type: ignore[attr-defined]
                return True

        with pytest.raises(ValueError, match="reward of environment 0 is nan at step 18"):
            model.learn(100, callback=Note())
        assert model._n_updates == 3 and model.num_timesteps == 17
        np.testing.assert_array_equal(model.prior, priors[-1], "the refused step is not folded")
        model.learn(30)

    def test_gradients_that_are_not_finite_stop_it_before_the_weights_change(self) -> None:
        model = make()
        model.learn(30)
        before = weights(model)

        def spoil(model: Any) -> None:
            model.rollout_buffer.advantages[2, 1] = math.inf

        with pytest.raises(ValueError, match="the gradient is not finite. Lower learning_rate"):
            model.learn(30, callback=OnRollout(spoil), reset_num_timesteps=False)
        assert th.equal(weights(model), before)
        assert not model.policy.optimizer._optimizer_step_pre_hooks

    def test_policies_that_are_not_finite_stop_it(self) -> None:
        model = make()
        with th.no_grad():
            model.policy.value_net.bias.fill_(math.nan)
        with pytest.raises(ValueError, match="policy or the values are not finite at step 3"):
            model.learn(30)

    def test_an_a2c_of_sb3_gets_no_prior_callback(self) -> None:
        with pytest.raises(ValueError, match="PriorCallback updates a learned prior; A2C has none"):
            A2C("MlpPolicy", "CartPole-v1", device="cpu").learn(5, callback=PriorCallback())
        with pytest.raises(ValueError, match="SoftA2C has none"):
            make(make_vec_env("Pendulum-v1", 1)).learn(5, callback=PriorCallback())

    @pytest.mark.learning  # a minute and a half of CPU
    @pytest.mark.parametrize("seed", range(3))
    def test_the_defaults_learn_cartpole(self, seed: int) -> None:
        """As plain A2C does: they reach it, and do not hold it to the end. A random policy has 22."""
        means: list[float] = []

        def note(model: Any) -> None:
            means.append(float(np.mean([episode["r"] for episode in model.ep_info_buffer] or [0.0])))

        env = make_vec_env("CartPole-v1", 8)
        SoftA2C("MlpPolicy", env, seed=seed, device="cpu").learn(60_000, callback=OnRollout(note))
        assert max(means) > 150


ROWS: list[tuple[dict[str, Any], str]] = [
    ({"entropy": "soft"}, "entropy='soft' is not known, choose from 'proper', 'naive'"),
    ({"update": "q"}, "update='q' is not known, choose from 'policy_gradient', 'soft_q'"),
    ({"prior_states": "all"}, "prior_states='all' is not known, choose from 'stationary', 'discounted'"),
    ({"entropy_bonus": 2}, "entropy_bonus=2 is not known"),
    ({"prior": [0.5, 0.5]}, r"prior=\[0.5, 0.5\] must be a list of 3 probabilities"),
    ({"prior": [1.5, -0.5, 0.0]}, r"prior=\[1.5, -0.5, 0.0\] must be a list of 3 probabilities"),
    ({"prior": [math.nan, 0.5, 0.5]}, "must be a list of 3 probabilities"),
    ({"prior": "abc"}, "prior='abc' must be a list of 3 probabilities"),
    ({"prior": [0.5, 0.5, 0.5]}, "must sum to 1, and sums to 1.5"),
    ({"prior": [0.5, 0.5, 0.0], "prior_floor": 0.0}, "probability 0, whose cost is infinite: choose prior_floor > 0"),
    ({"prior_lr": 1.5}, r"prior_lr=1.5 must be a number in \[0, 1\]"),
    ({"prior_floor": 0.5}, r"prior_floor=0.5 must be a number in \[0, 0.333333\]"),
    ({"ent_coef": -0.1}, r"ent_coef=-0.1 must be a number in \[0, inf\)"),
    ({"ent_coef": 0, "update": "soft_q"}, r'update="soft_q" divides by the temperature: ent_coef=0 must be in \(0, inf\)'),
    ({"vf_coef": -1}, "vf_coef=-1"),
    ({"gae_lambda": 2}, "gae_lambda=2"),
    ({"n_steps": 0}, "n_steps=0"),
    ({"max_grad_norm": 0}, "max_grad_norm=0"),
    ({"gamma": 1.1}, "gamma=1.1"),
]


@pytest.mark.parametrize(("arguments", "message"), ROWS)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize("arguments", [{"prior": [0.5, 0.5]}, {"prior_lr": 0.1}, {"update": "soft_q"}])
def test_without_discrete_actions(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}=.* needs Discrete actions, got Box"):
        make("Pendulum-v1", **arguments)


def test_a_floor_raises_the_dead() -> None:
    np.testing.assert_allclose(make(prior=[0.5, 0.5, 0.0], prior_floor=0.01).prior, [0.495, 0.495, 0.01])


def test_mirl_keeps_its_prior_callback() -> None:
    """The callback asks nothing of SoftA2C's that MIRL does not have."""
    model = MIRL("MlpPolicy", ScriptedEnv(), learning_starts=5, seed=0, device="cpu").learn(20)
    assert model.prior_callback is not None and len(model.prior_callback.history["timesteps"]) > 0
