"""Imports point one way: what each part of the tree may import, read from the source without running it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "lightning", "transformers", "trl", "datasets", "peft", "matplotlib", "numpy"}
FLOORS = [
    ["cli"],
    ["command_line"],
    ["iterating", "run_views"],
    ["commands"],
    ["running"],
    ["stages", "labeling"],
    ["ppo", "evaluation", "exporting", "inspection"],
    ["rollouts"],
    ["planning", "trl_bridge", "handover"],
    ["models", "data_modules", "judging"],
    [
        "collectives",
        "fast",
        "files",
        "checkout",
        "hub",
        "machine",
        "progress",
        "prompting",
        "lightning_private",
        "page_server",
        "wheels",
    ],
    ["losses", "batches", "errors", "json_types", "terminal"],
]
"""From top to bottom: a part imports what stands below it, and no other part of its own floor."""


def _modules(*tops: str) -> dict[str, Path]:
    found = {}
    for path in sorted(path for top in tops for path in ROOT.glob(f"{top}/**/*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules("lit_instruct", "data_modules")
PUBLIC = {
    f"lit_instruct.{alias.name}": str(node.module)
    for node in ast.walk(ast.parse((ROOT / "lit_instruct/__init__.py").read_text(encoding="utf-8")))
    if isinstance(node, ast.ImportFrom) and node.module in MODULES
    for alias in node.names
}
"""Names that the package offers lazily, and the modules that they come from."""


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _import_nodes(node: ast.AST, when_run: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif when_run and (_for_types_only(child) or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)):
            continue
        else:
            yield from _import_nodes(child, when_run)


def _imports(module: str, when_run: bool = False, paths: dict[str, Path] = MODULES) -> set[str]:
    """Names of the modules that `module` imports; `from package import module` counts as that module.

    A public name of the package counts as the module that it comes from.

    Args:
        module: its dotted name.
        when_run: leaves out what is imported for types alone or inside functions.
        paths: of all modules.
    """
    path = paths[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in _import_nodes(ast.parse(path.read_text(encoding="utf-8")), when_run):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
            continue
        base = node.module or ""
        if node.level:
            base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], *base.split(".")])
        base = base.rstrip(".")
        inner = {f"{base}.{alias.name}" for alias in node.names}
        names |= {name if name in paths else PUBLIC.get(name, base) for name in inner}
    return names


def _own(module: str) -> set[str]:
    return {name for name in _imports(module) if _within(name, "lit_instruct", "data_modules")}


def _within(module: str, *parts: str) -> bool:
    return any(module == part or module.startswith(part + ".") for part in parts)


def _outside(module: str) -> set[str]:
    tops = {name.split(".")[0] for name in _imports(module)}
    return tops - set(sys.stdlib_module_names) - {"lit_instruct", "data_modules"}


def test_data_modules_know_only_prompting_batches_errors_and_the_cache_folder() -> None:
    allowed = ("data_modules", *(f"lit_instruct.{name}" for name in ("prompting", "batches", "errors", "files")))
    wrong = {m: n for m in MODULES if _within(m, "data_modules") for n in _own(m) if not _within(n, *allowed)}
    assert not wrong


def test_losses_know_only_torch_and_annotations() -> None:
    losses = [module for module in MODULES if _within(module, "lit_instruct.losses")]
    assert losses
    for module in losses:
        assert _outside(module) <= {"torch", "jaxtyping"}, module
        assert all(_within(name, "lit_instruct.losses") for name in _own(module)), module


def test_one_file_imports_trl() -> None:
    assert [module for module in MODULES if "trl" in _outside(module)] == ["lit_instruct.trl_bridge"]


def test_imports_point_down() -> None:
    """Imports inside functions and for types alone count too."""
    level = {part: number for number, floor in enumerate(FLOORS) for part in floor} | {"lit_instruct": -1}
    upward = [
        f"{module} -> {name}"
        for module in MODULES
        for name in _own(module)
        if _part(module) != _part(name)
        and level[_part(module).removeprefix("lit_instruct.")] >= level[_part(name).removeprefix("lit_instruct.")]
    ]
    assert not upward


def test_a_public_name_counts_as_the_module_that_it_comes_from(tmp_path: Path) -> None:
    one = tmp_path / "one.py"
    one.write_text("from lit_instruct import PPOModule, errors\n")
    assert _imports("one", paths=MODULES | {"one": one}) == {"lit_instruct.stages.ppo", "lit_instruct.errors"}


def test_contributing_names_the_same_floors() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert " -> ".join(", ".join(floor) for floor in FLOORS) in " ".join(page.split())


def _circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of a circle, or none."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in done:
            for name in sorted(graph[module]):
                if found := visit(name, (*path, module)):
                    return found
            done.add(module)
        return []

    return next((found for module in graph if (found := visit(module, ()))), [])


def test_no_circle_of_modules() -> None:
    """Imports inside functions and for types alone count too: a circle there is a circle that only shows later."""
    paths = _modules("lit_instruct", "data_modules", "benchmarks", "evidence")
    assert _circle({module: _imports(module, paths=paths) & paths.keys() for module in paths}) == []


def test_a_circle_for_types_alone_is_found(tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("import two\n")
    two.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from one import x\n")
    paths = {"one": one, "two": two}
    graph = {module: _imports(module, paths=paths) & paths.keys() for module in paths}
    assert _circle(graph) == ["one", "two", "one"]
    assert not _imports("two", when_run=True, paths=paths) & paths.keys()


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
        names = _imports(module, when_run=True) | {".".join(module.split(".")[:-1])} - {""}
        assert not {name.split(".")[0] for name in names} & HEAVY, module
        todo += [name for name in names if name in MODULES and name not in seen]


def test_errors_and_command_line_import_nothing_heavy_when_run() -> None:
    code = f"import sys, lit_instruct.cli; print(sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
