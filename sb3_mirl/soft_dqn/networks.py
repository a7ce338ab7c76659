"""DQN's network: SB3's for everybody who looks at it, and faster while gradients are computed."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.dqn.policies import QNetwork
from torch import nn

from sb3_mirl.maths import action_scores
from sb3_mirl.maths.arrays import at_hand
from sb3_mirl.soft_dqn.mlp import PlainMLP, plain_mlp

LARGE = 2**20
"""Weights of a linear layer whose products cost more than the Python around them: NatureCNN's has 1.6e6."""
LAYOUT_OFF_CPU = th.contiguous_format
"""Of images. Channels-last ones would want such weights, which SB3's ``policy.parameters_to_vector`` does not take."""
FEW = 4
"""Channels of images that are faster cast one by one than together."""


class SoftQNetwork(QNetwork):
    """
    SB3's ``QNetwork``, which ``torch.compile`` takes as a whole for images too. It acts as the policy does that holds it, or
    held it when the network was saved alone.

    :param log_prior: (A,) log rho(a) of that policy, None for argmax_a Q(s, a)
    :param beta: inverse temperature of that policy
    """

    def __init__(self, *args: Any, log_prior: list[float] | None = None, beta: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.log_prior_of_saved, self.beta_of_saved = log_prior, beta
        space = self.observation_space
        parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
        # looked up once: SB3 looks into the arrays of the space at every call
        self.holder: list[Any] = []  # the policy, in a list that hides it from PyTorch: it is not a part of the network
        self._images = {key for key, part in parts.items() if self.normalize_images and is_image_space(part)}

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> th.Tensor:
        """As in SB3."""
        space = self.observation_space
        if isinstance(obs, dict) and isinstance(space, spaces.Dict):
            parts = {key: self._preprocess(key, value, space[key]) for key, value in obs.items()}
            return features_extractor(parts)
        return features_extractor(self._preprocess("", obs, space))

    def _preprocess(self, key: str, obs: Any, space: spaces.Space[Any]) -> Any:
        return obs.float() / 255.0 if key in self._images else preprocess_obs(obs, space, normalize_images=False)

    @property
    def takes_images(self) -> bool:
        """Whether an observation is one image, which is scaled."""
        return "" in self._images

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        q = self(observation)
        if self.holder:
            return self.holder[0].greedy_actions(q)
        if self.log_prior_of_saved is None:
            return q.argmax(-1)
        log_prior = th.tensor(self.log_prior_of_saved, dtype=th.float64, device=q.device)
        return action_scores(q, log_prior, self.beta_of_saved).argmax(-1)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        log_prior, beta = self.log_prior_of_saved, self.beta_of_saved
        if self.holder:
            log_prior, beta = self.holder[0].log_prior.tolist(), float(self.holder[0].beta)
        return {**super()._get_constructor_parameters(), "log_prior": log_prior, "beta": beta}


def plain(network: nn.Module, bfloat16: bool = False) -> PlainMLP | None:
    """
    Return a network in NumPy where that gives the same and is faster, else None.

    :param network: of a :class:`SoftQPolicy`
    :param bfloat16: whether it computes in bfloat16
    """
    if (
        bfloat16
        or type(network) is not SoftQNetwork
        or network._images
        or not isinstance(network.observation_space, spaces.Box)
    ):
        return None
    return plain_mlp(network)


class ByTorch:
    """
    What :class:`~sb3_mirl.soft_dqn.mlp.PlainMLP` does, for any network on the CPU.

    :param network: of a :class:`SoftQPolicy`
    :param bfloat16: whether it computes in bfloat16
    """

    def __init__(self, network: nn.Module, bfloat16: bool) -> None:
        self._network, self._bfloat16 = network, bfloat16
        self._parameters = list(network.parameters())
        self._values = self._norms = th.empty(0)

    def forward(self, observations: PyTorchObs) -> np.ndarray:
        """As in PlainMLP."""
        with th.autocast("cpu", th.bfloat16, enabled=self._bfloat16):
            self._values = self._network(observations).float()
        return cast(np.ndarray, at_hand(self._values))

    def backward(self, grad: np.ndarray) -> None:
        """As in PlainMLP."""
        for parameter in self._parameters:
            parameter.grad = None
        self._values.backward(th.from_numpy(grad))

    def gradient_norm(self) -> float:
        """As in PlainMLP."""
        return math.hypot(*th.stack(th._foreach_norm(self._gradients)).tolist())

    def scale_gradient(self, factor: float) -> None:
        """As in PlainMLP."""
        th._foreach_mul_(self._gradients, factor)

    @property
    def _gradients(self) -> list[th.Tensor]:
        return [p.grad for p in self._parameters if p.grad is not None]


@contextmanager
def optimized(networks: Iterable[nn.Module], bfloat16: bool) -> Iterator[None]:
    """
    A block in which networks compute faster, with the same results up to rounding: images are cast once and in the layout
    that convolutions want, and on the CPU large linear layers compute transposed products (:func:`transposed_linear`) and
    NatureCNN's ReLUs work in place. Outside of the block nothing of it is to be seen. Networks that somebody watches by
    hooks, and those of other classes, stay as they are.

    :param networks: networks of :class:`SoftQPolicy`
    :param bfloat16: whether they compute in bfloat16
    """
    changed: list[nn.Module] = []
    relus: list[nn.ReLU] = []
    for network in networks:
        if not isinstance(network, SoftQNetwork) or _is_watched(network):
            continue
        on_cpu = network.device.type == "cpu"
        if network.takes_images:
            layout = th.channels_last if on_cpu and not bfloat16 and _convolves(network) else LAYOUT_OFF_CPU
            _replace(network, "extract_features", partial(_extract_from_images, layout=layout))
            changed.append(network)
        if on_cpu and not bfloat16:
            for layer in _large_linear_layers(network):
                _replace(layer, "forward", partial(transposed_linear, layer))
                changed.append(layer)
        if on_cpu and type(network.features_extractor) is NatureCNN:
            relus += [layer for layer in network.features_extractor.cnn if isinstance(layer, nn.ReLU) and not layer.inplace]
    try:
        for relu in relus:
            relu.inplace = True
        yield
    finally:
        for relu in relus:
            relu.inplace = False
        for module in changed:
            for name in ("extract_features", "forward"):
                vars(module).pop(name, None)


def transposed_linear(layer: nn.Linear, x: th.Tensor) -> th.Tensor:
    """
    Compute ``layer(x)`` by the transposed products, y' = W x' and dL/dx' = W' (dL/dy)', which MKL computes faster where
    minibatches are as small as DQN's. The result is the same up to rounding.

    :param layer: with a bias
    :param x: (B, I)
    :return: (B, O)
    """
    if x.dim() != 2:
        return nn.functional.linear(x, layer.weight, layer.bias)
    return _TransposedProducts.apply(x, layer.weight, layer.bias)


class _TransposedProducts(th.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: th.Tensor, weight: th.Tensor, bias: th.Tensor) -> th.Tensor:  # (B, I), (O, I), (O,) -> (B, O)
        ctx.save_for_backward(x, weight)
        return th.addmm(bias[:, None], weight, x.t()).t()

    @staticmethod
    @th.autograd.function.once_differentiable
    def backward(ctx: Any, grad: th.Tensor) -> tuple[th.Tensor | None, th.Tensor, th.Tensor]:
        x, weight = ctx.saved_tensors
        grad_x = th.mm(weight.t(), grad.t()).t() if ctx.needs_input_grad[0] else None
        return grad_x, th.mm(grad.t(), x), grad.sum(0)


@dataclass(frozen=True)
class Prepared:
    """Images that have been cast and scaled for an optimized network."""

    images: th.Tensor

    def __getitem__(self, rows: slice) -> "Prepared":
        """Return some of them."""
        return Prepared(self.images[rows])


def prepared(network: nn.Module, observations: Any) -> Any:
    """
    Cast the images of many minibatches together where a launch costs more than the memory: elsewhere than on the CPU.

    :param network: that will be given them, in a block of :func:`optimized`
    :param observations: (B, ...)
    :return: what the network takes in their place
    """
    extract = vars(network).get("extract_features")
    if not isinstance(extract, partial) or not isinstance(observations, th.Tensor) or observations.is_cpu:
        return observations
    return Prepared(_as_floats(observations, extract.keywords["layout"]).div_(255.0))


def _extract_from_images(obs: Any, features_extractor: BaseFeaturesExtractor, layout: th.memory_format) -> th.Tensor:
    """
    As ``BaseModel.extract_features`` for images, which are cast once, to the type in which the network computes, and scaled
    where they lie. SB3 makes a second array of floats, and autocast a third.
    """
    return features_extractor(obs.images if isinstance(obs, Prepared) else _as_floats(obs, layout).div_(255.0))


def _as_floats(images: th.Tensor, layout: th.memory_format) -> th.Tensor:
    dtype = _computes_in(images.device.type)
    if images.dim() != 4:
        return images.to(dtype, copy=True)
    if not images.is_cpu:
        return images.to(dtype, copy=True, memory_format=layout)
    if layout is th.contiguous_format or images.shape[1] > FEW:
        # the layout is cheapest to change while they are uint8
        return images.contiguous(memory_format=layout).to(dtype, copy=True)
    floats = th.empty(images.shape, dtype=dtype, device=images.device, memory_format=layout)
    for channel in range(images.shape[1]):
        floats[:, channel] = images[:, channel]
    return floats


def _computes_in(device_type: str) -> th.dtype:
    return th.get_autocast_dtype(device_type) if th.is_autocast_enabled(device_type) else th.float32


def _replace(module: nn.Module, name: str, function: Any) -> None:
    # in the instance's own dictionary, before the class's method
    vars(module)[name] = function


def _convolves(network: nn.Module) -> bool:
    return any(parameter.dim() == 4 for parameter in network.parameters())


def _large_linear_layers(network: nn.Module) -> list[nn.Linear]:
    linear = [layer for layer in network.modules() if type(layer) is nn.Linear]
    return [layer for layer in linear if layer.bias is not None and layer.weight.numel() >= LARGE]


def _is_watched(network: nn.Module) -> bool:
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in network.modules()
    )
