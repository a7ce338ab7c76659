"""The agents of Grau-Moya et al. (2019), section 5.1: Q-learning, soft Q-learning, and MIRL.

    QLearning("MirlCorridor-v0", seed=0).learn(250_000, eval_freq=100)

Where the environment does what its ``P`` table says (the gridworlds, FrozenLake, ...) the whole loop is compiled; any other
environment with discrete observations and actions is stepped. Defaults are the paper's (Table 2 and section 5.1) and, for the
exploration while learning, its authors' (public reproduction report).
"""

import io
import math
import os
import pathlib
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Literal, TypeVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.save_util import load_from_zip_file, save_to_zip_file
from tqdm.rich import tqdm

from sb3_mirl.common.arguments import check_choice, check_range
from sb3_mirl.common.files import check_archive, check_saved_by, class_names, write_whole
from sb3_mirl.common.workers import usable_cpus
from sb3_mirl.tabular import kernels
from sb3_mirl.tabular.gym_tables import as_env
from sb3_mirl.tabular.kernels import MARGINAL, PRIOR, UNIFORM, Cursor, Evaluation, Rule, Tables
from sb3_mirl.tabular.loops import EnvLoop, TableLoop, make_loop, sizes
from sb3_mirl.tabular.records import Records

Env = gym.Env[Any, Any]
Agent = TypeVar("Agent", bound="TabularAgent")
BetaSchedule = Literal["linear", "constant"]
EvalExploration = Literal["own", "uniform", "none"]
File = str | pathlib.Path | io.BufferedIOBase

_CHUNK = 50_000  # steps between two looks at the progress bar
_NO_EPISODE = -1  # in place of a state: the next step begins an episode
_COLLAPSED = 1e-4  # probability of all actions but one
_SAVED = {"rule", "eval_epsilon", "tables", "cursor", "first", "random_states"}  # by every release


