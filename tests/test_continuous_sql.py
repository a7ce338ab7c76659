"""ContinuousSQL: one update against written-out formulas, closed forms, the reduction to DDPG, annealing, bad input, files."""

import inspect
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
from stable_baselines3 import DDPG
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from stable_baselines3.her import HerReplayBuffer

from sb3_mirl import ContinuousSQL
from sb3_mirl.common.actions import ActionSpaceError
from sb3_mirl.continuous_sql import update
from sb3_mirl.continuous_sql.policies import SamplerPolicy, q_values
from sb3_mirl.maths import squashed_score
from tests.test_svgd import Operators, direction_by_loops

SMALL: dict[str, Any] = dict(
    learning_starts=50,
    buffer_size=1000,
    batch_size=16,
    n_particles=4,
    n_kernel_particles=5,
    n_value_particles=6,
    target_update_interval=10,
    policy_kwargs=dict(net_arch=[16]),
    seed=0,
    device="cpu",
)


class Scripted(gym.Env[np.ndarray, np.ndarray]):
    """Random observations, rewards from a function of the step; some episodes are terminated, some truncated."""

    def __init__(self, reward: Callable[[int], float] = math.sin, action_space: Any = None) -> None:
        self.observation_space = spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = action_space or spaces.Box(np.array([-2, 0]), np.array([2, 1]), (2,), np.float32)
        self.reward, self.total = reward, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.total += 1
        observation = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return observation, self.reward(self.total), self.total % 13 == 0, self.total % 20 == 0, {}


def sql(env: Any = None, **changed: Any) -> ContinuousSQL:
    return ContinuousSQL("MlpPolicy", Scripted() if env is None else env, **{**SMALL, **changed})


def assert_equal_policies(one: ContinuousSQL, two: ContinuousSQL) -> None:
    first, second = one.policy.state_dict(), two.policy.state_dict()
    assert list(first) == list(second)
    for name in first:
        assert th.equal(first[name], second[name]), name


OBS = np.random.default_rng(0).uniform(-1, 1, (7, 3)).astype(np.float32)


# One update against formulas


