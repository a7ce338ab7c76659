"""All gradient updates of a rollout as one CUDA graph: one launch instead of some hundred for each of them."""

import warnings
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch as th

from sb3_mirl.soft_dqn.policies import SoftQPolicy
from sb3_mirl.soft_dqn.update import AT_ONCE, Sampler, Samples, UpdateRule, fast_updates, updates_on

WARM_UP = 3  # runs before the capture, in which kernels are chosen and the optimiser makes its state


class CapturedUpdates:
    """
    :func:`~sb3_mirl.soft_dqn.update.fast_updates`, captured for a number of updates and a batch size at its first call
    and replayed from then on. Beta, prior, learning rate and optimiser state are tensors that the graph reads and
    writes where they are. Whatever makes the graph stale (loaded parameters, another batch size) captures it anew.

    Not picklable, and excluded from saved models. Where the network cannot be captured the updates run uncaptured,
    with a warning.
    """

    def __init__(self) -> None:
        self._key: object = None
        self._graph: th.cuda.CUDAGraph | None = None
        self._inputs: Samples
        self._losses: th.Tensor

    def __call__(self, policy: SoftQPolicy, sample: Sampler, rule: UpdateRule, n: int, batch_size: int) -> th.Tensor:
        """As :func:`~sb3_mirl.soft_dqn.update.fast_updates`."""
        if n > AT_ONCE:
            return fast_updates(policy, sample, rule, n, batch_size)
        data = sample(n, batch_size)
        key = (rule, n, batch_size, *(tensor.data_ptr() for tensor in _state(policy)))
        if key != self._key:
            self._graph = self._try_capture(policy, data, rule, n)
            self._key = (rule, n, batch_size, *(tensor.data_ptr() for tensor in _state(policy)))
        if self._graph is None:
            return updates_on(policy, data, rule, n)
        _copy(data, self._inputs)
        self._graph.replay()
        return self._losses.clone()

    def _try_capture(self, policy: SoftQPolicy, data: Samples, rule: UpdateRule, n: int) -> th.cuda.CUDAGraph | None:
        self._inputs = deepcopy(data)
        if not policy.make_capturable():
            return None
        rule = rule._replace(in_numpy=False)  # a graph holds operators of torch
        before = [(tensor, tensor.clone()) for tensor in _state(policy)]
        try:
            stream = th.cuda.Stream()
            stream.wait_stream(th.cuda.current_stream())
            with th.cuda.stream(stream):
                for _ in range(WARM_UP):
                    updates_on(policy, self._inputs, rule, n)
            th.cuda.current_stream().wait_stream(stream)
            graph = th.cuda.CUDAGraph()
            # the environments' threads may use CUDA meanwhile
            with th.cuda.graph(graph, capture_error_mode="thread_local"):
                self._losses = updates_on(policy, self._inputs, rule, n)
        except RuntimeError as error:
            warnings.warn(f"The updates could not be captured in a CUDA graph and run one by one, slower: {error}")
            return None
        finally:
            _restore(policy, before)
        return graph


def _state(policy: SoftQPolicy) -> Iterator[th.Tensor]:
    """Every tensor that an update changes, or reads beside the minibatch."""
    yield from policy.parameters()
    yield from policy.buffers()
    for state in policy.optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, th.Tensor))


@th.no_grad()
def _restore(policy: SoftQPolicy, before: list[tuple[th.Tensor, th.Tensor]]) -> None:
    for tensor, value in before:
        tensor.copy_(value)
    known = {id(tensor) for tensor, _ in before}
    for tensor in _state(policy):
        if id(tensor) not in known:  # the optimiser's, made in the warm-up: moments and step count start at 0
            tensor.zero_()


def _copy(source: Samples, target: Samples) -> None:
    columns: Iterator[tuple[Any, Any]] = zip(source, target, strict=True)
    for new, old in columns:
        if isinstance(new, dict):
            for key, value in new.items():
                old[key].copy_(value)
        elif new is not None:
            old.copy_(new)