class TabularAgent:
    """A table of action values, learned by ``rule``; the subclasses give the rule.

    ``tables`` is what was learned, ``records`` what happened in the last run.

    :param env: an environment with discrete observations and actions, or the id of one; a ``P`` table is read here, once
    :param rule: the numbers of the learning rule
    :param eval_epsilon: exploration in evaluations and in ``predict(deterministic=False)``
    :param seed: of everything random; None takes one from the system
    :param eval_env: where to evaluate an environment that is stepped; by default another one is made like ``env`` when
        ``learn`` is to evaluate
    :raises ValueError: if a number is outside its range, or an environment does not fit
    """

    def __init__(
        self, env: Env | str, rule: Rule, eval_epsilon: float, seed: int | None, eval_env: Env | str | None = None
    ) -> None:
        for name in ("gamma", "omega", "epsilon", "prior_lr"):
            check_range(name, getattr(rule, name), 0, 1)
        check_range("eval_epsilon", eval_epsilon, 0, 1)
        if seed is not None:
            check_range("seed", seed, 0, math.inf, whole=True)
        self.rule, self.eval_epsilon = rule, float(eval_epsilon)
        env = as_env(env)
        n_states, n_actions, *_ = sizes(env)
        counts = np.zeros((n_states, n_actions), dtype=np.int64)
        self.tables = Tables(counts.astype(np.float64), counts, np.full(n_actions, 1 / n_actions), np.zeros(n_actions))
        self.records = Records()
        self.set_random_seed(seed)
        self._cursor: Cursor | None = None
        self.set_env(env, eval_env)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed all that the agent draws from now on, as SB3's method of this name does; None takes a seed from the system."""
        # separate streams, so that learning does not depend on whether it is evaluated
        streams = np.random.SeedSequence(seed).spawn(3)
        self._rng, self._evaluation_rng, self._prediction_rng = (np.random.default_rng(stream) for stream in streams)

    def set_env(self, env: Env | str, eval_env: Env | str | None = None) -> None:
        """Learn in ``env`` from now on, beginning with a new episode; the arguments are those of the class.

        :raises ValueError: if a space is not discrete, the table has another size, or ``eval_env`` does not fit
        """
        env = as_env(env)
        *size, self.first_state, self.first_action = sizes(env)
        if self.tables.q.shape != tuple(size):
            raise ValueError(f"the table is {self.tables.q.shape} (states, actions), this environment needs {tuple(size)}")
        self.loop: TableLoop | EnvLoop | None = make_loop(env, eval_env)
        self.env: Env | None = env
        if self._cursor is not None:
            self._cursor = Cursor(self._cursor.step, self.loop.start(self._rng), 0, 0.0)

    @property
    def q(self) -> NDArray[np.float64]:
        """(S, A): the action values."""
        return self.tables.q

    @property
    def prior(self) -> NDArray[np.float64]:
        """(A,): rho, which sums to 1; uniform unless the agent learns it."""
        return self.tables.prior / self.tables.prior.sum()

    @property
    def num_timesteps(self) -> int:
        """Steps learned from."""
        return 0 if self._cursor is None else self._cursor.step

    @property
    def beta(self) -> float:
        """The inverse temperature at the current step; infinite for Q-learning."""
        return float(kernels.beta_at(self.num_timesteps, self.rule.beta, self.rule.beta_slope))

    @property
    def policy(self) -> NDArray[np.float64]:
        """(S, A): pi(a|s), Eq. (8); for Q-learning uniform over the greedy actions."""
        weights = np.array([self._weights(state) for state in range(len(self.q))])
        return weights / weights.sum(axis=1, keepdims=True)

    def learn(
        self: Agent,
        total_timesteps: int,
        eval_freq: int = 0,
        n_eval_episodes: int = 30,
        max_eval_steps: int = 100,
        eval_exploration: EvalExploration = "own",
        log_path: str | os.PathLike[str] | None = None,
        record_actions: bool = False,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Agent:
        """Learn for ``total_timesteps`` more steps; the table is kept from call to call, as SB3 keeps its network.

        :param eval_freq: steps between the snapshots that are evaluated; 0 for none (paper: 100)
        :param n_eval_episodes: episodes per snapshot (paper: 30)
        :param max_eval_steps: an evaluation episode ends after this many steps (paper: 100)
        :param eval_exploration: with probability ``eval_epsilon`` act from the agent's "own" exploration (paper), from the
            "uniform" distribution, or never ("none")
        :param log_path: folder for SB3's ``monitor.csv`` and ``evaluations.npz``
        :param record_actions: keep each state and action in ``records.states`` and ``records.actions``
        :param reset_num_timesteps: count steps, and with them beta, from 0 (SB3's default); False goes on
        :param progress_bar: show a progress bar
        :raises ValueError: if an argument is outside its range, the agent has no environment or none to evaluate in, or the
            environment gives an observation outside its space or a reward that is not finite. What was learned before is
            kept: ``learn(..., reset_num_timesteps=False)`` goes on with a new episode
        """
        check_range("total_timesteps", total_timesteps, 0, math.inf, whole=True)
        check_range("eval_freq", eval_freq, 0, math.inf, whole=True)
        check_range("n_eval_episodes", n_eval_episodes, 1, math.inf, whole=True)
        check_range("max_eval_steps", max_eval_steps, 1, math.inf, whole=True)
        check_choice("eval_exploration", eval_exploration, ("own", "uniform", "none"))
        if self.loop is None or self.env is None:
            raise ValueError("this agent was loaded without an environment: load(path, env=...) or set_env(env) first")
        if eval_freq > 0 and not reset_num_timesteps:
            self.records.check_episodes(n_eval_episodes)
        if eval_freq > 0 and isinstance(self.loop, EnvLoop):
            self.loop.prepare_evaluation()
        if self._cursor is None or reset_num_timesteps:
            self._cursor = Cursor(0, self.loop.start(self._rng), 0, 0.0)
        elif self._cursor.state == _NO_EPISODE:
            self._cursor = self._cursor._replace(state=self.loop.start(self._rng))
        cursor = self._cursor
        epsilon = 0.0 if eval_exploration == "none" else self.eval_epsilon
        exploration = UNIFORM if eval_exploration == "uniform" else self.rule.exploration
        evaluation = Evaluation(eval_freq, max_eval_steps, epsilon, exploration)
        end, spec = cursor.step + total_timesteps, self.env.unwrapped.spec
        env_id = type(self.env.unwrapped).__name__ if spec is None else spec.id
        with (
            self.records.open(log_path, env_id, reset_num_timesteps),
            tqdm(total=total_timesteps, disable=not progress_bar) as bar,
        ):
            while (first := cursor.step) < end:
                n_steps, before = min(_CHUNK, end - first), self.tables.visits.sum()
                n_snapshots = (first + n_steps) // eval_freq - first // eval_freq if eval_freq > 0 else 0
                log = kernels.empty_log(n_steps, record_actions, n_snapshots, n_eval_episodes)
                try:
                    cursor, n_episodes = self.loop.run(
                        self.tables, self.rule, cursor, n_steps, self._rng, log, evaluation, self._evaluation_rng
                    )
                except BaseException:
                    # the environment has gone on, its episode cannot be: but the table says how far learning came
                    self._cursor = Cursor(first + int(self.tables.visits.sum() - before), _NO_EPISODE, 0, 0.0)
                    raise
                self._cursor = cursor
                self.records.add(log, n_episodes, first, n_steps)
                bar.update(n_steps)
        self._check_learned()
        return self

    def _check_learned(self) -> None:
        """Warn where what was learned is of little use; here nothing is known to go wrong."""

    def predict(
        self,
        observation: NDArray[Any] | int,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int64], tuple[NDArray[Any], ...] | None]:
        """Return the action for each observation; SB3's signature.

        :param observation: an observation, or an array of them
        :param state: returned as it is
        :param episode_start: not used
        :param deterministic: take argmax pi(.|s), the first of equals; otherwise act epsilon-greedily with ``eval_epsilon``
        :return: actions, of the shape of ``observation``; and ``state``
        :raises ValueError: if an observation is outside the table
        """
        observations = np.asarray(observation, dtype=np.int64)
        states = observations.ravel() - self.first_state
        if states.size and not (0 <= states.min() and states.max() < len(self.q)):
            last = self.first_state + len(self.q) - 1
            raise ValueError(f"observations must be in {self.first_state}..{last}, got {observations.tolist()}")
        actions = [self._choose(int(state), deterministic) for state in states]
        return np.array(actions, dtype=np.int64).reshape(observations.shape) + self.first_action, state

    def _choose(self, state: int, deterministic: bool) -> int:
        weights = self._weights(state)
        if deterministic:
            return int(weights.argmax())
        return int(kernels.behave(weights, self.eval_epsilon, self.rule.exploration, self.tables, self._prediction_rng))

    def _weights(self, state: int) -> NDArray[np.float64]:
        """Return pi(.|s) (A,), not normalised."""
        weights = np.empty(len(self.tables.prior))
        kernels.weigh(self.tables, self.rule, state, self.num_timesteps, weights)
        return weights

    def save(self, path: File) -> None:
        """Write SB3's kind of zip file: all but the environment and the records. It replaces an older one when whole."""
        data = {
            "class_names": class_names(type(self)),
            "rule": tuple(self.rule),
            "eval_epsilon": self.eval_epsilon,
            "tables": tuple(self.tables),
            "cursor": None if self._cursor is None else tuple(self._cursor),
            "first": (self.first_state, self.first_action),
            "random_states": [generator.bit_generator.state for generator in self._generators()],
        }
        write_whole(path, "zip", lambda target: save_to_zip_file(target, data=data))

    @classmethod
    def load(cls: type[Agent], path: File, env: Env | str | None = None) -> Agent:
        """Read what ``save`` wrote. The file holds pickled arrays, which can run any code: load only files that you trust.

        :param env: the environment to go on in, or its id; None for an agent that only predicts. On a ``P`` table learning
            goes on in the episode it was saved in, elsewhere with a new one
        :raises OSError: if the file cannot be opened
        :raises ValueError: if the file is damaged or was saved by another class, or the environment does not fit the table
        """
        check_saved_by(cls, path, check_archive(path, [], f"{cls.__name__}.save"))
        data = load_from_zip_file(path)[0] or {}
        if not data.keys() >= _SAVED:
            raise ValueError(f"{path} holds no tabular agent: if it is a SoftDQN or MIRL, load it with that class")
        agent = cls.__new__(cls)
        agent.rule, agent.eval_epsilon, agent.tables = Rule(*data["rule"]), data["eval_epsilon"], Tables(*data["tables"])
        agent.first_state, agent.first_action = data["first"]
        agent.records, agent.env, agent.loop = Records(), None, None
        agent._rng, agent._evaluation_rng, agent._prediction_rng = (np.random.default_rng() for _ in range(3))
        agent._cursor = None
        if env is not None:
            agent.set_env(env)
        for generator, state in zip(agent._generators(), data["random_states"], strict=True):
            generator.bit_generator.state = state
        if data["cursor"] is not None:
            agent._cursor = Cursor(*data["cursor"])
            if isinstance(agent.loop, EnvLoop):
                agent._cursor = Cursor(agent._cursor.step, agent.loop.start(agent._rng), 0, 0.0)
        return agent

    def _generators(self) -> tuple[np.random.Generator, ...]:
        return self._rng, self._evaluation_rng, self._prediction_rng


