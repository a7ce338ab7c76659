"""Small multilayer perceptrons in NumPy, on the memory of torch's parameters and gradients."""

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch as th
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from sb3_mirl.maths.arrays import at_hand

LARGEST = 2**14
"""Weights of a layer: with more of them torch's products gain what its operators cost."""

_made: WeakKeyDictionary[nn.Module, "PlainMLP"] = WeakKeyDictionary()


def plain_mlp(network: nn.Module) -> "PlainMLP | None":
    """
    Return a Q-network in NumPy, or None where torch does more than the arithmetic of a small perceptron in float32 on the
    CPU: other layers, hooks, frozen or shared parameters, autocast, replaced or compiled methods.

    :param network: as SB3 makes it, of numbers that are not scaled
    """
    made = _made.get(network)
    if made is None or not made.is_current(network):
        layers = _layers_of(network)
        if layers is None:
            return None
        made = _made[network] = PlainMLP(network, layers)
    return None if made.is_watched() else made


def _layers_of(network: nn.Module) -> list[nn.Module] | None:
    extractor, layers = getattr(network, "features_extractor", None), list(getattr(network, "q_net", ()))
    linear, between = layers[::2], layers[1::2]
    parameters = [p for layer in linear for p in (getattr(layer, "weight", None), getattr(layer, "bias", None))]
    replaced = {"forward", "extract_features", "_compiled_call_impl"}
    fits = (
        type(extractor) is FlattenExtractor  # first, as this is asked before every update of other networks
        and not any(replaced & vars(module).keys() for module in network.modules())
        and {type(layer) for layer in linear} == {nn.Linear}
        and {type(layer) for layer in between} in ({nn.ReLU}, {nn.Tanh})
        and len(linear) == len(between) + 1
        and [id(p) for p in parameters] == [id(p) for p in network.parameters()]
        and all(
            type(p) is nn.Parameter
            and p.device.type == "cpu"
            and p.dtype == th.float32
            and p.is_contiguous()  # the fused Adam walks through parameters and gradients in the order of memory
            and p.numel() <= LARGEST
            for p in parameters
        )
    )
    return layers if fits else None


class PlainMLP:
    """
    Forward and backward pass of linear layers with ReLU or Tanh between them. Networks as small as those of classic control
    take several times as long in torch, most of it around the operators.

    :param network: with these layers and nothing else that computes
    :param layers: linear ones, and activations between them
    """

    def __init__(self, network: nn.Module, layers: list[nn.Module]) -> None:
        modules = list(network.modules())
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        self._hooks = [getattr(module, kind) for module in modules for kind in kinds]
        self._attributes = [vars(module) for module in modules[1:]]  # those of the network would keep it alive
        self._submodules = [module._modules for module in modules if module._modules]
        self._structure = self._structure_of(network)
        self._slots = [(layer._parameters, name) for layer in layers[::2] for name in ("weight", "bias")]
        self._is_relu = isinstance(layers[1], nn.ReLU)
        self.parameters = list(network.parameters())
        self._places = [p.data_ptr() for p in self.parameters]
        arrays = [at_hand(p) for p in self.parameters]
        self._weights, self._biases = arrays[::2], arrays[1::2]
        self._gradient = np.zeros(sum(array.size for array in arrays), np.float32)
        parts = np.split(self._gradient, np.cumsum([array.size for array in arrays])[:-1])
        self._grads = [part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]
        self._grad_tensors = [th.from_numpy(grad) for grad in self._grads]
        self._inputs: list[np.ndarray] = []  # of the layers, in the last forward pass

    def is_current(self, network: nn.Module) -> bool:
        """Whether modules, their attributes and the memory of the parameters are what they were."""
        return (
            self._structure == self._structure_of(network)
            and all([slot.get(name) is p for (slot, name), p in zip(self._slots, self.parameters, strict=True)])
            and [p.data_ptr() for p in self.parameters] == self._places
        )

    def is_watched(self) -> bool:
        """Whether torch would call something on the way, compute in another precision, or leave out a gradient."""
        return (
            any(self._hooks)
            or bool(_has_any_global_hook())
            or th.is_autocast_enabled("cpu")
            or any([p._backward_hooks or p._post_accumulate_grad_hooks or not p.requires_grad for p in self.parameters])
        )

    def _structure_of(self, network: nn.Module) -> list[Any]:
        modules = [module for modules in self._submodules for module in modules.values()]
        return [len(vars(network)), *map(len, self._attributes), *modules]

    def forward(self, observations: Any) -> np.ndarray:
        """
        Return the values of observations, (B, A).

        :param observations: (B, ...) numbers
        """
        x = np.asarray(at_hand(observations), np.float32).reshape(len(observations), -1)
        self._inputs = [x]
        for weight, bias in zip(self._weights[:-1], self._biases[:-1], strict=True):
            x = x @ weight.T
            x += bias
            x = np.maximum(x, 0, out=x) if self._is_relu else np.tanh(x, out=x)
            self._inputs.append(x)
        return x @ self._weights[-1].T + self._biases[-1]

    def backward(self, grad: np.ndarray) -> None:
        """
        Write the gradients of the parameters into their ``grad``.

        :param grad: (B, A) of the values of the last forward pass
        """
        for i in reversed(range(len(self._weights))):
            x = self._inputs[i]
            np.matmul(grad.T, x, out=self._grads[2 * i])
            grad.sum(0, out=self._grads[2 * i + 1])
            if i > 0:
                grad = grad @ self._weights[i]
                grad *= x > 0 if self._is_relu else 1 - x * x
        for parameter, tensor in zip(self.parameters, self._grad_tensors, strict=True):
            parameter.grad = tensor

    def gradient_norm(self) -> float:
        """Return the 2-norm of all gradients."""
        return float(np.dot(self._gradient, self._gradient)) ** 0.5

    def scale_gradient(self, factor: float) -> None:
        """Multiply all gradients."""
        self._gradient *= np.float32(factor)
