"""The fast paths against the plain one: overlapped, captured in a CUDA graph, in bfloat16, on images."""

import os
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack
from stable_baselines3.dqn.policies import QNetwork
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_mirl import MIRL, PriorCallback, SoftDQN
from sb3_mirl.maths import boltzmann_log_probs
from sb3_mirl.replay import FrameReplayBuffer
from sb3_mirl.soft_dqn import networks, update
from sb3_mirl.soft_dqn.captured import CapturedUpdates
from sb3_mirl.soft_dqn.networks import optimized
from sb3_mirl.soft_dqn.policies import CnnPolicy
from tests.conftest import OnTheDeviceOnly, ScriptedEnv, copy_of

cuda = pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")


def image_model(device: str = "cpu", beta_init: float = 1.0, **kwargs: Any) -> MIRL:
    env = VecFrameStack(DummyVecEnv([lambda: FakeImageEnv(4, 36, 36, channel_first=True)] * 2), 4, channels_order="first")
    model = MIRL("CnnPolicy", env, learning_starts=40, buffer_size=500, seed=0, device=device, beta_init=beta_init, **kwargs)
    return model.learn(80)


def weights(model: SoftDQN) -> th.Tensor:
    return th.cat([p.detach().flatten() for p in model.q_net.parameters()])


def updated(model: MIRL, run: Any, n: int = 4, **rule: Any) -> tuple[th.Tensor, float, th.Tensor]:
    """Weights, beta and losses after n updates of a copy of the model's policy."""
    policy = copy_of(model.policy)
    np.random.seed(1)
    drawn = model.replay_buffer.sample(n * 8)  # type: ignore[union-attr]
    position = 0

    def sample(n: int, size: int) -> Any:
        nonlocal position
        rows = slice(position, position + n * size)
        position += n * size
        return type(drawn)(*(None if column is None else column[rows] for column in drawn))

    fast = nullcontext() if run is update.eager_updates else optimized([policy.q_net, policy.q_net_target], False)
    with fast:
        losses = run(policy, sample, model.update_rule()._replace(beta_lr=0.1, **rule), n, 8)
    return th.cat([p.detach().flatten() for p in policy.q_net.parameters()]).cpu(), float(policy.beta), losses.float().cpu()


def test_images_take_the_frame_buffer() -> None:
    assert isinstance(image_model().replay_buffer, FrameReplayBuffer)


def test_batched_path_equals_plain_path_on_images() -> None:
    model = image_model()
    plain, batched = updated(model, update.eager_updates), updated(model, update.fast_updates)
    th.testing.assert_close(batched[0], plain[0], rtol=1e-4, atol=1e-6)
    th.testing.assert_close(batched[2], plain[2], rtol=1e-4, atol=1e-6)
    assert batched[1] == pytest.approx(plain[1], rel=1e-4)


def test_many_updates_are_drawn_in_parts_of_bounded_size(monkeypatch: Any) -> None:
    """An episode's worth of updates took gigabytes when all their minibatches were drawn together."""
    model = image_model()
    whole, drawn = updated(model, update.fast_updates, n=7), []
    monkeypatch.setattr(update, "AT_ONCE", 3)
    make_batch = update.make_batch

    def spy(policy: Any, data: Any, rule: Any) -> Any:
        drawn.append(len(data.actions))
        return make_batch(policy, data, rule)

    monkeypatch.setattr(update, "make_batch", spy)
    parts = updated(model, update.fast_updates, n=7)
    assert drawn == [24, 24, 8]
    th.testing.assert_close(parts[0], whole[0], rtol=1e-4, atol=1e-6)
    th.testing.assert_close(parts[2], whole[2], rtol=1e-4, atol=1e-6)
    assert parts[1] == pytest.approx(whole[1], rel=1e-4), "beta is the same for all targets, and follows all losses"


