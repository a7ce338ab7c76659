"""
The algorithms of this package for the RL Zoo; importing this module registers them: ``softdqn``, ``mirl``, ``virel``,
``softa2c`` and ``softpqn``.

``python -m sb3_mirl <command> ...`` does so by itself. The zoo's own commands do it too where they find a module of the
name ``custom_envs``, which the zoo imports before it reads its arguments. Put a file ``custom_envs.py`` into the folder
from which you start them (or another one on the ``PYTHONPATH``), with the line::

    import sb3_mirl.zoo

Then ``python -m rl_zoo3.train --algo mirl --env CartPole-v1`` works, and so do the commands that start others
(``record_training``, ``benchmark``). The zoo hides errors of that import: if it says that ``mirl`` is an invalid choice,
``python -c "import custom_envs"`` shows why.

Beside the algorithms this registers MinAtar's games where ``minatar`` is installed, the hyperparameter search for
``-optimize``, and :class:`~sb3_mirl.zoo.experiment.Experiment`, which finds the shipped configurations.
"""

import sys
from importlib.util import find_spec

from rl_zoo3 import ALGOS
from rl_zoo3.hyperparams_opt import (
    HYPERPARAMS_CONVERTER,
    HYPERPARAMS_SAMPLER,
    convert_offpolicy_params,
    convert_onpolicy_params,
)

from sb3_mirl.mirl import MIRL
from sb3_mirl.soft_a2c import SoftA2C, SoftPQN
from sb3_mirl.soft_dqn import SoftDQN
from sb3_mirl.virel import VIREL
from sb3_mirl.zoo.hub import restore_generate_metadata
from sb3_mirl.zoo.search import (
    convert_softpqn_params,
    sample_mirl_params,
    sample_softa2c_params,
    sample_softdqn_params,
    sample_softpqn_params,
    sample_virel_params,
)

__all__ = ["register"]


def register() -> None:
    """Tells the zoo about the algorithms, how to search their hyperparameters, and where their configurations are."""
    ALGOS.update(softdqn=SoftDQN, mirl=MIRL)
    ALGOS.update(virel=VIREL)
    HYPERPARAMS_SAMPLER.update(softdqn=sample_softdqn_params, mirl=sample_mirl_params)
    HYPERPARAMS_CONVERTER.update(softdqn=convert_offpolicy_params, mirl=convert_offpolicy_params)
    HYPERPARAMS_SAMPLER.update(virel=sample_virel_params)
    HYPERPARAMS_CONVERTER.update(virel=convert_offpolicy_params)
    ALGOS.update(softa2c=SoftA2C, softpqn=SoftPQN)
    HYPERPARAMS_SAMPLER.update(softa2c=sample_softa2c_params, softpqn=sample_softpqn_params)
    HYPERPARAMS_CONVERTER.update(softa2c=convert_onpolicy_params, softpqn=convert_softpqn_params)
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
