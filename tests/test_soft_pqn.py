"""SoftPQN: PQN at beta = inf, targets, exploration, the network with layer normalisation."""

import math
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from sb3_mirl import SoftPQN, maths
from sb3_mirl.envs.minatar import MinAtarCNN
from sb3_mirl.soft_a2c.q_policies import PQNPolicy
from tests.conftest import ScriptedEnv
from tests.test_soft_a2c import OnRollout, Peeks, Truncated

TINY: dict[str, Any] = dict(
    seed=0, device="cpu", policy_kwargs=dict(net_arch=[8]), n_steps=8, n_minibatches=4, learning_rate=1e-3, gamma=0.9
)
BOLTZMANN: dict[str, Any] = dict(exploration="boltzmann", beta_init=3.0)


def make(env: Any = None, n_envs: int = 3, **arguments: Any) -> SoftPQN:
    env = DummyVecEnv([lambda: ScriptedEnv(length=5)] * n_envs) if env is None else env
    return SoftPQN("MlpPolicy", env, **{**deepcopy(TINY), **arguments})


def weights(model: SoftPQN) -> th.Tensor:
    return th.cat([p.detach().flatten() for p in model.policy.parameters()])


def rollouts(model: SoftPQN, steps: int, *callbacks: BaseCallback) -> list[dict[str, Any]]:
    """What the rollouts held, with the policy that collected them and NumPy's random numbers when they were learned from."""
    found: list[dict[str, Any]] = []
    names = ("observations", "actions", "rewards", "values", "returns", "episode_starts", "costs", "kl")

    def note(m: Any) -> None:
        columns = {name: getattr(m.rollout_buffer, name).copy() for name in names}
        later = {"starts": m._last_episode_starts.copy(), "last_obs": m._last_obs.copy(), "random": np.random.get_state()}
        found.append({**columns, **later, "policy": deepcopy(m.policy)})

    model.learn(steps, callback=[*callbacks, OnRollout(note)])
    return found


def q_values(policy: Any, rollout: dict[str, Any]) -> th.Tensor:
    """(T, N, A)"""
    observations = th.as_tensor(rollout["observations"])
    return policy.q_net(observations.flatten(0, 1)).view(*observations.shape[:2], -1)


def targets_by_hand(rollout: dict[str, Any], gamma: float, lambda_: float, costs: np.ndarray) -> np.ndarray:
    """The recursion of PQN's authors, which restarts at the end of episodes, with the costs of later states."""
    values = np.concatenate(
        [rollout["values"], rollout["policy"].predict_values(th.as_tensor(rollout["last_obs"]))[None].detach()]
    )
    ends = np.concatenate([rollout["episode_starts"][1:], rollout["starts"][None]])
    targets = np.zeros_like(rollout["rewards"])
    following = values[-1]
    for t in reversed(range(len(targets))):
        mixed = (1 - lambda_) * values[t + 1] + lambda_ * following
        targets[t] = rollout["rewards"][t] + gamma * (1 - ends[t]) * mixed
        following = targets[t] - costs[t]  # the return of the state pays for it
    return targets


