"""VIREL's formulas against closed forms, and its expectation-maximisation on tables."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch as th

from sb3_mirl.maths import bellman_target, residual_temperature, squared_residual
from sb3_mirl.tabular import TabularMDP, variational_em
from sb3_mirl.tabular.variational import softmax_policy

A, B, COST_S, COST_A, GAMMA = 0.9, 0.5, 1.0, 0.1, 0.95  # s' = A s + B a, r = -(q s^2 + c a^2)
K_STAR, CURVATURE = 1.344266160015, 0.394967378341  # of the optimal action -K s, and of Q in the action


class TestFormulas:
    def test_bellman_target(self) -> None:
        reward, discount, q = th.tensor([1.0, 2.0]), th.tensor([0.9, 0.0]), th.tensor([10.0, 20.0])
        log_prob = th.tensor([-2.0, 3.0])
        assert bellman_target(reward, discount, q).tolist() == pytest.approx([10.0, 2.0])
        assert bellman_target(reward, discount, q, log_prob, 0.5).tolist() == pytest.approx([1 + 0.9 * 11, 2.0])
        assert th.equal(bellman_target(reward, discount, q, log_prob, 0.0), bellman_target(reward, discount, q))

    def test_squared_residual(self) -> None:
        q, y, second = th.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), th.tensor([2.0, 2.0, 1.0]), th.tensor([0.0, 3.0, 4.0])
        assert squared_residual(y, q).item() == pytest.approx((1 + 0 + 4 + 4 + 4 + 1) / 6)
        assert squared_residual(y, q, second).item() == pytest.approx((-1 + 0 - 2 + 0 + 6 + 4) / 6)
        assert squared_residual(q[0] + 1, q[:1], q[0] - 1).item() == 0.0  # a product of -1, clipped

    def test_residual_temperature(self) -> None:
        start, residual = th.tensor(1.0), th.tensor(3.0)
        assert residual_temperature(start, residual, 0.5, 0.1).item() == pytest.approx(0.9 + 0.15)
        assert residual_temperature(start, residual, 0.5, 0.1, maximum=1.2).item() == pytest.approx(0.9 + 0.12)
        assert residual_temperature(start, th.tensor(0.0), 0.5, 0.1, minimum=0.4).item() == pytest.approx(0.94)
        assert residual_temperature(start, residual, 0.5, 1.0).item() == 1.5  # the authors' rule
        assert residual_temperature(start.double(), residual, 0.5, 1.0).dtype == th.float64

    def test_without_scale_the_temperature_decays(self) -> None:
        temperature = th.tensor(1.0, dtype=th.float64)
        for n in range(1, 101):
            temperature = residual_temperature(temperature, th.tensor(7.0), 0.0, 0.06)
            assert temperature.item() == pytest.approx(0.94**n)

    def test_never_outside_its_bounds(self) -> None:
        temperature = th.tensor(0.1)
        for residual in th.logspace(-6, 6, 200)[th.randperm(200, generator=th.Generator().manual_seed(0))]:
            temperature = residual_temperature(temperature, residual, 1.0, 0.3, 0.1, 2.0)
            assert 0.1 - 1e-7 <= temperature.item() <= 2.0 + 1e-6

    def test_bad_input(self) -> None:
        one, many = th.tensor(1.0), th.ones(3)
        for arguments, message in [
            (lambda: bellman_target(many, many, many, th.ones(3, 1), 1.0), r"one shape.*\(3, 1\)"),
            (lambda: bellman_target(many, one, many), "one shape"),
            (lambda: squared_residual(many, many), r"q must be \(n_critics, B\)"),
            (lambda: squared_residual(many, th.ones(2, 3), th.ones(2)), r"\[\(2,\), \(3,\)\]"),
            (lambda: residual_temperature(one, many, 1.0, 0.1), "must be a scalar"),
            (lambda: residual_temperature(one, -one, 1.0, 0.1), "not negative.*-1.0"),
            (lambda: residual_temperature(one, one * math.nan, 1.0, 0.1), "a number, got nan"),
            (lambda: residual_temperature(one, one, -1.0, 0.1), "scale=-1.0"),
            (lambda: residual_temperature(one, one, 1.0, 1.5), r"\[0, 1\], got 1.5"),
            (lambda: residual_temperature(one, one, 1.0, 0.1, 2.0, 1.0), "minimum=2.0, maximum=1.0"),
        ]:
            with pytest.raises(ValueError, match=message):
                arguments()


class Quadratic(NamedTuple):
    """Q(s, a) = ss s^2 + sa s a + aa a^2 + offset."""

    ss: float
    sa: float
    aa: float
    offset: float

    def __call__(self, s: th.Tensor, a: th.Tensor) -> th.Tensor:
        return self.ss * s * s + self.sa * s * a + self.aa * a * a + self.offset

    def boltzmann(self, temperature: float) -> tuple[float, float]:
        """Gain K and standard deviation of the policy exp(Q / T) / Z, a normal distribution around -K s."""
        return self.sa / (2 * self.aa) if self.aa else 0.0, math.sqrt(temperature / max(-2 * self.aa, 2 * COST_A))


def linear_quadratic_fixed_point(temperature: float, soft: bool) -> Quadratic:
    """Expectation-maximisation through ``bellman_target``, expectations over the next action by exact quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    z, weight = th.tensor(nodes), th.tensor(weights / weights.sum())
    s, a = (
        x.reshape(-1, 1) for x in th.meshgrid(th.linspace(-2, 2, 5).double(), th.linspace(-2, 2, 5).double(), indexing="ij")
    )
    features = th.cat([s * s, s * a, a * a, th.ones_like(s)], dim=1)
    q = Quadratic(0.0, 0.0, -COST_A, 0.0)
    next_s = (A * s + B * a).expand(-1, 3)
    reward = -(COST_S * s * s + COST_A * a * a).expand(-1, 3)
    for _ in range(700):
        gain, std = q.boltzmann(temperature)
        next_a = -gain * next_s + std * z
        log_prob = th.distributions.Normal(-gain * next_s, std).log_prob(next_a) if soft else None
        target = bellman_target(reward, th.full_like(reward, GAMMA), q(next_s, next_a), log_prob, temperature)
        q = Quadratic(*th.linalg.lstsq(features, (target @ weight).unsqueeze(1)).solution.squeeze(1).tolist())
    return q


