"""Weights of a policy from a file of unknown origin: nothing in it is executed, and nothing of it can exhaust the machine."""

import io
import pathlib
import pickletools
import zipfile
from collections.abc import Collection
from typing import Any, cast

import torch as th
from stable_baselines3.common.save_util import open_path

MEMBER = "policy.pth"  # of the archives of `model.save`
SLACK = 2**20  # bytes that a file may need beside twice its numbers
OPCODES = 80  # of the pickle per tensor, and for a hundred tensors beside: torch writes about 40


def read_weights(
    path: str | pathlib.Path, expected: dict[str, th.Tensor], unchecked: Collection[str] = ()
) -> dict[str, th.Tensor]:
    """
    Read and check weights; no code in the file is run, and no more is read than the policy can need.

    :param path: archive of ``model.save``, or a state dictionary saved by ``torch.save``
    :param expected: ``policy.state_dict()`` of the policy for which they are
    :param unchecked: names of tensors whose values may be infinite, and are checked by the caller
    :return: what ``policy.load_state_dict`` takes
    :raises OSError: if the file cannot be opened
    :raises ValueError: if it is damaged, or does not hold weights of the policy
    """
    limit = SLACK + 2 * sum(value.nbytes for value in expected.values())
    saved = _read_bytes(path, limit)
    try:
        with zipfile.ZipFile(io.BytesIO(saved)) as archive:
            size = sum(info.file_size for info in archive.infolist())
            simple = size <= limit and all(
                _is_simple(archive.read(name), len(expected)) for name in archive.namelist() if name.endswith("data.pkl")
            )
        if simple:
            state = th.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
    except Exception:  # what torch says of a damaged file may be anything, and of a pickle how to run its code
        raise _not_weights(path) from None
    if size > limit:
        raise _too_large(path, size, limit)
    if not simple:
        raise _not_weights(path)
    _check_tensors(path, state, expected)
    for name, value in state.items():
        if name not in unchecked and not th.isfinite(value).all():
            raise ValueError(f"{name!r} in {path} has values that are not finite.")
    return cast(dict[str, th.Tensor], state)


def _is_simple(pickle: bytes, n_tensors: int) -> bool:
    """
    Return whether a pickle is built as ``torch.save`` builds it, so that reading it takes time in proportion to its size: with
    tuples inside tuples, each used twice, a kilobyte takes hours to hash.
    """
    shared: set[object] = set()  # memo indices of names and strings, the only objects that torch uses again
    before, memoized = "", 0
    for n, (opcode, argument, _) in enumerate(pickletools.genops(pickle)):
        if n > OPCODES * (n_tensors + 100) or opcode.name == "DUP":
            return False
        if "PUT" in opcode.name or opcode.name == "MEMOIZE":
            index = memoized if argument is None else argument
            (shared.add if before.endswith(("UNICODE", "GLOBAL")) else shared.discard)(index)
            memoized += 1
        elif "GET" in opcode.name and argument not in shared:
            return False
        before = opcode.name
    return True


def _read_bytes(path: str | pathlib.Path, limit: int) -> bytes:
    """Return the state dictionary as ``torch.save`` wrote it."""
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
            raise ValueError(f"{path} is damaged, or not a file of model.save or torch.save ({error}).") from error
    if len(saved) > limit:
        raise _too_large(path, len(saved), limit)
    return saved


def _not_weights(path: str | pathlib.Path) -> ValueError:
    return ValueError(
        f"{path} is damaged, or holds something else than tensors, which is not loaded: it could run any code. "
        "Needed is a file of model.save, or of torch.save(model.policy.state_dict(), path)."
    )


def _too_large(path: str | pathlib.Path, size: int, limit: int) -> ValueError:
    return ValueError(
        f"{path} unpacks to {size} bytes or more, and the weights of this model to less than {limit}: "
        "it is of a larger network, or was made to fill the memory."
    )


def _check_tensors(path: str | pathlib.Path, state: Any, expected: dict[str, th.Tensor]) -> None:
    """Check names, types and shapes."""
    names = {name for name in state if isinstance(name, str)} if isinstance(state, dict) else set()
    foreign = len(state) - len(names) if isinstance(state, dict) else 0
    if foreign or names != set(expected):
        missing, unknown = sorted(set(expected) - names), sorted(names - set(expected))
        raise ValueError(
            f"{path} does not hold the weights of this model ({len(missing)} missing: {missing[:3]}; "
            f"{len(unknown) + foreign} unknown: {[name[:80] for name in unknown[:3]]}). Make the model with the policy and "
            "policy_kwargs of the one that was saved."
        )
    for name, value in state.items():
        if type(value) not in (th.Tensor, th.nn.Parameter) or value.layout != th.strided or value.device.type != "cpu":
            raise ValueError(f"{name!r} in {path} is not a plain tensor but a {type(value).__name__}.")
        if value.shape != expected[name].shape or value.dtype != expected[name].dtype:
            raise ValueError(
                f"{name!r} in {path} is {value.dtype} {tuple(value.shape)}, this model needs {expected[name].dtype} "
                f"{tuple(expected[name].shape)}. Make the model with the spaces and policy_kwargs of the one that was saved."
            )