def q_by_rows(critic: Any, obs: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """(B, K) by SB3's own forward, one row after the other."""
    return th.stack([th.stack([th.cat(critic(obs[b : b + 1], a[None])).min() for a in actions[b]]) for b in range(len(obs))])


def by_hand(model: ContinuousSQL, batch_size: int) -> dict[str, Any]:
    """What the next update with SGD must do: section 1 of the algorithm as it is resolved in the class's documentation."""
    assert model.replay_buffer is not None
    policy, alpha = deepcopy(model.policy), model.policy.ent_coef.item()
    actor, critic, target = policy.actor, policy.critic, policy.critic_target
    batch = model.replay_buffer.sample(batch_size)
    d, k_v = 2, model.n_value_particles
    if model.value_sampling == "uniform":
        a = 2 * th.rand(batch_size, k_v, d) - 1
        density = th.full((batch_size, k_v), -d * math.log(2))
    elif model.value_sampling == "policy":
        xi = th.randn(batch_size, k_v, d)
        rows = []
        for b in range(batch_size):
            for x in xi[b]:
                jacobian = th.func.jacrev(lambda x, b=b: actor(batch.next_observations[b : b + 1], x[None])[0])(x)
                log_normal = -0.5 * (x**2).sum() - d / 2 * math.log(2 * math.pi)
                rows.append(log_normal - th.linalg.det(jacobian).abs().log())
        density = th.stack(rows).reshape(batch_size, k_v).detach()
        a = th.stack([actor(batch.next_observations[b].expand(k_v, -1), xi[b]) for b in range(batch_size)])
    else:
        n_uniform = round(0.1 * k_v)
        xi = th.randn(batch_size, k_v - n_uniform, d)
        centers = th.stack([actor(o.expand(len(x), -1), x) for o, x in zip(batch.next_observations, xi, strict=True)]).atanh()
        std = centers.var(1, correction=0).sqrt().clamp(min=0.01)
        u = centers + std[:, None] * th.randn(batch_size, k_v - n_uniform, d)
        uniform = (2 * th.rand(batch_size, n_uniform, d) - 1) if n_uniform else th.zeros(batch_size, 0, d)
        u = th.cat([u, uniform.clamp(-1 + 1e-6, 1 - 1e-6).atanh()], 1)
        normal = th.distributions.Normal(centers[:, None], std[:, None, None])
        mixture = normal.log_prob(u[:, :, None]).sum(-1).exp().mean(-1) / (1 - u.tanh() ** 2).prod(-1)
        density = ((1 - n_uniform / k_v) * mixture + n_uniform / k_v / 2**d).log().detach()
        a = u.tanh()
    with th.no_grad():
        q = q_by_rows(target, batch.next_observations, a)
        weights = (q / alpha - density).exp()
        soft = alpha * weights.mean(1).log()
        y = batch.rewards.flatten() + model.gamma * (1 - batch.dones.flatten()) * soft
    critic_loss = 0.5 * sum(((y - q_i.flatten()) ** 2).mean() for q_i in critic(batch.observations, batch.actions))
    parameters = list(critic.parameters())
    for parameter, gradient in zip(parameters, th.autograd.grad(critic_loss, parameters), strict=True):
        parameter.data -= model.learning_rate * gradient

    m, k = model.n_particles, model.n_kernel_particles
    xi = th.randn(batch_size, m + k, d)
    loss, norms, widths = th.zeros(()), [], []
    for b, o in enumerate(batch.observations):
        u = actor.net(th.cat([o.expand(m + k, -1), xi[b]], 1))
        if model.squash_space == "action":
            u = u.tanh()
        x, moved = u[:m].detach(), u[m:]
        latent = x.clone().requires_grad_()
        squashed = latent if model.squash_space == "action" else latent.tanh()
        log_density = q_by_rows(critic, o[None], squashed[None]).sum() / alpha + (1 - squashed**2 + 1e-6).log().sum()
        (score,) = th.autograd.grad(log_density, latent)
        distances = ((x[:, None] - moved[None].detach()) ** 2).sum(-1).flatten()
        h = max(sorted(distances.tolist())[(m * k - 1) // 2] / math.log(m + 1), 1e-3)
        phi = th.from_numpy(direction_by_loops(*(t.detach().double().numpy() for t in (x, moved, score)), h)).float()
        loss = loss - (phi * moved).sum() / (batch_size * k)
        norms.append(phi.norm(dim=-1).mean())
        widths.append(h)
    parameters = list(actor.parameters())
    for parameter, gradient in zip(parameters, th.autograd.grad(loss, parameters), strict=True):
        parameter.data -= model.sampler_learning_rate * gradient
    log = {"critic_loss": critic_loss.item(), "soft_value": soft.mean().item(), "ent_coef": alpha}
    log |= {"svgd_norm": th.stack(norms).mean().item(), "bandwidth": float(np.mean(widths))}
    log["effective_samples"] = (weights.sum(1) ** 2 / (weights**2).sum(1)).mean().item()
    return {"policy": policy.state_dict(), "log": log}


SGD = dict(net_arch=[16], optimizer_class=th.optim.SGD)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"value_sampling": "uniform", "squash_space": "action"},
        {"value_sampling": "policy", "policy_kwargs": {**SGD, "activation_fn": th.nn.Tanh}},
        {"policy_kwargs": {**SGD, "n_critics": 2}, "ent_coef": 0.5},
        {"n_value_particles": 3, "n_particles": 1},
    ],
    ids=["mixture", "authors", "jacobian", "two-critics", "few"],
)
def test_one_update(changed: dict[str, Any]) -> None:
    model = sql(learning_starts=100, sampler_learning_rate=1e-2, **{"policy_kwargs": SGD, "batch_size": 8, **changed})
    model.learn(100)
    for seed in (1, 2):
        np.random.seed(seed)
        th.manual_seed(seed)
        expected = by_hand(model, batch_size=8)
        np.random.seed(seed)
        th.manual_seed(seed)
        model.train(1, batch_size=8)
        for name, value in model.policy.state_dict().items():
            assert th.allclose(value, expected["policy"][name], rtol=0, atol=2e-6), name
        for name, value in expected["log"].items():
            assert model.logger.name_to_value[f"train/{name}"] == pytest.approx(value, rel=2e-3, abs=1e-5), name
    assert model._n_updates == 2


@pytest.mark.parametrize("space", ["latent", "action"])
def test_one_particle_without_temperature_is_ddpg(space: Any) -> None:
    """Times alpha, the sampler's gradient is that of -Q, App. D.1's deterministic end of the annealing."""
    model = sql(n_particles=1, n_kernel_particles=1, ent_coef=1e-3, squash_space=space)
    obs = th.from_numpy(OBS)
    th.manual_seed(0)
    loss = update.sampler_step(model.policy, obs, 1, 1, space).loss * 1e-3
    gradient = th.autograd.grad(loss, list(model.actor.parameters()))
    th.manual_seed(0)
    noise = model.policy.draw_noise(len(obs), 1).squeeze(1)
    ddpg = -model.critic.q1_forward(obs, model.actor(obs, noise)).mean()
    for ours, theirs in zip(gradient, th.autograd.grad(ddpg, list(model.actor.parameters())), strict=True):
        assert th.allclose(ours, theirs, atol=2e-3) and (ours - theirs).norm() < 0.02 * theirs.norm() + 1e-3


def test_equal_noises_are_one_particle() -> None:
    model = sql(n_noise_final=1)
    model.policy.n_noise.fill_(1)
    step = update.sampler_step(model.policy, th.from_numpy(OBS), 4, 5, "latent")
    assert (step.bandwidth == pytest.approx(1e-3)) and (step.direction - step.direction[:, :1]).abs().max() < 1e-5


def test_updates_leave_the_other_networks_alone() -> None:
    model = sql(learning_starts=100).learn(100)
    before = deepcopy(model.policy.state_dict())
    step = update.sampler_step(model.policy, th.from_numpy(OBS), 4, 5, "latent")
    model.actor.optimizer.zero_grad()
    step.loss.backward()
    assert all(parameter.grad is None for parameter in model.critic.parameters())
    assert any(parameter.grad.abs().max() > 0 for parameter in model.actor.parameters())
    model.train(9, 16)
    after = model.policy.state_dict()
    changed = {name.split(".")[0] for name in before if not th.equal(before[name], after[name])}
    assert changed == {"actor", "critic"}  # the tenth update copies
    model.train(1, 16)
    assert th.equal(model.critic_target.qf0[0].weight, model.critic.qf0[0].weight)


