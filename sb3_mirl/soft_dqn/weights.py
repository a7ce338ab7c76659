"""A policy's weights from a file that nobody vouches for."""

import io
import math
import pathlib
import zipfile
from typing import Any, cast

import torch as th
from stable_baselines3.common.save_util import open_path

from sb3_mirl.soft_dqn.policies import SoftQPolicy

MEMBER = "policy.pth"  # of the archives of `model.save`
SLACK = 2**20  # bytes that a file may need beside twice its numbers
TOLERANCE = 1e-6


def read_weights(path: str | pathlib.Path, policy: SoftQPolicy, beta_max: float) -> dict[str, th.Tensor]:
    """
    Reads and checks weights; no code in the file is run, and no more is read than ``policy`` can need.

    :param path: archive of ``model.save``, or a state dictionary saved by ``torch.save``
    :param policy: for which they are; it is not changed
    :param beta_max: largest beta allowed
    :return: what ``policy.load_state_dict`` takes
    :raises OSError: if the file cannot be opened
    :raises ValueError: if it is damaged, or its contents are no weights of ``policy``
    """
    expected = policy.state_dict()
    limit = SLACK + 2 * sum(value.nbytes for value in expected.values())
    saved = _read_bytes(path, limit)
    try:
        with zipfile.ZipFile(io.BytesIO(saved)) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size <= limit:
            state = th.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
    except Exception:  # what torch says of a damaged file may be anything, and of a pickle how to run its code
        raise ValueError(
            f"{path} is damaged, or holds something else than tensors, which is not loaded: it could run any code. "
            "Needed is a file of model.save, or of torch.save(model.policy.state_dict(), path)."
        ) from None
    if size > limit:
        raise _too_large(path, size, limit)
    _check_tensors(path, state, expected)
    _check_values(path, state, beta_max)
    return cast(dict[str, th.Tensor], state)


def _read_bytes(path: str | pathlib.Path, limit: int) -> bytes:
    """The state dictionary as ``torch.save`` wrote it."""
    with open_path(path, "r", suffix="zip") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                if MEMBER in archive.namelist():
                    with archive.open(MEMBER) as member:
                        saved = member.read(limit + 1)
                else:
                    file.seek(0)
                    saved = file.read(limit + 1)
        except Exception as error:  # a damaged archive raises errors of a dozen types
            raise ValueError(f"{path} is damaged, or no file of model.save or torch.save ({error}).") from error
    if len(saved) > limit:
        raise _too_large(path, len(saved), limit)
    return saved


def _too_large(path: str | pathlib.Path, size: int, limit: int) -> ValueError:
    return ValueError(
        f"{path} unpacks to {size} bytes or more, and the weights of this model to less than {limit}: "
        "it is of a larger network, or was made to fill the memory."
    )


def _check_tensors(path: str | pathlib.Path, state: Any, expected: dict[str, th.Tensor]) -> None:
    """Names, types and shapes."""
    names = set(state) if isinstance(state, dict) else set()
    if names != set(expected):
        missing, unknown = sorted(set(expected) - names), sorted(map(str, names - set(expected)))
        raise ValueError(
            f"{path} does not hold the weights of this model ({len(missing)} missing: {missing[:3]}; {len(unknown)} unknown: "
            f"{unknown[:3]}). Make the model with the policy and policy_kwargs of the one that was saved."
        )
    for name, value in state.items():
        if type(value) not in (th.Tensor, th.nn.Parameter) or value.layout != th.strided or value.device.type != "cpu":
            raise ValueError(f"{name!r} in {path} is no plain tensor but a {type(value).__name__}.")
        if value.shape != expected[name].shape or value.dtype != expected[name].dtype:
            raise ValueError(
                f"{name!r} in {path} is {value.dtype} {tuple(value.shape)}, this model needs {expected[name].dtype} "
                f"{tuple(expected[name].shape)}. Make the model with the spaces and policy_kwargs of the one that was saved."
            )


def _check_values(path: str | pathlib.Path, state: dict[str, th.Tensor], beta_max: float) -> None:
    for name, value in state.items():
        # log 0 is a valid logarithm, and beta = inf is the hard maximum: both have checks of their own
        if name not in ("log_prior", "beta") and not th.isfinite(value).all():
            raise ValueError(f"{name!r} in {path} has values that are not finite.")
    beta, total = state["beta"].item(), state["log_prior"].logsumexp(-1).item()
    if not 0 < beta <= beta_max:
        raise ValueError(f"beta in {path} is {beta}, this model needs it in (0, {beta_max:g}] (beta_max).")
    if not math.isclose(total, 0, abs_tol=TOLERANCE):
        raise ValueError(f"The prior in {path} sums to {math.exp(min(total, 700.0)):g} and not to 1.")
    if state["action_counts"].min() < 0:
        raise ValueError(f"'action_counts' in {path} has negative numbers: {state['action_counts'].tolist()}.")
