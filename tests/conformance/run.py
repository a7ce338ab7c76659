"""
Runs SB3's own tests of an algorithm, from the source distribution of the installed version, with our classes in its place.

    python tests/conformance/run.py [--algo MIRL SoftDQN SoftA2C] [--workers 2]

Every test that passes for the algorithm must pass for each class; exits with 1 otherwise.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
VERSION = version("stable-baselines3")
PACKAGE = f"stable_baselines3-{VERSION}"
CACHE = Path(sys.prefix) / "sb3-tests" / PACKAGE  # in the virtual environment: fetched once, never committed
# starts by deleting stable_baselines3 from sys.modules, and with it the replacement
LEFT_OUT = "not test_sb3_import_without_optional_deps"
CLASSES = {"DQN": ["MIRL", "SoftDQN"], "A2C": ["SoftA2C"]}
"""SB3's algorithm: classes that take its place."""


def fetch_tests() -> Path:
    """SB3's tests folder; wheels do not contain it."""
    if not (CACHE / "tests").is_dir():
        with tempfile.TemporaryDirectory() as tmp:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "stable-baselines3"]
            subprocess.run([*command, "-d", tmp, f"stable-baselines3=={VERSION}"], check=True)
            (archive,) = Path(tmp).glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                tar.extractall(tmp, filter="data")
            CACHE.mkdir(parents=True, exist_ok=True)
            shutil.copytree(Path(tmp) / PACKAGE / "tests", CACHE / "tests")
    shutil.copy(HERE / "conftest_for_sb3.py", CACHE / "tests" / "conftest.py")
    return CACHE


def run(algo: str, parent: str, folder: Path, workers: int) -> dict[str, str]:
    """Outcome by test id of SB3's tests of ``parent`` with ``algo`` in its place."""
    with tempfile.TemporaryDirectory() as tmp:
        report = Path(tmp) / "outcomes.jsonl"
        names = {"SB3_MIRL_ALGO": algo, "SB3_MIRL_PARENT": parent, "SB3_MIRL_REPORT": str(report)}
        env = {**os.environ, **names, "PYTHONHASHSEED": "0"}
        env["PYTHONPATH"] = os.pathsep.join([str(HERE), env.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "pytest", "tests", "-q", "-p", "outcomes_plugin", "-p", "no:cacheprovider"]
        command += ["-k", f"({parent} or {parent.lower()}) and {LEFT_OUT}", "-n", str(workers), "-W", "ignore"]
        command += ["--no-header", "--tb=short"]
        done = subprocess.run(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if not report.exists():
            raise SystemExit(f"SB3's tests did not run for {algo}:\n{done.stdout}")
        outcomes = dict(json.loads(line) for line in report.read_text().splitlines())
        if "failed" in outcomes.values():
            print(done.stdout)
        return outcomes


def main() -> int:
    known = [name for names in CLASSES.values() for name in names]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", nargs="+", default=known, choices=known)
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    args = parser.parse_args()
    folder = fetch_tests()
    missing_anywhere = False
    for parent, names in CLASSES.items():
        chosen = [name for name in names if name in args.algo]
        if chosen:
            missing_anywhere |= compare(parent, chosen, folder, args.workers)
    return int(missing_anywhere)


def compare(parent: str, algos: list[str], folder: Path, workers: int) -> bool:
    """Whether a test passes for ``parent`` and not for one of ``algos``."""
    reference = run(parent, parent, folder, workers)
    passing = {test for test, outcome in reference.items() if outcome == "passed"}
    if not passing:
        raise SystemExit(f"None of SB3's own {parent} tests passed with {parent} itself: nothing to compare with.")
    missing_anywhere = False
    for algo in algos:
        outcomes = run(algo, parent, folder, workers)
        missing = sorted(passing - {test for test, outcome in outcomes.items() if outcome == "passed"})
        missing_anywhere |= bool(missing)
        passed = len(passing) - len(missing)
        print(f"{algo}: {passed} of the {len(passing)} tests that pass for {parent} pass", *missing, sep="\n  ")
    return missing_anywhere


if __name__ == "__main__":
    sys.exit(main())
