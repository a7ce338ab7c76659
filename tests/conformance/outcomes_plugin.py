"""Writes (test id, outcome) of every test as JSON lines to $SB3_MIRL_REPORT."""

import json
import os

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # with xdist the controller sees the reports of all workers, and only it writes
    if "PYTEST_XDIST_WORKER" in os.environ or (report.when != "call" and report.outcome == "passed"):
        return
    outcome = report.outcome if report.when == "call" or report.outcome == "skipped" else "failed"
    with open(os.environ["SB3_MIRL_REPORT"], "a") as file:
        file.write(json.dumps([report.nodeid, outcome]) + "\n")
