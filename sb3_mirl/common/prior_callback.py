"""The callback that folds the policy into the prior and keeps the prior's record."""

import math
import os
import weakref
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, EventCallback
from stable_baselines3.common.logger import Figure, TensorBoardOutputFormat
from stable_baselines3.common.vec_env import VecEnv

from sb3_mirl.common.arguments import check_range
from sb3_mirl.common.callbacks import walk
from sb3_mirl.common.files import write_whole
from sb3_mirl.maths import entropy, fold_policies, kkt_gap
from sb3_mirl.maths.arrays import as_float64, at_hand, clip, namespace, silent

TOGETHER = 32
"""Steps whose policies are taken into :class:`RecentPolicies` at once: most of the work is the same for one and for many."""

FIRST_INTERVAL = 64
"""Most calls of ``env.step`` between the first points of a history: a long run drops those that are closer."""

FIGURES = 50
"""Pictures of the prior's course in the TensorBoard of one call of ``learn``."""


class LearnsPrior(Protocol):
    """
    What :class:`PriorCallback` asks of an algorithm, beside being one of SB3's. An attribute ``prior_weights``, (n_envs,) in
    [0, 1] or None, may weigh the folds at a step.
    """

    policy: Any  # with the buffer log_prior (A,)
    prior_lr: float
    prior_floor: float

    @property
    def prior(self) -> np.ndarray:
        """(A,) rho(a)."""

    @property
    def beta(self) -> float:
        """Inverse temperature."""

    @property
    def beta_max_q(self) -> float:
        """beta max_a Q(s, a), mean over environments; NaN where it is not known."""

    @property
    def rollout_log_probs(self) -> np.ndarray | th.Tensor | None:
        """(n_envs, A) log pi(a|s) at the states in which the current actions were chosen; None while they are random."""


class RecentPolicies:
    """
    The policies at the most recent states, with running sums, so that their means cost the same whatever the window. The
    sums are made anew at each turn of the ring: rounding does not grow. Policies wait until some have come together, or the
    means are asked for, which changes no bit of these.

    :param window: number of states
    :param n_actions: A
    :param device: where the policies are if they are tensors, None for arrays
    """

    def __init__(self, window: int, n_actions: int, device: th.device | None = None) -> None:
        self._n_seen = 0
        self._waiting: list[Any] = []  # (n, A) log pi(a|s)
        shape = (window, n_actions + 1)  # pi(.|s) and its entropy
        self._ring: Any = np.zeros(shape) if device is None else th.zeros(shape, dtype=th.float64, device=device)
        self._sums: Any = self._ring.sum(0)

    def add(self, log_probs: Any) -> None:
        """
        Take in policies, in place of the oldest.

        :param log_probs: (n, A) log pi(a|s) in float64, n <= window, an array or a tensor
        """
        self._waiting.append(log_probs)
        if len(self._waiting) == TOGETHER:
            self._take_in()

    def _take_in(self) -> None:
        if not self._waiting:
            return
        xp = namespace(self._waiting[0])
        log_probs, self._waiting = xp.concatenate(self._waiting), []
        new = xp.concatenate([xp.exp(log_probs), entropy(log_probs)[:, None]], 1)
        if isinstance(new, th.Tensor) and isinstance(self._ring, np.ndarray):  # loaded
            self._ring, self._sums = (th.from_numpy(x).to(new.device) for x in (self._ring, self._sums))
        while len(new) > 0:
            places = self._ring[self._n_seen % len(self._ring) :][: len(new)]
            part, new = new[: len(places)], new[len(places) :]
            # added one after the other, however many wait
            self._sums = xp.cumsum(xp.concatenate([self._sums[None], part - places]), 0)[-1]
            places[...] = part
            self._n_seen += len(part)
            if self._n_seen % len(self._ring) == 0:
                self._sums = self._ring.sum(0)

    def mutual_information(self) -> float:
        """Return I(S; A) in nats, NaN before the first state."""
        log_marginal, mean_entropy = self._means()
        return (entropy(log_marginal) - mean_entropy).item()

    def kkt_gap(self, log_prior: Any) -> float:
        """
        Return max_a E_s[pi(a|s)] / rho(a) - 1, NaN before the first state.

        :param log_prior: (A,) log rho(a), an array or a tensor like the policies
        """
        log_marginal, _ = self._means()
        return kkt_gap(log_marginal[None], log_prior).item()

    def _means(self) -> tuple[Any, Any]:
        """log E_s[pi(a|s)], (A,), and E_s[H(pi(.|s))]."""
        self._take_in()
        # a sum that all its terms have left may be a little below 0
        means = clip(self._sums / min(self._n_seen, len(self._ring)), low=0)
        with silent(means):
            return namespace(means).log(means[:-1]), means[-1]

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs."""
        self._take_in()
        ring, sums = (x.cpu().numpy() if isinstance(x, th.Tensor) else x.copy() for x in (self._ring, self._sums))
        return {"ring": ring, "sums": sums, "n_seen": self._n_seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Go on with the policies of another object.

        :param state: from :meth:`state_dict`
        """
        self._ring, self._sums, self._n_seen = state["ring"].copy(), state["sums"].copy(), state["n_seen"]