class TestTargets:
    @pytest.mark.parametrize("arguments", [{}, BOLTZMANN, {"beta_init": 3.0}], ids=["pqn", "boltzmann", "soft epsilon"])
    @pytest.mark.parametrize("env", [ScriptedEnv, Truncated])
    @pytest.mark.parametrize("lambda_", [0.0, 0.65, 1.0])
    def test_by_hand(self, arguments: dict[str, Any], env: type[ScriptedEnv], lambda_: float) -> None:
        model = make(DummyVecEnv([lambda: env(length=5)] * 3), q_lambda=lambda_, **arguments)
        for rollout in rollouts(model, 48):
            assert (rollout["costs"] > 0).all() if "exploration" in arguments else not rollout["costs"].any()
            expected = targets_by_hand(rollout, 0.9, lambda_, rollout["costs"])
            np.testing.assert_allclose(rollout["returns"], expected, atol=1e-5)

    def test_costs_and_values_are_those_of_the_states_acted_in(self) -> None:
        (rollout,) = rollouts(make(**BOLTZMANN), 24, Peeks())
        q = q_values(rollout["policy"], rollout).detach()
        log_rho = th.full((3,), -math.log(3))
        log_pi = maths.boltzmann_log_probs(q, log_rho, 3.0)
        kl = (log_pi.exp() * (log_pi - log_rho)).sum(-1)
        np.testing.assert_allclose(rollout["costs"], kl / 3, atol=1e-6)
        np.testing.assert_allclose(rollout["values"], maths.soft_value(q, log_rho, 3.0), atol=1e-6)
        # on average over actions, V = E[Q] - cost
        np.testing.assert_allclose((log_pi.exp() * q).sum(-1) - kl / 3, rollout["values"], atol=1e-5)

    def test_time_limits_bootstrap_and_terminations_do_not(self) -> None:
        lasts = []
        for env in (ScriptedEnv, Truncated):
            model = make(DummyVecEnv([lambda env=env: env(length=8)]), **BOLTZMANN)
            (rollout,) = rollouts(model, 8)
            lasts.append(rollout["returns"][-1, 0])
        final = model.env.buf_infos[0]["terminal_observation"]  # type: ignore[union-attr]
        value = rollout["policy"].predict_values(th.as_tensor(final[None])).item()
        assert lasts[1] - lasts[0] == pytest.approx(0.9 * value, abs=1e-6) and value != 0

    @pytest.mark.parametrize("exploration", ["epsilon", "boltzmann"])
    def test_entropy_bonus_is_a_bonus_on_rewards(self, exploration: Any) -> None:
        """With the same Q, the target of a first step gains gamma log|A| / beta per later state, in whatever form."""
        found = []
        for bonus in (False, True):
            model = make(exploration=exploration, beta_init=3.0, entropy_bonus=bonus, q_lambda=0.65)
            found.append(rollouts(model, 24)[0])
        without, with_bonus = found
        b = math.log(3) / 3
        np.testing.assert_allclose(with_bonus["values"] - without["values"], b, atol=1e-6)
        ends = np.concatenate([without["episode_starts"][1:], without["starts"][None]])
        gain = np.zeros((9, 3))
        gain[-1] = b
        for t in reversed(range(8)):  # of the state: b for itself, and the later ones
            later = 0.35 * b + 0.65 * gain[t + 1]
            gain[t] = b + 0.9 * (1 - ends[t]) * later
        np.testing.assert_allclose(with_bonus["returns"] - without["returns"], gain[:-1] - b, atol=1e-5)


