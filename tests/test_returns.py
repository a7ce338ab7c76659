"""Soft returns against the paper's definitions, written out."""

import re
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_mirl.maths import n_step_soft_returns, soft_q_returns, soft_returns, soft_value, update_prior

F64 = th.float64
GOLDEN: tuple[th.Tensor, ...] = tuple(
    th.tensor(values, dtype=F64) for values in ([1.0, 0, -1, 2], [0.1, 0.2, 0.3, 0.4], [0.9, 0.9, 0, 0.9], [0.5, 1.5, 7, -2])
)


def random_data(seed: int, steps: int = 12, shape: tuple[int, ...] = (3,)) -> tuple[list[th.Tensor], th.Tensor]:
    """Rewards, costs of both signs, discounts with terminations, values, and time limits."""
    generator = th.Generator().manual_seed(seed)
    rewards, costs, values = (th.randn(steps, *shape, dtype=F64, generator=generator) for _ in range(3))
    discounts = 0.9 * (th.rand(steps, *shape, generator=generator) > 0.2).to(F64)
    return [rewards, costs, discounts, values], th.rand(steps, *shape, generator=generator) < 0.2


def n_step_sum(data: list[th.Tensor], cut: th.Tensor, t: int, n: int, column: int) -> float:
    """Eq. (41): n terms and the value of the state after them, fewer where the episode or the data ends."""
    rewards, costs, discounts, values = (part[:, column].tolist() for part in data)
    total, weight = 0.0, 1.0
    for k in range(n):
        total += weight * (rewards[t + k] - costs[t + k])
        weight *= discounts[t + k]
        if k == n - 1 or cut[t + k, column] or t + k == len(rewards) - 1:
            return total + weight * values[t + k]
    raise AssertionError


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lambda_", [0.0, 0.65, 1.0])
def test_the_lambda_return_is_the_mixture_of_n_step_sums(seed: int, lambda_: float) -> None:
    """Eq. (42): (1 - lambda) sum_n lambda^(n - 1) G^n, the rest of the weight on the longest."""
    data, cut = random_data(seed)
    steps, columns = cut.shape
    expected = th.zeros(steps, columns, dtype=F64)
    for t in range(steps):
        for column in range(columns):
            left = steps - t
            weights = [(1 - lambda_) * lambda_ ** (n - 1) for n in range(1, left)] + [lambda_ ** (left - 1)]
            expected[t, column] = sum(w * n_step_sum(data, cut, t, n + 1, column) for n, w in enumerate(weights))
    th.testing.assert_close(soft_returns(*data, lambda_, cut), expected, rtol=0, atol=1e-12)
    th.testing.assert_close(soft_q_returns(*data, lambda_, cut), expected + data[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 12, 40])
def test_fixed_n_steps(n: int) -> None:
    data, cut = random_data(7)
    steps, columns = cut.shape
    expected = [[n_step_sum(data, cut, t, n, column) for column in range(columns)] for t in range(steps)]
    th.testing.assert_close(n_step_soft_returns(*data, n, cut), th.tensor(expected, dtype=F64), rtol=0, atol=1e-12)


def test_golden_numbers() -> None:
    cut = th.tensor([False, True, False, False])
    golden = {
        (-0.333, -1.37, -1.3, -0.2): soft_returns(*GOLDEN),
        (0.77202, -0.488, -1.3, -0.2): soft_returns(*GOLDEN, 0.65),
        (0.87202, -0.288, -1.0, 0.2): soft_q_returns(*GOLDEN, 0.65),
        (1.935, -1.37, -1.3, -0.2): n_step_soft_returns(*GOLDEN, 2),
        (1.935, 1.15, -1.3, -0.2): soft_returns(*GOLDEN, cut=cut),
    }
    for expected, returns in golden.items():
        np.testing.assert_allclose(returns, expected, atol=1e-12)


