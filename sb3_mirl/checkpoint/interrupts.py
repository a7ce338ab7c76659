"""Ctrl-C and SIGTERM that wait for a moment at which everything fits together."""

import os
import signal
import sys
import threading
import weakref
from types import FrameType
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class DeferredSignals:
    """
    A context in which the first SIGINT (Ctrl-C) or SIGTERM is only noted in ``received``, and the second one acts as
    outside. Without effect outside of the main thread, where Python allows no handlers, and when the model does not learn.

    :param model: the model that learns, None before it does
    """

    def __init__(self, model: BaseAlgorithm | None = None) -> None:
        self._model = None if model is None else weakref.ref(model)
        self.received: signal.Signals | None = None
        self._outside: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "DeferredSignals":
        if threading.current_thread() is threading.main_thread():
            self._outside = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._outside.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._outside = {}

    def _note(self, number: int, _: FrameType | None) -> None:
        model = None if self._model is None else self._model()
        if self.received is not None or model is None or not is_learning(model):
            self.__exit__()
            signal.raise_signal(number)
            return
        self.received = signal.Signals(number)
        # not `print`, which may be what was interrupted
        os.write(2, f"\n{self.received.name}: saving a checkpoint after this rollout; again to stop at once\n".encode())


def is_learning(model: BaseAlgorithm) -> bool:
    """Return whether a thread of this process is inside ``model.learn``."""
    for frame in sys._current_frames().values():
        inner: FrameType | None = frame
        while inner is not None:
            if inner.f_code.co_name == "learn" and inner.f_locals.get("self") is model:
                return True
            inner = inner.f_back
    return False