class TestUpdates:
    def test_at_infinite_beta_it_is_pqn(self) -> None:
        """A PQN loop of a few lines on the recorded rollouts ends at the same weights."""
        model = make()
        start = deepcopy(model.policy)
        optimizer = th.optim.RAdam(start.q_net.parameters(), lr=1e-3)
        for rollout in rollouts(model, 96):
            np.random.set_state(rollout["random"])
            values = q_values(start, rollout).max(-1).values.detach().numpy()
            np.testing.assert_allclose(rollout["values"], values, atol=1e-5)
            targets = th.as_tensor(targets_by_hand(rollout, 0.9, 0.65, np.zeros((8, 3)))).flatten()
            observations, actions = th.as_tensor(rollout["observations"]).flatten(0, 1), rollout["actions"].flatten()
            for _ in range(2):
                for rows in np.random.permutation(24).reshape(4, 6):
                    q = start.q_net(observations[rows])[range(6), actions[rows]]
                    optimizer.zero_grad()
                    ((q - targets[rows]) ** 2 / 2).mean().backward()
                    th.nn.utils.clip_grad_norm_(start.q_net.parameters(), 10)
                    optimizer.step()
        end = th.cat([p.detach().flatten() for p in start.parameters()])
        th.testing.assert_close(weights(model), end, rtol=1e-5, atol=1e-5)
        assert model._n_updates == 4 * 8

    def test_a_very_large_beta_is_close_to_it(self) -> None:
        th.testing.assert_close(weights(make(beta_init=1e8).learn(96)), weights(make().learn(96)), rtol=0, atol=1e-5)
        assert (weights(make(beta_init=1.0).learn(96)) - weights(make().learn(96))).abs().max() > 1e-4

    def test_with_boltzmann_behaviour_the_gradient_is_soft_q_learnings(self) -> None:
        """SGD at rate 1, one epoch, one minibatch: the change is minus the gradient of 1/2 (Q - y)^2 (Eq. 58)."""
        sgd = dict(net_arch=[8], optimizer_class=th.optim.SGD)
        model = make(
            policy_kwargs=sgd, learning_rate=1.0, max_grad_norm=None, n_epochs=1, n_minibatches=1, q_lambda=1.0, **BOLTZMANN
        )
        before = weights(model)
        (rollout,) = rollouts(model, 24)
        q_net = rollout["policy"].q_net
        q = q_values(rollout["policy"], rollout).gather(-1, th.as_tensor(rollout["actions"])).squeeze(-1)
        y = th.as_tensor(targets_by_hand(rollout, 0.9, 1.0, rollout["costs"]))
        gradients = th.autograd.grad(((q - y) ** 2 / 2).mean(), list(q_net.parameters()))
        change = before - weights(model)
        th.testing.assert_close(change, th.cat([g.flatten() for g in gradients]), rtol=1e-4, atol=1e-5)

    def test_beta_follows_the_losses_or_the_steps(self) -> None:
        model = make(beta_schedule="inverse_loss", beta_init=1.0, beta_lr=0.1, beta_max=50.0)
        losses: list[th.Tensor] = []
        update = model._update
        model._update = lambda *batch: losses.append(update(*batch)) or losses[-1]  # type: ignore[method-assign,func-returns-value]
        model.learn(48)
        expected = 1.0
        for loss in losses:
            expected = 0.9 * expected + 0.1 * min(1 / loss.item(), 50.0)
        assert len(losses) == 16 and model.beta == pytest.approx(expected, rel=1e-6)
        assert make(beta_schedule="linear", beta_init=1.0, beta_slope=0.5, beta_max=20.0).learn(24).beta == 12.0
        assert make(beta_schedule="linear", beta_init=1.0, beta_slope=0.5, beta_max=7.0).learn(24).beta == 7.0

    def test_losses_that_are_not_finite_stop_it_before_the_weights_change(self) -> None:
        model = make()
        model.learn(24)
        before = weights(model)

        def spoil(model: Any) -> None:
            model.rollout_buffer.returns[:] = math.inf

        with pytest.raises(ValueError, match="the loss or its gradient is not finite. Lower learning_rate"):
            model.learn(24, callback=OnRollout(spoil), reset_num_timesteps=False)
        assert th.equal(weights(model), before)