def test_without_costs_it_is_sb3s_return() -> None:
    rng = np.random.default_rng(0)
    steps, n_envs, lambda_ = 9, 3, 0.8
    buffer = RolloutBuffer(steps, spaces.Box(-1, 1, (2,)), spaces.Discrete(2), "cpu", lambda_, 0.97, n_envs)
    starts = (rng.random((steps + 1, n_envs)) < 0.3).astype(np.float32)
    values = rng.normal(size=(steps + 1, n_envs)).astype(np.float32)
    for t in range(steps):
        value = th.as_tensor(values[t])
        buffer.add(np.zeros((n_envs, 2)), np.zeros(n_envs), rng.normal(size=n_envs), starts[t], value, value)
    buffer.compute_returns_and_advantage(th.as_tensor(values[-1]), starts[-1])
    rewards, zero = th.as_tensor(buffer.rewards, dtype=F64), th.zeros(steps, n_envs, dtype=F64)
    discounts, next_values = th.as_tensor(0.97 * (1 - starts[1:]), dtype=F64), th.as_tensor(values[1:], dtype=F64)
    ours = soft_returns(rewards, zero, discounts, next_values, lambda_)
    np.testing.assert_allclose(buffer.returns, ours, atol=1e-5)


def test_data_with_fewer_and_more_axes() -> None:
    data, cut = random_data(3, shape=(2, 2))
    whole = soft_returns(*data, 0.5, cut)
    for i in range(2):
        for j in range(2):
            assert th.equal(soft_returns(*(part[:, i, j] for part in data), 0.5, cut[:, i, j]), whole[:, i, j])
    empty = [part[:0] for part in data]
    assert soft_returns(*empty).shape == n_step_soft_returns(*empty, 3).shape == (0, 2, 2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lambda_": 1.1}, r"lambda_ .*must be in \[0, 1\], got 1.1"),
        ({"lambda_": float("nan")}, "got nan"),
        ({"costs": th.zeros(3)}, r"one shape \(T, ...\), time first, got rewards \(4,\), costs \(3,\)"),
        ({"cut": th.zeros(4)}, r"cut must be True or False .*torch.float32"),
        ({"cut": th.zeros(3, dtype=th.bool)}, r"cut \(3,\)"),
        ({name: th.tensor(0.0) for name in ("rewards", "costs", "discounts", "next_values")}, r"rewards \(\)"),
    ],
)
def test_bad_input(changed: dict[str, Any], message: str) -> None:
    arguments = dict(zip(("rewards", "costs", "discounts", "next_values"), GOLDEN, strict=True))
    for function in (soft_returns, soft_q_returns):
        with pytest.raises(ValueError, match=message):
            function(**{**arguments, **changed})
    for n in (0, 1.5, -1):
        with pytest.raises(ValueError, match=f"n_steps must be a positive integer, got {re.escape(str(n))}"):
            n_step_soft_returns(*GOLDEN, n)  # type: ignore[arg-type]


# Section 3 and 4 of the paper, by autograd and exact expectations


def kl(log_pi: th.Tensor, log_rho: th.Tensor) -> th.Tensor:
    return (log_pi.exp() * (log_pi - log_rho)).sum(-1)


