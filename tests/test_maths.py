"""Identities of the theory, and exactness against 60-digit arithmetic."""

import math

import mpmath
import numpy as np
import pytest
import torch as th
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sb3_mirl import maths

mpmath.mp.dps = 60

betas = st.floats(-8, 8).map(lambda e: 10.0**e)


@st.composite
def problems(draw: st.DrawFn, max_q: float = 1e4) -> tuple[th.Tensor, th.Tensor]:
    """(A,) float32 action values and log-priors, with priors down to 1e-30 and exact zeros."""
    n = draw(st.integers(1, 18))
    q = draw(hnp.arrays(np.float32, n, elements=st.floats(-max_q, max_q, width=32)))
    exponents = draw(hnp.arrays(np.float64, n, elements=st.floats(-30, 0)))
    dead = draw(hnp.arrays(bool, n))
    assume(not dead.all())
    prior = np.where(dead, 0, 10.0**exponents)
    with np.errstate(divide="ignore"):
        return th.from_numpy(q), th.from_numpy(np.log(prior)).float()


def exact_value(q: th.Tensor, log_prior: th.Tensor, beta: float) -> mpmath.mpf:
    rho = [mpmath.exp(mpmath.mpf(x)) if math.isfinite(x) else mpmath.mpf(0) for x in log_prior.tolist()]
    z = sum(r * mpmath.exp(mpmath.mpf(beta) * mpmath.mpf(x)) for r, x in zip(rho, q.tolist(), strict=True))
    return mpmath.log(z / sum(rho)) / mpmath.mpf(beta)


@settings(max_examples=300, deadline=None)
@given(problems(), betas)
def test_soft_value_is_exact_at_every_scale(problem: tuple[th.Tensor, th.Tensor], beta: float) -> None:
    q, log_prior = problem
    value = maths.soft_value(q, log_prior, beta)
    exact = exact_value(q, log_prior, beta)
    assert value.dtype == q.dtype
    assert abs(value.item() - exact) <= 1e-6 * max(1, abs(exact))


@settings(max_examples=200, deadline=None)
@given(problems(), betas | st.sampled_from([0.0, math.inf]))
def test_gradient_of_the_value_is_the_policy(problem: tuple[th.Tensor, th.Tensor], beta: float) -> None:
    q, log_prior = problem
    q = q.double().requires_grad_()
    (gradient,) = th.autograd.grad(maths.soft_value(q, log_prior, beta), q)
    probs = maths.boltzmann_log_probs(q.detach(), log_prior, beta).exp()
    assert th.isfinite(gradient).all()
    th.testing.assert_close(gradient, probs, atol=1e-12, rtol=1e-9)
    assert abs(probs.sum().item() - 1) < 1e-12
    assert (probs[log_prior == -math.inf] == 0).all()


@settings(max_examples=200, deadline=None)
@given(problems(max_q=100), st.floats(-3, 2).map(lambda e: 10.0**e), st.integers(0, 2**31))
def test_value_is_the_best_trade_off(problem: tuple[th.Tensor, th.Tensor], beta: float, seed: int) -> None:
    """V = E_pi[q] - KL(pi || rho) / beta for the Boltzmann policy, and >= for any other (Eq. 2 and 8)."""
    q, log_prior = problem[0].double(), problem[1]
    value = maths.soft_value(q, log_prior, beta)

    def trade_off(log_probs: th.Tensor) -> float:
        mean = th.where(log_probs > -math.inf, log_probs.exp() * q, 0).sum()
        return (mean - maths.kl_to_prior(log_probs, log_prior) / beta).item()

    best = trade_off(maths.boltzmann_log_probs(q, log_prior, beta))
    assert best == pytest.approx(value.item(), abs=1e-9 * (1 + 1 / beta), rel=1e-9)
    noise = th.randn(len(q), generator=th.Generator().manual_seed(seed), dtype=th.float64)
    other = (noise + log_prior.double()).log_softmax(-1)
    assert trade_off(other) <= best + 1e-9 * (1 + abs(best) + 1 / beta)


@given(problems(max_q=100), st.floats(-2, 2).map(lambda e: 10.0**e), st.floats(-50, 50), st.randoms())
@settings(deadline=None)
def test_shift_and_permutation(problem: tuple[th.Tensor, th.Tensor], beta: float, shift: float, random: object) -> None:
    q, log_prior = problem[0].double(), problem[1]
    value, log_probs = maths.soft_value(q, log_prior, beta), maths.boltzmann_log_probs(q, log_prior, beta)
    th.testing.assert_close(maths.soft_value(q + shift, log_prior, beta), value + shift, atol=1e-9, rtol=1e-9)
    order = list(range(len(q)))
    random.shuffle(order)  # type: ignore[attr-defined]
    th.testing.assert_close(maths.soft_value(q[order], log_prior[order], beta), value, atol=1e-9, rtol=1e-9)
    th.testing.assert_close(maths.boltzmann_log_probs(q[order], log_prior[order], beta), log_probs[order])


