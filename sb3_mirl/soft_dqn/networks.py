"""DQN's network, with images prepared for it in one pass."""

from typing import Any

import torch as th
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.dqn.policies import QNetwork


class SoftQNetwork(QNetwork):
    """
    SB3's ``QNetwork``, to the last bit: images are cast once, to the type in which the network computes, and scaled where
    they lie. SB3 makes a second array of floats, and autocast a third.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._scales_images = self.normalize_images and is_image_space(self.observation_space)
        self._images_layout = th.contiguous_format

    def use_channels_last(self, first: bool) -> None:
        """
        Lays out the convolutions' weights, and the images, as the CPU's kernels want them; values are the same.

        :param first: the first convolution too
        """
        kernels = [p for p in self.parameters() if p.dim() == 4]
        for kernel in kernels if first else kernels[1:]:
            kernel.data = kernel.data.contiguous(memory_format=th.channels_last)
        self._images_layout = th.channels_last if first and kernels else th.contiguous_format

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> th.Tensor:
        """As in SB3."""
        if not self._scales_images or not isinstance(obs, th.Tensor):
            return super().extract_features(obs, features_extractor)
        # the layout is cheapest to change while they are uint8
        images = obs.contiguous(memory_format=self._images_layout) if obs.dim() == 4 else obs
        return features_extractor(images.to(_computes_in(obs.device.type), copy=True).div_(255.0))


def _computes_in(device_type: str) -> th.dtype:
    return th.get_autocast_dtype(device_type) if th.is_autocast_enabled(device_type) else th.float32
