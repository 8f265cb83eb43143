"""The shape of the code: short files and functions, flat classes, and tests that touch no private name."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("lit_instruct", "data_modules", "benchmarks", "evidence")


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
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > 60
    }
    assert found == {}


def _base_name(base: ast.expr) -> str:
    """`Base` of `Base`, `Base[T]` and `module.Base`."""
    if isinstance(base, ast.Subscript):
        return _base_name(base.value)
    return base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""


def _deep_chains(trees: Iterable[ast.Module]) -> list[str]:
    """Chains of three classes. Exceptions may form one: `except` needs their kinds, and they add no behaviour."""
    bases: dict[str, set[str]] = {}
    for node in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        bases.setdefault(node.name, set()).update(map(_base_name, node.bases))
    return [
        f"{name} -> {base} -> {above}"
        for name in bases
        for base in sorted(bases[name] - {name})
        for above in sorted(bases.get(base, ()))
        if above in bases and not above.endswith("Error")
    ]


def test_no_class_has_more_than_one_own_class_above_it() -> None:
    assert _deep_chains(tree for _, tree, _ in _trees(*OURS)) == []


def test_bases_with_a_type_argument_or_a_module_count() -> None:
    tree = ast.parse("class A(nn.Module): ...\nclass B(A[int]): ...\nclass C(parts.B): ...\nclass D(lib.D): ...")
    assert _deep_chains([tree]) == ["C -> B -> A"]


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


def test_no_module_imports_a_private_name_of_another() -> None:
    private = _own_private_names()
    found = [
        f"{name}: {node.module}.{alias.name}"
        for name, tree, _ in _trees(*OURS)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name in private
    ]
    assert found == []


BY_STRING = {"getattr", "hasattr", "setattr", "delattr", "patch", "object", "attrgetter"}
"""Functions that take the name of an attribute as a string; `object` is that of `patch.object`."""


def _touched(tree: ast.AST) -> Iterator[str]:
    """Attributes of other objects, names that are imported, and names that are read or patched by a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and _base_name(node.func) in BY_STRING:
            texts = (word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str))
            yield from (part for text in texts for part in text.split("."))


def test_no_test_touches_a_private_name() -> None:
    """test_private.py looks at libraries: a name there that we define too is one of theirs that we override."""
    private = _own_private_names()
    assert "_shaped" in private
    tests = {name: tree for name, tree, _ in _trees("tests") if name != "tests/lit_instruct/test_private.py"}
    found = {name: names for name, tree in tests.items() if (names := sorted(private & set(_touched(tree))))}
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "x._y",
        "from x import _y",
        "getattr(x, '_y')",
        "setattr(x, '_y', 1)",
        "monkeypatch.setattr(x, '_y', 1)",
        "monkeypatch.setattr('a.b._y', 1)",
        "patch('a.b._y')",
        "mock.patch.object(x, '_y')",
    ],
)
def test_a_private_name_is_found_in(line: str) -> None:
    assert "_y" in _touched(ast.parse(line))