def test_the_targets_follow_at_their_interval() -> None:
    model = sql(learning_starts=100, target_update_interval=3, tau=0.5).learn(100)
    targets = [model.critic_target.qf0[0].weight.clone()]
    for updates in (2, 1, 2, 1):
        model.train(updates, 16)
        targets.append(model.critic_target.qf0[0].weight.clone())
    assert [th.equal(one, two) for one, two in pairwise(targets)] == [True, False, True, False]


def test_time_limits_are_no_terminations_and_n_step_returns_have_their_discounts() -> None:
    with pytest.warns(UserWarning, match="n_steps=3: the entropies of the 2 actions in between are left out"):
        model = sql(n_steps=3).learn(100)
    assert model.replay_buffer is not None
    batch = model.replay_buffer.sample(64)
    assert batch.discounts is not None and set(batch.discounts.flatten().tolist()) - {0.99}
    assert model.replay_buffer.timeouts.any() and model._n_updates == 50


def test_no_loop_over_particles() -> None:
    counted = []
    for n in (8, 64):
        changed = {"n_particles": n, "n_kernel_particles": n, "n_value_particles": n}
        model = sql(learning_starts=100, **changed).learn(100)
        model.train(1, 16)
        with Operators() as operators:
            model.train(1, 16)
        counted.append(operators.n)
    assert counted[0] == counted[1]


# Densities and samplers against exact ones


def test_jacobian_density_is_finite_differences() -> None:
    """An injective sampler of one dimension: xi -> 0.7 xi + 0.1 tanh(xi)."""
    model = sql(Scripted(action_space=spaces.Box(-1, 1, (2,), np.float32)), policy_kwargs=dict(net_arch=[8]))

    class Injective(th.nn.Module):
        def forward(self, rows: th.Tensor) -> th.Tensor:
            xi, s = rows[..., 3:], rows[..., :1]
            return th.stack([0.7 * xi[..., 0] + 0.1 * xi[..., 1].tanh() + s[..., 0], xi[..., 1] ** 3 + xi[..., 1]], -1)

    model.actor.net = Injective()  # type: ignore[assignment]
    xi = th.randn(7, 5, 2, generator=th.Generator().manual_seed(0)).double()
    features = th.from_numpy(OBS).double()
    latents, density = update.density_by_jacobian(model.actor, features, xi)
    step, columns = 1e-6, []
    for i in range(2):
        shift = step * th.eye(2, dtype=th.float64)[i]
        columns.append((model.actor.latents(features, xi + shift) - model.actor.latents(features, xi - shift)) / (2 * step))
    determinant = columns[0][..., 0] * columns[1][..., 1] - columns[0][..., 1] * columns[1][..., 0]
    log_normal = th.distributions.Normal(0, 1).log_prob(xi).sum(-1)
    np.testing.assert_allclose(density, log_normal - determinant.abs().log(), atol=1e-7)
    np.testing.assert_allclose(latents, model.actor.latents(features, xi))


@pytest.mark.parametrize("how", ["mixture", "uniform", "policy"])
def test_soft_values_of_a_known_q(how: Any) -> None:
    """Q = -2 |a|^2 in both dimensions; every proposal has the same expectation. The sampler is linear, hence injective."""
    space = spaces.Box(-1, 1, (2,), np.float32)
    model = sql(Scripted(action_space=space), value_sampling=how, ent_coef=0.5, policy_kwargs=dict(net_arch=[]))
    with th.no_grad():
        model.actor.net[0].weight[:, 3:] = th.tensor([[0.8, 0.1], [-0.2, 0.6]])

    class Known(th.nn.Module):
        def forward(self, rows: th.Tensor) -> th.Tensor:
            return -2 * rows[..., 3:].square().sum(-1, keepdim=True)

    model.critic.q_networks = [Known()]  # type: ignore[list-item]
    s = math.sqrt(0.5 / 4)
    exact = 0.5 * 2 * math.log(s * math.sqrt(2 * math.pi) * math.erf(1 / (s * math.sqrt(2))))
    values = model.soft_value(OBS, 20_000)
    assert values.shape == (7,)
    np.testing.assert_allclose(values, exact, atol=0.02)
    assert model.soft_value(OBS[0], 100).shape == (1,)
    state = th.get_rng_state()
    np.testing.assert_array_equal(model.soft_value(OBS), model.soft_value(OBS))
    assert th.equal(state, th.get_rng_state())


def fixed_q(kind: str, a: th.Tensor) -> th.Tensor:
    if kind == "flat":
        return 0 * a.sum(-1)
    if kind == "linear":
        return 3 * a.sum(-1)
    goals = th.tensor([[0.5, 0.5], [-0.5, 0.5], [0.5, -0.5], [-0.5, -0.5]])
    return (-(a.unsqueeze(-2) - goals).square().sum(-1) / (2 * 0.25**2)).logsumexp(-1)


