"""``examples/push_to_hub.py`` without a network: what would be uploaded, and that the zoo can take it back."""

import importlib.util
import json
import socket
import sys
import zipfile
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

EXAMPLE = Path(__file__).parents[1] / "examples" / "push_to_hub.py"
COMMAND = ["--env", "CartPole-v1", "-f", "logs", "--repo-id", "someone/mirl-CartPole-v1", "--episodes", "4"]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("push_to_hub", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


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
    monkeypatch.chdir(trained)


def test_dry_run(example: ModuleType) -> None:
    folder = example.main([*COMMAND, "--video-steps", "30", "--dry-run"])
    assert folder == Path("hub/mirl-CartPole-v1")
    assert (folder / "replay.mp4").stat().st_size > 1000
    results = json.loads((folder / "results.json").read_text())
    card = ModelCard.load(folder / "README.md")
    assert card.data.model_name == "MIRL"
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type) == ("CartPole-v1", "mean_reward")
    assert result.metric_value == f"{results['mean_reward']:.2f} +/- {results['std_reward']:.2f}"
    assert results["n_eval_episodes"] == 4 and 8 <= results["mean_reward"] <= 500
    model = MIRL.load(folder / "mirl-CartPole-v1.zip")
    assert f"| {model.beta:.4g} | {model.prior[0]:.3f} {model.prior[1]:.3f} |" in card.text
    assert model.buffer_size == 500


def test_the_zoo_downloads_what_was_packed(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = example.main([*COMMAND, "--video-steps", "0", "--dry-run"])
    assert not (folder / "replay.mp4").exists()

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
        uploads.append((repo_id, {path.name for path in folder_path.iterdir()}))

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, exist_ok: f"https://huggingface.co/{repo_id}")
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    example.main([*COMMAND, "--video-steps", "0"])
    ((repo_id, names),) = uploads
    assert repo_id == "someone/mirl-CartPole-v1"
    assert names == {
        *("README.md", "results.json", "args.yml", "config.yml", "env_kwargs.yml"),
        *("mirl-CartPole-v1.zip", "train_eval_metrics.zip"),
    }


def test_the_zoos_own_push_to_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    uploads: list[Path] = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, **kwargs: "https://huggingface.co/someone/mirl-CartPole-v1")
    monkeypatch.setattr(HfApi, "snapshot_download", lambda self, repo_id, local_dir: Path(local_dir).mkdir(parents=True))
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, repo_id, folder_path, commit_message: uploads.append(folder_path))
    for name in ("PATH", "PYTHONPATH"):
        monkeypatch.setenv(name, "")
    monkeypatch.setitem(ALGOS, "mirl", MIRL)
    task = ["--algo", "mirl", "--env", "CartPole-v1", "-f", "logs", "-orga", "someone", "-name", "by-the-zoo", "--no-render"]
    monkeypatch.setattr(sys, "argv", ["sb3_mirl", "push_to_hub", *task])
    main()
    assert uploads == [Path("hub/by-the-zoo")]
    assert ModelCard.load(uploads[0] / "README.md").data.eval_results[0].dataset_name == "CartPole-v1"
    assert zipfile.is_zipfile(uploads[0] / "mirl-CartPole-v1.zip")


def test_bad_repository_name(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        example.main(["--env", "CartPole-v1", "--repo-id", "mirl-CartPole-v1"])
    assert "--repo-id mirl-CartPole-v1: expected organization/name" in capsys.readouterr().err