class CountOperators(TorchDispatchMode):
    """Of torch, views included: on a GPU most are a kernel, and small kernels are what updates there take their time for."""

    def __init__(self) -> None:
        super().__init__()
        self.n = self.n_views = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += 1
        self.n_views += func.is_view or func is th.ops.aten.detach.default
        return func(*args, **(kwargs or {}))


def test_mirl_adds_less_than_5_percent_of_operators_to_dqns_updates() -> None:
    counts = []
    for beta in (dict[str, Any](), dict(beta_schedule="constant", prior_lr=0.0)):
        model = image_model(**beta)
        sample = update.sampler(model.replay_buffer, None)
        with CountOperators() as operators:
            update.fast_updates(model.policy, sample, model.update_rule(), 16, 8)
        counts.append(operators.n)
    mirl, dqn = counts
    assert 16 * 20 < dqn < mirl < 1.05 * dqn


def operators_on_the_device(n: int, monkeypatch: Any) -> int:
    """Of n updates on images, views and Adam left out, counted on the meta device."""
    model = image_model(update_path="eager")
    data = update.sampler(model.replay_buffer, None)(n, 8)  # type: ignore[arg-type]
    on_device = type(data)(*(None if column is None else column.to("meta") for column in data))
    policy = model.policy.to("meta")
    policy.optimizer.zero_grad()
    monkeypatch.setattr(update, "_autocast", lambda like, rule: nullcontext())
    monkeypatch.setattr(networks, "_computes_in", lambda device_type: th.float32)
    monkeypatch.setattr(policy.optimizer, "step", lambda: None)
    with optimized([policy.q_net, policy.q_net_target], bfloat16=False), CountOperators() as operators:
        update.updates_on(policy, on_device, model.update_rule(), n)
    return operators.n - operators.n_views


def test_an_update_on_a_gpu_takes_few_operators(monkeypatch: Any) -> None:
    """
    It was 73 before images were cast together and Adam's kernel clipped. Norms count once per parameter here, ten times; on
    CUDA they are one kernel. Ten accumulations of gradients and two marks of the profiler are the count's own.
    """
    few, many = (operators_on_the_device(n, monkeypatch) for n in (2, 12))
    assert (many - few) / 10 <= 59


@pytest.mark.parametrize("max_norm", [None, 1e-3, 1e3])
def test_adams_kernel_clips_and_leaves_out_bad_steps(max_norm: float | None) -> None:
    """As on a GPU, with the CPU's fused Adam."""
    model = image_model()
    policy, clipped = copy_of(model.policy), copy_of(model.policy)
    for p, q in zip(policy.q_net.parameters(), clipped.q_net.parameters(), strict=True):
        p.grad = th.randn_like(p)
        q.grad = p.grad.clone(memory_format=th.preserve_format)
    norm = th.nn.utils.get_total_norm([p.grad for p in policy.q_net.parameters() if p.grad is not None])
    if max_norm is not None:
        th.nn.utils.clip_grads_with_norm_(clipped.q_net.parameters(), max_norm, norm)
    clipped.optimizer.step()
    before = policy.parameters_to_vector()
    update._step_on_device(policy.optimizer, norm, th.tensor(float("nan")), max_norm)
    np.testing.assert_array_equal(policy.parameters_to_vector(), before)
    update._step_on_device(policy.optimizer, norm, th.tensor(0.0), max_norm)
    np.testing.assert_allclose(policy.parameters_to_vector(), clipped.parameters_to_vector(), rtol=1e-5, atol=1e-8)
    assert not np.array_equal(policy.parameters_to_vector(), before)
    clipped.optimizer.step()  # the next step of somebody else is neither scaled nor left out
    assert policy.optimizer.found_inf is None and policy.optimizer.grad_scale is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=cuda)])
