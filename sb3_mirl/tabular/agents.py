"""The agents of Grau-Moya et al. (2019), section 5.1: Q-learning, soft Q-learning, and MIRL.

    QLearning("MirlCorridor-v0", seed=0).learn(250_000, eval_freq=100)

With a ``P`` table in the environment (the gridworlds, FrozenLake, ...) the whole loop is compiled; any other environment with
discrete observations and actions is stepped. Defaults are the paper's (Table 2 and section 5.1) and, for the exploration
while learning, its authors' (public reproduction report).
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Literal

import gymnasium as gym
from tqdm.rich import tqdm

from sb3_mirl.common.arguments import check_range
from sb3_mirl.common.workers import usable_cpus
from sb3_mirl.tabular.agent import Agent, TabularAgent
from sb3_mirl.tabular.kernels import MARGINAL, PRIOR, UNIFORM, Rule

BetaSchedule = Literal["linear", "constant"]


class QLearning(TabularAgent):
    """Q-learning (Watkins 1989) with alpha_Q = n(s,a)^-omega.

    :param env: an environment with discrete observations and actions, or the id of one
    :param gamma: discount
    :param omega: exponent of the learning rate
    :param epsilon: exploration while learning
    :param eval_epsilon: exploration in evaluations and in ``predict(deterministic=False)``
    :param seed: of everything random
    :param eval_env: see ``TabularAgent``
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | str,
        gamma: float = 0.99,
        omega: float = 0.8,
        epsilon: float = 0.1,
        eval_epsilon: float = 0.05,
        seed: int | None = None,
        eval_env: gym.Env[Any, Any] | None = None,
    ) -> None:
        rule = Rule(gamma, omega, epsilon, UNIFORM, math.inf, 0.0, 0.0, 0.0)
        super().__init__(env, rule, eval_epsilon, seed, eval_env)


class SoftQLearning(TabularAgent):
    """Soft Q-learning with a fixed uniform prior (Fox, Pakman and Tishby 2016): the paper's SQL and SQL_m.

    :param env: as for ``QLearning``, with ``gamma``, ``omega``, ``epsilon``, ``eval_epsilon``, ``seed`` and ``eval_env``
    :param exploration: explore "uniform"ly (SQL), or by the frequencies of all actions executed so far ("marginal": SQL_m)
    :param beta_schedule: "linear", beta = max(c i, c) at step i, or "constant"
    :param beta_init: the beta of "constant"
    :param beta_slope: the c of "linear", per step
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | str,
        exploration: Literal["uniform", "marginal"] = "uniform",
        gamma: float = 0.99,
        omega: float = 0.8,
        epsilon: float = 0.1,
        eval_epsilon: float = 0.05,
        beta_schedule: BetaSchedule = "linear",
        beta_init: float = 1.0,
        beta_slope: float = 1e-3,
        seed: int | None = None,
        eval_env: gym.Env[Any, Any] | None = None,
    ) -> None:
        codes = {"uniform": UNIFORM, "marginal": MARGINAL}
        if exploration not in codes:
            raise ValueError(f"exploration must be 'uniform' or 'marginal', got {exploration!r}")
        beta, slope = _schedule(beta_schedule, beta_init, beta_slope)
        rule = Rule(gamma, omega, epsilon, codes[exploration], beta, slope, 0.0, 0.0)
        super().__init__(env, rule, eval_epsilon, seed, eval_env)


class TabularMIRL(TabularAgent):
    """Soft Q-learning with a learned prior: MIRL (Grau-Moya et al. 2019, section 4.1).

    :param env: as for ``QLearning``, with ``gamma``, ``omega``, ``epsilon``, ``eval_epsilon``, ``seed`` and ``eval_env``
    :param prior_lr: alpha_rho of Eq. (11), per step
    :param prior_decay: 0 keeps alpha_rho; d > 0 lets it fall as prior_lr / (1 + prior_lr i)^d, under which the prior
        converges (1/2 < d <= 1)
    :param beta_schedule: as for ``SoftQLearning``, with ``beta_init`` and ``beta_slope``
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | str,
        prior_lr: float = 2e-3,
        prior_decay: float = 0.0,
        gamma: float = 0.99,
        omega: float = 0.8,
        epsilon: float = 0.1,
        eval_epsilon: float = 0.05,
        beta_schedule: BetaSchedule = "linear",
        beta_init: float = 1.0,
        beta_slope: float = 1e-3,
        seed: int | None = None,
        eval_env: gym.Env[Any, Any] | None = None,
    ) -> None:
        check_range("prior_decay", prior_decay, 0, math.inf, high_open=True)
        beta, slope = _schedule(beta_schedule, beta_init, beta_slope)
        rule = Rule(gamma, omega, epsilon, PRIOR, beta, slope, prior_lr, prior_decay)
        super().__init__(env, rule, eval_epsilon, seed, eval_env)


def _schedule(name: str, beta_init: float, beta_slope: float) -> tuple[float, float]:
    """(beta, slope) of ``kernels.Rule``."""
    if name not in ("linear", "constant"):
        raise ValueError(f"beta_schedule must be 'linear' or 'constant', got {name!r}")
    argument, value = ("beta_slope", beta_slope) if name == "linear" else ("beta_init", beta_init)
    check_range(argument, value, 0, math.inf, low_open=True, high_open=True)
    return (0.0, float(value)) if name == "linear" else (float(value), 0.0)


def learn_side_by_side(
    agents: Sequence[Agent],
    total_timesteps: int,
    n_jobs: int | None = None,
    progress_bar: bool = False,
    **learn_arguments: Any,
) -> Sequence[Agent]:
    """``learn`` for many agents at once, one thread per core: the compiled loop does not hold the GIL.

    :param n_jobs: threads, by default one per usable core
    :param learn_arguments: of ``TabularAgent.learn``
    :return: ``agents``
    """
    n_jobs = n_jobs or usable_cpus()
    with ThreadPoolExecutor(n_jobs) as pool, tqdm(total=len(agents), unit="run", disable=not progress_bar) as bar:
        runs = [pool.submit(agent.learn, total_timesteps, **learn_arguments) for agent in agents]
        for run in as_completed(runs):
            run.result()
            bar.update()
    return agents
