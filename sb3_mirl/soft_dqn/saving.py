"""How SoftDQN is saved and loaded: files that are whole, and weights without code."""

import io
import pathlib
from collections.abc import Iterable
from functools import partial
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.dqn.dqn import DQN

from sb3_mirl.common.files import check_archive, write_whole
from sb3_mirl.soft_dqn import weights
from sb3_mirl.soft_dqn.policies import SoftQPolicy

SelfSavingDQN = TypeVar("SelfSavingDQN", bound="SavingDQN")
Path = str | pathlib.Path | io.BufferedIOBase


class SavingDQN(DQN):
    """DQN whose files replace older ones only when they are whole."""

    policy: SoftQPolicy
    beta_schedule: str
    beta_max: float

    def save(self, path: Path, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """
        As in SB3; an older file is replaced only when the new one is whole.

        :param path: file name or open file
        :param exclude: attributes not to save, beside those that are never saved
        :param include: attributes to save although they would not be
        """
        write_whole(path, "zip", partial(super().save, exclude=exclude, include=include))

    def save_replay_buffer(self, path: Path) -> None:
        """
        As in SB3; an older file is replaced only when the new one is whole, so that there must be room for both.

        :param path: file name or open file
        """
        write_whole(path, "pkl", super().save_replay_buffer)

    @classmethod
    def load(
        cls: type[SelfSavingDQN],
        path: Path,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfSavingDQN:
        """
        As in SB3: a new model with the arguments, weights and counters of the file.

        .. warning::
            SB3's files hold pickled objects, which can run any code when they are loaded. Load only files that you
            trust; for others make the model yourself and give it the file's weights by :meth:`load_weights`.

        :param path: file name (with or without ".zip") or open file
        :param env: environment to continue in; None for an agent that only acts
        :param device: "auto", "cpu", "cuda", ...
        :param custom_objects: replacements of saved attributes that cannot be unpickled
        :param print_system_info: print where the model was saved, and where it is loaded
        :param force_reset: reset the environment before training goes on
        :param kwargs: arguments to change
        :return: the model
        :raises ValueError: if the file is damaged, or of another algorithm, or the environment has other spaces
        """
        check_archive(path, ("data", "policy.pth", "policy.optimizer.pth"), f"{cls.__name__}.save")
        return super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)

    def load_weights(self, path: str | pathlib.Path) -> None:
        """
        Takes networks, beta, prior and action counts from a file of unknown origin: nothing in it is executed.

        Everything is checked before anything changes. Optimiser, counters and replay memory stay what they are.

        :param path: a file of ``model.save`` (of which only the member ``policy.pth`` is read), or one of
            ``torch.save(model.policy.state_dict(), path)``
        :raises OSError: if the file cannot be opened
        :raises ValueError: if it is damaged, of another network, or holds anything but valid weights
        """
        beta_max = th.inf if self.beta_schedule == "constant" else self.beta_max
        self.policy.load_state_dict(weights.read_weights(path, self.policy, beta_max))
