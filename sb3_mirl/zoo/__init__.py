"""
The algorithms of this package for the RL Zoo; importing this module registers them as ``mirl``, ``softdqn``, ...

``sb3_mirl <command> ...`` (or ``python -m sb3_mirl``) does so by itself. The zoo's own commands do it too where they find
a module of the name ``custom_envs``, which the zoo imports before it reads its arguments. Put a file ``custom_envs.py``
into the folder from which you start them (or another one on the ``PYTHONPATH``), with the line::

    import sb3_mirl.zoo

Then ``python -m rl_zoo3.train --algo mirl --env CartPole-v1`` works, and so do the commands that start others
(``record_training``, ``benchmark``). The zoo hides errors of that import: if it says that ``mirl`` is an invalid choice,
``python -c "import custom_envs"`` shows why.

Beside the algorithms this registers MinAtar's games where ``minatar`` is installed, the hyperparameter search for
``-optimize``, and :class:`~sb3_mirl.zoo.experiment.Experiment`, which finds the shipped configurations.
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

from sb3_mirl.common.extras import extra

with extra("zoo"):
    from rl_zoo3 import ALGOS
    from rl_zoo3.hyperparams_opt import (
        HYPERPARAMS_CONVERTER,
        HYPERPARAMS_SAMPLER,
        convert_offpolicy_params,
        convert_onpolicy_params,
    )

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_mirl.continuous_sql import ContinuousSQL
from sb3_mirl.mirl import MIRL
from sb3_mirl.soft_a2c import SoftA2C, SoftPQN
from sb3_mirl.soft_dqn import SoftDQN
from sb3_mirl.virel import VIREL
from sb3_mirl.zoo import search
from sb3_mirl.zoo.patches import restore_generate_metadata

__all__ = ["ALGORITHMS", "Registration", "register"]


class Registration(NamedTuple):
    """
    An algorithm as the zoo needs it.

    :param algorithm: its class
    :param sample: draws hyperparameters for ``-optimize``, as arguments of the class
    :param convert: turns the parameters of a trial into hyperparameters of a configuration, for ``--trial-id``
    """

    algorithm: type[BaseAlgorithm]
    sample: Callable[..., dict[str, Any]]
    convert: Callable[[dict[str, Any]], dict[str, Any]]


ALGORITHMS = {
    "mirl": Registration(MIRL, search.sample_mirl_params, search.convert_params),
    "softdqn": Registration(SoftDQN, search.sample_softdqn_params, search.convert_params),
    "virel": Registration(VIREL, search.sample_virel_params, convert_offpolicy_params),
    "continuoussql": Registration(ContinuousSQL, search.sample_continuoussql_params, search.convert_continuoussql_params),
    "softa2c": Registration(SoftA2C, search.sample_softa2c_params, convert_onpolicy_params),
    "softpqn": Registration(SoftPQN, search.sample_softpqn_params, search.convert_softpqn_params),
}
"""One line for each algorithm, by the name in ``--algo`` and in ``zoo_configs/``."""


def register() -> None:
    """Tell the zoo about the algorithms, how to search their hyperparameters, and where their configurations are."""
    for name, (algorithm, sample, convert) in ALGORITHMS.items():
        ALGOS[name], HYPERPARAMS_SAMPLER[name] = algorithm, sample
        HYPERPARAMS_CONVERTER[name] = convert  # type: ignore[assignment]
    if find_spec("minatar"):
        from minatar.gym import register_envs

        register_envs()
    restore_generate_metadata()
    # The zoo's record_video, through custom_envs, is here in the middle of importing exp_manager: there is no class yet
    # to extend, and it needs none.
    half_imported = sys.modules.get("rl_zoo3.exp_manager")
    if half_imported is None or hasattr(half_imported, "ExperimentManager"):
        from sb3_mirl.zoo.experiment import install

        install()


register()