@settings(deadline=None)
@given(problems())
def test_limits_of_beta(problem: tuple[th.Tensor, th.Tensor]) -> None:
    q, log_prior = problem
    rho = log_prior.double().softmax(-1)
    alive = rho > 0
    assert maths.soft_value(q, log_prior, math.inf) == q[alive].max()
    mean = (rho * q.double()).sum()
    th.testing.assert_close(maths.soft_value(q, log_prior, 0.0).double(), mean, atol=1e-6, rtol=1e-6)
    th.testing.assert_close(maths.boltzmann_log_probs(q, log_prior, 0.0).exp(), rho)


@settings(deadline=None)
@given(problems(), betas | st.just(math.inf))
def test_action_scores_choose_the_most_probable_action(problem: tuple[th.Tensor, th.Tensor], beta: float) -> None:
    q, log_prior = problem
    chosen = maths.action_scores(q, log_prior, beta).argmax()
    log_probs = maths.boltzmann_log_probs(q, log_prior, beta)
    if math.isfinite(beta):
        assert log_probs[chosen] >= log_probs.max() - 1e-9 * max(1, beta * q.abs().max().item())
    else:
        assert chosen == th.where(log_prior > -math.inf, q, -math.inf).argmax()


def test_uniform_prior_is_a_mean_logsumexp() -> None:
    q, beta = th.randn(5, 7, dtype=th.float64), 3.0
    expected = (q * beta).logsumexp(-1) / beta - math.log(7) / beta
    th.testing.assert_close(maths.soft_value(q, maths.uniform_log_prior(7), beta), expected)
    entropy_form = maths.soft_value(q, maths.uniform_log_prior(7), beta) + maths.entropy_bonus(7, beta)
    th.testing.assert_close(entropy_form, (q * beta).logsumexp(-1) / beta)


def test_soft_q_target() -> None:
    q, log_prior = th.randn(4, 3), th.randn(3)
    reward, discount = th.randn(4), th.tensor([0.99, 0.0, 0.5, 0.9])
    target = maths.soft_q_target(reward, discount, q, log_prior, th.tensor(2.0))
    th.testing.assert_close(target, reward + discount * maths.soft_value(q, log_prior, 2.0))
    assert target[1] == reward[1]


def test_mutual_information() -> None:
    deterministic = th.eye(4).clamp(min=1e-300).double().log()
    assert maths.mutual_information(deterministic).item() == pytest.approx(math.log(4))
    same = th.randn(3).log_softmax(-1).repeat(5, 1)
    assert maths.mutual_information(same).item() == pytest.approx(0, abs=1e-6)
    with_zeros = th.tensor([[0.0, -math.inf], [-math.inf, 0.0]])
    assert maths.mutual_information(with_zeros).item() == pytest.approx(math.log(2))


def test_kkt_gap() -> None:
    log_probs = th.randn(50, 3).double().log_softmax(-1)
    marginal = log_probs.exp().mean(0)
    assert maths.kkt_gap(log_probs, marginal.log()).item() == pytest.approx(0, abs=1e-12)
    skewed = th.tensor([0.2, 0.3, 0.5])
    expected = max((marginal / skewed).tolist()) - 1
    assert maths.kkt_gap(log_probs, skewed.log()).item() == pytest.approx(expected, rel=1e-6) and expected > 0
    always_first = th.tensor([[0.0, -math.inf]])
    assert maths.kkt_gap(always_first, always_first[0]).item() == 0, "an excluded action that is never wanted does not count"
    assert maths.kkt_gap(always_first, always_first[0].flip(0)).item() == math.inf


def test_the_prior_ends_where_the_kkt_gap_closes() -> None:
    """Eq. (11) with policies that do not follow the prior: its fixed point is their mean."""
    log_probs, prior = th.randn(20, 4).double().log_softmax(-1), th.full((4,), 0.25, dtype=th.float64)
    before = maths.kkt_gap(log_probs, prior.log())
    for _ in range(4000):
        prior = maths.update_prior(prior, log_probs.exp(), 1e-4)
    assert before > 0.05 and maths.kkt_gap(log_probs, prior.log()) < 0.002


def test_kl_to_prior_outside_the_support_is_infinite() -> None:
    log_prior = th.tensor([0.0, -math.inf])
    assert maths.kl_to_prior(th.tensor([[0.0, -math.inf], [-0.7, -0.7]]), log_prior).tolist() == [0, math.inf]