@pytest.mark.parametrize("seed", range(5))
def test_in_a_bandit_soft_q_learning_is_a_policy_gradient_and_a_value(seed: int) -> None:
    """Eq. (23): grad E 1/2 (q - r)^2 = tau (policy gradient) + grad of the value's error, all under pi."""
    generator = th.Generator().manual_seed(seed)
    theta = th.randn(7, dtype=F64, generator=generator).requires_grad_()
    weights = th.randn(7, 5, dtype=F64, generator=generator)
    rewards, tau = th.randn(5, dtype=F64, generator=generator), 0.3
    log_rho = th.randn(5, dtype=F64, generator=generator).log_softmax(-1)
    q = (theta @ weights).tanh() + (theta**2 @ weights) / 3
    value = soft_value(q, log_rho, 1 / tau)
    log_pi = log_rho + (q - value) / tau
    pi, divergence = log_pi.exp().detach(), kl(log_pi, log_rho)
    policy = -(pi * rewards * log_pi).sum() + tau * divergence
    error = (value + tau * divergence - (pi * rewards).sum()).detach()
    one = th.autograd.grad((pi * (q - rewards) ** 2 / 2).sum(), theta, retain_graph=True)[0]
    two = th.autograd.grad(tau * policy + error * value, theta)[0]
    th.testing.assert_close(one, two, rtol=0, atol=1e-10)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_in_an_mdp_soft_q_learning_is_a_policy_gradient_and_a_value(n: int) -> None:
    """
    Eq. (65): the expected gradient of 1/2 (Q - y)^2, y being the soft n-step return of the state and action, is tau times the
    gradient of -log pi Delta + tau KL, plus that of 1/2 (V - G)^2, for any weights of the states.
    """
    generator = th.Generator().manual_seed(n)
    states, actions, gamma, tau = 3, 3, 0.9, 0.4
    theta = th.randn(6, dtype=F64, generator=generator).requires_grad_()
    features = th.randn(6, states, actions, dtype=F64, generator=generator)
    transition = th.rand(states, actions, states, dtype=F64, generator=generator)
    transition = 0.8 * transition / transition.sum(-1, keepdim=True)  # ends with probability 0.2
    rewards = th.randn(states, actions, dtype=F64, generator=generator)
    log_rho = th.randn(actions, dtype=F64, generator=generator).log_softmax(-1)
    weights = th.rand(states, dtype=F64, generator=generator)

    q = th.einsum("k,ksa->sa", theta, features).tanh() + th.einsum("k,ksa->sa", theta**2, features) / 3
    value = soft_value(q, log_rho, 1 / tau)
    log_pi = log_rho + (q - value[:, None]) / tau
    divergence = kl(log_pi, log_rho)
    pi, cost, bootstrap = log_pi.exp().detach(), tau * divergence.detach(), value.detach()
    returns = bootstrap  # E[G | s] with n steps to go, by backward recursion
    for _ in range(n):
        targets = rewards + gamma * transition @ returns  # E[y | s, a], which leaves out the first cost
        returns = (pi * targets).sum(-1) - cost
    delta = targets - cost[:, None] - bootstrap[:, None]
    weighted = weights[:, None] * pi
    left = weighted * (q - targets).detach() * q  # the target's noise has mean 0
    policy = (weighted * -log_pi * delta).sum() + (weights * tau * divergence).sum()
    values = (weighted * (bootstrap[:, None] - (targets - cost[:, None])) * value[:, None]).sum()
    one = th.autograd.grad(left.sum(), theta, retain_graph=True)[0]
    two = th.autograd.grad(tau * policy + values, theta)[0]
    th.testing.assert_close(one, two, rtol=0, atol=1e-10)


def test_damped_regression_is_a_natural_gradient() -> None:
    """Section 5: one Gauss-Newton step of Q_old + eps (y - Q_old), V fixed, is (eps / tau) F^-1 times the policy gradient."""
    generator = th.Generator().manual_seed(0)
    actions, tau, eps, n = 4, 0.5, 0.1, 400
    logits = th.randn(actions, dtype=F64, generator=generator)
    pi = logits.softmax(-1)
    sampled = pi.multinomial(n, replacement=True, generator=generator)
    advantages = th.randn(n, dtype=F64, generator=generator)
    scores = th.eye(actions, dtype=F64)[sampled] - pi  # (n, A) grad log pi
    # residuals of Q = V + tau log(pi / rho): eps times the advantage; their Jacobian is tau times the score
    regression = th.linalg.lstsq(tau * scores, eps * advantages[:, None], driver="gelsd").solution[:, 0]
    fisher, policy_gradient = scores.T @ scores / n, scores.T @ advantages / n
    natural = eps / tau * th.linalg.pinv(fisher, rtol=1e-10) @ policy_gradient
    th.testing.assert_close(regression, natural, rtol=0, atol=1e-10)


def test_the_priors_rate_may_differ_from_policy_to_policy() -> None:
    generator = th.Generator().manual_seed(0)
    prior = th.rand(3, dtype=F64, generator=generator)
    prior /= prior.sum()
    probs = th.rand(5, 3, dtype=F64, generator=generator)
    probs /= probs.sum(-1, keepdim=True)
    rates = th.tensor([0.3, 0.0, 1.0, 0.5, 0.1], dtype=F64)
    expected = prior
    for rate, policy in zip(rates, probs, strict=True):
        expected = (1 - rate) * expected + rate * policy
    th.testing.assert_close(update_prior(prior, probs, rates), expected, rtol=0, atol=1e-15)
    th.testing.assert_close(update_prior(prior, probs, th.full((5,), 0.2)), update_prior(prior, probs, 0.2))
    for bad in (th.tensor([0.1]), -rates, rates + 0.5):
        with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
            update_prior(prior, probs, bad)