def test_optimizers_that_cannot_leave_out_a_step_are_stopped_before_it(device: str) -> None:
    model = image_model(device, policy_kwargs=dict(optimizer_class=th.optim.RMSprop), update_path="eager")
    before = weights(model).clone()
    data = update.sampler(model.replay_buffer, None)(1, 8)  # type: ignore[arg-type]
    batch = update.make_batch(model.policy, data, model.update_rule())
    with pytest.raises(ValueError, match="not finite"):
        update.gradient_update(model.policy, batch._replace(targets=batch.targets * float("inf")), model.update_rule())
    assert th.equal(weights(model), before)


def test_images_of_a_rollout_are_cast_together_off_the_cpu(monkeypatch: Any) -> None:
    monkeypatch.setattr(networks, "_computes_in", lambda device_type: th.float32)
    network = image_model().q_net.to("meta")
    images = th.empty(6, 4, 36, 36, dtype=th.uint8, device="meta")
    assert networks.prepared(network, images) is images, "only what is optimized takes them"
    with optimized([network], bfloat16=False):
        together = networks.prepared(network, images)
        assert together.images.is_contiguous() and together.images.dtype == th.float32
        assert len(network(together[2:4])) == 2
        on_cpu = th.zeros(2, 4, 36, 36, dtype=th.uint8)
        assert networks.prepared(network, on_cpu) is on_cpu


@pytest.mark.parametrize("kwargs", [dict(), dict(entropy_bonus=True), dict(beta_schedule="constant", beta_init=float("inf"))])
def test_updates_and_prior_ask_nothing_of_the_host(kwargs: dict[str, Any], monkeypatch: Any) -> None:
    """
    A CUDA graph can capture no copy from or to the host, and no look at a value. Autocast and fused optimisers are not
    made for the meta device.
    """
    model = image_model(**kwargs, update_path="eager")
    data = update.sampler(model.replay_buffer, None)(3, 8)  # type: ignore[arg-type]
    on_device = type(data)(*(None if column is None else column.to("meta") for column in data))
    policy = model.policy.to("meta")
    q, callback = th.empty(2, 4, device="meta"), PriorCallback()
    callback.model = model
    monkeypatch.setattr(update, "_autocast", lambda like, rule: nullcontext())
    monkeypatch.setattr(networks, "_computes_in", lambda device_type: th.float32)
    monkeypatch.setattr(policy.optimizer, "step", lambda: None)
    with OnTheDeviceOnly(), optimized([policy.q_net, policy.q_net_target], bfloat16=False):
        losses = update.updates_on(policy, on_device, model.update_rule(), 3)
        policy.greedy_actions(q)
        callback.fold(boltzmann_log_probs(q, policy.log_prior, policy.beta))
    assert losses.is_meta and losses.shape == (3,)


def test_bfloat16_is_close_and_keeps_float32_weights() -> None:
    model = image_model()
    full, half = updated(model, update.fast_updates, n=1), updated(model, update.fast_updates, n=1, bfloat16=True)
    assert half[0].dtype == th.float32
    assert not th.equal(full[0], half[0])
    assert half[2].item() == pytest.approx(full[2].item(), rel=0.05)
    assert image_model(precision="bfloat16").beta > 0


