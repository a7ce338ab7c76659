"""What algorithms with a prior that may be learned share: its callback, in training, in logs and in checkpoints."""

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_mirl.common.algorithm import GuardedAlgorithm
from sb3_mirl.common.prior_callback import PriorCallback, with_prior_callback


class PriorRecord(GuardedAlgorithm):
    """A mixin before an algorithm that offers :class:`~sb3_mirl.PriorCallback` what it asks for."""

    prior_callback: PriorCallback | None = None

    def keeps_prior_record(self) -> bool:
        """Return whether ``learn`` attaches a :class:`~sb3_mirl.PriorCallback`."""
        return True

    def own_callbacks(self, given: BaseCallback) -> list[BaseCallback]:
        """Return the user's callbacks, and a :class:`~sb3_mirl.PriorCallback` before them unless they have one."""
        own = (self.prior_callback if self.num_timesteps > 0 else None) or PriorCallback()
        found, callbacks = with_prior_callback(given, own)
        if found is own and not self.keeps_prior_record():
            self.prior_callback = None
            return [given]
        self.prior_callback = found
        return callbacks

    def record_state(self) -> None:
        """As in :class:`~sb3_mirl.common.algorithm.GuardedAlgorithm`, and the prior, where there is a record of it."""
        super().record_state()
        if self.prior_callback is not None:
            self.prior_callback.log()

    def run_state(self) -> dict[str, Any]:
        """As in :class:`~sb3_mirl.common.algorithm.GuardedAlgorithm`: the prior's record."""
        own = {} if self.prior_callback is None else {"prior_callback": self.prior_callback.state_dict()}
        return {**super().run_state(), **own}

    def load_run_state(self, state: dict[str, Any]) -> None:
        """As in :class:`~sb3_mirl.common.algorithm.GuardedAlgorithm`."""
        super().load_run_state(state)
        if "prior_callback" in state:
            self.prior_callback = PriorCallback()
            self.prior_callback.load_state_dict(state["prior_callback"])

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "prior_callback"]
