"""DQN's network, as fast as the CPU's kernels allow."""

from typing import Any

import torch as th
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.dqn.policies import QNetwork
from torch import nn

LARGE = 2**20
"""Weights of a linear layer whose products cost more than the Python around them: NatureCNN's has 1.6e6."""
FEW = 4
"""Channels of images that are faster cast one by one than together."""


class SoftQNetwork(QNetwork):
    """
    SB3's ``QNetwork``: images are cast once, to the type in which the network computes, and scaled where they lie. SB3
    makes a second array of floats, and autocast a third. Same results to the last bit, but for :meth:`suit_cpu`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._scales_images = self.normalize_images and is_image_space(self.observation_space)
        self._images_layout = th.contiguous_format

    def suit_cpu(self, bfloat16: bool) -> None:
        """
        Lays out the convolutions' weights, and the images, as the CPU's kernels want them, lets ReLUs work in place, and
        large linear layers compute their products in :class:`TransposedLinear`'s order. Up to rounding, values are the same.

        :param bfloat16: whether the network computes in bfloat16: the gradient of its first convolution is twice as fast in
            the images' own layout
        """
        kernels = [p for p in self.parameters() if p.dim() == 4]
        for kernel in kernels[1:] if bfloat16 else kernels:
            kernel.data = kernel.data.contiguous(memory_format=th.channels_last)
        self._images_layout = th.channels_last if kernels and not bfloat16 else th.contiguous_format
        if not bfloat16:
            _transpose_large_products(self)
        if type(self.features_extractor) is NatureCNN:
            for relu in (layer for layer in self.features_extractor.cnn if isinstance(layer, nn.ReLU)):
                relu.inplace = True

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> th.Tensor:
        """As in SB3."""
        if not self._scales_images or not isinstance(obs, th.Tensor):
            return super().extract_features(obs, features_extractor)
        return features_extractor(self._as_floats(obs).div_(255.0))

    def _as_floats(self, images: th.Tensor) -> th.Tensor:
        dtype, layout = _computes_in(images.device.type), self._images_layout
        if images.dim() != 4:
            return images.to(dtype, copy=True)
        if layout is th.contiguous_format or images.shape[1] > FEW:
            # the layout is cheapest to change while they are uint8
            return images.contiguous(memory_format=layout).to(dtype, copy=True)
        floats = th.empty(images.shape, dtype=dtype, device=images.device, memory_format=layout)
        for channel in range(images.shape[1]):
            floats[:, channel] = images[:, channel]
        return floats


class TransposedLinear(nn.Linear):
    """
    ``nn.Linear`` by the transposed products, y' = W x' and dL/dx' = W' (dL/dy)', which MKL computes faster where minibatches
    are as small as DQN's. Same results up to rounding.
    """

    def forward(self, x: th.Tensor) -> th.Tensor:
        """As in ``nn.Linear``."""
        if x.dim() != 2:
            return super().forward(x)
        return _TransposedProducts.apply(x, self.weight, self.bias)


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


def _transpose_large_products(network: nn.Module) -> None:
    for layer in network.modules():
        if type(layer) is nn.Linear and layer.bias is not None and layer.weight.numel() >= LARGE:
            layer.__class__ = TransposedLinear


def _computes_in(device_type: str) -> th.dtype:
    return th.get_autocast_dtype(device_type) if th.is_autocast_enabled(device_type) else th.float32