def test_overlapped_updates_run_after_the_next_actions_are_known(small: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(SoftDQN, "_overlaps_updates", lambda self: True)
    model = MIRL("MlpPolicy", DummyVecEnv([ScriptedEnv] * 4), **small).learn(400)
    assert model._n_updates == len(range(52, 401, 4)) and model._pending_updates is None  # none is lost at the end

    model._overlap = True
    before, obs = weights(model), th.as_tensor(model._last_obs)
    q_before = model.q_net(obs).detach()
    model.train(gradient_steps=2, batch_size=8)
    assert th.equal(weights(model), before)
    model._sample_action(0, None, 4)
    th.testing.assert_close(model.rollout_q_values, q_before)
    assert not th.equal(weights(model), before)


def test_an_optimizer_that_cannot_be_captured_runs_uncaptured() -> None:
    model = image_model(policy_kwargs=dict(optimizer_class=th.optim.SGD))
    model.policy.optimizer.defaults.pop("capturable", None)
    plain, uncaptured = updated(model, update.fast_updates), updated(model, CapturedUpdates())
    assert th.equal(plain[0], uncaptured[0]) and th.equal(plain[2], uncaptured[2])


def test_tensor_learning_rate_stays_a_tensor_and_follows_the_schedule(small: dict[str, Any]) -> None:
    model = SoftDQN("MlpPolicy", ScriptedEnv(), **{**small, "learning_rate": lambda left: 1e-3 * left}).learn(60)
    assert model.policy.make_capturable()
    rate = model.policy.optimizer.param_groups[0]["lr"]
    model._current_progress_remaining = 0.25
    model._update_learning_rate(model.policy.optimizer)
    assert model.policy.optimizer.param_groups[0]["lr"] is rate and rate.item() == pytest.approx(2.5e-4)
    model.policy.adopt_optimizer_state()  # as after loading on the CPU what was trained on a GPU
    group = model.policy.optimizer.param_groups[0]
    assert group["capturable"] is False and isinstance(group["lr"], float)


@cuda
def test_captured_updates_equal_eager_ones() -> None:
    model = image_model("cuda")
    captured = CapturedUpdates()
    eager = updated(model, update.eager_updates)
    graphed = updated(model, captured)
    assert captured._graph is not None
    th.testing.assert_close(graphed[0], eager[0], rtol=1e-4, atol=1e-6)
    th.testing.assert_close(graphed[2], eager[2], rtol=1e-4, atol=1e-6)
    assert graphed[1] == pytest.approx(eager[1], rel=1e-4)


@cuda
def test_non_finite_updates_are_left_out_on_the_device() -> None:
    model = image_model("cuda")
    model.replay_buffer.rewards[:] = float("inf")  # type: ignore[union-attr]
    before = weights(model).clone()
    model.train(gradient_steps=2, batch_size=8)
    assert th.equal(weights(model), before)
    with pytest.raises(ValueError, match="A loss is not finite"):
        model.learn(100, reset_num_timesteps=False)


@cuda
def test_model_from_cuda_loads_on_the_cpu(tmp_path: Any) -> None:
    model = image_model("cuda")
    model.save(tmp_path / "model")
    loaded = MIRL.load(tmp_path / "model", env=model.get_env(), device="cpu")
    assert loaded.beta == model.beta
    np.testing.assert_array_equal(loaded.prior, model.prior)
    loaded.learn(80)


HOLD = """
import ctypes, sys
import torch as th
from sb3_mirl.common.allocator import keep_freed_memory
class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]
mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
if mallinfo2 is None or sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("no glibc of 2.33 or newer")
mallinfo2.restype = Mallinfo2
def from_system():
    info = mallinfo2()
    return info.arena + info.hblkhd
before = from_system()
th.ones(7_500_000)
print(from_system() - before)
"""


def bytes_held_after_freeing_30_mb(mode: str) -> int:
    """As malloc counts them: not every kernel counts page faults. The first large block by default goes back at once."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    run = subprocess.run([sys.executable, "-c", HOLD, mode], env=clean, capture_output=True, text=True)
    if "no glibc" in run.stderr:
        pytest.skip(run.stderr)
    return int(run.stdout)


def test_freed_memory_is_kept() -> None:
    assert bytes_held_after_freeing_30_mb("default") < 10_000_000
    assert bytes_held_after_freeing_30_mb("keep") > 20_000_000


class OwnNetworkPolicy(CnnPolicy):
    def make_q_net(self) -> QNetwork:
        return QNetwork(**self._update_features_extractor(self.net_args, features_extractor=None)).to(self.device)


def test_a_policy_may_make_another_network() -> None:
    env = VecFrameStack(DummyVecEnv([lambda: FakeImageEnv(4, 36, 36, channel_first=True)]), 4, channels_order="first")
    model = MIRL(OwnNetworkPolicy, env, learning_starts=8, buffer_size=50, seed=0).learn(16)
    assert type(model.q_net) is QNetwork and model._n_updates > 0
