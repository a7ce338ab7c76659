"""What the tabular agents share: SB3's ``learn / predict / save / load`` around the loops of ``worlds``."""

import io
import math
import pathlib
from contextlib import nullcontext
from typing import Any, Literal, TypeVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.save_util import load_from_zip_file, save_to_zip_file
from tqdm.rich import tqdm

from sb3_mirl.common.arguments import check_choice, check_range
from sb3_mirl.common.files import check_archive, write_whole
from sb3_mirl.tabular import kernels
from sb3_mirl.tabular.kernels import UNIFORM, Cursor, Evaluation, Rule, Tables
from sb3_mirl.tabular.records import Records
from sb3_mirl.tabular.worlds import SteppedWorld, TableWorld, discrete_size, make_world

_CHUNK = 50_000  # steps between two looks at the progress bar

Agent = TypeVar("Agent", bound="TabularAgent")
EvalExploration = Literal["own", "uniform", "none"]
SAVED = ("rule", "eval_epsilon", "tables", "cursor", "first", "random_states")


class TabularAgent:
    """A table of action values, learned by ``rule``; the subclasses in ``agents`` give the rule.

    ``tables`` is what was learned, ``records`` what happened in the last run.

    :param env: an environment, or the id of one
    :param rule: the numbers of the learning rule
    :param eval_epsilon: exploration in evaluations and in ``predict(deterministic=False)``
    :param seed: of everything random; None takes one from the system
    :param eval_env: where to evaluate an environment without a ``P`` table; by default another one made like ``env``
    :raises ValueError: a number is outside its range, or a space is not discrete
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | str,
        rule: Rule,
        eval_epsilon: float,
        seed: int | None,
        eval_env: gym.Env[Any, Any] | None = None,
    ) -> None:
        for name in ("gamma", "omega", "epsilon", "prior_lr"):
            check_range(name, getattr(rule, name), 0, 1)
        check_range("eval_epsilon", eval_epsilon, 0, 1)
        if seed is not None:
            check_range("seed", seed, 0, math.inf, whole=True)
        self.rule, self.eval_epsilon = rule, float(eval_epsilon)
        env = gym.make(env) if isinstance(env, str) else env
        n_states, n_actions = _sizes(env)
        self.tables = Tables(
            q=np.zeros((n_states, n_actions)),
            visits=np.zeros((n_states, n_actions), dtype=np.int64),
            prior=np.full(n_actions, 1 / n_actions),
            action_counts=np.zeros(n_actions),
        )
        self.records = Records()
        self.set_random_seed(seed)
        self._cursor: Cursor | None = None
        self.set_env(env, eval_env)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed all that the agent draws from now on, as SB3's method of this name does.

        :param seed: None takes one from the system
        """
        # separate streams, so that learning does not depend on whether it is evaluated
        streams = np.random.SeedSequence(seed).spawn(3)
        self._rng, self._evaluation_rng, self._prediction_rng = (np.random.default_rng(stream) for stream in streams)

    def set_env(self, env: gym.Env[Any, Any], eval_env: gym.Env[Any, Any] | None = None) -> None:
        """Learn in ``env`` from now on, beginning with a new episode.

        :raises ValueError: a space is not discrete, or the table is of another size
        """
        if self.tables.q.shape != _sizes(env):
            raise ValueError(f"the table is {self.tables.q.shape} (states, actions), this environment needs {_sizes(env)}")
        self.env: gym.Env[Any, Any] | None = env
        self.world: TableWorld | SteppedWorld | None = make_world(env, eval_env)
        self.first_state, self.first_action = int(env.observation_space.start), int(env.action_space.start)  # type: ignore[attr-defined]
        if self._cursor is not None:
            self._cursor = Cursor(self._cursor.step, self.world.start(self._rng), 0, 0.0)

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
        log_path: str | None = None,
        record_actions: bool = False,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Agent:
        """Learn for ``total_timesteps`` more steps; the table is kept from call to call, as SB3 keeps its network.

        :param eval_freq: steps between the snapshots that are evaluated; 0 for none (paper: 100)
        :param n_eval_episodes: episodes per snapshot (paper: 30)
        :param max_eval_steps: an evaluation episode ends after so many steps (paper: 100)
        :param eval_exploration: with probability ``eval_epsilon`` act from the agent's "own" exploration (paper), from the
            "uniform" distribution, or never ("none")
        :param log_path: folder for SB3's ``monitor.csv`` and ``evaluations.npz``
        :param record_actions: keep each state and action in ``records.states`` and ``records.actions``
        :param reset_num_timesteps: count steps, and with them beta, from 0 (SB3's default); False goes on
        :param progress_bar: show a progress bar
        :raises ValueError: an argument is outside its range, the agent has no environment, or none to evaluate in; or the
            environment gives an observation that is none of its space, or a reward that is not finite
        """
        check_range("total_timesteps", total_timesteps, 0, math.inf, whole=True)
        check_range("eval_freq", eval_freq, 0, math.inf, whole=True)
        check_range("n_eval_episodes", n_eval_episodes, 1, math.inf, whole=True)
        check_range("max_eval_steps", max_eval_steps, 1, math.inf, whole=True)
        check_choice("eval_exploration", eval_exploration, ("own", "uniform", "none"))
        world, cursor = self._started(reset_num_timesteps)
        epsilon = 0.0 if eval_exploration == "none" else self.eval_epsilon
        exploration = UNIFORM if eval_exploration == "uniform" else self.rule.exploration
        end = cursor.step + total_timesteps
        with self.records.open(log_path, self._env_id(), reset_num_timesteps), _bar(total_timesteps, progress_bar) as bar:
            while (first := cursor.step) < end:
                n_steps = min(_CHUNK, end - first)
                snapshots = np.arange(first + 1, first + n_steps + 1)
                snapshots = snapshots[snapshots % eval_freq == 0] if eval_freq > 0 else snapshots[:0]
                shape = (len(snapshots), n_eval_episodes)
                scores, lengths = np.zeros(shape), np.zeros(shape, dtype=np.int64)
                evaluation = Evaluation(eval_freq, max_eval_steps, epsilon, exploration, scores, lengths)
                log = kernels.empty_log(n_steps, record_actions)
                cursor, n_episodes, _ = world.run(
                    self.tables, self.rule, cursor, n_steps, self._rng, log, evaluation, self._evaluation_rng
                )
                self._cursor = cursor
                self.records.add(log, n_episodes, evaluation, snapshots, first, n_steps)
                if bar is not None:
                    bar.update(n_steps)
        return self

    def _started(self, anew: bool) -> tuple[TableWorld | SteppedWorld, Cursor]:
        """The world, and where in it to go on; ``anew`` starts an episode and counts the steps from 0."""
        if self.world is None:
            raise ValueError("this agent was loaded without an environment: load(path, env=...) or set_env(env) first")
        if self._cursor is None or anew:
            self._cursor = Cursor(0, self.world.start(self._rng), 0, 0.0)
        return self.world, self._cursor

    def _env_id(self) -> str:
        assert self.env is not None
        return self.env.spec.id if self.env.spec is not None else type(self.env.unwrapped).__name__

    def predict(
        self,
        observation: NDArray[Any] | int,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int64], tuple[NDArray[Any], ...] | None]:
        """The action for each observation; SB3's signature.

        :param observation: an observation, or an array of them
        :param state: returned as it is
        :param episode_start: not used
        :param deterministic: argmax pi(.|s), the first one of equals; otherwise epsilon-greedy with ``eval_epsilon``
        :return: actions, of the shape of ``observation``; and ``state``
        :raises ValueError: an observation is none of the table's
        """
        observations = np.asarray(observation, dtype=np.int64)
        states = observations.ravel() - self.first_state
        if states.size and not (0 <= states.min() and states.max() < len(self.q)):
            last = self.first_state + len(self.q) - 1
            raise ValueError(f"observations must be in {self.first_state}..{last}, got {observations.tolist()}")
        actions = [self._choose(int(state), deterministic) for state in states]
        return np.array(actions, dtype=np.int64).reshape(observations.shape) + self.first_action, state

    def _weights(self, state: int) -> NDArray[np.float64]:
        """(A,): pi(.|s), not normalised."""
        q, prior, weights = self.tables.q, self.tables.prior, np.empty(len(self.tables.prior))
        kernels.boltzmann_weights(q, state, prior, self.beta, kernels.highest(q, state, prior), weights)
        return weights

    def _choose(self, state: int, deterministic: bool) -> int:
        weights = self._weights(state)
        if deterministic:
            return int(weights.argmax())
        return int(kernels.behave(weights, self.eval_epsilon, self.rule.exploration, self.tables, self._prediction_rng))

    def save(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """Write SB3's kind of zip file: all but the environment and the records. It replaces an older one when whole."""
        generators = (self._rng, self._evaluation_rng, self._prediction_rng)
        data = {
            "rule": tuple(self.rule),
            "eval_epsilon": self.eval_epsilon,
            "tables": tuple(self.tables),
            "cursor": None if self._cursor is None else tuple(self._cursor),
            "first": (self.first_state, self.first_action),
            "random_states": [generator.bit_generator.state for generator in generators],
        }
        write_whole(path, "zip", lambda target: save_to_zip_file(target, data=data))

    @classmethod
    def load(
        cls: type[Agent], path: str | pathlib.Path | io.BufferedIOBase, env: gym.Env[Any, Any] | str | None = None
    ) -> Agent:
        """Read what ``save`` wrote. The file holds pickled arrays, which can run any code: load only files that you trust.

        :param env: the environment to go on in, or its id; None for an agent that only predicts. On a ``P`` table learning
            goes on in the episode it was saved in, elsewhere with a new one
        :raises OSError: the file cannot be opened
        :raises ValueError: the file is damaged, or of another kind, or the environment of another size than the table
        """
        check_archive(path, ["data"], f"{cls.__name__}.save")
        data, _, _ = load_from_zip_file(path)
        if data is None or not data.keys() >= set(SAVED):
            raise ValueError(f"{path} holds no tabular agent: if it is a SoftDQN or MIRL, load it with that class")
        agent = cls.__new__(cls)
        agent.rule, agent.eval_epsilon, agent.tables = Rule(*data["rule"]), data["eval_epsilon"], Tables(*data["tables"])
        agent.first_state, agent.first_action = data["first"]
        agent.records, agent.env, agent.world = Records(), None, None
        agent._rng, agent._evaluation_rng, agent._prediction_rng = (np.random.default_rng() for _ in range(3))
        agent._cursor = None
        if env is not None:
            agent.set_env(gym.make(env) if isinstance(env, str) else env)
        generators = (agent._rng, agent._evaluation_rng, agent._prediction_rng)
        for generator, state in zip(generators, data["random_states"], strict=True):
            generator.bit_generator.state = state
        if data["cursor"] is not None:
            agent._cursor = Cursor(*data["cursor"])
            if isinstance(agent.world, SteppedWorld):
                agent._cursor = Cursor(agent._cursor.step, agent.world.start(agent._rng), 0, 0.0)
        return agent


def _sizes(env: gym.Env[Any, Any]) -> tuple[int, int]:
    return discrete_size("observation", env.observation_space), discrete_size("action", env.action_space)


def _bar(total: int, shown: bool) -> Any:
    return tqdm(total=total) if shown else nullcontext()
