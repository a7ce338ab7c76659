"""A callback before all others, while a rollout is collected."""

from collections.abc import Callable
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback


class Recorder(BaseCallback):
    """
    Stands before the callback of a rollout: what the policy knows of the step is noted before anybody asks it for something
    else (``EvalCallback`` replaces ``policy.action_dist``). The callback behind it sees nothing of it.

    :param inner: the callback of the rollout
    :param record: called after each ``env.step`` with the local variables of ``collect_rollouts``
    """

    def __init__(self, inner: BaseCallback, record: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self.inner, self.record = inner, record

    def update_locals(self, locals_: dict[str, Any]) -> None:
        """As in SB3."""
        super().update_locals(locals_)
        self.inner.update_locals({**locals_, "callback": self.inner})

    def on_rollout_start(self) -> None:
        """As in SB3."""
        self.inner.on_rollout_start()

    def on_step(self) -> bool:
        """As in SB3."""
        self.record(self.locals)
        return self.inner.on_step()

    def on_rollout_end(self) -> None:
        """As in SB3."""
        self.inner.on_rollout_end()

    def _on_step(self) -> bool:
        return True
