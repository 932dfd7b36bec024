"""Compiled functions are called with few arguments, all of which are documented and annotated."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import edge_tracker.tracking

PACKAGE = Path(edge_tracker.tracking.__file__).parent
MOST, DOCUMENTED_FROM = 7, 5


def is_jit(decorator: ast.expr) -> bool:
    """True for `@jit` and `@jit(...)`."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Name) and called.id == "jit"


def compiled_functions() -> dict[str, ast.FunctionDef]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any(map(is_jit, node.decorator_list)):
                found[f"{path.relative_to(PACKAGE)}:{node.name}"] = node
    return found


def parameters(function: ast.FunctionDef) -> list[ast.arg]:
    arguments = function.args
    assert arguments.vararg is None
    assert arguments.kwarg is None
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


def documented(function: ast.FunctionDef) -> set[str]:
    """The names that the docstring's section `Args:` describes; several may share a line: `a, b: ...`."""
    lines = (ast.get_docstring(function) or "").splitlines()
    names: set[str] = set()
    if "Args:" not in lines:
        return names
    for line in lines[lines.index("Args:") + 1 :]:
        if line and not line.startswith(" "):
            break
        entry = line.removeprefix("    ")
        if not entry.startswith(" ") and ":" in entry:
            names.update(name.strip() for name in entry.partition(":")[0].split(","))
    return names


FUNCTIONS = compiled_functions()


def test_the_compiled_functions_are_found() -> None:
    assert {"deepsort/phases.py:step", "gallery.py:dot", "edge/motion.py:match_by_motion"} <= set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_compiled_function_has_few_parameters_each_annotated_and_of_many_each_documented(name: str) -> None:
    function = FUNCTIONS[name]
    given = parameters(function)
    assert len(given) <= MOST
    assert [argument.arg for argument in given if argument.annotation is None] == []
    assert function.returns is not None
    if len(given) >= DOCUMENTED_FROM:
        assert {argument.arg for argument in given} - documented(function) == set()