@pytest.mark.parametrize(
    ("temperature", "std", "hard", "soft"),
    [
        (1.0, 1.125134362328, -10.0, 20.736819898203),
        (0.1, 0.355798725868, -1.0, -0.228903103174),
        (0.01, 0.112513436233, -0.1, -0.253148819617),
    ],
)
def test_linear_quadratic(temperature: float, std: float, hard: float, soft: float) -> None:
    """Hard and soft critics have one policy at every temperature, LQR's with noise, and differ by an offset of V."""
    for is_soft, offset in ((False, hard), (True, soft)):
        q = linear_quadratic_fixed_point(temperature, is_soft)
        gain, found_std = q.boltzmann(temperature)
        assert (gain, -q.aa, found_std) == pytest.approx((K_STAR, CURVATURE, std), rel=1e-9)
        # V(s) is E[Q], with the entropy where the critic is soft; Q = r + gamma V
        value = q.offset / GAMMA
        assert value == pytest.approx(offset, rel=1e-8)


def test_the_policys_share_of_the_residual() -> None:
    """At the exact critic, with a curvature of 1/2 T / variance: gamma^2 d T^2 / 2 for one sample, 0 for two."""
    generator, temperature, n = th.Generator().manual_seed(0), 1.0, 400_000
    q = linear_quadratic_fixed_point(temperature, soft=False)
    gain, std = q.boltzmann(temperature)
    s, a = th.randn(2, n, generator=generator, dtype=th.float64)
    next_s, reward = A * s + B * a, -(COST_S * s * s + COST_A * a * a)

    def target() -> th.Tensor:
        next_a = -gain * next_s + std * th.randn(n, generator=generator, dtype=th.float64)
        return bellman_target(reward, th.full_like(reward, GAMMA), q(next_s, next_a))

    first, second, values = target(), target(), q(s, a)
    one, two = squared_residual(first, values[None]).item(), ((first - values) * (second - values))
    expected = GAMMA**2 * temperature**2 / 2
    assert one == pytest.approx(expected, abs=3 * ((first - values) ** 2).std().item() / math.sqrt(n))
    assert abs(two.mean().item()) < 3 * two.std().item() / math.sqrt(n)
    assert squared_residual(first, values[None], second).item() == pytest.approx(max(two.mean().item(), 0.0))


# Expectation-maximisation


def two_states(scale: float = 1.0) -> TabularMDP:
    """Stay or move: the better reward is in the second state, the best policy moves there and stays."""
    transition = np.zeros((2, 2, 2))
    transition[[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0]] = 1
    return TabularMDP(transition, scale * np.array([[1.0, 0.0], [1.2, 0.5]]), [1.0, 0.0], 0.9)


def random_mdp(seed: int, scale: float = 1.0, discount: float | None = None) -> TabularMDP:
    rng = np.random.default_rng(seed)
    n_states, n_actions = rng.integers(2, 7), rng.integers(2, 5)
    transition = rng.dirichlet(np.full(n_states, 0.5), (n_states, n_actions))
    reward = scale * rng.uniform(0.1, 1, (n_states, n_actions))
    gamma = rng.uniform(0.5, 0.9) if discount is None else discount
    return TabularMDP(transition, reward, np.full(n_states, 1 / n_states), gamma)


def optimal_values(mdp: TabularMDP) -> np.ndarray:
    q = np.zeros(mdp.reward.shape)
    for _ in range(300):
        q = mdp.reward + mdp.discount * mdp.transition @ q.max(axis=1)
    return q


