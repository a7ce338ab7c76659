"""A search for hyperparameters that several processes share, as docs/guides/sweeps.md tells."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rl_zoo3", reason="pip install '.[zoo]'")

import optuna

TRIALS = 2  # of each process


@pytest.mark.slow  # a quarter of a minute of two cores
def test_two_processes_share_one_study(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "sb3_mirl", "train", "--algo", "mirl", "--env", "CartPole-v1", "-optimize", "-n", "200"]
    line += ["--storage", "study.log", "--study-name", "cartpole", "--n-trials", str(TRIALS), "--n-startup-trials", "9"]
    line += ["--no-optim-plots", "--eval-episodes", "1", "--n-evaluations", "1", "--pruner", "none"]
    line += ["-params", "buffer_size:500", "learning_starts:40"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    output = [(tmp_path / f"{seed}.txt").open("w") for seed in (0, 1)]
    processes = [
        subprocess.Popen([*line, "--seed", str(seed)], cwd=tmp_path, env=environment, stdout=file, stderr=file)
        for seed, file in enumerate(output)
    ]
    for process, file in zip(processes, output, strict=True):
        assert process.wait(240) == 0, Path(file.name).read_text()
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log"))
    study = optuna.load_study(study_name="cartpole", storage=optuna.storages.JournalStorage(backend))
    assert [trial.number for trial in study.trials] == list(range(2 * TRIALS)), "each trial has a number of its own"
    assert all(trial.state.is_finished() for trial in study.trials)
    complete = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert len({trial.params["prior_lr"] for trial in complete}) == len(complete) > 0, "no two are the same"
    rows = [report.read_text().splitlines()[1:] for report in tmp_path.glob("logs/mirl/report_*.csv")]
    assert max(map(len, rows)) == 2 * TRIALS, "the last process to end reports on all trials"
