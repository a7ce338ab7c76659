"""The part of SB3's ``VecEnv`` contract that asks sub-environments, for those that live in one C++ object."""

import os
import sys
from abc import ABC
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices


class SharedAttributesVecEnv(VecEnv, ABC):
    """
    ``get_attr``, ``set_attr``, ``env_method``, ``env_is_wrapped`` and ``render`` without Python objects to ask.

    A subclass names the attributes that may change (``mutable_attributes``), those that differ between
    sub-environments (``individual_attributes``: properties with one value each), and the methods that ``env_method`` may
    call (``shared_methods``: they take the arguments and answer for any one sub-environment).
    """

    mutable_attributes: ClassVar[tuple[str, ...]] = ()
    individual_attributes: ClassVar[tuple[str, ...]] = ()
    shared_methods: ClassVar[tuple[str, ...]] = ()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        Return an attribute of each sub-environment; one that they share is repeated.

        :raises AttributeError: if no attribute has that name
        """
        user_attributes = self._user_attributes()
        if attr_name in user_attributes:
            values = user_attributes[attr_name]
            if any(i not in values for i in self._targets(indices)):
                raise AttributeError(f"attribute {attr_name!r} was set for the sub-environments {sorted(values)} only")
            return [values[i] for i in self._targets(indices)]
        if attr_name.startswith("_") or not hasattr(self, attr_name):
            raise AttributeError(f"{type(self).__name__} has no attribute {attr_name!r}")
        value = getattr(self, attr_name)
        return [value[i] if attr_name in self.individual_attributes else value for i in self._targets(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        Set an attribute; new names are kept per sub-environment, for :meth:`get_attr` alone.

        :raises AttributeError: for an attribute that is fixed once the C++ side exists, or that can only be set for all
            sub-environments at once
        """
        targets = self._targets(indices)
        if attr_name in self.mutable_attributes:
            if set(targets) != set(range(self.num_envs)):
                raise AttributeError(f"{attr_name!r} is shared by all sub-environments: set it without `indices`")
            setattr(self, attr_name, value)
        elif hasattr(self, attr_name):
            raise AttributeError(f"{attr_name!r} of {type(self).__name__} is fixed: give it to the constructor")
        else:
            self._user_attributes().setdefault(attr_name, {}).update(dict.fromkeys(targets, value))

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """
        Call one of ``shared_methods`` for each sub-environment.

        :raises AttributeError: for any other method
        """
        if method_name not in self.shared_methods:
            raise AttributeError(
                f"{type(self).__name__} has no method {method_name!r} per sub-environment: these live in C++ and offer "
                f"{', '.join(self.shared_methods)}"
            )
        return [getattr(self, method_name)(*method_args, **method_kwargs) for _ in self._targets(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Return True for ``Monitor``, whose ``infos["episode"]`` these environments give, and False for other wrappers."""
        return [issubclass(wrapper_class, Monitor) for _ in self._targets(indices)]

    def render(self, mode: str | None = None) -> np.ndarray | None:
        """
        Return the newest frames, tiled, or with ``mode="human"`` show them in a window.

        :raises RuntimeError: if no window can be opened
        """
        advice = 'use render("rgb_array"), or record a film with VecVideoRecorder'
        # OpenCV would end the process
        if mode == "human" and sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
            raise RuntimeError(f"render('human') opens a window, and this process has no display: {advice}")
        try:
            return super().render(mode)
        except Exception as error:
            # cv2.error, where OpenCV is built without windows
            if mode != "human" or type(error).__module__ != "cv2":
                raise
            raise RuntimeError(f"render('human') cannot open a window ({error}): {advice}") from error

    def _targets(self, indices: VecEnvIndices) -> list[int]:
        targets = list(self._get_indices(indices))
        for i in targets:
            if not -self.num_envs <= i < self.num_envs:
                raise IndexError(f"sub-environment {i} of {self.num_envs}")
        return [i % self.num_envs for i in targets]

    def _user_attributes(self) -> dict[str, dict[int, Any]]:
        return self.__dict__.setdefault("_set_by_user", {})