def test_golden_trajectory() -> None:
    solution = variational_em(two_states(), step=0.5, iterations=400)
    golden = [0.465715625, 0.546016438337, 0.557957933321, 0.548567205911, 0.526323611842, 0.501123366113]
    np.testing.assert_allclose(solution.temperatures[:6], golden, rtol=1e-11)
    assert solution.temperatures[49] == pytest.approx(0.00962515319686, rel=1e-10)
    assert solution.temperature == solution.temperatures[-1] == pytest.approx(2.5e-18, rel=0.05)
    assert solution.converged
    np.testing.assert_allclose(solution.q, [[10.72, 10.8], [12.0, 10.22]], atol=2e-8)
    np.testing.assert_array_equal(solution.policy, [[0.0, 1.0], [1.0, 0.0]])


@pytest.mark.parametrize(
    ("temperature", "stay"), [(1.0, [0.480010660, 0.855696866]), (0.1, [0.310025519, 0.999999981]), (0.01, [3.3535e-4, 1]),
                              (0.001, [1.8e-35, 1]), (1e-300, [0, 1]), (0.0, [0, 1])]
)  # fmt: skip
def test_greedy_in_the_limit(temperature: float, stay: list[float]) -> None:
    """Lemma 1, and finite where T vanishes."""
    q = np.array([[10.72, 10.8], [12.0, 10.22]])
    policy = softmax_policy(q, temperature)
    np.testing.assert_allclose(policy[:, 0], stay, rtol=1e-2 if temperature == 0.001 else 1e-4)
    np.testing.assert_allclose(policy.sum(axis=1), 1)
    np.testing.assert_array_equal(softmax_policy(np.array([[1.0, 1.0, 0.0]]), 0.0), [[0.5, 0.5, 0.0]])


def test_a_hundred_random_worlds_are_solved() -> None:
    for seed in range(100):
        mdp = random_mdp(seed)
        optimal = optimal_values(mdp)
        for step, iterations in ((0.5, 400), (None, 20)):
            solution = variational_em(mdp, step=step, iterations=iterations)
            assert solution.converged, (seed, step)
            np.testing.assert_allclose(solution.q, optimal, atol=2e-4)


def test_the_exact_step_is_policy_iteration() -> None:
    for seed in range(20):
        mdp = random_mdp(seed, discount=0.95)
        # the first policy is uniform, then each is greedy with respect to the values of the one before
        policy = np.full(mdp.reward.shape, 1 / mdp.n_actions)
        for rounds in range(1, 6):
            chain = np.einsum("sa,sat->st", policy, mdp.transition)
            v = np.linalg.solve(np.eye(mdp.n_states) - mdp.discount * chain, (policy * mdp.reward).sum(axis=1))
            q = mdp.reward + mdp.discount * mdp.transition @ v
            np.testing.assert_allclose(variational_em(mdp, step=None, iterations=rounds).q, q, rtol=1e-10)
            policy = np.eye(mdp.n_actions)[q.argmax(axis=1)]


def test_units_of_reward() -> None:
    """Rewards x k are the same problem at scale / k and temperature_init x k, and another one otherwise."""
    for k in (0.01, 100.0):
        for seed in range(5):
            one = variational_em(random_mdp(seed), step=0.3, iterations=50)
            other = variational_em(random_mdp(seed, k), scale=1 / k, temperature_init=k, step=0.3, iterations=50)
            np.testing.assert_allclose(other.q, k * one.q, rtol=1e-6)
            np.testing.assert_allclose(other.temperatures, k * one.temperatures, rtol=1e-6)
            np.testing.assert_allclose(other.policy, one.policy, atol=1e-6)


def test_the_temperature_need_not_vanish() -> None:
    """Rewards x 100 at the same scale: many worlds never settle, of which these are some; at x 1 all do."""
    unsettled = [
        seed for seed in range(10) if not variational_em(random_mdp(seed, 100.0), step=0.3, iterations=2000).converged
    ]
    assert len(unsettled) >= 2
    for seed in unsettled[:3]:
        assert variational_em(random_mdp(seed), step=0.3, iterations=2000).converged


def test_rounds_and_bad_input() -> None:
    start = variational_em(two_states(), iterations=0, temperature_init=0.3)
    assert start.temperatures.shape == (0,) and start.temperature == 0.3 and not start.converged
    np.testing.assert_array_equal(start.policy, np.full((2, 2), 0.5))
    cold = variational_em(two_states(), temperature_init=0.0, iterations=300)
    assert np.isfinite(cold.q).all() and len(cold.temperatures) == 300
    for name, value in [
        *(("scale", value) for value in (0.0, -1.0, math.nan, math.inf)),
        *(("step", value) for value in (0.0, 1.5, math.nan)),
        *(("temperature_init", value) for value in (-1.0, math.nan, math.inf)),
        *(("iterations", value) for value in (-1, 2.5)),
    ]:
        with pytest.raises(ValueError, match=f"{name}={value!r}"):
            variational_em(two_states(), **{name: value})  # type: ignore[arg-type]
