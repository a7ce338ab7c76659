"""README and docs: the pages build, their code runs, and what they say of names, files, options and messages is so."""

import ast
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common import evaluation
from stable_baselines3.common.base_class import BaseAlgorithm

import sb3_mirl

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *sorted(DOCS.rglob("*.md"))]
PAGES = [page for page in PAGES if page.parent.name != "tables"]  # they are parts of pages
WITH_CODE = [page for page in PAGES if "```python" in page.read_text()]

STEPS = 200  # of every training in a code block


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def subclasses(cls: type) -> Iterator[type]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Code blocks say what a reader should type; here trainings and evaluations end early (CONTRIBUTING.md says so)."""
    import sb3_contrib  # noqa: F401  for its classes

    def shortened(learn: Any) -> Any:
        def learn_a_little(self: Any, total_timesteps: int = STEPS, *args: Any, **kwargs: Any) -> Any:
            if "progress_bar" in kwargs:  # rich allows one at a time
                kwargs["progress_bar"] = False
            return learn(self, min(total_timesteps, STEPS), *args, **kwargs)

        return learn_a_little

    def evaluate_a_little(model: Any, env: Any, n_eval_episodes: int = 10, *args: Any, **kwargs: Any) -> Any:
        if hasattr(env, "max_episode_steps"):
            env.max_episode_steps = 20
        return evaluate(model, env, 1, *args, **kwargs)

    evaluate = evaluation.evaluate_policy
    monkeypatch.setattr(evaluation, "evaluate_policy", evaluate_a_little)
    for cls in set(subclasses(BaseAlgorithm)):
        if "learn" in vars(cls):
            monkeypatch.setattr(cls, "learn", shortened(vars(cls)["learn"]))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
@pytest.mark.filterwarnings("ignore:Nothing is left to do")
def test_code_blocks_run(page: Path, short: None) -> None:
    sybil = pytest.importorskip("sybil", reason="pip install '.[docs]'")
    from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

    blocks = list(sybil.Document.parse(str(page), PythonCodeBlockParser(), SkipParser()).examples())
    assert blocks
    for block in blocks:
        block.evaluate()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pages, without executing notebooks; a warning is an error."""
    pytest.importorskip("sphinx", reason="pip install '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-b", "html", str(DOCS), str(out)]
    environment = {**os.environ, "DOCS_EXECUTE": "off", "DOCS_ONLINE": "0"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def public_names() -> Iterator[tuple[str, Any]]:
    for module in (sb3_mirl, *map(importlib.import_module, packages())):
        for name in getattr(module, "__all__", ()):
            if not name.startswith("__"):
                yield f"{module.__name__}.{name}", getattr(module, name)


def packages() -> list[str]:
    found = pkgutil.walk_packages(sb3_mirl.__path__, "sb3_mirl.")
    return [module.name for module in found if module.ispkg]


def test_every_public_name_has_a_place_in_the_api(site: Path) -> None:
    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    documented = {name for domain, names in inventory.data.items() if domain.startswith("py:") for name in names}
    places: dict[int, set[str]] = {}  # some things have several names
    for name, value in public_names():
        home = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
        places.setdefault(id(value), set()).update((name, home))
    missing = [names for names in places.values() if not names & documented]
    assert not missing
    assert len(documented) > 200


def test_every_page_has_a_way_to_it(site: Path) -> None:
    for page in PAGES:
        if DOCS in page.parents:
            assert (site / page.relative_to(DOCS)).with_suffix(".html").is_file()


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900


def test_table_of_algorithms_is_that_of_the_zoo() -> None:
    zoo = pytest.importorskip("sb3_mirl.zoo", reason="pip install '.[zoo]'")
    rows = re.findall(r"^\| \[`(\w+)`\]\(docs/algorithms/\w+\.md\) \| `(\w+)` \|", (ROOT / "README.md").read_text(), re.M)
    assert {name: cls for cls, name in rows} == {
        name: registration.algorithm.__name__ for name, registration in zoo.ALGORITHMS.items()
    }
    assert {path.stem for path in (ROOT / "zoo_configs").glob("*.yml")} == {name for _, name in rows}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target, _, anchor in re.findall(r"\]\(([^)#:\s]+)(#([\w-]+))?\)", page.read_text()):
        file = page.parent / target
        assert file.exists(), f"{target} is not there"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_commands_exist() -> None:
    """Every program and every option in the shell lines of the pages."""
    from sb3_mirl.__main__ import COMMANDS

    options = {option for _, command in shell_commands() for option in re.findall(r"\s(--[a-z][\w-]+)", command)}
    known = "\n".join(path.read_text() for path in (ROOT / "examples").glob("*.py"))
    zoo = importlib.util.find_spec("rl_zoo3")
    if zoo is not None and zoo.origin is not None:
        known += "\n".join(path.read_text() for path in Path(zoo.origin).parent.rglob("*.py"))
    for page, command in shell_commands():
        for program in re.findall(r"python (\S+\.py)", command):
            assert (ROOT / program).is_file(), f"{page}: {program}"
        for name in re.findall(r"^\s*(?:python -m )?sb3_mirl ([a-z]\w*)", command):
            assert name in COMMANDS, f"{page}: {name}"
        for target in re.findall(r"^make ([a-z]+)", command):
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), f"{page}: make {target}"
    if zoo is not None:
        others = set("--rm --gpus --build-arg --index-url --array --cpus-per-task --time --requeue --save".split())
        others |= set("--logdir --version --help --to --head".split())
        assert not {option for option in options - others if option not in known}


