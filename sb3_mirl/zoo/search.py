"""What ``-optimize`` samples: the zoo's ranges for DQN, SAC and A2C, and what our algorithms add to them."""

from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import sample_a2c_params, sample_dqn_params, sample_sac_params


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


def sample_softa2c_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """
    One set of hyperparameters for SoftA2C.

    :param trial: Optuna's trial
    :param n_actions: unused, as in the zoo's sampler for A2C
    :param n_envs: unused
    :param additional_args: unused
    :return: arguments of SoftA2C
    """
    return {
        **sample_a2c_params(trial, n_actions, n_envs, additional_args),
        "entropy": trial.suggest_categorical("entropy", ["proper", "naive"]),
        "update": trial.suggest_categorical("update", ["policy_gradient", "soft_q"]),
        "vf_coef": trial.suggest_float("vf_coef", 0.1, 1.0),
    }


def sample_softpqn_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """
    One set of hyperparameters for SoftPQN.

    :param trial: Optuna's trial
    :param n_actions: unused
    :param n_envs: unused
    :param additional_args: unused
    :return: arguments of SoftPQN
    """
    sampled = {
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 0.0001, 0.03, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 2e-3, log=True),
        "n_steps": trial.suggest_categorical("n_steps", [16, 32, 64, 128]),
        "n_epochs": trial.suggest_int("n_epochs", 1, 4),
        # powers of 2 that divide any of the above
        "n_minibatches": trial.suggest_categorical("n_minibatches", [2, 4, 8, 16]),
        "q_lambda": trial.suggest_float("q_lambda", 0.0, 1.0),
        "exploration": trial.suggest_categorical("exploration", ["epsilon", "boltzmann"]),
        # 1/reward: from hardly any to hardly no regularisation for values between 1 and 100
        "beta_init": trial.suggest_float("beta_init", 1e-1, 1e3, log=True),
        "exploration_fraction": trial.suggest_float("exploration_fraction", 0.05, 0.5),
        "exploration_final_eps": trial.suggest_float("exploration_final_eps", 0.001, 0.2),
    }
    return convert_softpqn_params(sampled)


def convert_softpqn_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Turn the sampled values of SoftPQN into arguments.

    :param sampled_params: what Optuna stored
    :return: arguments of SoftPQN
    """
    others = {name: value for name, value in sampled_params.items() if name != "one_minus_gamma"}
    return {**others, "gamma": 1 - sampled_params["one_minus_gamma"]}


def _sample_shared(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    return {
        **sample_dqn_params(trial, n_actions, n_envs, additional_args),
        # 1/reward: from hardly any to hardly no regularisation for values between 1 and 100
        "beta_init": trial.suggest_float("beta_init", 1e-2, 1e2, log=True),
        # averages over 100 to 1e5 gradient updates
        "beta_lr": trial.suggest_float("beta_lr", 1e-5, 1e-2, log=True),
        "beta_max": trial.suggest_float("beta_max", 1e1, 1e4, log=True),
    }
