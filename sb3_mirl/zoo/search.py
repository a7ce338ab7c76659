"""What ``-optimize`` samples: the zoo's ranges for DQN and SAC, and what our algorithms add to them."""

from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import sample_dqn_params, sample_sac_params


def sample_softdqn_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """
    One set of hyperparameters for SoftDQN.

    :param trial: Optuna's trial
    :param n_actions: unused, as in the zoo's sampler for DQN
    :param n_envs: unused
    :param additional_args: the zoo's: whether HER is used, and its arguments
    :return: arguments of SoftDQN
    """
    exploration = trial.suggest_categorical("exploration", ["uniform", "marginal"])
    return {**_sample_shared(trial, n_actions, n_envs, additional_args), "exploration": exploration}


def sample_mirl_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """
    One set of hyperparameters for MIRL.

    :param trial: Optuna's trial
    :param n_actions: unused, as in the zoo's sampler for DQN
    :param n_envs: unused
    :param additional_args: the zoo's: whether HER is used, and its arguments
    :return: arguments of MIRL
    """
    return {
        **_sample_shared(trial, n_actions, n_envs, additional_args),
        # averages over 100 to 1e6 environment steps
        "prior_lr": trial.suggest_float("prior_lr", 1e-6, 1e-2, log=True),
        "exploration_mix": trial.suggest_float("exploration_mix", 0.0, 1.0),
    }


def sample_virel_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """
    One set of hyperparameters for VIREL.

    :param trial: Optuna's trial
    :param n_actions: unused, as in the zoo's sampler for SAC
    :param n_envs: unused
    :param additional_args: the zoo's: whether HER is used, and its arguments
    :return: arguments of VIREL
    """
    return {
        **sample_sac_params(trial, n_actions, n_envs, additional_args),
        # 1/reward: from greedy at once to as hot as the critics' errors
        "residual_scale": trial.suggest_float("residual_scale", 1e-4, 1e1, log=True),
        # averages over 1 to 100 gradient updates
        "residual_lr": trial.suggest_float("residual_lr", 1e-2, 1.0, log=True),
    }


def _sample_shared(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    return {
        **sample_dqn_params(trial, n_actions, n_envs, additional_args),
        # 1/reward: from hardly any to hardly no regularisation for values between 1 and 100
        "beta_init": trial.suggest_float("beta_init", 1e-2, 1e2, log=True),
        # averages over 100 to 1e5 gradient updates
        "beta_lr": trial.suggest_float("beta_lr", 1e-5, 1e-2, log=True),
        "beta_max": trial.suggest_float("beta_max", 1e1, 1e4, log=True),
    }
