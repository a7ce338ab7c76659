"""NumPy's arrays and torch's tensors in one formula: what goes in comes out."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch as th

Array = TypeVar("Array", np.ndarray, th.Tensor)


def namespace(x: Any) -> Any:
    """Return the module whose functions take ``x``: they have NumPy's names in both."""
    return th if isinstance(x, th.Tensor) else np


def silent(x: Any) -> AbstractContextManager[Any]:
    """Let NumPy compute limits such as log 0 without a warning, as torch does."""
    return nullcontext() if isinstance(x, th.Tensor) else np.errstate(all="ignore")


def as_float64(x: Any) -> Any:
    """Return ``x`` in double precision."""
    return x.double() if isinstance(x, th.Tensor) else np.asarray(x, np.float64)


def cast_like(x: Any, like: Any) -> Any:
    """Return ``x`` in the precision of ``like``."""
    return x.to(like.dtype) if isinstance(x, th.Tensor) else x.astype(like.dtype)


def clip(x: Any, low: float = -np.inf, high: float = np.inf) -> Any:
    """Return a tensor, an array or a number within its bounds; NaN stays."""
    if isinstance(x, th.Tensor):
        return x.clamp(low, high)
    return min(max(x, low), high) if isinstance(x, float) else np.minimum(np.maximum(x, low), high)


def log_softmax(x: Any) -> Any:
    """Return log of exp(x) / sum(exp(x)) along the last axis."""
    if isinstance(x, th.Tensor):
        return x.log_softmax(-1)
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def is_finite(x: Any) -> bool:
    """Whether no value is NaN or infinite. The sum alone tells, unless it overflows."""
    xp = namespace(x)
    with silent(x):
        return bool(xp.isfinite(x.sum())) or bool(xp.isfinite(x).all())


def is_at_hand(x: Any) -> bool:
    """Whether values can be looked at without waiting for an accelerator."""
    return not isinstance(x, th.Tensor) or x.is_cpu


def at_hand(x: Any) -> Any:
    """
    Return the array that shares the memory of a tensor on the CPU, and what is elsewhere as it is. On a few numbers NumPy's
    operators take a fraction of the time of torch's.
    """
    if not isinstance(x, th.Tensor) or not x.is_cpu:
        return x
    return x.detach().numpy() if x.requires_grad else x.numpy()
