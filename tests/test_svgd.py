"""The formulas of soft Q-learning with continuous actions against loops, closed forms, quadrature and autograd."""

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_mirl.maths import (
    importance_soft_value,
    log_det_tanh,
    median_bandwidth,
    mixture_log_density,
    proposal_log_density,
    rbf_kernel,
    squashed_score,
    svgd_direction,
)
from tests.conftest import OnTheDeviceOnly


def normal(*shape: int, seed: int = 0, dtype: th.dtype = th.float64) -> th.Tensor:
    return th.randn(*shape, generator=th.Generator().manual_seed(seed), dtype=dtype)


def direction_by_loops(x: np.ndarray, y: np.ndarray, score: np.ndarray, h: float) -> np.ndarray:
    """Eq. (13) of one state, term by term."""
    phi = np.zeros_like(y)
    for j in range(len(y)):
        for i in range(len(x)):
            difference = x[i] - y[j]
            k = math.exp(-sum(difference**2) / h)
            phi[j] += (k * score[i] - 2 / h * k * difference) / len(x)
    return phi


def test_direction_and_kernel_are_the_loops() -> None:
    x, y, score = normal(3, 5, 2), normal(3, 7, 2, seed=1), normal(3, 5, 2, seed=2)
    h = median_bandwidth(x, y)
    phi, kernel = svgd_direction(x, y, score, h), rbf_kernel(x, y, h)
    for b in range(3):
        expected = direction_by_loops(x[b].numpy(), y[b].numpy(), score[b].numpy(), h[b].item())
        np.testing.assert_allclose(phi[b], expected, rtol=0, atol=1e-14)
        distances = ((x[b][:, None] - y[b][None]) ** 2).sum(-1)
        np.testing.assert_allclose(kernel[b], (-distances / h[b].item()).exp(), rtol=1e-12)
        lower_median = sorted(distances.flatten().tolist())[(35 - 1) // 2]
        assert h[b].item() == pytest.approx(lower_median / math.log(6), rel=1e-12)
    one = svgd_direction(x[1], y[1], score[1], h[1].item())
    np.testing.assert_allclose(one, phi[1], atol=1e-14)


def test_golden_numbers() -> None:
    x, y, score = th.tensor([[0.0], [1.0]]), th.tensor([[0.5], [2.0]]), th.tensor([[1.0], [-1.0]])
    phi = svgd_direction(x.double(), y.double(), score.double(), 1.0)
    np.testing.assert_allclose(phi.flatten(), [0, 0.2297288], atol=5e-8)
    assert median_bandwidth(x.double(), y.double()).item() == pytest.approx(0.2275598, abs=5e-8)


def test_bandwidth_takes_the_lower_median_and_has_a_floor() -> None:
    x, y = th.tensor([[0.0]]), th.tensor([[1.0], [2.0], [3.0], [10.0]])
    assert median_bandwidth(x, y).item() == pytest.approx(4 / math.log(2))
    equal = th.full((2, 4, 3), 50.0)
    assert (median_bandwidth(equal, equal) == 1e-3).all() and (median_bandwidth(equal, equal, floor=0.5) == 0.5).all()
    assert median_bandwidth(x, x).item() == pytest.approx(1e-3)
    phi = svgd_direction(equal, equal, th.ones(2, 4, 3), median_bandwidth(equal, equal))
    assert th.equal(phi, th.ones(2, 4, 3))  # one point: no repulsion


def test_float32_keeps_its_digits_far_from_the_origin() -> None:
    x, y, score = normal(2, 8, 3), normal(2, 8, 3, seed=1), normal(2, 8, 3, seed=2)
    exact = svgd_direction(x, y, score, median_bandwidth(x, y))
    shifted = [(value + 50).float() for value in (x, y)]
    phi = svgd_direction(shifted[0], shifted[1], score.float(), median_bandwidth(*shifted))
    np.testing.assert_allclose(phi, exact, atol=5e-5)


@pytest.mark.parametrize("beta", [0.5, th.tensor(10.0, dtype=th.float64)])
def test_score_is_the_gradient_of_the_latents_log_density(beta: Any) -> None:
    u = normal(6, 3).requires_grad_()

    def q(a: th.Tensor) -> th.Tensor:
        return (a.sin() * th.tensor([1.0, -2.0, 0.5], dtype=th.float64)).sum(-1) + a.prod(-1)

    log_density = beta * q(th.tanh(u)) + (1 - th.tanh(u) ** 2).log().sum(-1)
    (expected,) = th.autograd.grad(log_density.sum(), u)
    a = th.tanh(u).detach().requires_grad_()
    (grad_q,) = th.autograd.grad(q(a).sum(), a)
    np.testing.assert_allclose(squashed_score(a.detach(), grad_q, beta), expected, atol=1e-12)
    far = th.tensor([[50.0, -50.0]])
    np.testing.assert_array_equal(squashed_score(far.tanh(), th.full((1, 2), 1e6), 100.0), [[-2, 2]])


def test_log_det_tanh() -> None:
    u = normal(4, 3, 2)
    np.testing.assert_allclose(log_det_tanh(u), (1 - u.tanh() ** 2).log().sum(-1), rtol=1e-12)
    far = log_det_tanh(th.tensor([[50.0], [-50.0], [0.0]]))
    np.testing.assert_allclose(far, [2 * math.log(2) - 100] * 2 + [0], rtol=1e-7, atol=1e-7)


# Soft value


def quadratic(d: int, s: float) -> float:
    """log of the integral of exp(-|a|^2 / (2 s^2)) over [-1, 1]^d."""
    return d * math.log(s * math.sqrt(2 * math.pi) * math.erf(1 / (s * math.sqrt(2))))


@pytest.mark.parametrize("d", [1, 2, 4, 8, 17])
def test_soft_value_is_the_closed_form(d: int) -> None:
    assert quadratic(1, 0.5) == pytest.approx(0.17921, abs=2e-5) and quadratic(1, 0.15) == pytest.approx(-0.97817, abs=2e-5)
    generator = th.Generator().manual_seed(d)
    a = 2 * th.rand(40_000, d, generator=generator) - 1
    q = -a.square().sum(-1) / (2 * 0.5**2)
    density = th.full_like(q, -d * math.log(2))
    assert importance_soft_value(q, density, 1.0).item() == pytest.approx(quadratic(d, 0.5), abs=0.08)
    # the temperature only scales: alpha = 1/4
    assert importance_soft_value(q / 4, density, 4.0).item() * 4 == pytest.approx(
        importance_soft_value(q, density, 1.0).item(), abs=1e-5
    )
    # exact weights: one draw is enough
    exact = q - quadratic(d, 0.5)
    np.testing.assert_allclose(importance_soft_value(q[:, None], exact[:, None], 1.0), quadratic(d, 0.5), atol=2e-5)


def test_soft_value_at_every_scale() -> None:
    q = th.tensor([1e6, 1e6 - 0.0625, -1e6])
    density = th.tensor([-1.0, -2.0, -3.0])
    expected = 1e6 + math.log((math.exp(1) + math.exp(2 - 6.25)) / 3) / 100
    assert importance_soft_value(q.double(), density.double(), 100.0).item() == pytest.approx(expected, rel=1e-15)
    assert importance_soft_value(q, density, 100.0).item() == np.float32(expected)
    assert importance_soft_value(-q, density, th.tensor(100.0)).item() == pytest.approx(1e6, rel=1e-6)


def mixture_draws(d: int, s: float, n: int, k: int, seed: int) -> tuple[th.Tensor, th.Tensor]:
    """Latents and log-densities of n proposals around k exact samples of N(0, s^2 I) in the box."""
    centers = th.atanh((s * normal(n, k, d, seed=seed)).clamp(-0.999, 0.999))
    std = centers.std(-2)
    u = centers + std.unsqueeze(-2) * normal(n, k, d, seed=seed + 1)
    return u, proposal_log_density(u, centers, std, 0.0)


def test_mixtures_where_uniform_draws_fail() -> None:
    """Section 4 of the sampler's oracle: d = 8, s = 0.15, 50 draws; seen: 0.00 against -11.7."""
    u, density = mixture_draws(8, 0.15, n=300, k=50, seed=0)
    values = importance_soft_value(-u.tanh().square().sum(-1) / (2 * 0.15**2), density, 1.0)
    bias = values.mean().item() - quadratic(8, 0.15)
    a = 2 * th.rand(4000, 50, 8, generator=th.Generator().manual_seed(0), dtype=th.float64) - 1
    uniform = importance_soft_value(-a.square().sum(-1) / (2 * 0.15**2), th.full((4000, 50), -8 * math.log(2)).double(), 1.0)
    bias_of_uniform = uniform.mean().item() - quadratic(8, 0.15)
    assert abs(bias) < 0.05 and abs(bias) < abs(bias_of_uniform) / 20
    assert bias_of_uniform == pytest.approx(-11.7, abs=0.5)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_proposals_integrate_to_one(share: float) -> None:
    centers, std = th.tensor([[0.3, -0.2], [-1.0, 0.5], [0.0, 1.2]], dtype=th.float64), th.tensor([0.4, 0.7]).double()
    grid = (th.arange(800, dtype=th.float64) + 0.5) / 400 - 1
    a = th.stack(th.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    density = proposal_log_density(a.atanh(), centers, std, share).exp()
    assert density.sum().item() * (2 / 800) ** 2 == pytest.approx(1, abs=2e-4)
    if share == 0:
        latent = mixture_log_density(a.atanh(), centers, std)
        np.testing.assert_allclose(density.log(), latent - (1 - a**2).log().sum(-1), atol=1e-9)


def test_mixture_is_scipys() -> None:
    from scipy.stats import multivariate_normal

    u, centers, std = normal(4, 2), normal(3, 2, seed=1), th.tensor([0.3, 2.0]).double()
    expected = np.mean([multivariate_normal(c, np.diag(std**2)).pdf(u) for c in centers.numpy()], axis=0)
    np.testing.assert_allclose(mixture_log_density(u, centers, std).exp(), expected, rtol=1e-10)


# Cost, devices, bad input


class Operators(TorchDispatchMode):
    """Counts operators, and remembers the largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.n, self.largest = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.n += 1
        if isinstance(result, th.Tensor):
            self.largest = max(self.largest, result.numel())
        return result


def test_no_loop_over_particles() -> None:
    counted = []
    for m in (8, 64):
        x, y = normal(2, m, 20), normal(2, m, 20, seed=1)
        with Operators() as operators:
            svgd_direction(x, y, x, median_bandwidth(x, y))
            proposal_log_density(x, y, y.std(-2), 0.1)
            importance_soft_value(log_det_tanh(x), log_det_tanh(y), 2.0)
        counted.append(operators.n)
        assert operators.largest <= 2 * m * max(m, 20)  # no (M, K, d) tensor
    assert counted[0] == counted[1]


def test_nothing_leaves_the_device() -> None:
    x, y = (th.empty(4, 6, 3, device="meta") for _ in range(2))
    beta = th.empty((), device="meta")
    with OnTheDeviceOnly():
        h = median_bandwidth(x, y)
        assert svgd_direction(x, y, squashed_score(x, x, beta), h).shape == (4, 6, 3)


X = th.zeros(4, 3, 2)
BAD: list[tuple[Any, str]] = [
    (lambda: svgd_direction(X, th.zeros(4, 3, 3), X, 1.0), r"x and y must be particles.*\(4, 3, 2\) and \(4, 3, 3\)"),
    (lambda: svgd_direction(X, th.zeros(5, 3, 2), X, 1.0), "x and y must be particles"),
    (lambda: svgd_direction(X, X, th.zeros(4, 2, 2), 1.0), r"score must have the shape of x, \(4, 3, 2\), got \(4, 2, 2\)"),
    (lambda: rbf_kernel(X, X, 0.0), "bandwidth must be > 0, got 0.0"),
    (lambda: rbf_kernel(X, X, math.nan), "bandwidth must be > 0, got nan"),
    (lambda: rbf_kernel(X, X, th.ones(3)), r"bandwidth must be a number or have the shape \(4,\), got \(3,\)"),
    (lambda: median_bandwidth(X, th.zeros(4, 0, 2)), "at least one each"),
    (lambda: median_bandwidth(X, X, floor=0.0), "floor=0.0 must be a number > 0"),
    (lambda: squashed_score(X, th.zeros(4, 3), 1.0), "action and grad_q must have one shape"),
    (lambda: squashed_score(X, X, 0.0), "beta=0.0 must be a number > 0"),
    (lambda: squashed_score(X, X, th.ones(2)), r"beta must be a number or a scalar tensor, got shape \(2,\)"),
    (lambda: importance_soft_value(th.zeros(3), th.zeros(4), 1.0), r"q and log_density.*\(3,\) and \(4,\)"),
    (lambda: importance_soft_value(th.zeros(3, 0), th.zeros(3, 0), 1.0), "K >= 1"),
    (lambda: importance_soft_value(th.zeros(3), th.zeros(3), math.inf), "beta=inf"),
    (lambda: importance_soft_value(th.zeros(3), th.zeros(3), math.nan), "beta=nan"),
    (lambda: log_det_tanh(th.tensor(0.0)), "u must have the shape"),
    (lambda: mixture_log_density(X, X, th.ones(4, 3)), r"std must have the shape.*\(4, 2\), got \(4, 3\)"),
    (lambda: mixture_log_density(X, X, th.zeros(4, 2)), "std must be > 0"),
    (lambda: mixture_log_density(X, th.zeros(4, 3, 1), th.ones(4, 2)), "u and centers must be particles"),
    (lambda: proposal_log_density(X, X, th.ones(4, 2), 1.5), "uniform_share=1.5"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
