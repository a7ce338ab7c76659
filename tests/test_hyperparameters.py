"""The shipped hyperparameters as constructor arguments, without the RL Zoo."""

import os
import subprocess
import sys
from typing import Any

import pytest
import yaml
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

import sb3_mirl
from sb3_mirl import MIRL, SoftDQN, budget, hyperparameters
from sb3_mirl.envs.minatar import MinAtarCNN
from sb3_mirl.hyperparameters import OF_THE_RUN, algorithms, config_file, entry, presets, resolve

CLASSES = {"mirl": MIRL, "softdqn": SoftDQN}
CONFIGURATIONS = [(algo, preset) for algo in algorithms() for preset in (None, *presets(algo))]


def test_arguments_of_the_constructor() -> None:
    model = MIRL(env="CartPole-v1", **hyperparameters("mirl", "CartPole-v1"), seed=0)
    assert budget("mirl", "CartPole-v1") == 50_000
    assert model.policy_kwargs["net_arch"] == [256, 256]
    assert [model.lr_schedule(left) for left in (1.0, 0.5, 0.0)] == pytest.approx([1e-3, 5e-4, 0.0])
    # 16 updates after 4 steps of 8 environments
    assert (model.train_freq.frequency, model.gradient_steps) == (32, 16)  # type: ignore[union-attr]
    model.learn(1100)
    assert model._n_updates == 64  # at steps 1024, 1056, 1088, 1120


@pytest.mark.parametrize("n_envs", [1, 2, 3, 8, 50])
def test_updates_per_environment_step_are_those_of_the_file(n_envs: int) -> None:
    for env_id in ("CartPole-v1", "Acrobot-v1", "MountainCar-v0"):
        file, values = entry("mirl", env_id), hyperparameters("mirl", env_id, n_envs)
        ratio = file["gradient_steps"] / (file["train_freq"] * file.get("n_envs", 1))
        assert values["gradient_steps"] / (values["train_freq"] * n_envs) == pytest.approx(ratio, rel=0.1)
    assert hyperparameters("mirl", "CartPole-v1", 8)["train_freq"] == 4
    # -1: as many updates as steps, whatever their number
    assert hyperparameters("mirl", "LunarLander-v3", 8)["gradient_steps"] == -1


@pytest.mark.parametrize("algo", sorted(CLASSES))
def test_every_entry_can_be_used(algo: str) -> None:
    env = make_vec_env("CartPole-v1", 2)
    for env_id in ("default", "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "LunarLander-v3", "MirlSquare-v0"):
        values = hyperparameters(algo, env_id, n_envs=2)
        assert not OF_THE_RUN & set(values)
        CLASSES[algo](env=env, **values)
    assert hyperparameters(algo, "MinAtar/Asterix-v1")["policy_kwargs"]["features_extractor_class"] is MinAtarCNN


@pytest.mark.parametrize(("algo", "preset"), CONFIGURATIONS)
def test_every_entry_can_be_read(algo: str, preset: str | None) -> None:
    for env_id in yaml.safe_load(config_file(algo, preset).read_text()):
        assert "policy" in hyperparameters(algo, env_id, preset=preset) and budget(algo, env_id, preset) >= 1e4


def test_atari_and_presets() -> None:
    block = hyperparameters("mirl", "atari")
    assert block["policy"] == "CnnPolicy" and "frame_stack" not in block
    for env_id in ("SeaquestNoFrameskip-v4", "ALE/Seaquest-v5", "ALE/NoSuchGame-v5"):
        assert hyperparameters("mirl", env_id) == block
    assert hyperparameters("mirl", "ALE/Seaquest-v5", preset="table3") == {**block, "beta_lr": 3.3e-6, "prior_lr": 2e-6}
    assert budget("softdqn", "ALE/Seaquest-v5", "atari_vec_env") == 50_000_000


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("mirll", "CartPole-v1"), r"hyperparameters of 'mirll'. Did you mean 'mirl'\? There are: mirl, softdqn"),
        (("mirl", "CartPole-v7"), r"for 'CartPole-v7'. Did you mean 'CartPole-v1'\?.*\"default\" has values for small"),
        (
            ("mirl", "CartPole-v1", 1, "tabel3"),
            r"no preset 'tabel3'. Did you mean 'table3'\? There are: atari_vec_env, table3",
        ),
        (("mirl", "CartPole-v1", 1, "table3"), r"mirl has no shipped hyperparameters for 'CartPole-v1'.* There are: atari\.$"),
    ],
)
def test_unknown_names(arguments: Any, advice: str) -> None:
    if arguments[0] == "mirll":
        assert set(CLASSES) <= set(algorithms())
        advice = advice.replace("mirl, softdqn", ", ".join(algorithms()))
    with pytest.raises(ValueError, match=advice):
        hyperparameters(*arguments)


def test_expressions() -> None:
    text = "dict(net_arch=[64, 64], log_std_init=-3, betas=(0.9, 0.99), activation_fn=nn.ReLU, x={'y': [dict(z=1)]})"
    expected = {"net_arch": [64, 64], "log_std_init": -3, "betas": (0.9, 0.99), "activation_fn": nn.ReLU}
    assert resolve("policy_kwargs", text) == {**expected, "x": {"y": [{"z": 1}]}}
    assert resolve("train_freq", [1, "episode"]) == (1, "episode")
    assert resolve("exploration", "uniform") == "uniform"


@pytest.mark.parametrize(
    "text",
    [
        *("__import__('os').mkdir('made')", "[x for x in ().__class__.__mro__]", "dict(**{'a': 1})", "nn.Module.__init__"),
        *("nn.functional", "get_class_by_name('os.mkdir')", "dict(a=open('made', 'w'))", "{**{}}", "(", "dict(1)"),
    ],
)
def test_nothing_is_executed(text: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="cannot be read .*Allowed are numbers"):
        resolve("policy_kwargs", text)
    assert not list(tmp_path.iterdir())


def test_without_the_extras() -> None:
    program = """
import sys
sys.modules.update(rl_zoo3=None, matplotlib=None)
import sb3_mirl
sb3_mirl.MIRL(env="CartPole-v1", **sb3_mirl.hyperparameters("mirl", "CartPole-v1"))
for name, argv in ((None, None), ("train", ["train"])):
    try:
        if name is None:
            import sb3_mirl.zoo
        else:
            from sb3_mirl.__main__ import main
            sys.argv = ["sb3_mirl", *argv]
            main()
    except (ModuleNotFoundError, SystemExit) as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    advice = "It comes with the extra [zoo] of sb3_mirl: in a clone of the repository, pip install '.[zoo]'"
    assert first.startswith("ModuleNotFoundError") and second.startswith("SystemExit sb3_mirl train: ")
    assert first.count(advice) == second.count(advice) == 1 and "rl_zoo3" in first


def test_exported() -> None:
    assert {"budget", "hyperparameters"} <= set(sb3_mirl.__all__)
