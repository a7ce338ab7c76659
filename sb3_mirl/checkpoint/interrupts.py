"""Ctrl-C and SIGTERM that wait for a moment at which everything fits together."""

import os
import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class DeferredSignals:
    """
    A context in which the first SIGINT (Ctrl-C) or SIGTERM is only noted in ``received``, and the second one acts as
    outside. Without effect outside of the main thread, where Python allows no handlers.
    """

    def __init__(self) -> None:
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
        if self.received is not None:
            self.__exit__()
            signal.raise_signal(number)
            return
        self.received = signal.Signals(number)
        # not `print`, which may be what was interrupted
        os.write(2, f"\n{self.received.name}: saving a checkpoint after this rollout; again to stop at once\n".encode())
