"""States of the global random number generators."""

import random
from typing import Any

import numpy as np
import torch as th


def get_random_states() -> dict[str, Any]:
    """States of Python's, NumPy's and PyTorch's global generators."""
    states: dict[str, Any] = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": th.get_rng_state()}
    if th.cuda.is_initialized():
        states["cuda"] = [state.cpu() for state in th.cuda.get_rng_state_all()]
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """
    :param states: from :func:`get_random_states`
    """
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    th.set_rng_state(states["torch"])
    if th.cuda.is_available() and len(states.get("cuda", ())) == th.cuda.device_count():
        th.cuda.set_rng_state_all(states["cuda"])