class TestExploration:
    def test_epsilon_falls_and_stays(self) -> None:
        rates: list[float] = []

        class Note(BaseCallback):
            def _on_step(self) -> bool:
                rates.append(self.model.exploration_rate)  # type: ignore[attr-defined]
                return True

        model = make(exploration_fraction=0.5, exploration_final_eps=0.1).learn(240, callback=Note())
        np.testing.assert_allclose(rates[:40], 1 - 0.9 * np.arange(3, 123, 3) / 120, atol=1e-6)
        assert rates[45:] == [0.1] * 35 == [model.policy.exploration_rate] * 35
        model.learn(720, reset_num_timesteps=False, callback=Note())
        assert max(rates[80:]) == 0.1, "a longer run does not raise it again"

    def test_random_actions_come_at_the_rate_epsilon_from_the_prior(self) -> None:
        policy = make().policy
        policy.log_prior.copy_(th.tensor([0.7, 0.2, 0.1], dtype=th.float64).log())
        policy.exploration_rate = 0.4
        with th.no_grad():
            policy.q_net.q_net[-1].bias.copy_(th.tensor([0.0, 0.0, 1000.0]))  # type: ignore[union-attr,operator]
        th.manual_seed(0)
        actions, _, _ = policy(th.zeros(20_000, 4))
        frequencies = np.bincount(actions.numpy(), minlength=3) / 20_000
        np.testing.assert_allclose(frequencies, [0.28, 0.08, 0.64], atol=0.015)
        assert (policy(th.zeros(100, 4), deterministic=True)[0] == 2).all()

    def test_boltzmann_actions_are_the_policys(self) -> None:
        model = make(**BOLTZMANN)
        observation = np.full((1, 4), 0.3, np.float32)
        probs = model.policy.action_probabilities(observation)[0]
        th.manual_seed(0)
        actions, _ = model.predict(observation.repeat(20_000, 0))
        np.testing.assert_allclose(np.bincount(actions, minlength=3) / 20_000, probs, atol=0.015)
        q = model.q_net(th.as_tensor(observation)).detach().numpy()[0]
        np.testing.assert_allclose(probs, np.exp(3 * q) / np.exp(3 * q).sum(), rtol=1e-5)
        assert probs.max() < 0.9 and make(beta_init=2.0, **{"exploration": "boltzmann"}).policy.exploration_rate is None

    def test_the_greedy_action_knows_the_prior(self) -> None:
        model = make(**BOLTZMANN)
        observations = np.random.default_rng(0).uniform(-1, 1, (50, 4)).astype(np.float32)
        model.policy.log_prior.copy_(th.tensor([0.6, 0.3, 0.1], dtype=th.float64).log())
        q = model.q_net(th.as_tensor(observations)).detach()
        greedy, _ = model.predict(observations, deterministic=True)
        np.testing.assert_array_equal(greedy, (q * 3 + model.policy.log_prior).argmax(-1))
        assert (greedy != q.argmax(-1).numpy()).any()
        distribution = model.policy.get_distribution(th.as_tensor(observations))
        np.testing.assert_array_equal(distribution.mode(), greedy)

    @pytest.mark.parametrize("arguments", [BOLTZMANN, {"beta_init": 3.0}])
    def test_learned_prior(self, arguments: dict[str, Any]) -> None:
        (rollout,) = rollouts(model := make(prior_lr=0.2, **arguments), 24)
        rho = np.full(3, 1 / 3)
        for observations in th.as_tensor(rollout["observations"]):
            q = rollout["policy"].q_net(observations).detach()
            pi = maths.boltzmann_log_probs(q, th.as_tensor(rho).log(), 3.0).exp().numpy()
            for row in pi:
                rho = rho + 0.2 * (row - rho)
        np.testing.assert_allclose(model.prior, rho, atol=1e-6)
        assert model.prior_callback is not None and make().learn(24).prior_callback is None

    def test_evaluations_change_nothing(self) -> None:
        evaluation = EvalCallback(DummyVecEnv([ScriptedEnv]), eval_freq=3, n_eval_episodes=1, verbose=0, warn=False)
        one = make(prior_lr=0.01, **BOLTZMANN).learn(96, callback=evaluation)
        two = make(prior_lr=0.01, **BOLTZMANN).learn(96)
        assert th.equal(weights(one), weights(two)) and th.equal(one.policy.log_prior, two.policy.log_prior)


def after_hidden_layers(network: nn.Module) -> list[nn.Module]:
    """What follows every linear or convolutional layer but the last."""
    layers = [m for m in network.modules() if not list(m.children())]
    found = [layers[i + 1] for i, layer in enumerate(layers[:-1]) if isinstance(layer, (nn.Linear, nn.Conv2d))]
    assert isinstance(layers[-1], nn.Linear)
    return found


