"""Trainings in processes of their own, which are killed or interrupted from outside."""

import sys
import time
from pathlib import Path

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_mirl import MIRL, ResumableCheckpoint, resume
from tests.conftest import SMALL, ScriptedEnv

STARTED = "started"  # file that says that training has begun


class Started(BaseCallback):
    """Says so, and then takes its time."""

    def __init__(self, folder: Path, pause: float) -> None:
        super().__init__()
        self.file, self.pause = folder / STARTED, pause

    def _init_callback(self) -> None:
        self.file.parent.mkdir(exist_ok=True)

    def _on_step(self) -> bool:
        self.file.touch()
        time.sleep(self.pause)
        return True


def train(folder: Path, total: int = 10**9, save_freq: int = 8, pause: float = 0.0) -> tuple[MIRL, ResumableCheckpoint]:
    """Begins a run or goes on with it, for as long as it is left alone; with hardly anything to do but saving."""
    th.set_num_threads(1)
    if any(folder.glob("checkpoint_*")):
        model = resume(folder, ScriptedEnv())
    else:
        model = MIRL("MlpPolicy", ScriptedEnv(), **SMALL)
    checkpoint = ResumableCheckpoint(folder, save_freq)
    return model.learn(total, callback=[checkpoint, Started(folder, pause)]), checkpoint


if __name__ == "__main__":
    model, checkpoint = train(Path(sys.argv[1]), save_freq=int(sys.argv[2]), pause=float(sys.argv[3]))
    print(f"interrupted={checkpoint.interrupted} steps={model.num_timesteps}")
