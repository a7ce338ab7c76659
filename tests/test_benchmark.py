"""``examples/benchmark_throughput.py``, run for real and small."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch as th

from sb3_mirl.soft_dqn.soft_dqn import computes_bfloat16

EXAMPLE = Path(__file__).parents[1] / "examples" / "benchmark_throughput.py"


def test_the_benchmark_compares_peers_at_one_replay_ratio(tmp_path: Path) -> None:
    line = [sys.executable, str(EXAMPLE), "--device", "cpu", "--seconds", "1", "--rounds", "1", "--warm-up", "100"]
    run = subprocess.run(
        [*line, "--out", str(tmp_path), "--only", "(tuned)", "MIRL, fast"], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    table = pd.read_csv(tmp_path / "throughput.csv").set_index("peer")
    in_bfloat16 = ["ours MIRL, fast, bfloat16"] if computes_bfloat16(th.device("cpu")) else []
    assert list(table.index) == ["SB3 DQN, 8 envs (tuned)", "ours MIRL, fast", *in_bfloat16]
    assert table["steps_per_update"].tolist() == pytest.approx([4] * len(table), rel=0.1)
    assert (table["steps_per_s"] > 0).all() and (tmp_path / "throughput.png").stat().st_size > 0
    assert (table["cpu_us_per_step"] > 0).all()
    assert "x SB3 tuned" in run.stdout and "CPU x SB3 tuned" in run.stdout
