"""What editors, type checkers and a misspelt call are told of the arguments."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import A2C, DQN, SAC
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_mirl import MIRL, VIREL, SoftA2C, SoftDQN, SoftPQN
from sb3_mirl.common.arguments import check_names
from tests.conftest import ScriptedEnv

ALGORITHMS = [SoftDQN, MIRL, VIREL, SoftA2C, SoftPQN]


@pytest.mark.parametrize(("algo", "parent"), [(SoftDQN, DQN), (MIRL, DQN), (VIREL, SAC), (SoftA2C, A2C)])
def test_positional_arguments_are_those_of_the_parent(algo: type[BaseAlgorithm], parent: type[BaseAlgorithm]) -> None:
    theirs, ours = list(inspect.signature(parent).parameters), inspect.signature(algo).parameters
    assert list(ours)[: len(theirs)] == theirs
    assert all(parameter.kind == parameter.KEYWORD_ONLY for parameter in list(ours.values())[len(theirs) :])


@pytest.mark.parametrize("algo", [SoftDQN, MIRL])
def test_positional_arguments_arrive(algo: type[SoftDQN]) -> None:
    model = algo("MlpPolicy", ScriptedEnv(), 1e-3, 500, 50, 16, 0.5, 0.9)
    values = (model.learning_rate, model.buffer_size, model.learning_starts, model.batch_size, model.tau, model.gamma)
    assert values == (1e-3, 500, 50, 16, 0.5, 0.9)


def test_mirl_has_all_arguments_of_softdqn() -> None:
    parent, child = inspect.signature(SoftDQN).parameters, inspect.signature(MIRL).parameters
    assert set(child) - set(parent) == {"prior_lr", "prior_floor", "exploration_mix"} and set(parent) <= set(child)
    same = {name: child[name].default == parent[name].default for name in parent}
    assert [name for name, is_same in same.items() if not is_same] == ["exploration"]


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_argument_is_documented_in_order(algo: type[BaseAlgorithm]) -> None:
    documented = [line.split(":")[1].split()[1] for line in (algo.__doc__ or "").splitlines() if ":param" in line]
    assert documented == list(inspect.signature(algo).parameters)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_a_misspelt_argument_names_the_class_and_the_argument(algo: Any) -> None:
    message = rf"^{algo.__name__} has no argument 'learning_rte': did you mean 'learning_rate'\?$"
    with pytest.raises(TypeError, match=message):
        algo("MlpPolicy", ScriptedEnv(), learning_rte=1e-3)
    with pytest.raises(TypeError, match=r"has no argument 'zzz'\.$"):
        algo("MlpPolicy", ScriptedEnv(), zzz=1)


def test_arguments_of_users_classes() -> None:
    class Own(MIRL):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.extra = kwargs.pop("extra")
            super().__init__(*args, **kwargs)

    assert Own("MlpPolicy", ScriptedEnv(), extra=3).extra == 3
    check_names(type("Bare", (), {}), [])


def test_prior_by_action() -> None:
    model = MIRL("MlpPolicy", ScriptedEnv(), device="cpu")
    assert model.prior_by_action == {"NOOP": 1 / 3, "FIRE": 1 / 3, "RIGHT": 1 / 3}
    assert all(type(value) is float for value in model.prior_by_action.values())
    model.policy.log_prior.copy_(model.policy.log_prior.new_tensor([0.5, 0.3, 0.2]).log())
    np.testing.assert_allclose(list(model.prior_by_action.values()), [0.5, 0.3, 0.2])
    assert list(MIRL("MlpPolicy", "CartPole-v1", device="cpu").prior_by_action) == ["action_0", "action_1"]


def test_learning_without_an_environment(tmp_path: Path) -> None:
    MIRL("MlpPolicy", ScriptedEnv(), device="cpu").save(tmp_path / "model")
    loaded = MIRL.load(tmp_path / "model", device="cpu")
    assert list(loaded.prior_by_action) == ["action_0", "action_1", "action_2"]
    with pytest.raises(ValueError, match=r"This MIRL has no environment to learn in: load it by MIRL.load\(path, env=env\)"):
        loaded.learn(10)


SCRIPT = """
from stable_baselines3.common.vec_env import VecEnv

import sb3_mirl
from sb3_mirl import MIRL, VIREL, SoftA2C, SoftDQN, SoftPQN, resume

SoftDQN("MlpPolicy", "CartPole-v1", learning_rte=1e-3)
MIRL("MlpPolicy", "CartPole-v1", learning_rte=1e-3)
VIREL("MlpPolicy", "Pendulum-v1", learning_rte=1e-3)
SoftA2C("MlpPolicy", "CartPole-v1", learning_rte=1e-3)
SoftPQN("MlpPolicy", "CartPole-v1", learning_rte=1e-3)
SoftDQN("MlpPolicy", "CartPole-v1", exploration="prior")
MIRL("MlpPolicy", "CartPole-v1", beta_schedule="expo")
MIRL("MlpPolicy", "CartPole-v1", buffer_size="big")
MIRL("MlpPolicy", "CartPole-v1", preset="small")
VIREL("MlpPolicy", "Pendulum-v1", critics="none")
SoftA2C("MlpPolicy", "CartPole-v1", update="q")
SoftPQN("MlpPolicy", "CartPole-v1", exploration="prior")


def main(env: VecEnv) -> None:
    reveal_type(MIRL("MlpPolicy", env, 1e-3, buffer_size=None, exploration="prior").learn())
    reveal_type(resume("runs/x", env, cls=MIRL))
    reveal_type(SoftDQN.load("x").prior_by_action)
    reveal_type(sb3_mirl.MIRL.load("x").learn(5).beta)
"""


@pytest.mark.slow
def test_type_checkers_know_the_arguments(tmp_path: Path) -> None:
    """A user's script under ``mypy --strict``: a minute or two, for PyTorch is read as well."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file=", str(script)]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True)
    lines = [line.split("script.py:", 1)[1] for line in done.stdout.splitlines() if "script.py:" in line]
    found = {int(line.split(":")[0]): line for line in lines if "error" in line or "Revealed" in line}
    wrong = [number for number, line in enumerate(SCRIPT.splitlines(), 1) if "Policy" in line and "reveal" not in line]
    misspelt, of_another_type = wrong[: len(ALGORITHMS)], wrong[len(ALGORITHMS) :]
    for number, algo in zip(misspelt, ALGORITHMS, strict=True):
        message = f'Unexpected keyword argument "learning_rte" for "{algo.__name__}"'
        assert message in found.get(number, ""), done.stdout + done.stderr
    for number in of_another_type:
        argument = SCRIPT.splitlines()[number - 1].split(", ")[-1].split("=")[0]
        assert f'Argument "{argument}" to' in found[number] and "incompatible type" in found[number]
    types = [line.split('"')[1].replace("builtins.", "") for number, line in found.items() if number > wrong[-1]]
    assert types == ["sb3_mirl.mirl.mirl.MIRL", "sb3_mirl.mirl.mirl.MIRL", "dict[str, float]", "float"]
