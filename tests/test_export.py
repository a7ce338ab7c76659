"""What PyTorch and its tools do to modules, a policy survives: after construction, ``learn`` and ``load``."""

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.envs import FakeImageEnv

from sb3_mirl import MIRL, SoftDQN
from sb3_mirl.maths import boltzmann_log_probs
from tests.conftest import SMALL, ScriptedEnv

N = 1000


class DictEnv(gym.ObservationWrapper[Any, Any, Any]):
    def __init__(self) -> None:
        super().__init__(ScriptedEnv())
        self.observation_space = spaces.Dict(a=self.env.observation_space, b=spaces.Box(-1, 1, (4,)))

    def observation(self, observation: Any) -> Any:
        return {"a": observation, "b": -observation}


class Acting(th.nn.Module):
    """SB3's recipe for exporting."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, obs: Any) -> th.Tensor:
        return self.policy(obs, deterministic=True)


KINDS: dict[str, Callable[[], MIRL]] = {
    # so wide that the fast path's large linear layers are in it
    "mlp": lambda: MIRL("MlpPolicy", ScriptedEnv(), **SMALL | {"policy_kwargs": dict(net_arch=[1024, 1024])}),
    "cnn": lambda: MIRL("CnnPolicy", FakeImageEnv(3, 84, 84, n_channels=4, channel_first=True), **SMALL | IMAGES),
    "dict": lambda: MIRL("MultiInputPolicy", DictEnv(), **SMALL),
}
IMAGES: dict[str, Any] = dict(buffer_size=60, batch_size=4, learning_starts=8, policy_kwargs={})


def prepared(model: Any) -> Any:
    """A prior far from uniform, which decides some actions and not all."""
    policy = model.policy.cpu()
    policy.set_training_mode(False)
    policy.log_prior.copy_(th.tensor([0.99, 0.008, 0.002]).double().log())
    return policy


def observations(kind: str, n: int) -> Any:
    rng = np.random.default_rng(0)
    if kind == "cnn":
        return rng.integers(0, 256, (n, 4, 84, 84), np.uint8)
    values = rng.uniform(-1, 1, (n, 4)).astype(np.float32)
    return {"a": values, "b": -values} if kind == "dict" else values


def tensors(obs: Any, rows: slice = slice(None)) -> Any:
    return {k: th.as_tensor(v[rows]) for k, v in obs.items()} if isinstance(obs, dict) else th.as_tensor(obs[rows])


@pytest.fixture(scope="module", params=[*KINDS, "mlp-learned", "cnn-learned", "mlp-loaded"])
def case(request: Any, tmp_path_factory: Any) -> tuple[str, MIRL, Any, Any]:
    """(kind, model, observations, actions): all of the prior's, some of them the network's."""
    kind, _, state = request.param.partition("-")
    th.manual_seed(0)
    model = KINDS[kind]()
    if state:
        model.learn(16 if kind == "cnn" else 80)
    if state == "loaded":
        path = tmp_path_factory.mktemp("saved") / "model"
        model.save(path)
        model = MIRL.load(path, device="cpu")
    policy, obs = prepared(model), observations(kind, N)
    with th.no_grad():  # such that the prior decides in some states only
        spread = policy.q_net(tensors(obs)).diff(dim=-1).abs().median()
        policy.beta.fill_(5.0 / float(spread))
    actions, _ = model.predict(obs, deterministic=True)
    return kind, model, obs, actions


def outputs(module: Any, obs: Any) -> np.ndarray:
    with th.no_grad():
        return module(tensors(obs)).numpy()


def own_warnings(recorded: Any) -> list[str]:
    return [str(w.message) for w in recorded if "sb3_mirl" in w.filename]


TOOLS: dict[str, Callable[[Any, Any], Any]] = {
    "deepcopy": lambda module, obs: copy.deepcopy(module),
    "pickle": lambda module, obs: pickle.loads(pickle.dumps(module)),
    "export": lambda module, obs: th.export.export(module, (obs,), dynamic_shapes=dynamic(obs)).module(),
    "compile": lambda module, obs: th.compile(module, fullgraph=True, backend="eager"),
    "trace": lambda module, obs: th.jit.trace(module, obs, strict=False),
}


def dynamic(obs: Any) -> Any:
    batch = {0: th.export.Dim.AUTO}
    return ({k: batch for k in obs} if isinstance(obs, dict) else batch,)


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_of_pytorch(case: Any, tool: str) -> None:
    _, model, obs, actions = case
    if tool == "trace" and isinstance(obs, dict):
        pytest.skip("torch.jit.trace checks dictionaries by comparing them, and fails for DQN's policies as well")
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        made = TOOLS[tool](Acting(model.policy), tensors(obs, slice(0, 2)))
    assert not own_warnings(recorded)
    np.testing.assert_array_equal(outputs(made, obs), actions)


def test_traced_modules_can_be_saved(case: Any, tmp_path: Path) -> None:
    _, model, obs, actions = case
    if isinstance(obs, dict):
        pytest.skip("as above")
    th.jit.trace(Acting(model.policy), tensors(obs, slice(0, 2))).save(str(tmp_path / "traced.pt"))
    np.testing.assert_array_equal(outputs(th.jit.load(str(tmp_path / "traced.pt")), obs), actions)


@pytest.mark.parametrize("exporter", ["default", "legacy"])
def test_onnx(case: Any, exporter: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="pip install onnx onnxscript onnxruntime")
    kind, model, obs, actions = case
    options: dict[str, Any] = dict(dynamo=exporter == "default", input_names=["a", "b"] if kind == "dict" else ["obs"])
    if exporter == "default":
        options.update(dynamic_shapes=dynamic(obs), verbose=False)
    else:
        options.update(dynamic_axes={name: {0: "batch"} for name in options["input_names"]})
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        th.onnx.export(Acting(model.policy), (tensors(obs, slice(0, 2)), {}), str(tmp_path / "policy.onnx"), **options)
    assert not own_warnings(recorded)
    session = runtime.InferenceSession(str(tmp_path / "policy.onnx"))
    values = list(obs.values()) if isinstance(obs, dict) else [obs]
    (exported,) = session.run(None, {put.name: value for put, value in zip(session.get_inputs(), values, strict=True)})
    np.testing.assert_array_equal(exported, actions)


def test_functional_transformations(case: Any) -> None:
    kind, model, obs, actions = case
    few = tensors(obs, slice(0, 8))
    single = th.func.vmap(lambda o: model.policy({k: v[None] for k, v in o.items()} if kind == "dict" else o[None])[0])
    np.testing.assert_array_equal(single(few).numpy(), actions[:8])
    gradient = th.func.grad(lambda p: th.func.functional_call(model.q_net, p, (few,)).sum())(
        dict(model.q_net.named_parameters())
    )
    assert all(value.isfinite().all() for value in gradient.values())


def test_vectors_of_parameters(case: Any) -> None:
    """Needs weights that lie in memory as anybody expects."""
    policy = case[1].policy
    before = policy.parameters_to_vector()
    policy.load_from_vector(before)
    np.testing.assert_array_equal(policy.parameters_to_vector(), before)


@pytest.mark.parametrize("beta", [0.01, 1.0, 1e4])
def test_the_prior_decides_in_the_exported_file_too(beta: float, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="pip install onnx onnxscript onnxruntime")
    model = MIRL("MlpPolicy", "CartPole-v1", device="cpu", buffer_size=100, seed=0)
    model.policy.log_prior.copy_(th.tensor([0.01, 0.99]).double().log())
    model.policy.beta.fill_(beta)
    obs = np.random.default_rng(0).uniform(-20, 20, (N, 4)).astype(np.float32)
    th.onnx.export(
        Acting(model.policy), (th.zeros(2, 4),), str(tmp_path / "p.onnx"), dynamic_shapes=dynamic(obs), verbose=False
    )
    (actions,) = runtime.InferenceSession(str(tmp_path / "p.onnx")).run(None, {"obs": obs})
    np.testing.assert_array_equal(actions, model.predict(obs, deterministic=True)[0])
    greedy = model.q_net(th.as_tensor(obs)).argmax(-1).numpy()
    assert (actions != greedy).mean() > (0.2 if beta < 1e4 else -1)


class TestOptimizers:
    """A user who names an optimiser or its arguments gets what he asked for, as in DQN."""

    CASES: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
        ({}, dict(eps=1.5e-4, fused=True)),
        (dict(optimizer_kwargs=dict(foreach=True)), dict(eps=1.5e-4, foreach=True, fused=None)),
        (dict(optimizer_kwargs=dict(differentiable=False, eps=1e-3)), dict(eps=1e-3, fused=True)),
        (dict(optimizer_kwargs=dict(fused=False)), dict(eps=1.5e-4, fused=False)),
        (dict(optimizer_class=th.optim.Adam), dict(eps=1e-8, fused=None)),
        (dict(optimizer_class=th.optim.Adam, optimizer_kwargs=dict(foreach=True)), dict(eps=1e-8, foreach=True)),
    )

    @pytest.mark.parametrize(("kwargs", "expected"), CASES)
    def test_arguments(self, kwargs: dict[str, Any], expected: dict[str, Any]) -> None:
        model = SoftDQN("MlpPolicy", ScriptedEnv(), **SMALL | {"policy_kwargs": dict(net_arch=[8], **kwargs)}).learn(80)
        assert {name: model.policy.optimizer.defaults[name] for name in expected} == expected

    @pytest.mark.parametrize(
        "name", ["SGD", "RMSprop", "AdamW", "NAdam", "RAdam", "Adagrad", "Adadelta", "Adamax", "Rprop", "ASGD"]
    )
    def test_every_class_trains(self, name: str, tmp_path: Path) -> None:
        kwargs = dict(net_arch=[8], optimizer_class=getattr(th.optim, name))
        model = SoftDQN("MlpPolicy", ScriptedEnv(), **SMALL | {"policy_kwargs": kwargs}).learn(80)
        assert type(model.policy.optimizer) is kwargs["optimizer_class"]
        model.save(tmp_path / "model")
        assert type(SoftDQN.load(tmp_path / "model").policy.optimizer) is kwargs["optimizer_class"]

    def test_subclasses_of_users(self) -> None:
        class Own(th.optim.Adam):
            def __init__(self, params: Any, lr: float, speed: float = 2.0) -> None:
                super().__init__(params, lr * speed)

        kwargs = dict(net_arch=[8], optimizer_class=Own, optimizer_kwargs=dict(speed=3.0))
        assert SoftDQN("MlpPolicy", ScriptedEnv(), **SMALL | {"policy_kwargs": kwargs}).learn(80)._n_updates > 0

    def test_a_policy_alone_keeps_its_optimizer(self, tmp_path: Path) -> None:
        model = SoftDQN("MlpPolicy", ScriptedEnv(), **SMALL)
        model.policy.save(tmp_path / "policy")
        optimizers = (model.policy.optimizer, type(model.policy).load(tmp_path / "policy").optimizer)
        one, two = ({**optimizer.defaults, "lr": None} for optimizer in optimizers)
        assert one == two

    def test_dqn_gets_the_same_from_the_same_arguments(self) -> None:
        kwargs = dict(optimizer_class=th.optim.Adam, optimizer_kwargs=dict(weight_decay=0.1))
        one, two = (cls("MlpPolicy", "CartPole-v1", 1e-3, buffer_size=9, policy_kwargs=dict(kwargs)) for cls in (DQN, SoftDQN))
        assert one.policy.optimizer.defaults == two.policy.optimizer.defaults


class TestDistribution:
    @pytest.fixture
    def policy(self) -> Any:
        policy = prepared(MIRL("MlpPolicy", ScriptedEnv(), **SMALL))
        policy.beta.fill_(30.0)
        return policy

    def test_probabilities_are_those_of_eq_8(self, policy: Any) -> None:
        obs = observations("mlp", 50)
        distribution = policy.get_distribution(th.as_tensor(obs))
        expected = boltzmann_log_probs(policy.q_net(th.as_tensor(obs)), policy.log_prior, policy.beta)
        probs = distribution.distribution.probs
        assert probs.dtype == th.float64
        th.testing.assert_close(probs, expected.exp(), rtol=0, atol=1e-12)
        actions = th.arange(50) % 3
        th.testing.assert_close(distribution.log_prob(actions), expected[th.arange(50), actions], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(policy.action_probabilities(obs), probs.detach(), atol=1e-12)
        assert policy.action_probabilities(obs[0]).shape == (3,)
        counts = th.stack([distribution.sample() for _ in range(2000)]).eq(0).double().mean(0)
        th.testing.assert_close(counts, probs[:, 0].detach(), rtol=0, atol=0.06)

    @pytest.mark.parametrize("beta", [1e-8, 1.0, 1e8, float("inf")])
    def test_its_mode_is_what_the_policy_does(self, policy: Any, beta: float) -> None:
        policy.beta.fill_(beta)
        policy.log_prior.copy_(th.tensor([0.9, 0.02, 0.08]).double().log())
        with th.no_grad():
            policy.q_net.q_net[-1].weight[1] = policy.q_net.q_net[-1].weight[2]  # ties
            policy.q_net.q_net[-1].bias[1] = policy.q_net.q_net[-1].bias[2]
        obs = observations("mlp", 50)
        mode = policy.get_distribution(th.as_tensor(obs)).mode()
        np.testing.assert_array_equal(mode, policy.predict(obs, deterministic=True)[0])

    def test_nothing_acts_against_the_prior(self, policy: Any, tmp_path: Path) -> None:
        policy.beta.fill_(1e-3)
        obs = observations("mlp", 50)
        policy.save(tmp_path / "policy")
        copies = (policy, copy.deepcopy(policy), pickle.loads(pickle.dumps(policy)), type(policy).load(tmp_path / "policy"))
        for one in copies:
            for acting in (one.predict, one.q_net.predict, one.q_net_target.predict):
                assert not acting(obs)[0].any(), "the prior wants the first action"
            assert not one(th.as_tensor(obs)).any() and not one._predict(th.as_tensor(obs)).any()
            assert one.q_net.holder == [one]
        policy.q_net.save(tmp_path / "network")
        assert not type(policy.q_net).load(tmp_path / "network").predict(obs)[0].any()
        assert policy.q_net(th.as_tensor(obs)).argmax(-1).any(), "which the network alone does not"
