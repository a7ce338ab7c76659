"""One run of an experiment: an agent trained on a game with a seed, evaluated at every snapshot, resumable."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback

from sb3_mirl.checkpoint import ResumableCheckpoint, resume
from sb3_mirl.common.files import claimed, write_whole
from sb3_mirl.experiments.agents import AGENTS, make_agent
from sb3_mirl.experiments.settings import Run, Settings, Suite
from sb3_mirl.experiments.snapshots import SnapshotCallback
from sb3_mirl.experiments.work import ReportCallback, Reporter
from sb3_mirl.soft_dqn import SoftDQN

SETTINGS, CHECKPOINT, TENSORBOARD = "settings.json", "checkpoint", "tensorboard"
EVALUATION_ENVS = 15
LOG_INTERVAL = 100  # episodes


def is_done(run: Run, settings: Settings, out: Path) -> bool:
    """
    Return whether the run has come to its end.

    :raises ValueError: if it was begun with other settings, or these cannot be read
    """
    folder = out / run.folder
    if not (folder / SETTINGS).exists():
        return False
    now = json.loads(json.dumps(asdict(settings)))
    try:
        before = json.loads((folder / SETTINGS).read_text())
        different = [f"{k}: {before.get(k)} then, {now[k]} now" for k in now if before.get(k) != now[k]]
    except (ValueError, RecursionError, AttributeError) as error:
        raise ValueError(f"{folder / SETTINGS} is damaged ({error}). Remove its folder, or choose another --out.") from error
    if different:
        raise ValueError(f"{folder} was run with other settings ({'; '.join(different)}). Choose another --out.")
    return (folder / "done").exists()


def train(run: Run, suite: Suite, settings: Settings, out: Path, device: str, report: Reporter) -> None:
    """
    Train and evaluate one agent. Resume a run that was killed at its last snapshot, see :func:`sb3_mirl.resume`; do
    nothing if it is done.

    :param report: told of the environment steps; says when the training is to end
    :raises FolderInUse: if another process is busy with this run
    :raises KeyboardInterrupt: once a checkpoint is saved, if SIGINT, SIGTERM or ``report`` asked the training to end
    :raises ValueError: if the run was begun with other settings
    """
    folder = out / run.folder
    with claimed(folder):
        if not is_done(run, settings, out):
            _train(run, suite, settings, folder, device, report)


def _train(run: Run, suite: Suite, settings: Settings, folder: Path, device: str, report: Reporter) -> None:
    write_whole(folder / SETTINGS, "json", lambda part: part.write_text(json.dumps(asdict(settings), indent=1)))
    env = suite.make_env(run.game, settings.n_envs, run.seed, True)
    evaluation = suite.make_env(run.game, min(EVALUATION_ENVS, settings.eval_episodes), run.seed, False)
    resumable = settings.checkpoints and issubclass(AGENTS[run.agent][0], SoftDQN)
    checkpoint = ResumableCheckpoint(folder / CHECKPOINT, settings.snapshot_every, keep=1)
    logs = str(folder / TENSORBOARD)
    if resumable and checkpoint.exists():
        model = resume(checkpoint.folder, env, device, tensorboard_log=logs)
    else:
        policy, hyperparameters = suite.hyperparameters(run.game, settings)
        overridden = {**hyperparameters, **settings.overrides}
        model = make_agent(run.agent, env, policy, overridden, seed=run.seed, device=device, tensorboard_log=logs)

    def stop() -> None:
        if not resumable:
            raise KeyboardInterrupt
        checkpoint.interrupt()

    # evaluated before it is saved: a checkpoint is never ahead of the evaluations
    callbacks: list[BaseCallback] = [ReportCallback(report, stop), SnapshotCallback(folder, evaluation, settings)]
    if resumable:
        callbacks.append(checkpoint)
    model.learn(settings.timesteps, callback=callbacks, log_interval=LOG_INTERVAL)
    if checkpoint.interrupted:
        raise KeyboardInterrupt
    write_whole(folder / "model.zip", "zip", model.save)
    (folder / "done").touch()
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
    env.close()
    evaluation.close()
