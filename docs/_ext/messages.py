"""The directive ``error-messages``: every message with which the package raises, read from its source."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import sb3_mirl

PACKAGE = Path(sb3_mirl.__file__).parent


def messages(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """
    Find the errors and warnings of a module.

    :param tree: of its source
    :return: (name of the exception or "warning", message); what is computed appears as ``{expression}``
    """
    raised = {id(node.exc) for node in ast.walk(tree) if isinstance(node, ast.Raise)}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and node.args):
            continue
        name = ast.unparse(node.func).split(".")[-1]
        if id(node) in raised or name.endswith("Error") or name in ("warn", "exit"):
            text = written(node.args[0])
            if text:
                yield {"warn": "warning", "exit": "SystemExit"}.get(name, name), text


def written(node: ast.expr) -> str:
    """
    Return a string as it stands in the source.

    :param node: an expression
    :return: "" for what is not a string
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (
            part.value if isinstance(part, ast.Constant) else "{" + ast.unparse(part.value) + "}"  # type: ignore[attr-defined]
            for part in node.values
        )
        return "".join(map(str, parts))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return written(node.left) + written(node.right)
    return ""


class ErrorMessages(SphinxDirective):
    """A definition list for each folder of the package."""

    def run(self) -> list[nodes.Node]:
        """Return the lists."""
        result: list[nodes.Node] = []
        for file in sorted(PACKAGE.rglob("*.py")):
            self.env.note_dependency(str(file))
            found = list(dict.fromkeys(messages(ast.parse(file.read_text()))))
            if not found:
                continue
            module = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
            result.append(nodes.rubric("", "", nodes.literal(text=module)))
            items = nodes.bullet_list()
            for name, text in found:
                line = nodes.paragraph("", "", nodes.strong(text=name), nodes.Text(": "), nodes.literal(text=text))
                items += nodes.list_item("", line)
            result.append(items)
        return result


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("error-messages", ErrorMessages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
