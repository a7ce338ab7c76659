"""NumPy's arrays and torch's tensors in one formula: what goes in comes out."""

import math
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
    return x.to(like.dtype) if isinstance(x, th.Tensor) else x.astype(like.dtype, copy=False)


def clip(x: Any, low: float = -np.inf, high: float = np.inf) -> Any:
    """Return a tensor, an array or a number within its bounds; NaN stays."""
    if isinstance(x, th.Tensor):
        return x.clamp(low, high)
    if isinstance(x, float):
        return min(max(x, low), high)
    x = x if low == -np.inf else np.maximum(x, low)
    return x if high == np.inf else np.minimum(x, high)


def log_softmax(x: Any) -> Any:
    """Return log of exp(x) / sum(exp(x)) along the last axis."""
    if isinstance(x, th.Tensor):
        return x.log_softmax(-1)
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def is_finite(x: Any) -> bool:
    """Whether no value is NaN or infinite. One sum tells, unless it overflows."""
    xp = namespace(x)
    total = x.sum().item() if xp is th else np.vdot(x, x)  # of which NumPy never warns
    return math.isfinite(total) or bool(xp.isfinite(x).all())


def is_at_hand(x: Any) -> bool:
    """Whether values can be looked at without waiting for an accelerator."""
    return not isinstance(x, th.Tensor) or x.is_cpu


def is_traced() -> bool:
    """Whether torch records what is done, for a compiler or a file: values are not known then, nor shapes be compared."""
    return th.compiler.is_compiling() or th.jit.is_tracing() or th.onnx.is_in_onnx_export()


def at_hand(x: Any) -> Any:
    """
    Return the array that shares the memory of a tensor on the CPU, and what is elsewhere as it is. On a few numbers NumPy's
    operators take a fraction of the time of torch's.
    """
    if not isinstance(x, th.Tensor) or not x.is_cpu:
        return x
    return x.detach().numpy() if x.requires_grad else x.numpy()


def to_array(x: Any) -> np.ndarray:
    """Return the array of a tensor, wherever it is, and an array as it is."""
    return x.detach().cpu().numpy() if isinstance(x, th.Tensor) else x
