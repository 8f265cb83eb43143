"""The shape of the code: short files and functions, flat classes, and tests that touch no private name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = ("lit_instruct", "data_modules", "benchmarks")


def _trees(*tops: str) -> Iterator[tuple[str, ast.Module, int]]:
    for top in tops:
        for path in sorted((ROOT / top).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            yield str(path.relative_to(ROOT)), ast.parse(text), len(text.splitlines())


def test_no_file_is_over_300_lines() -> None:
    assert {name: lines for name, _, lines in _trees(*OURS) if lines > 300} == {}


def test_no_function_is_over_60_lines() -> None:
    found = {
        f"{name}:{node.name}": length
        for name, tree, _ in _trees(*OURS)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and (length := (node.end_lineno or 0) - node.lineno + 1) > 60
    }
    assert found == {}


def test_no_class_has_more_than_one_own_class_above_it() -> None:
    bases = {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for _, tree, _ in _trees(*OURS)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    deep = [
        f"{name} -> {base} -> {above}"
        for name, named in bases.items()
        for base in named
        for above in bases.get(base, [])
        if above in bases and not above.endswith("Error")
    ]
    assert deep == []


def _own_private_names() -> set[str]:
    """Private names that our code defines: functions, classes, variables and attributes."""
    found = set()
    for _, tree, _ in _trees(*OURS):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found |= {node.attr} if isinstance(node.value, ast.Name) and node.value.id == "self" else set()
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


def _touched(tree: ast.AST) -> Iterator[str]:
    """Attributes of other objects, names that are imported, and names that are patched by a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
            texts = (word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str))
            yield from (part for text in texts for part in text.split("."))


def test_no_test_touches_a_private_name() -> None:
    private = _own_private_names()
    assert "_shaped" in private
    found = {name: names for name, tree, _ in _trees("tests") if (names := sorted(private & set(_touched(tree))))}
    assert found == {}
