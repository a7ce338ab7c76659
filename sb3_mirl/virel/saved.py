"""The temperature in files."""

from typing import NoReturn

import torch as th


class TemperatureState(th.nn.Module):
    """
    The temperature as SB3 saves and restores what has a ``state_dict``: by ``save``, ``load``, ``get_parameters`` and
    ``set_parameters``. It is no buffer of the policy, which does not need it to act and stays SB3's.

    :param value: scalar; the buffer is this tensor, not a copy
    """

    value: th.Tensor

    def __init__(self, value: th.Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)


class SavedTemperature:
    """
    The argument ``ent_coef`` in a file of VIREL. SB3's SAC, which would take the file for its own, converts it to a number.

    :param ent_coef: what the user gave
    """

    def __init__(self, ent_coef: str | float) -> None:
        self.ent_coef = ent_coef

    def __float__(self) -> NoReturn:
        raise ValueError(
            "This file was saved by VIREL: load it by sb3_mirl.VIREL.load. SAC can take its networks: make a new model, and "
            "sac.policy.load_state_dict(virel.policy.state_dict())."
        )