@settings(deadline=None)
@given(st.integers(1, 18), st.integers(1, 50), st.floats(0, 1), st.integers(0, 2**31))
def test_update_prior_is_the_loop_of_equation_11(n: int, batch: int, lr: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prior, probs = rng.dirichlet(np.ones(n)), rng.dirichlet(np.full(n, 0.1), size=batch)
    expected = prior.copy()
    for pi in probs:
        expected = (1 - lr) * expected + lr * pi
    updated = maths.update_prior(th.from_numpy(prior), th.from_numpy(probs), lr)
    np.testing.assert_allclose(updated, expected, atol=1e-12)
    assert abs(updated.sum().item() - 1) < 1e-12 and (updated >= 0).all()


@settings(deadline=None)
@given(st.integers(1, 18), st.floats(0, 1), st.integers(0, 2**31))
def test_floor_keeps_the_prior_on_the_simplex(n: int, fraction: float, seed: int) -> None:
    floor = fraction / n
    prior = th.from_numpy(np.random.default_rng(seed).dirichlet(np.full(n, 0.05)))
    floored = maths.floored_log_prior(prior, floor).exp()
    assert abs(floored.sum().item() - 1) < 1e-9
    assert (floored >= floor * (1 - 1e-9)).all()
    if (prior >= floor).all():
        th.testing.assert_close(floored, prior)


def test_mixed_with_uniform() -> None:
    prior = th.tensor([1.0, 0.0, 0.0, 0.0])
    assert maths.mixed_with_uniform(prior, 0.2).tolist() == pytest.approx([0.85, 0.05, 0.05, 0.05])


def test_temperature_rules() -> None:
    assert [maths.linear_beta(i, 1e-3) for i in (0, 1, 2, 1000)] == pytest.approx([1e-3, 1e-3, 2e-3, 1.0])
    beta = th.tensor(0.01, dtype=th.float64)
    assert maths.inverse_loss_beta(beta, th.tensor(0.5), 0.1).item() == pytest.approx(0.9 * 0.01 + 0.1 / 0.5)
    assert maths.inverse_loss_beta(beta, th.tensor(0.0), 0.1, max_beta=100).item() == pytest.approx(0.009 + 10)


@pytest.mark.parametrize("lr", [0.0, 3e-5, 0.3, 1.0])
def test_beta_of_n_losses_is_n_times_that_of_one(lr: float) -> None:
    losses = th.tensor([0.5, 0.0, 3.0, 1e-3])
    beta = expected = th.tensor(2.0, dtype=th.float64)
    for loss in losses:
        expected = maths.inverse_loss_beta(expected, loss, lr, max_beta=100)
    assert maths.inverse_loss_beta(beta, losses, lr, max_beta=100).item() == pytest.approx(expected.item(), rel=1e-12)


Q, LOG_PRIOR = th.zeros(2, 3), th.zeros(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: maths.soft_value(Q, th.zeros(4), 1.0), r"q must have shape \(..., A\).*\(2, 3\) and \(4,\)"),
        (lambda: maths.soft_value(Q, th.zeros(1, 3), 1.0), "log_prior"),
        (lambda: maths.soft_value(Q, LOG_PRIOR, -1.0), r"\[0, inf\], got -1.0"),
        (lambda: maths.soft_value(Q, LOG_PRIOR, math.nan), "got nan"),
        (lambda: maths.soft_value(Q, LOG_PRIOR, th.tensor(-2.0)), "got -2.0"),
        (lambda: maths.soft_value(Q, LOG_PRIOR, th.ones(2)), r"0-d tensor, got shape \(2,\)"),
        (lambda: maths.soft_q_target(th.zeros(2, 1), th.zeros(2), Q, LOG_PRIOR, 1.0), r"reward \(2, 1\)"),
        (lambda: maths.mutual_information(th.zeros(3)), r"\(B, A\)"),
        (lambda: maths.kkt_gap(Q, th.zeros(2)), r"\(2, 3\) and \(2,\)"),
        (lambda: maths.kl_to_prior(Q, th.zeros(2)), "log_probs"),
        (lambda: maths.update_prior(LOG_PRIOR, Q, 1.5), "got 1.5"),
        (lambda: maths.update_prior(LOG_PRIOR, th.zeros(2, 4), 0.5), r"\(3,\) and \(2, 4\)"),
        (lambda: maths.mixed_with_uniform(LOG_PRIOR, -0.1), "got -0.1"),
        (lambda: maths.floored_log_prior(LOG_PRIOR, 0.5), r"\[0, 1/3\] for 3 actions, got 0.5"),
        (lambda: maths.uniform_log_prior(0), "n_actions=0"),
        (lambda: maths.linear_beta(-1, 1e-3), "step=-1"),
        (lambda: maths.inverse_loss_beta(th.tensor(1.0), th.tensor(1.0), 2.0), "got 2.0"),
        (lambda: maths.inverse_loss_beta(th.tensor(1.0), th.ones(2, 1), 0.1), r"scalar or \(n,\).*\(2, 1\)"),
    ],
)
def test_errors_name_the_value(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
