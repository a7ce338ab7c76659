"""``examples/gpu_report.py`` on the CPU and in small, so that nothing but the GPU is new where there is one."""

import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "gpu_report.py"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="its sections are forked")


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The script's names."""
    pytest.importorskip("ale_py")
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    return runpy.run_path(str(EXAMPLE))


@pytest.mark.slow  # half a minute of CPU time
def test_every_section_has_results_in_small(tmp_path: Path, report: dict[str, Any]) -> None:
    line = [sys.executable, str(EXAMPLE), "--device", "cpu", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600)
    rows = [json.loads(text) for text in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert done.returncode == 0 and not [row for row in rows if "error" in row], done.stdout + done.stderr
    with_results = {row["section"] for row in rows if set(row) != {"section", "seconds"}}
    assert list(report["SECTIONS"]) == list(dict.fromkeys(row["section"] for row in rows)) and len(with_results) == 9
    assert all(row["weights"] < 1e-5 for row in rows if row["section"] == "equal" and "weights" in row)
    assert (tmp_path / "report.md").read_text().count("\n## ") == 9


def test_the_sections_fit_into_eight_minutes(report: dict[str, Any]) -> None:
    assert sum(limit for _, limit in report["SECTIONS"].values()) <= 480 == report["SECONDS"]


def test_a_section_that_hangs_or_fails_costs_itself_only(tmp_path: Path, report: dict[str, Any]) -> None:
    def hangs(setting: Any) -> Iterator[dict[str, Any]]:
        yield dict(first=1)
        subprocess.run(["sleep", "60"])

    def fails(setting: Any) -> Iterator[dict[str, Any]]:
        yield dict(first=2)
        raise ZeroDivisionError("in the middle")

    def works(setting: Any) -> Iterator[dict[str, Any]]:
        yield dict(first=3)

    file, setting = tmp_path / "report.jsonl", report["Setting"]("cpu", True)
    report["SECTIONS"].clear()
    report["SECTIONS"].update(hangs=(hangs, 1), fails=(fails, 1), works=(works, 1))
    start = time.perf_counter()
    assert [report["run_section"](name, setting, file, 2) for name in report["SECTIONS"]] == [False, False, True]
    assert time.perf_counter() - start < 40
    rows = [json.loads(text) for text in file.read_text().splitlines()]
    assert [row["first"] for row in rows if "first" in row] == [1, 2, 3]
    errors = {row["section"]: row["error"] for row in rows if "error" in row}
    assert errors["hangs"] == "ended after 2 s" and "in the middle" in errors["fails"] and "works" not in errors
    text = report["as_markdown"](rows)
    assert "## fails" in text and "ZeroDivisionError" in text and "| first |" in text