class QLearning(TabularAgent):
    """Q-learning (Watkins 1989) with alpha_Q = n(s,a)^-omega.

    :param env: an environment with discrete observations and actions, or the id of one
    :param gamma: discount
    :param omega: exponent of the learning rate
    :param epsilon: exploration while learning
    :param eval_epsilon: exploration in evaluations and in ``predict(deterministic=False)``
    :param seed: of everything random; None takes one from the system
    :param eval_env: see ``TabularAgent``
    """

    def __init__(
        self, env: Env | str, gamma: float = 0.99, omega: float = 0.8, epsilon: float = 0.1, eval_epsilon: float = 0.05,
        seed: int | None = None, eval_env: Env | str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(env, Rule(gamma, omega, epsilon, UNIFORM, math.inf, 0.0, 0.0, 0.0), eval_epsilon, seed, eval_env)


class SoftQLearning(TabularAgent):
    """Soft Q-learning with a fixed uniform prior (Fox, Pakman and Tishby 2016): the paper's SQL and SQL_m.

    :param env: as for ``QLearning``, with ``gamma``, ``omega``, ``epsilon``, ``eval_epsilon``, ``seed`` and ``eval_env``
    :param exploration: explore "uniform"ly (SQL), or by the frequencies of all actions executed so far ("marginal": SQL_m)
    :param beta_schedule: "linear", beta = max(c i, c) at step i, or "constant"
    :param beta_init: the beta of "constant"
    :param beta_slope: the c of "linear", per step
    """

    def __init__(
        self, env: Env | str, exploration: Literal["uniform", "marginal"] = "uniform", gamma: float = 0.99, omega: float = 0.8,
        epsilon: float = 0.1, eval_epsilon: float = 0.05, beta_schedule: BetaSchedule = "linear", beta_init: float = 1.0,
        beta_slope: float = 1e-3, seed: int | None = None, eval_env: Env | str | None = None,
    ) -> None:  # fmt: skip
        check_choice("exploration", exploration, ("uniform", "marginal"))
        beta, slope = _schedule(beta_schedule, beta_init, beta_slope)
        rule = Rule(gamma, omega, epsilon, UNIFORM if exploration == "uniform" else MARGINAL, beta, slope, 0.0, 0.0)
        super().__init__(env, rule, eval_epsilon, seed, eval_env)


class TabularMIRL(TabularAgent):
    """Soft Q-learning with a learned prior: MIRL (Grau-Moya et al. 2019, section 4.1).

    The default rates are the paper's, for rewards of about 10 in worlds that are learned within 1e4 steps. Where rewards are
    small or rare, as in FrozenLake, always the same action is the optimum until beta is 10 or more, and the prior forgets the
    others before: ``learn`` warns then. ``prior_lr=2e-5, beta_slope=1e-2`` learns there.

    :param env: as for ``QLearning``, with ``gamma``, ``omega``, ``epsilon``, ``eval_epsilon``, ``seed`` and ``eval_env``
    :param prior_lr: alpha_rho of Eq. (11), per step
    :param prior_decay: 0 keeps alpha_rho; d > 0 lets it fall as prior_lr / (1 + prior_lr i)^d, under which the prior
        converges (1/2 < d <= 1)
    :param beta_schedule: as for ``SoftQLearning``, with ``beta_init`` and ``beta_slope``
    """

    def __init__(
        self, env: Env | str, prior_lr: float = 2e-3, prior_decay: float = 0.0, gamma: float = 0.99, omega: float = 0.8,
        epsilon: float = 0.1, eval_epsilon: float = 0.05, beta_schedule: BetaSchedule = "linear", beta_init: float = 1.0,
        beta_slope: float = 1e-3, seed: int | None = None, eval_env: Env | str | None = None,
    ) -> None:  # fmt: skip
        check_range("prior_decay", prior_decay, 0, math.inf, high_open=True)
        beta, slope = _schedule(beta_schedule, beta_init, beta_slope)
        rule = Rule(gamma, omega, epsilon, PRIOR, beta, slope, prior_lr, prior_decay)
        super().__init__(env, rule, eval_epsilon, seed, eval_env)

    def _check_learned(self) -> None:
        best = int(self.prior.argmax())
        others = np.delete(self.prior, best).sum()
        if len(self.prior) > 1 and others < _COLLAPSED:
            warnings.warn(
                f"The prior has collapsed onto action {best + self.first_action}: all others have a probability of "
                f"{others:.0e} together, and are hardly explored or chosen any more. Unless that action is the best "
                "one everywhere, the prior was faster than the values, or beta times their differences too small: lower "
                f"prior_lr={self.rule.prior_lr:g} to 2e-5, and raise beta_slope or beta_init for rewards below 1 (FrozenLake: "
                "prior_lr=2e-5, beta_slope=1e-2)."
            )


def _schedule(name: str, beta_init: float, beta_slope: float) -> tuple[float, float]:
    """Return (beta, slope) of ``kernels.Rule``."""
    check_choice("beta_schedule", name, ("linear", "constant"))
    argument, value = ("beta_slope", beta_slope) if name == "linear" else ("beta_init", beta_init)
    check_range(argument, value, 0, math.inf, low_open=True, high_open=True)
    return (0.0, float(value)) if name == "linear" else (float(value), 0.0)


def train_in_parallel(
    agents: Sequence[Agent],
    total_timesteps: int,
    n_jobs: int | None = None,
    progress_bar: bool = False,
    **learn_arguments: Any,
) -> Sequence[Agent]:
    """Call ``learn`` of many agents at once, one thread per core: the compiled loop does not hold the GIL.

    :param n_jobs: threads, by default one per usable core
    :param learn_arguments: of ``TabularAgent.learn``
    :return: ``agents``
    :raises ValueError: if two of them are the same agent, or step the same environment
    """
    stepped = [agent.env.unwrapped for agent in agents if agent.env is not None and isinstance(agent.loop, EnvLoop)]
    for name, things in (("agent", agents), ("environment", stepped)):
        if len({id(thing) for thing in things}) < len(things):
            raise ValueError(f"agents that learn at once must not share an {name}: make one for each")
    n_jobs = n_jobs or usable_cpus()
    with ThreadPoolExecutor(n_jobs) as pool, tqdm(total=len(agents), unit="run", disable=not progress_bar) as bar:
        runs = [pool.submit(agent.learn, total_timesteps, **learn_arguments) for agent in agents]
        for run in as_completed(runs):
            run.result()
            bar.update()
    return agents
