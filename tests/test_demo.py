"""The demo: its pictures, and at a small size the whole of it."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

pytest.importorskip("minatar", reason="pip install '.[zoo]'")
pytest.importorskip("rliable", reason="pip install '.[plots]'")


@pytest.fixture
def pictures() -> Any:
    import _demo_pictures

    return _demo_pictures


class GoesUp:
    def predict(self, observation: np.ndarray, deterministic: bool) -> tuple[np.ndarray, None]:
        assert deterministic
        return np.array(2), None


def test_the_player_is_drawn_in_front(pictures: Any) -> None:
    observation = np.zeros((10, 10, 7), dtype=bool)
    observation[9, 4, [0, 3]] = observation[2, 1, 1] = True
    cells = pictures.coloured(observation)[:: pictures.CELL, :: pictures.CELL]
    assert cells.shape == (10, 10, 3) and cells.dtype == np.uint8
    colours = [tuple(cells[place]) for place in ((9, 4), (2, 1), (0, 0))]
    assert colours == [(240, 228, 66), (255, 255, 255), (43, 46, 51)]


def test_film(pictures: Any, tmp_path: Path) -> None:
    from PIL import Image

    _, scores = pictures.play("freeway", GoesUp(), 120, seed=0)
    assert len(scores) == 120 and scores[0] == 0 and scores[-1] >= 1, "who goes up crosses the street"
    pictures.film("freeway", {"random": None, "up": GoesUp()}, tmp_path / "film.gif", 36)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.size == (2 * 10 * pictures.CELL + pictures.GAP, 10 * pictures.CELL + pictures.HEAD) and film.n_frames > 3


@pytest.mark.learning  # by `make learning` only: four minutes where others need the processors, too
@pytest.mark.atari
def test_demo_at_a_small_size(tmp_path: Path) -> None:
    """A minute of CPU on an idle machine: five processes import PyTorch, the gridworlds are compiled, and Pong is played."""
    pytest.importorskip("ale_py", reason="pip install '.[atari]'")
    command = [sys.executable, str(EXAMPLES / "demo.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout
    assert [f"=== {number}." in printed for number in range(1, 5)] == [True, True, True, False]
    table = re.findall(r"^  (random play|DQN \(SoftDQN at β = ∞\)|MIRL) +\d+\.\d$", printed, re.M)
    assert len(table) == 3 and "UP 0." in printed and "Random play" in printed
    named = re.findall(rf"^  {tmp_path}/(\S+):", printed.split("What to open:")[1], re.M)
    assert len(named) == 4 and all((tmp_path / name).stat().st_size > 1000 for name in named)
    assert len(list(tmp_path.rglob("events.out.tfevents*"))) == 3