def shell_commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if "<address" not in line:
                    yield name_of(page), re.sub(r"\s+#.*", "", line)


def test_errors_are_quoted_as_they_are_raised() -> None:
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        from messages import messages
    except ImportError:
        pytest.skip("pip install '.[docs]'")
    finally:
        sys.path.remove(str(DOCS / "_ext"))
    raised = [text for file in (ROOT / "sb3_mirl").rglob("*.py") for _, text in messages(ast.parse(file.read_text()))]
    tables, _, _ = (DOCS / "guides" / "errors.md").read_text().partition("## Every message")
    quoted = re.findall(r"^\| [^|`]*`([^`]+)`", tables, re.M)
    assert len(quoted) > 15
    for message in quoted:
        parts = [part.strip(" ,:") for part in message.split("...") if part.strip(" ,:")]
        assert any(all(part in text for part in parts) for text in raised), message


def test_the_table_of_defaults_is_what_is_chosen() -> None:
    """docs/start/from_dqn.md: the last column as it is, the others written again as formulas."""
    from sb3_mirl.soft_dqn.defaults import PAPER, PAPER_BUDGET, FallingRate, choose

    page = (DOCS / "start" / "from_dqn.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \| ([^|]+) \|$", page, re.M))
    assert {name: float(rows[name].replace(" ", "")) for name in PAPER} == dict(PAPER)
    assert choose("auto", True, PAPER_BUDGET, 1) == dict(PAPER)
    for n in (20_000, 100_000, 1_000_000):
        small, images = choose("auto", False, n, 1), choose("auto", True, n, 1)
        memory, prior_lr = min(max(n, 10_000), 1_000_000), min(max(5 / n, 5e-5), 0.01)
        assert small == {
            "learning_rate": FallingRate(2.5e-3),
            "buffer_size": memory,
            "learning_starts": min(n // 20, 1_000),
            "batch_size": 128,
            "n_steps": 5,
            "target_update_interval": min(n // 20, 500),
            "exploration_fraction": 0.16,
            "exploration_final_eps": 0.05,
            "beta_init": 10,
            "beta_lr": 3e-5,
            "prior_lr": prior_lr,
        }
        assert images == pytest.approx({
            "learning_rate": min(2e-5 * (5e7 / n) ** 0.5, 1e-4),
            "buffer_size": memory,
            "learning_starts": min(n // 20, 50_000),
            "batch_size": 32,
            "n_steps": 1,
            "target_update_interval": max(int(40_000 * n / 5e7), min(1_000, n // 20)),
            "exploration_fraction": min(1e6 / n, 0.2),
            "exploration_final_eps": 0.1,
            "beta_init": 0.01,
            "beta_lr": min(max(12 / n, 3e-5), 0.01),
            "prior_lr": prior_lr,
        })  # fmt: skip