class TestNetworks:
    def test_layer_norm_behind_every_hidden_layer(self) -> None:
        mlp = make(policy_kwargs=dict(net_arch=[8, 7])).q_net
        cnn = SoftPQN("CnnPolicy", FakeImageEnv(screen_height=36, screen_width=36), device="cpu").q_net
        minatar = PQNPolicy(
            spaces.Box(0, 1, (10, 10, 4), np.bool_),
            spaces.Discrete(6),
            lambda _: 1e-3,
            [],
            features_extractor_class=MinAtarCNN,
        ).q_net
        both = spaces.Dict(a=spaces.Box(-1, 1, (3,)), b=spaces.Box(0, 255, (1, 36, 36), np.uint8), c=spaces.Discrete(4))
        mixed = SoftPQN("MultiInputPolicy", DictEnv(both), device="cpu").q_net
        for network, n in ((mlp, 2), (cnn, 4), (minatar, 2), (mixed, 6)):
            norms = after_hidden_layers(network)
            assert len(norms) == n and all(isinstance(norm, nn.LayerNorm) for norm in norms)
        assert [norm.normalized_shape for norm in after_hidden_layers(mlp)] == [(8,), (7,)]  # type: ignore[attr-defined]
        assert after_hidden_layers(cnn)[0].normalized_shape == (32, 8, 8)  # type: ignore[attr-defined]
        assert not any(isinstance(m, nn.LayerNorm) for m in make(policy_kwargs=dict(layer_norm=False)).q_net.modules())

    def test_the_optimiser_is_radam_and_knows_all_parameters(self) -> None:
        model = make()
        assert type(model.policy.optimizer) is th.optim.RAdam
        known = {id(p) for group in model.policy.optimizer.param_groups for p in group["params"]}
        assert known == {id(p) for p in model.policy.parameters()}

    def test_images_stay_bytes(self) -> None:
        env = DummyVecEnv([lambda: FakeImageEnv(screen_height=36, screen_width=36)] * 2)
        model = SoftPQN("CnnPolicy", env, n_steps=4, n_minibatches=2, seed=0, device="cpu").learn(8)
        assert model.rollout_buffer.observations.dtype == np.uint8
        observations, _, _ = model._on_device(model.rollout_buffer)
        assert observations.dtype == th.uint8 and observations.shape == (8, 1, 36, 36)

    def test_a_policy_alone_acts_as_its_model(self, tmp_path: Any) -> None:
        model = make(prior_lr=0.1, **BOLTZMANN).learn(48)
        model.policy.save(tmp_path / "policy.pth")
        alone = PQNPolicy.load(tmp_path / "policy.pth", device="cpu")
        observations = np.random.default_rng(0).uniform(-1, 1, (50, 4)).astype(np.float32)
        expected, _ = model.predict(observations, deterministic=True)
        np.testing.assert_array_equal(alone.predict(observations, deterministic=True)[0], expected)
        np.testing.assert_array_equal(
            alone.action_probabilities(observations), model.policy.action_probabilities(observations)
        )
        compiled = th.export.export(model.q_net, (th.as_tensor(observations),)).module()
        th.testing.assert_close(compiled(th.as_tensor(observations)), model.q_net(th.as_tensor(observations)))

    def test_dictionaries_and_normalisation(self) -> None:
        space = spaces.Dict(a=spaces.Box(-1, 1, (4,)))
        env = VecNormalize(DummyVecEnv([lambda: DictEnv(space)] * 2))
        arguments = {**deepcopy(TINY), "prior_lr": 0.01}
        model = SoftPQN("MultiInputPolicy", env, **arguments, **BOLTZMANN).learn(64)
        assert np.isfinite(model.rollout_buffer.returns).all() and model._n_updates == 32


