"""Parameters in scikit-learn's manner: what the constructor takes is kept as it is, and checked by ``fit``."""

import inspect
from typing import Any, TypeVar

import numpy as np

M = TypeVar("M", bound="Parameters")


class Parameters:
    """``get_params``, ``set_params`` and ``clone`` from the constructor's signature."""

    @classmethod
    def _names(cls) -> list[str]:
        return list(inspect.signature(cls.__init__).parameters)[1:]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments.

        :param deep: not used, there is nothing nested
        """
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self: M, **parameters: Any) -> M:
        """Change some of the constructor's arguments; what was fitted stays as it is until the next ``fit``.

        :raises ValueError: there is no such argument
        """
        for name, value in parameters.items():
            if name not in self._names():
                raise ValueError(f"{type(self).__name__} has no parameter {name!r}, choose from {', '.join(self._names())}")
            setattr(self, name, value)
        return self

    def clone(self: M) -> M:
        """Return a model with the same arguments that is not fitted."""
        return type(self)(**self.get_params())

    __sklearn_clone__ = clone  # without it, scikit-learn's clone would copy the network

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        changed = (f"{k}={v!r}" for k, v in self.get_params().items() if v is not defaults[k].default)
        return f"{type(self).__name__}({', '.join(changed)})"

    def _set_unfitted(self, n_features: int) -> None:
        """What is known of a fit that did not take place."""
        self.weight_errors_, self.covariance_ = np.full(n_features, np.nan), np.full((n_features, n_features), np.nan)
        self.log_likelihood_ = self.feature_gap_ = np.nan
        self.converged_, self.n_iterations_, self.n_gradients_ = True, 0, 0

    def _check_fitted(self, attribute: str = "weights_") -> None:
        if not hasattr(self, attribute):
            raise ValueError(f"this {type(self).__name__} is not fitted: call fit first, or make it with from_weights")
