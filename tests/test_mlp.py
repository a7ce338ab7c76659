"""Small perceptrons in NumPy against autograd, and all that makes them stand back."""

import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn
from torch.nn.utils import parametrizations

from sb3_mirl import MIRL, SoftDQN
from sb3_mirl.soft_dqn import update
from sb3_mirl.soft_dqn.mlp import LARGEST
from sb3_mirl.soft_dqn.networks import plain
from tests.conftest import SMALL, ScriptedEnv, copy_of


def model_of(net_arch: list[int], activation: type[nn.Module] = nn.ReLU, n_actions: int = 3, **kwargs: Any) -> SoftDQN:
    policy_kwargs = dict(net_arch=net_arch, activation_fn=activation)
    return SoftDQN("MlpPolicy", ScriptedEnv(n_actions=n_actions), **{**SMALL, "policy_kwargs": policy_kwargs, **kwargs})


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=3), st.sampled_from([nn.ReLU, nn.Tanh]), st.integers(2, 18),
    st.integers(1, 70),
)  # fmt: skip
def test_values_and_gradients_are_autograds(net_arch: list[int], activation: type[nn.Module], n_actions: int, n: int) -> None:
    network = model_of(net_arch, activation, n_actions).q_net
    mlp = plain(network)
    assert mlp is not None
    observations, grad = th.randn(n, 4), th.randn(n, n_actions)
    expected = network(observations)
    np.testing.assert_allclose(mlp.forward(observations), expected.detach(), rtol=1e-5, atol=1e-6)
    gradients = th.autograd.grad(expected, list(network.parameters()), grad)
    mlp.backward(grad.numpy())
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        th.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)
    norm = th.nn.utils.get_total_norm(gradients)
    assert mlp.gradient_norm() == pytest.approx(norm.item(), rel=1e-5)
    mlp.scale_gradient(0.5)
    th.testing.assert_close(next(network.parameters()).grad, 0.5 * gradients[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("max_grad_norm", [None, 10.0, 1e-2])
@pytest.mark.parametrize("net_arch", [[16], [200, 200]], ids=["NumPy", "torch"])
def test_updates_are_those_of_the_plain_path(net_arch: list[int], max_grad_norm: float | None) -> None:
    """Weights, moments, beta and losses after forty updates; the larger network is torch's, without its wrappers."""
    model = model_of(net_arch, max_grad_norm=max_grad_norm).learn(100)
    assert (plain(model.q_net) is not None) is (net_arch == [16])
    results = []
    for updates in (update.eager_updates, update.fast_updates):
        policy = copy_of(model.policy)
        np.random.seed(0)
        assert model.replay_buffer is not None
        losses = updates(policy, update.sampler(model.replay_buffer, None), model.update_rule(), 40, 8)
        moments = [value for state in policy.optimizer.state.values() for value in state.values()]
        results.append([losses, policy.beta, *policy.parameters(), *moments])
    for plainly, fast in zip(*results, strict=True):
        th.testing.assert_close(fast, plainly, rtol=1e-4, atol=1e-6, check_dtype=False)


def parametrized(network: Any) -> None:
    parametrizations.weight_norm(network.q_net[0])


def replaced_activation(network: Any) -> None:
    network.q_net[1] = nn.GELU()


def own_forward(network: Any) -> None:
    network.q_net[0].forward = lambda x: x.new_ones(len(x), 16)


def in_double(network: Any) -> None:
    network.double()


def frozen(network: Any) -> None:
    next(network.parameters()).requires_grad_(False)


DISTURBANCES: dict[str, Callable[[Any], Any]] = {
    "forward hook": lambda net: net.q_net[1].register_forward_hook(lambda *args: None),
    "pre-hook of the network": lambda net: net.register_forward_pre_hook(lambda *args: None),
    "backward hook": lambda net: net.q_net[0].register_full_backward_hook(lambda *args: None),
    "gradient hook": lambda net: net.q_net[2].weight.register_hook(lambda grad: None),
    "post-accumulate hook": lambda net: net.q_net[2].bias.register_post_accumulate_grad_hook(lambda p: None),
    "parametrized": parametrized,
    "other activation": replaced_activation,
    "method of its own": own_forward,
    "double precision": in_double,
    "frozen": frozen,
    "compiled": lambda net: net.compile(),
}


@pytest.mark.parametrize("disturb", DISTURBANCES.values(), ids=list(DISTURBANCES))
def test_it_stands_back(disturb: Callable[[Any], Any]) -> None:
    network = model_of([16]).q_net
    assert plain(network) is not None
    handle = disturb(network)
    assert plain(network) is None
    if hasattr(handle, "remove"):
        handle.remove()
        assert plain(network) is not None


def test_it_stands_back_under_autocast_and_for_global_hooks() -> None:
    network = model_of([16]).q_net
    with th.autocast("cpu", th.bfloat16):
        assert plain(network) is None
    handle = nn.modules.module.register_module_forward_hook(lambda *args: None)
    assert plain(network) is None
    handle.remove()
    assert plain(network) is not None and plain(network, bfloat16=True) is None


def test_large_layers_are_torchs() -> None:
    width = int(LARGEST**0.5)
    assert plain(model_of([width, width]).q_net) is not None and plain(model_of([width, width + 1]).q_net) is None


def test_new_parameters_are_found() -> None:
    """Loading keeps their memory, ``.data = `` and a new layer do not."""
    model = model_of([16])
    network, observations = model.q_net, th.randn(5, 4)
    for change in (
        lambda: model.policy.load_state_dict(copy_of(model_of([16], seed=1).policy).state_dict()),
        lambda: setattr(network.q_net[0].weight, "data", th.randn(16, 4)),
        lambda: setattr(network.q_net[0], "bias", nn.Parameter(th.randn(16))),
        lambda: network.q_net.__setitem__(2, nn.Linear(16, 3)),
    ):
        before = plain(network).forward(observations)  # type: ignore[union-attr]
        change()
        after = plain(network).forward(observations)  # type: ignore[union-attr]
        assert not np.allclose(before, after)
        np.testing.assert_allclose(after, network(observations).detach(), rtol=1e-5, atol=1e-6)


def test_the_plain_path_never_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_mirl.soft_dqn.mlp.PlainMLP.forward", lambda *args: 1 / 0)
    model_of([16], update_path="eager").learn(100)
    with pytest.raises(ZeroDivisionError):
        model_of([16]).learn(100)


def test_a_gradient_that_is_not_finite_stops_training_before_the_weights_change() -> None:
    model = model_of([16], max_grad_norm=None).learn(100)
    data = update.sampler(model.replay_buffer, None)(1, 8)  # type: ignore[arg-type]
    batch = update.make_batch(model.policy, data, model.update_rule())
    before = [p.clone() for p in model.q_net.parameters()]
    for bad, culprit in ((batch._replace(observations=batch.observations * np.nan), r"Q\(s, a\)"),
                         (batch._replace(targets=batch.targets * np.inf), "loss|not finite")):  # fmt: skip
        with pytest.raises(ValueError, match=culprit):
            update.gradient_update(model.policy, bad, model.update_rule())
    assert all(th.equal(p, q) for p, q in zip(before, model.q_net.parameters(), strict=True))


def test_nothing_of_it_is_kept_in_the_network_or_after_it() -> None:
    model = MIRL("MlpPolicy", DummyVecEnv([ScriptedEnv]), **SMALL)
    names = [sorted(vars(module)) for module in model.policy.modules()]
    model.learn(100)
    assert [sorted(vars(module)) for module in model.policy.modules()] == names
    pickle.dumps(model.policy.q_net.q_net)
    network = weakref.ref(model.q_net)
    del model
    gc.collect()
    assert network() is None