def trained_sampler(kind: str, d: int, space: Any, seed: int) -> np.ndarray:
    """4000 actions of a sampler that has followed a fixed Q, alpha = 1."""
    action_space = spaces.Box(-1, 1, (d,), np.float32)
    kwargs = dict(net_arch=[64, 64])
    model = sql(Scripted(action_space=action_space), seed=seed, ent_coef=1.0, policy_kwargs=kwargs)

    class Fixed(th.nn.Module):
        def forward(self, rows: th.Tensor) -> th.Tensor:
            return fixed_q(kind, rows[..., 3:]).unsqueeze(-1)

    model.critic.q_networks = [Fixed()]  # type: ignore[list-item]
    steps, particles, rate = (2500, 32, 3e-3) if kind == "modes" else (1000, 16, 2e-3)
    optimizer = th.optim.Adam(model.actor.parameters(), lr=rate)
    schedule = th.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0 if kind == "modes" else 1.0, steps)
    obs = th.zeros(4, 3)
    for _ in range(steps):
        optimizer.zero_grad()
        update.sampler_step(model.policy, obs, particles, particles, space).loss.backward()
        optimizer.step()
        schedule.step()
    return model.sample_actions(np.zeros((1, 3), np.float32), 4000)[0]


def total_variation(kind: str, actions: np.ndarray, bins: int) -> float:
    """Against the exact density, by histograms."""
    d = actions.shape[1]
    edges = np.linspace(-1, 1, bins + 1)
    found = np.histogramdd(actions, [edges] * d)[0] / len(actions)
    fine = (np.arange(20 * bins) + 0.5) / (10 * bins) - 1
    points = np.stack(np.meshgrid(*[fine] * d, indexing="ij"), -1)
    density = fixed_q(kind, th.from_numpy(points).float()).exp().numpy().astype(np.float64)
    exact = density.reshape([part for _ in range(d) for part in (bins, 20)]).sum(tuple(range(1, 2 * d, 2)))
    return 0.5 * float(np.abs(found - exact / exact.sum()).sum())


CASES = [("flat", 1, 40), ("linear", 1, 40), ("modes", 2, 12)]


@pytest.mark.parametrize(("kind", "d", "bins"), CASES, ids=[case[0] for case in CASES])
def test_sampler_is_boltzmann(kind: str, d: int, bins: int) -> None:
    check_boltzmann(kind, trained_sampler(kind, d, "latent", seed=0), bins)


def check_boltzmann(kind: str, actions: np.ndarray, bins: int) -> None:
    """Total variation seen with three seeds: 0.08 to 0.14, 0.04 to 0.11, 0.11 to 0.15."""
    assert total_variation(kind, actions, bins) < (0.16 if kind == "modes" else 0.15)
    if kind == "modes":
        shares = np.bincount((actions > 0) @ [1, 2], minlength=4) / len(actions)
        assert shares.min() > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("kind", "d", "bins"), CASES, ids=[case[0] for case in CASES])
def test_samplers_of_more_seeds(kind: str, d: int, bins: int, seed: int) -> None:
    """Half a minute; the authors' space has other densities at the bounds."""
    latent = trained_sampler(kind, d, "latent", seed)
    check_boltzmann(kind, latent, bins)
    if d == 1:
        assert total_variation(kind, trained_sampler(kind, d, "action", seed), bins) > 1.3 * total_variation(
            kind, latent, bins
        )
        assert permutation_test(latent[:150], exact_draws(kind, 150, seed)) > 0.01 / 4  # four cases are tested


def exact_draws(kind: str, n: int, seed: int) -> np.ndarray:
    points = (np.arange(4000) + 0.5) / 2000 - 1
    weights = fixed_q(kind, th.from_numpy(points[:, None]).float()).exp().numpy().astype(np.float64)
    return np.random.default_rng(seed).choice(points, (n, 1), p=weights / weights.sum())


def permutation_test(one: np.ndarray, two: np.ndarray, n: int = 2000) -> float:
    """p-value of the maximum mean discrepancy with a Gaussian kernel."""
    both, rng = np.concatenate([one, two]), np.random.default_rng(0)
    kernel = np.exp(-((both[:, None] - both[None]) ** 2).sum(-1) / (2 * 0.2**2))

    def discrepancy(order: np.ndarray) -> float:
        signs = np.where(order < len(one), 1 / len(one), -1 / len(two))
        return float(signs @ kernel @ signs)

    found = discrepancy(np.arange(len(both)))
    return float(np.mean([discrepancy(rng.permutation(len(both))) >= found for _ in range(n)]))


# Linear-quadratic problems