class DictEnv(ScriptedEnv):
    def __init__(self, space: spaces.Dict) -> None:
        super().__init__(length=7)
        self.observation_space = space  # type: ignore[assignment]

    def _observation(self) -> Any:
        return self.observation_space.sample()


ROWS: list[tuple[dict[str, Any], str]] = [
    ({"beta_schedule": "cosine"}, "beta_schedule='cosine' is not known, choose from 'inverse_loss', 'linear', 'constant'"),
    ({"exploration": "prior"}, "exploration='prior' is not known, choose from 'epsilon', 'boltzmann'"),
    ({"entropy_bonus": "no"}, "entropy_bonus='no' is not known"),
    ({"q_lambda": 1.2}, r"q_lambda=1.2 must be a number in \[0, 1\]"),
    ({"n_minibatches": 5}, r"n_minibatches=5 must divide n_steps \* n_envs = 8 \* 3 = 24"),
    ({"n_minibatches": 0}, "n_minibatches=0"),
    ({"n_epochs": 1.5}, "n_epochs=1.5 must be an integer"),
    ({"n_steps": 0}, "n_steps=0"),
    ({"beta_init": 0}, "beta_init=0"),
    ({"beta_init": math.inf, "beta_schedule": "linear"}, "beta_init=inf"),
    ({"beta_lr": 2}, "beta_lr=2"),
    ({"beta_slope": 0}, "beta_slope=0"),
    ({"beta_max": -1}, "beta_max=-1"),
    ({"exploration_fraction": 2}, "exploration_fraction=2"),
    ({"exploration_final_eps": -0.1}, "exploration_final_eps=-0.1"),
    ({"prior_lr": -1}, "prior_lr=-1"),
    ({"prior_floor": 0.4}, "prior_floor=0.4"),
    ({"max_grad_norm": 0}, "max_grad_norm=0"),
    ({"learning_rate": -1e-3}, "learning_rate=-0.001"),
]


@pytest.mark.parametrize(("arguments", "message"), ROWS)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_bad_spaces_and_policies() -> None:
    with pytest.raises(ValueError, match=r"SoftPQN needs discrete actions.*got Box.*sb3_mirl\.VIREL"):
        make("Pendulum-v1")
    shifted = ScriptedEnv()
    shifted.action_space = spaces.Discrete(3, start=1)
    with pytest.raises(ValueError, match="needs discrete actions counted from 0"):
        make(shifted, n_minibatches=4)
    with pytest.raises(ValueError, match="needs a policy with one Q-network .*got ActorCriticPolicy"):
        SoftPQN(ActorCriticPolicy, ScriptedEnv(), n_steps=8, n_minibatches=4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="use_sde=True. is for continuous actions"):
        PQNPolicy(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), lambda _: 1e-3, use_sde=True)


def test_nan_rewards_stop_it_before_anything_is_learned() -> None:
    model = make(DummyVecEnv([lambda: ScriptedEnv(bad_step=20)]), prior_lr=0.1, **BOLTZMANN)
    with pytest.raises(ValueError, match="reward of environment 0 is nan at step 20"):
        model.learn(100)
    assert model.num_timesteps == 19 and model._n_updates == 16
    model.learn(16)


def test_q_values_that_are_not_finite_stop_it() -> None:
    model = make()
    with th.no_grad():
        model.q_net.q_net[-1].bias.fill_(math.nan)  # type: ignore[union-attr,operator]
    with pytest.raises(ValueError, match="Q-values are not finite at step 3. Lower learning_rate"):
        model.learn(30)


@pytest.mark.learning  # three minutes of CPU
@pytest.mark.parametrize("seed", range(3))
def test_the_one_liner_learns_cartpole(seed: int) -> None:
    model = SoftPQN("MlpPolicy", "CartPole-v1", seed=seed, device="cpu").learn(30_000)
    episodes: Any = model.ep_info_buffer
    assert np.mean([episode["r"] for episode in list(episodes)[-20:]]) > 150
