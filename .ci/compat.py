"""
The versions that pyproject.toml promises, as far as one machine can run them (`make compat`; about half an hour).

    python .ci/compat.py [oldest] [newest] [pythons] [--folder /tmp/sb3-mirl-compat]

oldest    all lower bounds of pyproject.toml: the quick tests
newest    whatever the package index has: the quick tests
pythons   3.10, 3.12 and 3.13 where they are installed: the sources compile, and what needs no torch passes its tests

torch is the one of constraints.txt everywhere: the index has other builds only with gigabytes of CUDA, and this one for
one Python only, which must be the one that runs this script.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
TORCH = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
OTHER_PYTHONS = ("3.10", "3.12", "3.13")
QUICK_TESTS = ("-n", "2", "--dist", "worksteal", "-m", "not slow")
WITH_THE_ZOO = ("tests/test_zoo.py", "tests/test_push_to_hub.py", "tests/test_experiments.py")
WITHOUT_TORCH = ("tests/test_tabular_mdp.py", "tests/test_planning.py", "tests/test_mutual_information.py")


def lower_bounds(extras: str) -> list[str]:
    """``name==version`` for every ``name>=version`` in pyproject.toml, without the version of torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras.split(","))]
    matches = [re.match(r"([\w.-]+)(?:\[.*\])?>=([\d.]+)", requirement) for group in groups for requirement in group]
    bounds = {found[1]: found[2] for found in matches if found}  # an extra may ask for more than the package does
    return [f"{name}=={version}" for name, version in bounds.items() if name != "torch"]


def run(*command: str | Path) -> None:
    print("+", *command, flush=True)
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True)


def make_venv(folder: Path, python: str = sys.executable) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    run(python, "-m", "venv", folder)
    return folder / "bin" / "python"


def install(python: Path, requirements: Sequence[str], constraints: Sequence[str] = ()) -> None:
    file = python.parents[1] / "constraints.txt"
    file.write_text("\n".join(constraints))
    run(python, "-m", "pip", "install", "-q", "-c", file, *requirements)


def quick_tests(python: Path, *tests: str) -> None:
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *QUICK_TESTS, *tests)


def oldest(folder: Path) -> None:
    python = make_venv(folder / "oldest")
    install(python, [TORCH])
    # the zoo asks for a newer gymnasium than the rest
    for extras, tests in (("atari,plots,dev", ()), ("atari,zoo,plots,dev", WITH_THE_ZOO)):
        install(python, ["-e", f".[{extras}]"], [TORCH, *lower_bounds(extras)])
        quick_tests(python, *tests)


def newest(folder: Path) -> None:
    python = make_venv(folder / "newest")
    # torch first and alone: nothing else may choose another one
    install(python, [TORCH])
    install(python, ["-e", ".[all,dev]"], [TORCH])
    quick_tests(python)


def other_pythons(folder: Path) -> None:
    for version in OTHER_PYTHONS:
        name = f"python{version}"
        if shutil.which(name) is None:
            print(f"{name} is not installed: left out")
            continue
        python = make_venv(folder / name, name)
        install(python, ["numpy", "scipy", "numba", "gymnasium", "pytest", "hypothesis"])
        run(python, "-m", "compileall", "-q", "-f", "sb3_mirl", "examples")
        run(python, ROOT / ".ci" / "without_torch.py", "-q", "--noconftest", "-p", "no:cacheprovider", *WITHOUT_TORCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="oldest | newest | pythons", default=[])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/sb3-mirl-compat"), help="of the virtual environments")
    args = parser.parse_args()
    parts = {"oldest": oldest, "newest": newest, "pythons": other_pythons}
    for part in args.parts or parts:
        parts[part](args.folder)
        print(f"compat {part}: passed", flush=True)


if __name__ == "__main__":
    main()