class LinearQuadratic(gym.Env[np.ndarray, np.ndarray]):
    """s' = A s + B a + w, w ~ N(0, sigma^2 I), r = -(|s|^2 + |a|^2), truncated after 10 steps."""

    def __init__(self, a: Any, b: Any, sigma: float = 0.05) -> None:
        self.a, self.b, self.sigma = np.atleast_2d(a).astype(float), np.atleast_2d(b).astype(float), sigma
        self.observation_space = spaces.Box(-10, 10, (len(self.a),), np.float32)
        self.action_space = spaces.Box(-1, 1, (self.b.shape[1],), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.state, self.elapsed = self.np_random.uniform(-1, 1, len(self.a)), 0
        return self.state.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = -float(self.state @ self.state + action @ action)
        noise = self.sigma * self.np_random.normal(size=len(self.a))
        self.state = self.a @ self.state + self.b @ action + noise
        self.elapsed += 1
        return self.state.astype(np.float32), reward, False, self.elapsed >= 10, {}

    def solution(self, gamma: float, alpha: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """K, covariance, P and c of pi = N(-K s, covariance) and V = -s'P s + c."""
        n, d = self.b.shape
        p = np.eye(n)
        for _ in range(500):
            h = np.eye(d) + gamma * self.b.T @ p @ self.b
            k = gamma * np.linalg.solve(h, self.b.T @ p @ self.a)
            p = np.eye(n) + gamma * self.a.T @ p @ self.a - k.T @ h @ k
        covariance = alpha / 2 * np.linalg.inv(h)
        entropy = alpha / 2 * np.log(np.linalg.det(2 * np.pi * covariance))
        return k, covariance, p, float(entropy - gamma * self.sigma**2 * np.trace(p)) / (1 - gamma)


LQ1 = (0.9, 0.8)
LQ2 = ([[0.9, 0.2], [-0.1, 0.8]], [[0.8, 0.4], [0.0, 0.6]])
LQ: dict[str, Any] = dict(
    learning_rate=1e-3, sampler_learning_rate=1e-3, batch_size=32, learning_starts=100, gamma=0.8, n_value_particles=16,
    n_particles=16, n_kernel_particles=16, target_update_interval=100, policy_kwargs=dict(net_arch=[64, 64]),
    buffer_size=10_000, device="cpu",
)  # fmt: skip


def test_linear_quadratic_golden_numbers() -> None:
    k, covariance, p, c = LinearQuadratic(*LQ1).solution(0.8, 0.1)
    np.testing.assert_allclose([k[0, 0], covariance[0, 0], p[0, 0], c], [0.5, 1 / 36, 25 / 16, -0.45204], atol=1e-5)
    k, covariance, p, c = LinearQuadratic(*LQ2).solution(0.8, 0.1)
    np.testing.assert_allclose(k, [[0.48008, 0.00759], [0.10526, 0.41313]], atol=1e-5)
    np.testing.assert_allclose(covariance, [[0.02920, -0.00678], [-0.00678, 0.03239]], atol=1e-5)
    assert c == pytest.approx(-0.86555, abs=1e-5) and p[0, 1] == pytest.approx(-0.05969, abs=1e-5)


def learned_linear_quadratic(env: LinearQuadratic, seed: int, steps: int, path: Path | None = None, **changed: Any) -> None:
    model = ContinuousSQL("MlpPolicy", env, seed=seed, **{**LQ, **changed}).learn(steps)
    if path is not None:
        model.save(path)
        model = ContinuousSQL.load(path)
    k, covariance, p, c = env.solution(0.8, 0.1)
    states = np.random.default_rng(0).uniform(-1, 1, (40, len(p))).astype(np.float32)
    actions = model.sample_actions(states, 2000)  # (40, 2000, d)
    mean = actions.mean(1)
    assert np.sqrt(np.mean((mean + states @ k.T) ** 2)) < 0.06
    deviations = actions - mean[:, None]
    found = np.einsum("bki,bkj->ij", deviations, deviations) / (40 * 2000)
    np.testing.assert_allclose(np.diag(found), np.diag(covariance), rtol=0.3)
    off = covariance - np.diag(np.diag(covariance))
    assert (found * off >= 0).all()  # sign
    value = -np.einsum("bi,ij,bj->b", states, p, states) + c
    assert np.sqrt(np.mean((model.soft_value(states, 500) - value) ** 2)) < 0.08


def test_linear_quadratic(tmp_path: Path) -> None:
    learned_linear_quadratic(LinearQuadratic(*LQ1), 0, 1600, tmp_path / "model")


@pytest.mark.slow
@pytest.mark.parametrize(("problem", "seed"), [(LQ1, 1), (LQ1, 2), (LQ2, 0), (LQ2, 1), (LQ2, 2)])
def test_linear_quadratic_of_more_seeds(problem: Any, seed: int) -> None:
    """A dozen seconds each."""
    learned_linear_quadratic(LinearQuadratic(*problem), seed, 2600)


@pytest.mark.learning
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_one_liner_learns_pendulum(seed: int) -> None:
    """A random policy has about -1200, the best one about -150."""
    model = ContinuousSQL("MlpPolicy", "Pendulum-v1", seed=seed, device="cpu").learn(8_000)
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


# Acting


def test_actions() -> None:
    model = sql(learning_starts=100).learn(120)
    low, high = np.array([-2, 0]), np.array([2, 1])
    actions = model.sample_actions(OBS, 500)
    assert actions.shape == (7, 500, 2) and (actions >= low).all() and (actions <= high).all()
    assert model.sample_actions(OBS[0], 3).shape == (1, 3, 2)
    spread = actions.std(1)
    assert (spread > 0.02).all()
    best, _ = model.predict(OBS, deterministic=True)
    again, _ = model.predict(OBS, deterministic=True)
    np.testing.assert_array_equal(best, again)
    with th.no_grad():
        obs = th.from_numpy(OBS)
        candidates = th.stack([model.actor(obs, xi.expand(7, -1)) for xi in model.policy.noise_set], 1)
        q = q_values(model.critic, obs, candidates)
        expected = candidates[th.arange(7), q.argmax(1)].numpy()
    np.testing.assert_allclose(best, low + (expected + 1) / 2 * (high - low), atol=1e-6)
    th.manual_seed(3)
    one = model.predict(OBS)[0]
    assert np.abs(one - model.predict(OBS)[0]).max() > 1e-3
    th.manual_seed(3)
    np.testing.assert_array_equal(one, model.predict(OBS)[0])


def test_the_unit_of_the_critics_network(tmp_path: Path) -> None:
    """With Adam, q_scale 10 is the problem in which rewards and alpha are a tenth."""
    scaled = sql(Scripted(), ent_coef=1.0, policy_kwargs=dict(net_arch=[16], q_scale=10.0)).learn(60)
    tenth = sql(Scripted(lambda step: math.sin(step) / 10), ent_coef=0.1).learn(60)
    for (name, one), two in zip(scaled.policy.state_dict().items(), tenth.policy.state_dict().values(), strict=True):
        assert name == "ent_coef" or th.allclose(one, two, atol=1e-5), name
    np.testing.assert_allclose(scaled.soft_value(OBS), 10 * tenth.soft_value(OBS), rtol=1e-3, atol=1e-3)
    scaled.save(tmp_path / "model")
    assert ContinuousSQL.load(tmp_path / "model").policy.q_scale == 10
    with pytest.raises(ValueError, match="policy_kwargs: q_scale=0"):
        sql(policy_kwargs=dict(q_scale=0))


def test_the_same_seed_is_the_same_run() -> None:
    one, two, other = sql().learn(120), sql().learn(120), sql(seed=1).learn(120)
    assert_equal_policies(one, two)
    assert not th.equal(one.actor.net[0].weight, other.actor.net[0].weight)
    assert th.equal(one.policy.noise_set, other.policy.noise_set)


# Everything that SB3's users combine


def pendulums(n: int) -> DummyVecEnv:
    return DummyVecEnv([lambda: gym.make("Pendulum-v1")] * n)


@pytest.mark.parametrize(
    ("make_env", "changed"),
    [
        (lambda: pendulums(1), {"action_noise": NormalActionNoise(np.zeros(1), np.full(1, 0.1)), "squash_space": "action"}),
        (lambda: BitFlippingEnv(3, continuous=True), {"policy": "MultiInputPolicy", "replay_buffer_class": HerReplayBuffer}),
        (lambda: VecNormalize(pendulums(2)), {"value_sampling": "uniform"}),
        (lambda: pendulums(8), {"gradient_steps": -1, "n_particles": 1, "n_kernel_particles": 1, "n_value_particles": 1}),
        (lambda: SimpleMultiObsEnv(discrete_actions=False, random_start=False), {
            "policy": "MultiInputPolicy", "buffer_size": 250, "learning_starts": 150, "batch_size": 4,
        }),
        (lambda: FakeImageEnv(36, 36, n_channels=1, discrete=False), {
            "policy": "CnnPolicy", "learning_starts": 170, "batch_size": 4, "policy_kwargs": dict(
                net_arch=[8], features_extractor_kwargs=dict(features_dim=8), share_features_extractor=True, n_critics=2),
        }),
        (lambda: pendulums(1), {"value_sampling": "policy", "policy_kwargs": dict(net_arch=dict(pi=[8], qf=[]))}),
        (lambda: Scripted(action_space=spaces.Box(-1, 1, (2, 2), np.float32)), {"policy_kwargs": dict(noise_dim=3)}),
    ],
    ids=["noise", "hindsight", "normalize", "eight", "dict", "image", "jacobian", "matrix"],
)  # fmt: skip
def test_runs_with(make_env: Callable[[], VecEnv], changed: dict[str, Any], tmp_path: Path) -> None:
    settings = {**SMALL, "policy": "MlpPolicy", **changed}
    model = ContinuousSQL(env=make_env(), **settings).learn(200)
    assert model.num_timesteps == 200 and model._n_updates > 0
    assert all(th.isfinite(value).all() for value in model.policy.state_dict().values())
    obs = model.observation_space.sample()
    assert np.isfinite(model.soft_value(obs)).all()
    assert model.sample_actions(obs, 4).shape == (1, 4, *model.action_space.shape)
    model.save(tmp_path / "model")
    assert_equal_policies(model, ContinuousSQL.load(tmp_path / "model"))


def test_without_a_number_it_learns_a_million_steps(tmp_path: Path) -> None:
    model = sql(tensorboard_log=str(tmp_path))
    model.learn(callback=lambda _, __: False)
    assert model._total_timesteps == 1_000_000
    assert [path.name for path in tmp_path.iterdir()] == ["ContinuousSQL_1"]


def test_signature() -> None:
    parameters = inspect.signature(ContinuousSQL).parameters
    documented = [name for name in parameters if f":param {name}:" in (ContinuousSQL.__doc__ or "")]
    assert documented == [name for name in parameters]
    missing = set(inspect.signature(DDPG).parameters) - set(parameters)
    assert not missing
    expected = dict(learning_rate=1e-3, sampler_learning_rate=1e-4, batch_size=64, learning_starts=10_000, tau=1.0)
    assert {name: parameters[name].default for name in expected} == expected


# Annealing


def test_annealing() -> None:
    model = sql(ent_coef=1.0, ent_coef_final=1e-2, anneal_fraction=0.5, n_noise_final=1)
    seen: dict[int, tuple[float, float]] = {}

    def look(local: Any, _: Any) -> bool:
        seen[model.num_timesteps] = (model.policy.ent_coef.item(), model.policy.n_noise.item())
        return True

    model.learn(200, callback=look)
    # a callback sees what the updates of the step before have left
    assert seen[51] == (1.0, 32) and seen[52] == pytest.approx((10 ** (-2 * 51 / 100), round(32 - 31 * 0.51)))
    assert seen[76][0] == pytest.approx(10 ** (-2 * 75 / 100)) and seen[76][1] == round(32 - 31 * 0.75)
    assert seen[101] == pytest.approx((1e-2, 1)) and seen[200] == pytest.approx((1e-2, 1))
    assert model.logger.name_to_value["train/n_noise"] == 1
    # one noise is left: the policy is deterministic
    one, two = model.sample_actions(OBS, 2).transpose(1, 0, 2)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(model.predict(OBS)[0], model.predict(OBS, deterministic=True)[0])


def test_ent_coef_that_is_given_wins_over_the_files(tmp_path: Path) -> None:
    model = sql(ent_coef=1.0, ent_coef_final=1e-3, n_noise_final=1).learn(100)
    assert model.policy.ent_coef.item() == pytest.approx(1e-3) and model.ent_coef == 1.0
    model.save(tmp_path / "model")
    again = ContinuousSQL.load(tmp_path / "model")
    assert again.policy.ent_coef.item() == pytest.approx(1e-3) and again.policy.n_noise.item() == 1
    assert again.ent_coef_final == 1e-3 and again.ent_coef == 1.0
    hot = ContinuousSQL.load(tmp_path / "model", env=Scripted(), ent_coef=0.5, ent_coef_final=None, n_noise_final=None)
    assert hot.policy.ent_coef.item() == 0.5
    hot.learn(80)
    assert hot.policy.ent_coef.item() == 0.5 and hot.policy.n_noise.item() == 32
    other = sql(ent_coef=0.2)
    other.set_parameters(str(tmp_path / "model.zip"))
    other.learn(80)
    assert other.policy.ent_coef.item() == pytest.approx(0.2)  # training follows the argument


# Bad input

BAD = [
    ("ent_coef", "auto", "ent_coef='auto' is SAC's.*Give a number > 0"),
    ("ent_coef", 0, r"ent_coef=0 must be a number in \(0, inf\)"),
    ("ent_coef", -1.0, "ent_coef=-1.0"),
    ("ent_coef", math.nan, "ent_coef=nan"),
    ("ent_coef", None, "ent_coef=None"),
    ("ent_coef_final", 0.0, "ent_coef_final=0.0"),
    ("ent_coef_final", 0.2, "ent_coef_final=0.2 must not be above ent_coef=0.1: annealing cools"),
    ("anneal_fraction", 0.0, r"anneal_fraction=0.0 must be a number in \(0, 1\]"),
    ("n_noise_final", 33, r"n_noise_final=33 must be an integer in \[1, 32\]"),
    ("n_noise_final", 0, "n_noise_final=0"),
    ("n_particles", 0, r"n_particles=0 must be an integer in \[1, inf\]"),
    ("n_kernel_particles", 2.5, "n_kernel_particles=2.5 must be an integer"),
    ("n_value_particles", 0, "n_value_particles=0"),
    ("target_update_interval", 0, "target_update_interval=0"),
    ("sampler_learning_rate", -1.0, "sampler_learning_rate=-1.0"),
    ("value_sampling", "gaussian", "value_sampling='gaussian' is not known, choose from 'mixture', 'uniform', 'policy'"),
    ("squash_space", "tanh", "squash_space='tanh' is not known, choose from 'latent', 'action'"),
    ("gamma", 1.5, "gamma=1.5"),
    ("policy_kwargs", dict(n_noise=0), "policy_kwargs: n_noise=0"),
    ("policy_kwargs", dict(n_critics=1.5), "policy_kwargs: n_critics=1.5"),
]


class TestBadInput:
    @pytest.mark.parametrize(("name", "value", "message"), BAD, ids=[f"{name}={value}" for name, value, _ in BAD])
    def test_arguments(self, name: str, value: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            sql(**{name: value})

    def test_combinations(self) -> None:
        with pytest.raises(
            ValueError, match=r'value_sampling="policy" needs as many noises as dimensions.*2, got.*noise_dim=3'
        ):
            sql(value_sampling="policy", policy_kwargs=dict(noise_dim=3))
        with pytest.raises(
            TypeError, match="ContinuousSQL has no argument 'use_sde': its sampler is a distribution.*larger ent_coef"
        ):
            sql(use_sde=True)
        with pytest.raises(TypeError, match="ContinuousSQL has no argument 'ent_coeff': did you mean 'ent_coef'"):
            sql(ent_coeff=1.0)
        with pytest.raises(ValueError, match="needs a policy with a sampler.*got TD3Policy"):
            from stable_baselines3.td3.policies import TD3Policy

            ContinuousSQL(TD3Policy, Scripted(), **{**SMALL, "policy_kwargs": {}})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="n_particles=0"):
            sql().soft_value(OBS, 0)
        with pytest.raises(ValueError, match=r"n=1.5"):
            sql().sample_actions(OBS, 1.5)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("space", "message"),
        [
            (spaces.Discrete(3), r"ContinuousSQL needs continuous actions, a space Box, got Discrete\(3\).*SoftDQN"),
            (spaces.Box(-np.inf, 1, (2,), np.float32), "ContinuousSQL needs actions between finite bounds, got Box"),
        ],
    )
    def test_actions(self, space: Any, message: str) -> None:
        with pytest.raises(ActionSpaceError, match=message):
            sql(Scripted(action_space=space))

    def test_a_loss_that_is_not_finite(self, tmp_path: Path) -> None:
        model = sql(Scripted(lambda step: 1e30 if step == 90 else 0.0), buffer_size=90, batch_size=512)
        with pytest.raises(
            ValueError, match=r"critics' loss is inf at step 90\. Nothing was learned.*ent_coef is 0.1: raise it"
        ):
            model.learn(200)
        assert all(th.isfinite(value).all() for value in model.policy.state_dict().values())
        assert model._n_updates == 39
        model.save(tmp_path / "model")
        ContinuousSQL.load(tmp_path / "model", env=Scripted()).learn(100)

    @pytest.mark.parametrize("bad", ["reward", "observation"])
    def test_what_is_no_number(self, bad: str) -> None:
        class Broken(Scripted):
            def step(self, action: np.ndarray) -> Any:
                observation, reward, *rest = super().step(action)
                if self.total == 70:
                    reward, observation = (math.nan, observation) if bad == "reward" else (reward, observation * np.inf)
                return observation, reward, *rest

        model = sql(Broken())
        with pytest.raises(ValueError, match=f"{bad} of environment 0 is (nan|inf|-inf) at step 70"):
            model.learn(100)
        assert model.num_timesteps == 69 and model.replay_buffer is not None and model.replay_buffer.size() == 69
        assert all(th.isfinite(value).all() for value in model.policy.state_dict().values())


class TestFiles:
    def test_save_and_load(self, tmp_path: Path) -> None:
        model = sql(sampler_learning_rate=lambda progress: 1e-3 * progress).learn(80)
        model.save(tmp_path / "model")
        again = ContinuousSQL.load(tmp_path / "model", env=Scripted())
        assert_equal_policies(model, again)
        th.manual_seed(0)
        first = model.soft_value(OBS), model.sample_actions(OBS, 3), model.predict(OBS, deterministic=True)[0]
        th.manual_seed(0)
        second = again.soft_value(OBS), again.sample_actions(OBS, 3), again.predict(OBS, deterministic=True)[0]
        for one, two in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, two)
        again.learn(80)
        assert again._n_updates > model._n_updates
        rates = [optimizer.param_groups[0]["lr"] for optimizer in (again.actor.optimizer, again.critic.optimizer)]
        assert rates == pytest.approx([1e-3 * (1 - 80 / 80), 1e-3], abs=2e-5)
        assert ContinuousSQL.load(tmp_path / "model").replay_buffer is None

    def test_policy_alone(self, tmp_path: Path) -> None:
        model = sql(policy_kwargs=dict(net_arch=[8], n_critics=2, n_noise=5, noise_dim=4)).learn(60)
        model.policy.save(tmp_path / "policy")
        policy = SamplerPolicy.load(tmp_path / "policy")
        assert policy.noise_set.shape == (5, 4)
        np.testing.assert_array_equal(*(p.predict(OBS, deterministic=True)[0] for p in (policy, model.policy)))

    def test_weights_of_unknown_origin(self, tmp_path: Path) -> None:
        model, other = sql().learn(60), sql(seed=5)
        model.save(tmp_path / "model")
        other.load_weights(tmp_path / "model.zip")
        assert_equal_policies(model, other)
        for name, value in (("ent_coef", 0.0), ("n_noise", 33.0)):
            state = model.policy.state_dict()
            state[name] = th.tensor(value)
            th.save(state, tmp_path / "bad.pth")
            with pytest.raises(ValueError, match=f"{name} in .* is {value}"):
                other.load_weights(tmp_path / "bad.pth")
        assert_equal_policies(model, other)

    def test_files_of_others(self, tmp_path: Path) -> None:
        DDPG("MlpPolicy", Scripted(), buffer_size=100, device="cpu").save(tmp_path / "ddpg")
        with pytest.raises(ValueError, match="saved by another algorithm than ContinuousSQL"):
            ContinuousSQL.load(tmp_path / "ddpg")


def test_score_is_finite_at_the_bounds() -> None:
    model = sql()
    with th.no_grad():
        model.actor.net[-1].bias.fill_(50.0)
    step = update.sampler_step(model.policy, th.from_numpy(OBS), 4, 5, "latent")
    assert th.isfinite(step.direction).all() and (step.direction.mean((0, 1)) < 0).all()
    assert th.isfinite(squashed_score(th.ones(2, 1), th.ones(2, 1), 1.0)).all()
