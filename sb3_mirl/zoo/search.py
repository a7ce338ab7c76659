"""
What ``-optimize`` samples. For SoftDQN and MIRL the ranges hold every value in ``zoo_configs/``; the zoo's own for DQN do
not, and leave out n-step returns, averaged target networks and falling learning rates.

Each sampler takes what the zoo gives, Optuna's trial, the numbers of actions and of environments, and whether HER is used with
its arguments, and returns arguments of its class.
"""

from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import convert_offpolicy_params, sample_a2c_params, sample_sac_params

from sb3_mirl.hyperparameters import resolve

NET_ARCHS = {"none": [], "tiny": [64], "small": [64, 64], "medium": [256, 256], "big": [400, 300]}  # units


def sample_softdqn_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """Sample one set of hyperparameters for SoftDQN."""
    params = _sample_shared(trial, n_envs, additional_args)
    params["exploration"] = trial.suggest_categorical("exploration", ["uniform", "marginal"])
    return _arguments(params, additional_args)


def sample_mirl_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """Sample one set of hyperparameters for MIRL."""
    params = _sample_shared(trial, n_envs, additional_args)
    # averages over 100 to 1e6 environment steps
    params["prior_lr"] = trial.suggest_float("prior_lr", 1e-6, 1e-2, log=True)
    params["exploration_mix"] = trial.suggest_float("exploration_mix", 0.0, 1.0)
    return _arguments(params, additional_args)


def sample_virel_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """Sample one set of hyperparameters for VIREL."""
    return {
        **sample_sac_params(trial, n_actions, n_envs, additional_args),
        # 1/reward: from greedy at once to as hot as the critics' errors
        "residual_scale": trial.suggest_float("residual_scale", 1e-4, 1e1, log=True),
        # averages over 1 to 100 gradient updates
        "residual_lr": trial.suggest_float("residual_lr", 1e-2, 1.0, log=True),
    }


def sample_continuoussql_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Sample one set of hyperparameters for ContinuousSQL.

    :param trial: Optuna's trial
    :param n_actions: unused, as in the zoo's sampler for SAC
    :param n_envs: unused
    :param additional_args: the zoo's: whether HER is used, and its arguments
    :return: arguments of ContinuousSQL
    """
    return {
        **sample_sac_params(trial, n_actions, n_envs, additional_args),
        "target_update_interval": 1,
        "sampler_learning_rate": trial.suggest_float("sampler_learning_rate", 1e-5, 2e-3, log=True),
        # reward: from hardly any to much randomness for rewards of about 1
        "ent_coef": trial.suggest_float("ent_coef", 1e-3, 1e1, log=True),
        "value_sampling": trial.suggest_categorical("value_sampling", ["mixture", "uniform"]),
    }


def convert_continuoussql_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Turn the sampled values of ContinuousSQL into arguments: the target critics follow at every update.

    :param sampled_params: what Optuna stored
    :return: arguments of ContinuousSQL
    """
    return {**convert_offpolicy_params(sampled_params), "target_update_interval": 1}


def sample_softa2c_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """Sample one set of hyperparameters for SoftA2C."""
    return {
        **sample_a2c_params(trial, n_actions, n_envs, additional_args),
        "entropy": trial.suggest_categorical("entropy", ["proper", "naive"]),
        "update": trial.suggest_categorical("update", ["policy_gradient", "soft_q"]),
        "vf_coef": trial.suggest_float("vf_coef", 0.1, 1.0),
    }


def sample_softpqn_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """Sample one set of hyperparameters for SoftPQN."""
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
    """Turn the sampled values of SoftPQN into arguments."""
    others = {name: value for name, value in sampled_params.items() if name != "one_minus_gamma"}
    return {**others, "gamma": 1 - sampled_params["one_minus_gamma"]}


def convert_params(params: dict[str, Any]) -> dict[str, Any]:
    """Return what a trial of SoftDQN or MIRL has sampled in the dialect of the zoo's configurations, for ``--trial-id``."""
    values = dict(params)
    values["gamma"] = 1 - values.pop("one_minus_gamma")
    values["batch_size"] = 2 ** values.pop("batch_size_pow")
    if values.pop("learning_rate_schedule") == "linear":
        values["learning_rate"] = f"lin_{values['learning_rate']}"
    if values.pop("target") == "copied":
        values["tau"] = 1.0
    else:
        values["target_update_interval"] = 1
    values["policy_kwargs"] = {"net_arch": NET_ARCHS[values.pop("net_arch")]}
    values["beta_max"] = max(values["beta_max"], values["beta_init"])
    her = {name: values.pop(name) for name in ("n_sampled_goal", "goal_selection_strategy") if name in values}
    return {**values, "replay_buffer_kwargs": her} if her else values


def _sample_shared(trial: optuna.Trial, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """Sample the dimensions that SoftDQN and MIRL have, for :func:`convert_params`."""
    train_freq = trial.suggest_int("train_freq", 1, 16)  # calls of env.step
    params: dict[str, Any] = {
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 1e-4, 0.03, log=True),
        "batch_size_pow": trial.suggest_int("batch_size_pow", 2, 11),
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True),
        "learning_rate_schedule": trial.suggest_categorical("learning_rate_schedule", ["constant", "linear"]),
        "train_freq": train_freq,
        # up to one per environment step
        "gradient_steps": trial.suggest_int("gradient_steps", 1, train_freq * n_envs, log=True),
        "exploration_fraction": trial.suggest_float("exploration_fraction", 0.0, 0.5),
        "exploration_final_eps": trial.suggest_float("exploration_final_eps", 0.0, 0.2),
        "target": trial.suggest_categorical("target", ["copied", "averaged"]),
        "net_arch": trial.suggest_categorical("net_arch", list(NET_ARCHS)),
        # 1/reward: from hardly any to hardly no regularisation for values between 1 and 100
        "beta_init": trial.suggest_float("beta_init", 1e-2, 1e4, log=True),
        # averages over 100 to 1e6 gradient updates
        "beta_lr": trial.suggest_float("beta_lr", 1e-6, 1e-2, log=True),
        "beta_max": trial.suggest_float("beta_max", 1e1, 1e4, log=True),
    }
    if params["target"] == "copied":
        params["target_update_interval"] = trial.suggest_int("target_update_interval", 1, 40_000, log=True)
    else:
        params["tau"] = trial.suggest_float("tau", 1e-3, 0.1, log=True)
    if additional_args["using_her_replay_buffer"]:  # which makes no n-step returns
        params["n_sampled_goal"] = trial.suggest_int("n_sampled_goal", 1, 5)
        strategies = ["final", "episode", "future"]
        params["goal_selection_strategy"] = trial.suggest_categorical("goal_selection_strategy", strategies)
    else:
        params["n_steps"] = trial.suggest_int("n_steps", 1, 10)
    trial.set_user_attr("gamma", 1 - params["one_minus_gamma"])
    trial.set_user_attr("batch_size", 2 ** params["batch_size_pow"])
    return params


def _arguments(params: dict[str, Any], additional_args: dict[str, Any]) -> dict[str, Any]:
    arguments = {name: resolve(name, value) for name, value in convert_params(params).items()}
    if "replay_buffer_kwargs" in arguments:
        arguments["replay_buffer_kwargs"] = {**additional_args["her_kwargs"], **arguments["replay_buffer_kwargs"]}
    return arguments
