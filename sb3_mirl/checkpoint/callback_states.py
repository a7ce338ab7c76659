"""What the callbacks of a training have counted and recorded."""

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback, EventCallback

from sb3_mirl.mirl import PriorCallback

_EVALUATIONS = (
    "best_mean_reward",
    "last_mean_reward",
    "evaluations_results",
    "evaluations_timesteps",
    "evaluations_length",
    "evaluations_successes",
)


def get_callback_states(root: BaseCallback) -> dict[str, dict[str, Any]]:
    """
    :param root: the callback of a training, with those inside
    :return: for each, by class and number: its calls, and the records of ``EvalCallback`` and ``PriorCallback``
    """
    states: dict[str, dict[str, Any]] = {}
    for name, callback in _named(root).items():
        states[name] = {"n_calls": callback.n_calls}
        if isinstance(callback, EvalCallback):
            states[name].update({key: getattr(callback, key) for key in _EVALUATIONS})
        elif isinstance(callback, PriorCallback):
            states[name].update(callback.state_dict())
    return states


def set_callback_states(root: BaseCallback, states: dict[str, dict[str, Any]]) -> None:
    """
    :param root: the callback of a training, with those inside; what was not saved stays as it is
    :param states: from :func:`get_callback_states`
    """
    for name, callback in _named(root).items():
        state = states.get(name)
        if state is None:
            continue
        if isinstance(callback, PriorCallback):
            callback.load_state_dict(state)
        else:
            vars(callback).update(state)


def _named(root: BaseCallback) -> dict[str, BaseCallback]:
    found: dict[str, BaseCallback] = {}
    for callback in _flat(root):
        name = type(callback).__name__
        number = sum(other.startswith(f"{name}/") for other in found)
        found[f"{name}/{number}"] = callback
    return found


def _flat(callback: BaseCallback) -> list[BaseCallback]:
    inner: list[BaseCallback | None] = []
    if isinstance(callback, CallbackList):
        inner = list(callback.callbacks)
    elif isinstance(callback, EventCallback):
        inner = [callback.callback, getattr(callback, "callback_on_new_best", None)]
    return [callback, *(found for c in inner if c is not None for found in _flat(c))]
