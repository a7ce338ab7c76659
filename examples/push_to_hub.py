"""
Upload an agent trained by ``sb3_mirl train`` to the Hugging Face Hub, with its beta and prior in the model card.

    python examples/push_to_hub.py --algo mirl --env CartPole-v1 -f logs -orga me --dry-run

The rest is the RL Zoo's ``push_to_hub``, whose other options it takes: score, video, hyperparameters, learning curves. The
folder is ``hub/<algorithm>-<environment>``. ``--dry-run`` stops there and needs no network; an upload needs ``hf auth
login`` before.
"""

import argparse
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from huggingface_hub import HfApi

from sb3_mirl.__main__ import main as sb3_mirl_command

STATE = """
## Beta and prior

Trained with sb3_mirl (soft Q-learning with mutual-information regularisation). Inverse temperature beta: {beta:.4g}

| action | {actions} |
|---|{rule}
| prior | {prior} |
"""


def complete_card(folder: Path, algo: str) -> None:
    """Add beta and prior to the zoo's model card, and name the command that knows the algorithm."""
    from sb3_mirl.zoo import ALGORITHMS

    card = folder / "README.md"
    text = card.read_text().replace("python -m rl_zoo3.", "python -m sb3_mirl ")
    text = text.replace("pip install rl_zoo3", "pip install '.[zoo]'  # in a clone of sb3_mirl")
    model: Any = ALGORITHMS[algo].algorithm.load(next(folder.glob(f"{algo}-*.zip")), device="cpu")
    if hasattr(model, "beta") and hasattr(model, "prior"):
        cells = {"actions": range(len(model.prior)), "prior": (f"{probability:.3f}" for probability in model.prior)}
        columns = {name: " | ".join(map(str, values)) for name, values in cells.items()}
        text += STATE.format(beta=model.beta, rule="---|" * len(model.prior), **columns)
    card.write_text(text)


def main(argv: list[str] | None = None) -> None:
    """Run the zoo's command with a step before the upload, or in place of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", default="mirl")
    parser.add_argument("--dry-run", action="store_true", help="write the folder, upload nothing")
    args, others = parser.parse_known_args(argv)
    upload = HfApi.upload_folder

    def complete_and_upload(api: HfApi, *, repo_id: str, folder_path: Path, **options: Any) -> None:
        complete_card(folder_path, args.algo)
        if args.dry_run:
            print(f"{folder_path} is what would be uploaded to {repo_id}")
        else:
            upload(api, repo_id=repo_id, folder_path=folder_path, **options)

    steps: dict[str, Any] = {"upload_folder": complete_and_upload}
    if args.dry_run:
        steps["create_repo"] = lambda api, repo_id, **options: repo_id
        steps["snapshot_download"] = lambda api, repo_id, local_dir: local_dir.mkdir(parents=True, exist_ok=True)
    command = ["sb3_mirl", "push_to_hub", "--algo", args.algo, *others]
    with patch.multiple(HfApi, **steps), patch.object(sys, "argv", command):
        sb3_mirl_command()


if __name__ == "__main__":
    main()