class PriorCallback(BaseCallback):
    """
    Update a learned prior once per environment step, and record its course. ``learn`` attaches one by itself;
    pass your own to choose its arguments or to keep its history.

    Each call of ``env.step`` folds pi(.|s) of every sub-environment into rho by Eq. (11), pi being the policy of the
    online network at the state in which the action was chosen, exploratory actions included. Nothing happens while
    actions are still random (``learning_starts``).

    :param max_points: most points of the history; when it is full, every other point is dropped and the interval
        between points doubles
    :param window: states from which I(S; A) is estimated: the most recent ones
    :param verbose: as in SB3
    :raises ValueError: if ``max_points`` or ``window`` is not positive; from ``learn``, for an algorithm without a learned
        prior
    """

    def __init__(self, max_points: int = 2000, window: int = 1000, verbose: int = 0) -> None:
        super().__init__(verbose)
        check_range("max_points", max_points, 2, math.inf, whole=True)
        check_range("window", window, 1, math.inf, whole=True)
        self.max_points = max_points
        self.window = window
        self._owner: weakref.ref[Any] | None = None  # the model whose prior is recorded
        self._begin()

    def _begin(self) -> None:
        self.n_calls = 0
        self.interval = 1  # calls of env.step between two points of the history
        self._points: dict[int, tuple[int, np.ndarray, float, float, float]] = {}  # by the call they were made at
        self._recent: RecentPolicies | None = None

    @property
    def history(self) -> dict[str, np.ndarray]:
        """
        ``timesteps`` (T,), ``prior`` (T, A), ``beta`` (T,), ``beta_max_q`` (T,), the mean over environments of
        beta max_a Q(s, a), and ``mutual_information`` (T,) in nats.
        """
        names = ("timesteps", "prior", "beta", "beta_max_q", "mutual_information")
        columns = zip(*self._points.values(), strict=True) if self._points else ((),) * len(names)
        return {name: np.array(column) for name, column in zip(names, columns, strict=True)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """
        Write the history and the actions' names (``actions``) as npz; an older file is replaced when the new one is whole.

        :param path: file name; directories are made
        :raises ValueError: if the callback has not been given to ``learn`` yet
        """
        if not hasattr(self, "model"):
            raise ValueError("This PriorCallback has no history to save: give it to learn(callback=...) first.")
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        name = os.fspath(path)
        write_whole(name if name.endswith(".npz") else f"{name}.npz", "npz", self._write)

    def _write(self, path: Path) -> None:
        with open(path, "wb") as file:
            np.savez_compressed(file, actions=np.array(self.action_names), **cast(dict[str, Any], self.history))

    def state_dict(self) -> dict[str, Any]:
        """Return the record, with all that is needed to go on with it."""
        recent = None if self._recent is None else self._recent.state_dict()
        return {"n_calls": self.n_calls, "interval": self.interval, "points": self._points, "recent": recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Go on with the record of another callback.

        :param state: from :meth:`state_dict`
        """
        self.n_calls, self.interval, self._points = state["n_calls"], state["interval"], dict(state["points"])
        recent, self._recent = state["recent"], None
        if isinstance(recent, dict):
            self._recent = RecentPolicies(*recent["ring"][:, 1:].shape)
            self._recent.load_state_dict(recent)
        elif recent is not None:  # until 0.2: (window, A) log pi(.|s), of which ``n_folded`` have been written
            n_folded, window = state["n_folded"], len(recent)
            self._recent = RecentPolicies(*recent.shape)
            self._recent.add(at_hand(recent.roll(-n_folded, 0).double())[max(window - n_folded, 0) :])

    @property
    def action_names(self) -> list[str]:
        """Names of the actions: the environment's ``get_action_meanings()`` where it has one, else "action_0", ..."""
        return action_names(self.training_env, len(self._learner.policy.log_prior))

    @property
    def _learner(self) -> LearnsPrior:
        return cast(LearnsPrior, self.model)

    def _init_callback(self) -> None:
        if not (hasattr(self.model, "prior_lr") and hasattr(self.model.policy, "log_prior")):
            raise ValueError(f"PriorCallback updates a learned prior; {type(self.model).__name__} has none to update.")
        if self._owner is not None and self._owner() is not self.model:
            self._begin()
        self._owner = weakref.ref(self.model)

    def _on_training_start(self) -> None:
        self._log_names, self._next_figure = self.action_names, self.num_timesteps
        # at most the last interval of the run, also where half of it passes before there are points
        calls = self.model._total_timesteps / self.training_env.num_envs
        while not self._points and self.interval < min(FIRST_INTERVAL, calls / (2 * self.max_points)):
            self.interval *= 2
        tensorboard = any(isinstance(output, TensorBoardOutputFormat) for output in self.logger.output_formats)
        self._draws = tensorboard and find_spec("matplotlib") is not None

    def _on_step(self) -> bool:
        log_probs = self._learner.rollout_log_probs
        if log_probs is not None:
            self.fold(log_probs, getattr(self.model, "prior_weights", None))
            if self.n_calls % self.interval == 0:
                self._record()
        return True

    def fold(self, log_probs: Any, weights: Any = None) -> None:
        """
        Update the prior by policies one after the other, Eq. (11), and remember them.

        :param log_probs: (n_envs, A) log pi(a|s), an array or a tensor
        :param weights: (n_envs,) in [0, 1], by which ``prior_lr`` is multiplied; None for 1
        """
        model, log_probs = self._learner, as_float64(at_hand(log_probs))
        if model.prior_lr > 0:
            log_prior = at_hand(model.policy.log_prior)
            rates = model.prior_lr if weights is None else model.prior_lr * at_hand(weights)
            log_prior[...] = fold_policies(log_prior, log_probs, rates, model.prior_floor)
        if self._recent is None:
            device = log_probs.device if isinstance(log_probs, th.Tensor) else None
            self._recent = RecentPolicies(max(self.window, len(log_probs)), log_probs.shape[1], device)
        self._recent.add(log_probs)

    def mutual_information(self) -> float:
        """Return I(S; A) in nats over the most recent states, NaN before the first."""
        return math.nan if self._recent is None else self._recent.mutual_information()

    def kkt_gap(self) -> float:
        """Return max_a E_s[pi(a|s)] / rho(a) - 1 over the same states, NaN before the first: 0 at a fixed point of rho."""
        return math.nan if self._recent is None else self._recent.kkt_gap(at_hand(self._learner.policy.log_prior))

    def _record(self) -> None:
        model = self._learner
        point = (self.num_timesteps, model.prior, model.beta, model.beta_max_q, self.mutual_information())
        self._points[self.n_calls] = point
        if len(self._points) > self.max_points:
            self.interval *= 2
            self._points = {call: point for call, point in self._points.items() if call % self.interval == 0}

    def log(self) -> None:
        """
        Record ``rollout/prior_entropy``, ``rollout/mutual_information`` (nats), ``rollout/kkt_gap`` and
        ``train/prior/<action>``; for TensorBoard also the picture ``rollout/prior``, at most :data:`FIGURES` times in a
        training.
        """
        prior = self._learner.prior
        for name, probability in zip(self._log_names, prior, strict=True):
            self.logger.record(f"train/prior/{name}", float(probability), exclude="stdout")
        self.logger.record("rollout/prior_entropy", entropy(self._learner.policy.log_prior).item())
        if self._recent is not None:
            self.logger.record("rollout/mutual_information", self.mutual_information())
            self.logger.record("rollout/kkt_gap", self.kkt_gap())
        if self._draws and len(self._points) > 1 and self.num_timesteps >= self._next_figure:
            self._next_figure = self.num_timesteps + self.model._total_timesteps // FIGURES
            figure = Figure(prior_course(self.history, self._log_names), close=True)
            self.logger.record("rollout/prior", figure, exclude=("stdout", "log", "json", "csv"))


def action_names(env: VecEnv | None, n_actions: int) -> list[str]:
    """
    Return names of actions: the environment's ``get_action_meanings()`` where it has one, else "action_0", ...

    :param env: whose actions they are, None for an agent without one
    :param n_actions: A
    :return: (A,) names
    """
    names: list[str] = []
    # asked first, because a missing method kills the worker of a SubprocVecEnv
    if env is not None and env.has_attr("get_action_meanings"):
        (names,) = env.env_method("get_action_meanings", indices=[0])
    return list(names) if len(names) == n_actions else [f"action_{i}" for i in range(n_actions)]


def prior_course(history: Mapping[str, np.ndarray], action_names: Sequence[str]) -> Any:
    """
    Draw the prior over environment steps, each action as a band as wide as its probability.

    :param history: ``timesteps`` (T,) and ``prior`` (T, A)
    :param action_names: (A,)
    :return: a figure of matplotlib, which must be installed
    """
    # small and wide, for TensorBoard shows it 320 x 200 pixels large
    figure: Any = import_module("matplotlib.figure").Figure(figsize=(5, 3.1), layout="constrained")
    colours = import_module("matplotlib").colormaps["tab20"].colors
    ax = figure.subplots()
    bands = ax.stackplot(history["timesteps"], history["prior"].T, colors=colours, edgecolor="white", linewidth=0.3)
    ax.set(xlabel="environment steps", ylabel="prior ρ(a)", ylim=(0, 1), xlim=history["timesteps"][[0, -1]])
    ax.xaxis.set_major_locator(import_module("matplotlib.ticker").MaxNLocator(4))
    ax.xaxis.set_major_formatter(import_module("matplotlib.ticker").EngFormatter(sep=""))
    # in the order of the bands, the uppermost first
    names, size = list(action_names)[::-1], 9 if len(bands) > 12 else 11
    figure.legend(bands[::-1], names, loc="outside right center", frameon=False, fontsize=size, labelspacing=0.1)
    return figure


def with_prior_callback(given: BaseCallback, own: PriorCallback) -> tuple[PriorCallback, list[BaseCallback]]:
    """
    Find the one callback that updates the prior of a training.

    :param given: the user's callbacks
    :param own: the algorithm's, which is taken if the user has none
    :return: it, and the callbacks to call, in order
    :raises ValueError: if the user has several, or one that would not be called at every step
    """
    found = [(callback, holders) for callback, holders in walk(given) if isinstance(callback, PriorCallback)]
    if not found:
        # first, so that evaluations and checkpoints see the prior of the step they are made at
        return own, [own, given]
    if len(found) > 1:
        raise ValueError(f"The prior is updated by one PriorCallback, got {len(found)} of them.")
    callback, holders = found[0]
    for holder in holders:
        if isinstance(holder, EventCallback):
            raise ValueError(
                f"A PriorCallback updates the prior at every step, but {type(holder).__name__} calls it now and then only: "
                "give it to learn beside the other callbacks."
            )
    return callback, [given]
