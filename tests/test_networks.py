"""The network on the CPU's fast path against torch's and SB3's own layers."""

from contextlib import nullcontext
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn

from sb3_mirl import MIRL, SoftDQN
from sb3_mirl.soft_dqn import soft_dqn, update
from sb3_mirl.soft_dqn.networks import optimized, transposed_linear
from tests.conftest import ScriptedEnv


def atari_model(**kwargs: Any) -> SoftDQN:
    """NatureCNN as in Atari, of whose linear layer the products are large."""
    env = FakeImageEnv(4, 84, 84, n_channels=4, channel_first=True)
    return SoftDQN("CnnPolicy", env, buffer_size=10, beta_init=1.0, seed=0, device="cpu", **kwargs)


def layers_of(module: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [layer for layer in module.modules() if isinstance(layer, kind)]


@pytest.mark.parametrize("shape", [(1, 7), (5, 7), (2, 3, 7)])
def test_transposed_products_are_those_of_a_linear_layer(shape: tuple[int, ...]) -> None:
    th.manual_seed(0)
    plain = nn.Linear(7, 4, dtype=th.float64)
    x, grad = th.randn(*shape, dtype=th.float64, requires_grad=True), th.randn(*shape[:-1], 4, dtype=th.float64)

    def results(layer: Any) -> list[th.Tensor]:
        y = layer(x)
        return [y.detach(), *th.autograd.grad(y, (x, plain.weight, plain.bias), grad)]

    expected = results(plain)
    for result, right in zip(results(partial(transposed_linear, plain)), expected, strict=True):
        th.testing.assert_close(result, right)
    (weight_grad,) = th.autograd.grad(transposed_linear(plain, x.detach()), plain.weight, grad)
    th.testing.assert_close(weight_grad, expected[2])


def visible(module: nn.Module) -> list[Any]:
    """What a user sees of a network: its layers, their attributes and how weights lie in memory."""
    layers = [(name, type(layer), sorted(vars(layer)), str(layer)) for name, layer in module.named_modules()]
    return [*layers, *((p.stride(), p.data_ptr()) for p in module.parameters())]


def test_networks_are_optimized_while_they_are_trained_and_nothing_of_it_is_left() -> None:
    model = atari_model()
    networks = (model.q_net, model.q_net_target)
    before = [visible(network) for network in networks]
    with pytest.raises(ZeroDivisionError), optimized(networks, bfloat16=False):
        for network in networks:
            layers = [layer for layer in layers_of(network, nn.Linear) if "forward" in vars(layer)]
            assert [layer.weight.shape for layer in layers] == [(512, 3136)]
            assert all(layer.inplace for layer in layers_of(network.features_extractor.cnn, nn.ReLU))  # type: ignore[union-attr]
            assert "extract_features" in vars(network)
        raise ZeroDivisionError
    assert [visible(network) for network in networks] == before


def test_an_optimized_network_equals_a_plain_one() -> None:
    th.manual_seed(0)
    images, actions, targets = th.randint(0, 256, (6, 4, 84, 84), dtype=th.uint8), th.zeros(6, 1).long(), th.randn(6)
    results = []
    for optimize in (optimized, lambda networks, bfloat16: nullcontext()):
        model = atari_model()
        with optimize([model.q_net], False):
            loss = update.gradient_update(model.policy, update.Minibatch(images, actions, targets), model.update_rule())
            results.append([loss, model.q_net(images), *(p.grad for p in model.q_net.parameters())])
    for fast, eager in zip(*results, strict=True):
        th.testing.assert_close(fast, eager, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_channels", [1, 4, 6])
def test_images_are_cast_and_scaled_as_in_sb3(n_channels: int) -> None:
    env = FakeImageEnv(4, 36, 36, n_channels=n_channels, channel_first=True)
    network = SoftDQN("CnnPolicy", env, buffer_size=10, device="cpu").q_net
    images = th.randint(0, 256, (5, n_channels, 36, 36), dtype=th.uint8)
    for given in (images, images.float()):
        before = given.clone()
        plain = network.extract_features(given, nn.Identity())  # type: ignore[arg-type]
        with optimized([network], bfloat16=False):
            prepared = network.extract_features(given, nn.Identity())  # type: ignore[arg-type]
        assert th.equal(prepared, plain) and prepared.is_contiguous(memory_format=th.channels_last)
        assert th.equal(given, before), "the caller's images were changed"


def test_hooks_see_what_they_would_see_in_dqn() -> None:
    """A network that somebody watches is left alone: values that a hook keeps must not be overwritten in place."""
    model, seen = atari_model(learning_starts=4, batch_size=2), list[th.Tensor]()
    convolution = layers_of(model.q_net, nn.Conv2d)[0]
    handle = convolution.register_forward_hook(lambda layer, given, output: seen.append(output))
    model.learn(8)
    assert seen and all((output < 0).any() for output in seen), "the ReLU behind it has worked in place"
    handle.remove()
    with optimized([model.q_net], bfloat16=False):
        assert layers_of(model.q_net, nn.ReLU)[0].inplace


class Residual(NatureCNN):
    """Reads what its activation was given: that must not be changed in place."""

    def __init__(self, observation_space: gym.Space[Any]) -> None:
        super().__init__(observation_space)
        self.activation = nn.ReLU()

    def forward(self, observations: th.Tensor) -> th.Tensor:
        features = super().forward(observations) - 1
        return features + self.activation(features)


def test_extractors_of_others_keep_their_activations() -> None:
    model = atari_model(policy_kwargs=dict(features_extractor_class=Residual))
    with optimized([model.q_net], bfloat16=False):
        assert not any(layer.inplace for layer in layers_of(model.q_net, nn.ReLU))


@pytest.mark.parametrize("at_once", [1, 3, 10, 100])
def test_targets_do_not_depend_on_how_many_are_evaluated_at_once(at_once: int, monkeypatch: Any) -> None:
    model = MIRL("MultiInputPolicy", DictEnv(), buffer_size=10, seed=0, device="cpu")
    rng = np.random.default_rng(0)
    observations = {"a": th.tensor(rng.normal(size=(10, 4)), dtype=th.float32)}
    column = th.tensor(rng.normal(size=(10, 1)), dtype=th.float32)
    data: Any = ReplayBufferSamples(observations, column.long(), observations, th.zeros(10, 1), column)  # type: ignore[arg-type]
    whole = update.make_batch(model.policy, data, model.update_rule()).targets
    monkeypatch.setattr(update, "CPU_ROWS", at_once)
    th.testing.assert_close(update.make_batch(model.policy, data, model.update_rule()).targets, whole)


class DictEnv(gym.ObservationWrapper[Any, Any, Any]):
    def __init__(self) -> None:
        super().__init__(ScriptedEnv())
        self.observation_space = spaces.Dict(a=self.env.observation_space)

    def observation(self, observation: Any) -> Any:
        return {"a": observation}


def test_bfloat16_warns_where_the_processor_lacks_it(monkeypatch: Any, recwarn: Any) -> None:
    monkeypatch.setattr(soft_dqn, "computes_bfloat16", lambda device: False)
    with pytest.warns(UserWarning, match='"bfloat16" trains slowly on this processor'):
        atari_model(precision="bfloat16")
    recwarn.clear()
    atari_model()
    monkeypatch.setattr(soft_dqn, "computes_bfloat16", lambda device: True)
    atari_model(precision="bfloat16")
    assert not [warning for warning in recwarn if "bfloat16" in str(warning.message)]
