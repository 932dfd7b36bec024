"""Docstrings say what a thing is or does: none opens with a question word."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
QUESTION = re.compile(r"\s*(What|How|Whether|Where|Why|Who)\b")


def docstrings(path: Path) -> dict[str, str]:
    """The docstrings of a file, those of its nested functions and classes, too, by `line name`."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text is not None:
                found[f"{getattr(node, 'lineno', 1)} {getattr(node, 'name', 'module')}"] = text
    return found


def test_no_docstring_opens_with_a_question_word() -> None:
    files = [path for folder in ("edge_tracker", "export", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    opening = [
        f"{path.relative_to(ROOT)}:{place}: {text.splitlines()[0]}"
        for path in sorted(files)
        for place, text in docstrings(path).items()
        if QUESTION.match(text)
    ]
    assert opening == []
