"""Imports point one way: what each part of the tree may import, read from the source without running it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "lightning", "transformers", "trl", "datasets", "peft", "matplotlib", "numpy"}
# importer -> prefixes it must not import; imports inside functions count as well
FORBIDDEN = {
    "lit_instruct.models": ["stages", "rollouts", "evaluation", "cli", "sample", "chat"],
    "lit_instruct.rollouts": ["stages", "evaluation", "cli", "sample", "chat"],
    "lit_instruct.trl_bridge": ["stages", "rollouts", "evaluation", "cli", "sample", "chat"],
    "lit_instruct.stages": ["cli", "evaluation", "chat"],
    "lit_instruct.evaluation": ["cli", "stages"],
    "lit_instruct.planning": ["stages", "trl_bridge", "evaluation", "cli", "stage_cli", "plan_command"],
    "lit_instruct.prompting": ["models", "losses", "rollouts", "stages", "trl_bridge", "evaluation", "cli"],
    "lit_instruct.batches": ["models", "losses", "rollouts", "stages", "trl_bridge", "evaluation", "cli"],
}


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted([*ROOT.glob("lit_instruct/**/*.py"), *ROOT.glob("data_modules/**/*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _import_nodes(node: ast.AST, functions: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif _for_types_only(child) or (isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not functions):
            continue
        else:
            yield from _import_nodes(child, functions)


def _imports(module: str, functions: bool = True) -> set[str]:
    """Names of the modules that `module` imports; `from package import module` counts as that module."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in _import_nodes(ast.parse(path.read_text(encoding="utf-8")), functions):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
            continue
        base = node.module or ""
        if node.level:
            base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], *base.split(".")])
        base = base.rstrip(".")
        inner = {f"{base}.{alias.name}" for alias in node.names}
        names |= {name if name in MODULES else base for name in inner}
    return names


def _own(module: str, functions: bool = True) -> set[str]:
    return {name for name in _imports(module, functions) if _within(name, "lit_instruct", "data_modules")}


def _within(module: str, *parts: str) -> bool:
    return any(module == part or module.startswith(part + ".") for part in parts)


def _outside(module: str) -> set[str]:
    tops = {name.split(".")[0] for name in _imports(module)}
    return tops - set(sys.stdlib_module_names) - {"lit_instruct", "data_modules"}


def test_data_modules_know_only_prompting_batches_errors_and_the_cache_folder() -> None:
    allowed = ("data_modules", *(f"lit_instruct.{name}" for name in ("prompting", "batches", "errors", "files")))
    wrong = {m: n for m in MODULES if _within(m, "data_modules") for n in _own(m) if not _within(n, *allowed)}
    assert not wrong


def test_losses_know_only_torch() -> None:
    losses = [module for module in MODULES if _within(module, "lit_instruct.losses")]
    assert losses
    for module in losses:
        assert _outside(module) <= {"torch"}, module
        assert all(_within(name, "lit_instruct.losses") for name in _own(module)), module


def test_one_file_imports_trl() -> None:
    assert [module for module in MODULES if "trl" in _outside(module)] == ["lit_instruct.trl_bridge"]


@pytest.mark.parametrize("part", FORBIDDEN)
def test_imports_point_down(part: str) -> None:
    forbidden = [f"lit_instruct.{name}" for name in FORBIDDEN[part]]
    modules = [module for module in MODULES if _within(module, part)]
    assert modules
    wrong = {(module, name) for module in modules for name in _own(module) if _within(name, *forbidden)}
    assert not wrong


def test_no_circle_of_modules() -> None:
    """Imports inside functions count too: a circle there is a circle that only shows later."""
    graph = {module: {name for name in _own(module) if name in MODULES} for module in MODULES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for name in sorted(graph[module]):
                visit(name, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_no_circle_of_parts() -> None:
    """What holds between modules holds between the folders and files right under lit_instruct."""
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        for name in _own(module):
            if name in MODULES and module != "lit_instruct":
                graph.setdefault(_part(module), set()).add(_part(name))

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for name in graph.get(todo.pop(), set()) - seen - {start, "lit_instruct"}:
                seen.add(name)
                todo.append(name)
        return seen

    circles = [(a, b) for a in graph for b in reachable(a) if a < b and a in reachable(b)]
    assert not circles


def _part(module: str) -> str:
    return "data_modules" if _within(module, "data_modules") else ".".join(module.split(".")[:2])


def test_command_line_starts_light() -> None:
    """`lit-instruct --help` answers at once: nothing heavy before the stage is known, not even indirectly."""
    todo, seen = ["lit_instruct.cli"], set()
    while todo:
        module = todo.pop()
        seen |= {module}
        names = _imports(module, functions=False) | {".".join(module.split(".")[:-1])} - {""}
        assert not {name.split(".")[0] for name in names} & HEAVY, module
        todo += [name for name in names if name in MODULES and name not in seen]


def test_errors_and_command_line_import_nothing_heavy_when_run() -> None:
    code = f"import sys, lit_instruct.cli; print(sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
