"""Callbacks inside callbacks, and callbacks of which a checkpoint keeps nothing."""

from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.type_aliases import MaybeCallback

LINKS = ("model", "locals", "globals", "parent")
"""Attributes by which SB3 links a callback to the training that it is in."""


class StatelessCallback(BaseCallback):
    """A callback that begins anew with every training, whether that goes on with another one or not."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with nothing."""


def as_callback(callback: MaybeCallback) -> BaseCallback:
    """
    Return what ``learn`` takes (a callback, a list of them, a function, or None) as one callback, as SB3 does.

    :raises TypeError: for a class in place of an object
    """
    if isinstance(callback, type):
        raise TypeError(f"callback={callback.__name__} is a class, give an object: {callback.__name__}().")
    if callback is None or isinstance(callback, list):
        return CallbackList([as_callback(part) for part in callback or []])
    return callback if isinstance(callback, BaseCallback) else ConvertCallback(callback)


def walk(
    callback: BaseCallback, holders: tuple[BaseCallback, ...] = ()
) -> Iterator[tuple[BaseCallback, tuple[BaseCallback, ...]]]:
    """Yield ``callback`` and every callback inside it, however it is kept there, each with those around it."""
    yield callback, holders
    for name, value in vars(callback).items():
        if name in LINKS:
            continue
        for inner in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(inner, BaseCallback):
                yield from walk(inner, (*holders, callback))
