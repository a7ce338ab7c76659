"""The formulas take NumPy's arrays as they take torch's tensors, answer in kind, and say nothing on the way."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings

from sb3_mirl import maths
from sb3_mirl.maths.arrays import at_hand
from tests.test_maths import betas, exact_value, problems

RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet(np.full(3, 0.2), size=5)
PROBS[0] = [1, 0, 0]
with np.errstate(divide="ignore"):
    LOG_PROBS = np.log(PROBS)
Q = RNG.normal(size=(5, 3)).astype(np.float32)
PRIOR = np.array([0.7, 0.0, 0.3])
with np.errstate(divide="ignore"):
    LOG_PRIOR = np.log(PRIOR)

CALLS: dict[str, Callable[[Callable[[Any], Any]], Any]] = {
    **{
        f"{name}, beta {beta}": lambda kind, name=name, beta=beta: getattr(maths, name)(kind(Q), kind(LOG_PRIOR), beta)
        for name in ("soft_value", "boltzmann_log_probs", "action_scores")
        for beta in (0.0, 1e-8, 2.0, math.inf)
    },
    "soft_q_target": lambda kind: maths.soft_q_target(kind(Q[:, 0]), kind(Q[:, 1]), kind(Q), kind(LOG_PRIOR), 3.0),
    "beta of its own kind": lambda kind: maths.soft_value(kind(Q), kind(LOG_PRIOR), kind(np.array(3.0))),
    "one state": lambda kind: maths.soft_value(kind(Q[0]), kind(LOG_PRIOR), 3.0),
    "kl_to_prior": lambda kind: maths.kl_to_prior(kind(LOG_PROBS), kind(LOG_PRIOR)),
    "entropy": lambda kind: maths.entropy(kind(LOG_PROBS)),
    "mutual_information": lambda kind: maths.mutual_information(kind(LOG_PROBS)),
    "kkt_gap": lambda kind: maths.kkt_gap(kind(LOG_PROBS[:2]), kind(LOG_PRIOR)),
    "update_prior": lambda kind: maths.update_prior(kind(PRIOR), kind(PROBS), 0.1),
    "update_prior, a rate each": lambda kind: maths.update_prior(kind(PRIOR), kind(PROBS), kind(np.linspace(0, 1, 5))),
    "floored_log_prior": lambda kind: maths.floored_log_prior(kind(PRIOR), 0.01),
    "fold_policies": lambda kind: maths.fold_policies(kind(LOG_PRIOR), kind(LOG_PROBS), 0.1, 0.01),
    "fold_policies, no floor": lambda kind: maths.fold_policies(kind(LOG_PRIOR), kind(LOG_PROBS[:1]), 0.1, 0.0),
    "no floor": lambda kind: maths.floored_log_prior(kind(PRIOR), 0.0),
    "mixed_with_uniform": lambda kind: maths.mixed_with_uniform(kind(PRIOR), 0.2),
    "inverse_loss_beta": lambda kind: maths.inverse_loss_beta(kind(np.array(2.0)), kind(np.array([0.5, 0.0, 3.0])), 0.1, 100),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_what_goes_in_comes_out(call: Callable[[Callable[[Any], Any]], Any]) -> None:
    by_torch = call(th.from_numpy)
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        by_numpy = call(lambda array: array)
    assert isinstance(by_torch, th.Tensor) and isinstance(by_numpy, (np.ndarray, np.generic))
    assert by_numpy.shape == tuple(by_torch.shape) and by_numpy.dtype == by_torch.numpy().dtype
    np.testing.assert_allclose(by_numpy, by_torch.numpy(), rtol=1e-12 if by_numpy.dtype == np.float64 else 1e-6, atol=1e-15)


@settings(max_examples=300, deadline=None)
@given(problems(), betas)
def test_soft_value_is_as_exact_in_numpy(problem: tuple[th.Tensor, th.Tensor], beta: float) -> None:
    q, log_prior = problem
    exact = exact_value(q, log_prior, beta)
    assert abs(float(maths.soft_value(q.numpy(), log_prior.numpy(), beta)) - exact) <= 1e-6 * max(1, abs(exact))
    scores = maths.action_scores(q, log_prior, beta), maths.action_scores(q.numpy(), log_prior.numpy(), beta)
    assert scores[0].argmax() == scores[1].argmax()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: maths.soft_value(Q, np.zeros(4), 1.0), r"q must have shape \(..., A\).*\(5, 3\) and \(4,\)"),
        (lambda: maths.soft_value(Q, LOG_PRIOR, np.array(-1.0)), "got -1.0"),
        (lambda: maths.soft_value(Q, LOG_PRIOR, np.ones(2)), r"got shape \(2,\)"),
        (lambda: maths.soft_value(Q, np.full(3, -np.inf), 1.0), "not all of them 0"),
        (lambda: maths.update_prior(PRIOR, PROBS, 1.5), "got 1.5"),
        (lambda: maths.update_prior(PRIOR, 2 * PROBS, 0.5), "probs must hold probabilities"),
        (lambda: maths.inverse_loss_beta(np.array(1.0), np.array([1.0, np.nan]), 0.1), "nan"),
        (lambda: maths.mutual_information(np.zeros(3)), r"\(B, A\)"),
    ],
)
def test_checks_are_the_same(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("floor", [0.0, 1e-8, 0.2])
@pytest.mark.parametrize("kind", [np.asarray, th.from_numpy])
def test_folding_policies_is_an_update_and_a_floor(kind: Any, floor: float, n: int) -> None:
    for log_prior in (LOG_PRIOR, np.log([0.7, 1e-20, 0.3])):
        prior = kind(np.exp(log_prior) / np.exp(log_prior).sum())
        expected = maths.floored_log_prior(maths.update_prior(prior, kind(PROBS[:n]), 0.01), floor)
        folded = maths.fold_policies(kind(log_prior + 3.0), kind(LOG_PROBS[:n]), 0.01, floor)
        np.testing.assert_allclose(folded, expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(log_prior=np.full(3, -np.inf)), "log_prior must hold logarithms"),
        (dict(log_probs=LOG_PROBS[:, :2]), r"\(3,\) and \(5, 2\)"),
        (dict(log_probs=LOG_PROBS + 0.1), "probs must hold probabilities"),
        (dict(lr=1.5), "got 1.5"),
        (dict(floor=0.5), r"\[0, 1/3\] for 3 actions, got 0.5"),
    ],
)
@pytest.mark.parametrize("kind", [np.asarray, th.from_numpy])
def test_what_cannot_be_folded_is_refused(kind: Any, change: dict[str, Any], message: str) -> None:
    given = {"log_prior": LOG_PRIOR, "log_probs": LOG_PROBS, "lr": 0.1, "floor": 0.01, **change}
    with pytest.raises(ValueError, match=message):
        maths.fold_policies(**{name: kind(value) if isinstance(value, np.ndarray) else value for name, value in given.items()})


def test_a_prior_that_changes_in_place_is_seen() -> None:
    """What is known about a prior is known about its values, in each precision."""
    log_prior = np.log([0.5, 0.3, 0.2])
    for values in ([0.1, 0.2, 0.7], [0.5, 0.5, 0.0], [0.2, 0.2, 0.6]):
        with np.errstate(divide="ignore"):
            log_prior[:] = np.log(values)
        for formula in (maths.boltzmann_log_probs, maths.soft_value, maths.action_scores):
            expected = formula(th.from_numpy(Q), th.from_numpy(log_prior), 2.0)
            np.testing.assert_allclose(formula(Q, log_prior, 2.0), expected, rtol=1e-6)
            np.testing.assert_allclose(formula(Q, log_prior.astype(np.float32), 2.0), expected, rtol=1e-5)


def test_arrays_at_hand_share_the_memory_of_tensors() -> None:
    tensor = th.zeros(3, dtype=th.float64, requires_grad=True)
    at_hand(tensor)[1] = 5.0
    assert tensor.tolist() == [0, 5, 0]
    elsewhere = th.empty(3, device="meta")
    assert at_hand(elsewhere) is elsewhere
