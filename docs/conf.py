"""Configuration of Sphinx: `make docs` builds the site into `docs/_build/html`."""

import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from sphinx.application import Sphinx

import sb3_mirl

project = "sb3_mirl"
author = "The sb3_mirl authors"
copyright = f"2026, {author}"
release = version = sb3_mirl.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "messages",
]
exclude_patterns = ["_build", "_ext", "results/tables"]

html_theme = "furo"
html_title = f"sb3_mirl {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_show_sourcelink = False

myst_enable_extensions = ["amsmath", "attrs_block", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True

# Notebooks are Markdown files without outputs. `make docs` executes them, `make test` does not.
nb_execution_mode = os.environ.get("DOCS_EXECUTE", "off")  # "cache" or "force" to execute
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_in_temp = True
nb_merge_streams = True

autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_class_signature = "mixed"
autosummary_generate = False
maximum_signature_line_length = 100
python_use_unqualified_type_names = True

# Links into other projects need the network: they are made where the site is published, and on demand.
ONLINE = os.environ.get("DOCS_ONLINE", os.environ.get("READTHEDOCS", "")) not in ("", "0", "False")
intersphinx_mapping = (
    {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "scipy": ("https://docs.scipy.org/doc/scipy", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "gymnasium": ("https://gymnasium.farama.org", None),
        "stable_baselines3": ("https://stable-baselines3.readthedocs.io/en/master", None),
    }
    if ONLINE
    else {}
)
# What is not ours may be unknown here; every reference to `sb3_mirl...` must exist.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!sb3_mirl\.).*"),
    (r"py:class", r"sb3_mirl\..*\.(_\w+|Self\w+|Action|Agent|Algorithm|Array|M|Model)"),  # private bases, type variables
    (r"py:class", r"sb3_mirl\..*\.(Columns|Costs|Rule)"),  # names of types for short
]

# Names that packages import only when they are asked for: autodoc looks at what is there.
for package in ("sb3_mirl.envs", "sb3_mirl.irl", "sb3_mirl.tabular"):
    module = importlib.import_module(package)
    for name in module.__all__:
        setattr(module, name, getattr(module, name))


def escape_marks(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Leave ``|A|``, ``pi(a|s)`` and ``(*size, d)`` of the docstrings what they are: bars and stars are markup of Sphinx."""
    for i, line in enumerate(lines):
        parts = re.split(r"(``.*?``)", line)
        lines[i] = "".join(part if part.startswith("``") else part.replace("|", r"\|").replace("(*", r"(\*") for part in parts)


def setup(app: Sphinx) -> None:
    """Register what the configuration adds to Sphinx."""
    app.connect("autodoc-process-docstring", escape_marks)
