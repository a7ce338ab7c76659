"""``examples/push_to_hub.py`` without a network: what would be uploaded, and that the zoo can take it back."""

import json
import os
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("rl_zoo3", reason="pip install '.[zoo]'")
pytest.importorskip("pygame")

from huggingface_hub import HfApi, ModelCard
from rl_zoo3 import ALGOS, load_from_hub

from sb3_mirl import MIRL
from sb3_mirl.__main__ import main

COMMAND = ["--env", "CartPole-v1", "-f", "logs", "-orga", "someone"]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    import push_to_hub

    return push_to_hub


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the zoo has trained an agent."""
    folder = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("PATH", "PYTHONPATH"):
            patch.setenv(name, "")
        train = ["train", "--algo", "mirl", "--env", "CartPole-v1", "-n", "200", "--eval-freq", "100"]
        patch.setattr(sys, "argv", ["sb3_mirl", *train, "-params", "learning_starts:50", "buffer_size:500"])
        main()
    return folder


@pytest.fixture(autouse=True)
def offline(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("something asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    for name in ("PATH", "PYTHONPATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setitem(ALGOS, "mirl", MIRL)
    monkeypatch.chdir(trained)


def push(example: ModuleType, *options: str) -> Path:
    example.main([*COMMAND, *options])
    return Path("hub/mirl-CartPole-v1")


def test_dry_run(example: ModuleType) -> None:
    folder = push(example, "-n", "30", "--dry-run")
    assert (folder / "replay.mp4").stat().st_size > 1000
    results = json.loads((folder / "results.json").read_text())
    card = ModelCard.load(folder / "README.md")
    (result,) = card.data.eval_results
    assert (card.data.model_name, result.dataset_name, result.metric_type) == ("MIRL", "CartPole-v1", "mean_reward")
    assert result.metric_value == f"{results['mean_reward']:.2f} +/- {results['std_reward']:.2f}"
    assert 8 <= results["mean_reward"] <= 500
    model = MIRL.load(folder / "mirl-CartPole-v1.zip")
    assert f"beta: {model.beta:.4g}\n" in card.text and f"| prior | {model.prior[0]:.3f} | {model.prior[1]:.3f} |" in card.text
    assert "python -m sb3_mirl load_from_hub --algo mirl" in card.text and "rl_zoo3." not in card.text
    assert model.buffer_size == 500


def test_the_zoo_downloads_what_was_packed(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = push(example, "--no-render", "--dry-run")

    def download(repo_id: str, filename: str) -> Path:
        assert repo_id == "someone/mirl-CartPole-v1"
        if not (folder / filename).exists():
            raise load_from_hub.HTTPError(filename)
        return folder / filename

    monkeypatch.setattr(load_from_hub, "load_from_hub", download)
    load_from_hub.download_from_hub("mirl", load_from_hub.EnvironmentName("CartPole-v1"), 0, "downloaded", "someone")
    run = Path("downloaded/mirl/CartPole-v1_1")
    assert {"CartPole-v1.zip", "evaluations.npz", "0.monitor.csv"} <= {path.name for path in run.iterdir()}
    original = MIRL.load("logs/mirl/CartPole-v1_1/CartPole-v1.zip")
    assert MIRL.load(run / "CartPole-v1.zip").prior.tolist() == original.prior.tolist()


def test_upload(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads: list[tuple[str, set[str]]] = []

    def upload_folder(self: HfApi, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        assert "## Beta and prior" in (folder_path / "README.md").read_text()
        uploads.append((repo_id, {path.name for path in folder_path.iterdir()}))

    monkeypatch.setattr(HfApi, "create_repo", lambda self, **options: f"https://huggingface.co/{options['repo_id']}")
    monkeypatch.setattr(HfApi, "snapshot_download", lambda self, repo_id, local_dir: Path(local_dir).mkdir(parents=True))
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    push(example, "--no-render", "-name", "other")
    ((repo_id, names),) = uploads
    assert repo_id == "someone/other"
    assert {"README.md", "results.json", "args.yml", "config.yml", "mirl-CartPole-v1.zip", "train_eval_metrics.zip"} <= names
