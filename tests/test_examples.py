"""What the scripts in examples/ need of the package is there; the longer ones are run small by tests of their subject."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


def imported_names(path: Path) -> Iterator[tuple[str, str]]:
    """Module and name of every `from sb3_mirl... import ...`, also of those inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sb3_mirl"):
            yield from ((str(node.module), alias.name) for alias in node.names)


@pytest.mark.filterwarnings("error::FutureWarning")  # nor is a deprecated name used
@pytest.mark.parametrize("script", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_what_a_script_imports_exists(script: Path) -> None:
    for module, name in imported_names(script):
        loaded = importlib.import_module(module)
        assert hasattr(loaded, name) or importlib.import_module(f"{module}.{name}"), f"{module} has no {name}"


def test_policy_gradients_and_soft_q_learning_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("minatar")
    import reproduce_pg_soft_q

    agents = ["policy_gradient_0.1", "soft_q_0.1", "dqn", "pqn_prior"]
    arguments = f"figure3 --games breakout --seeds 2 --timesteps 1200 --out {tmp_path} --agents".split()
    monkeypatch.setattr(sys, "argv", ["reproduce_pg_soft_q.py", *arguments, *agents])
    reproduce_pg_soft_q.main()
    out = tmp_path / "figure3_1200"
    runs = pd.read_csv(out / "runs.csv").set_index(["agent", "seed"])
    assert set(runs.index) == {(agent, seed) for agent in agents for seed in range(2)}
    curve = pd.read_csv(tmp_path / "1200_steps" / "cells" / "breakout" / "soft_q_0.1" / "seed_1" / "curve.csv")
    assert runs.loc[("soft_q_0.1", 1), "area"] == pytest.approx(curve["return"].mean(), rel=1e-4)
    expected = (runs.loc["soft_q_0.1", "area"] - runs.loc["policy_gradient_0.1", "area"]).mean()
    assert f"| breakout, difference |  | {expected:.2f} [" in (out / "table.md").read_text()
    assert (out / "figure3.png").stat().st_size > 10_000
    priors = pd.read_csv(out / "priors.csv")
    assert set(priors["agent"]) == {"pqn_prior"}, "of those that learn one"
    sums = priors.groupby(["seed", "timesteps"])["probability"].sum()
    np.testing.assert_allclose(sums, 1, atol=1e-3)
    assert sums.index.get_level_values("timesteps").max() > 1000 and set(priors["seed"]) == {0, 1}
    assert (out / "priors.png").stat().st_size > 10_000
    curves = sorted(tmp_path.glob("1200_steps/cells/*/*/*/curve.csv"))
    assert len(curves) == 2 * len(agents)

    before = [path.stat().st_mtime_ns for path in curves]
    reproduce_pg_soft_q.main()  # finished runs are kept
    assert [path.stat().st_mtime_ns for path in curves] == before


def test_the_table_of_unfinished_runs() -> None:
    """What has not been run leaves its cells empty; a seed counts where both agents have it in all their games."""
    pytest.importorskip("minatar")
    import reproduce_pg_soft_q

    lines = [("a", game, seed, 1.0 + seed) for game in ("g", "h") for seed in (0, 1)]
    lines += [("b", "g", 0, 3.0), ("b", "g", 1, 4.0), ("b", "h", 0, 2.0), ("c", "g", 0, 5.0)]
    runs = pd.DataFrame(lines, columns=["agent", "game", "seed", "area"]).assign(final=lambda runs: runs["area"])
    text = reproduce_pg_soft_q.tables(runs, {"row": {"a": "A", "b": "B", "c": "C", "d": "D"}, "none": {"d": "D"}}, reps=10)
    assert "nan" not in text and "none" not in text
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines()}
    assert cells["g, difference"][1:3] == ["2.00", "4.00"]
    assert cells["h"][1:] == ["2.00", "", ""] and cells["h, difference"][2] == ""
    assert cells["seeds"] == ["", "1", "1", ""]
