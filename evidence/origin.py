"""What a finding is made from: modules of evidence/, recipes and data that they name, and packages.

All of it is read from the source without importing it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from evidence import ROOT
from evidence.context import Context
from lit_instruct.files import digest

OWN = ("evidence", "lit_instruct", "data_modules")
INSTALL = '.venv/bin/pip install -c constraints.txt -e ".[evidence]"'


def fingerprint(name: str, context: Context, root: Path = ROOT) -> str:
    """Returns what tells a result of these modules, recipes, data, seeds and options from any other.

    Comments and docstrings of the modules do not count; neither does lit_instruct, whose version a result names.

    Args:
        name: of the finding.
        context: of it; the folder of runs does not count.
        root: checkout.
    """
    modules = modules_of(name, root)
    code = {module: ast.dump(_without_docstrings(_tree(path))) for module, path in sorted(modules.items())}
    files = {str(path.relative_to(root)): digest(path) for path in recipe_files(modules.values(), root)}
    return digest(code, files, list(context.seeds), context.source, context.quick, context.base)


def modules_of(name: str, root: Path = ROOT) -> dict[str, Path]:
    """Returns module -> file of a finding and all that it imports from evidence/, directly or not."""
    todo, found = [f"evidence.findings.{name}"], dict[str, Path]()
    while todo:
        module = todo.pop()
        path = _file(module, root)
        if path is not None and module not in found:
            found[module] = path
            todo += _imported(_tree(path))
    return found


def recipe_files(modules: Iterable[Path], root: Path = ROOT) -> list[Path]:
    """Returns the files below recipes/ that texts in modules name, with those in the folders that they name."""
    named = {
        root / node.value
        for path in modules
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("recipes/")
    }
    folders = [path for path in named if path.is_dir() and path.name != "results"]
    inside = [path for folder in folders for pattern in ("*.yaml", "data/*") for path in folder.glob(pattern)]
    return sorted({*inside, *(path for path in named if path.is_file())})


def missing(name: str, more: Sequence[str] = (), root: Path = ROOT) -> list[str]:
    """Returns the packages that a finding imports and that are not installed.

    Args:
        name: of the finding.
        more: modules beyond those that the files of evidence/ import.
        root: checkout.
    """
    trees = [_tree(path) for path in modules_of(name, root).values()]
    wanted = {module.split(".")[0] for tree in trees for module in _imported(tree)} | set(more)
    others = wanted - sys.stdlib_module_names - set(OWN)
    return sorted(module for module in others if find_spec(module) is None)


def _imported(tree: ast.Module) -> list[str]:
    """Modules, and names in them that may be modules, that are imported anywhere in a file."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def _file(module: str, root: Path) -> Path | None:
    """The file of a module of evidence/; None for other modules and for names in modules."""
    place = root / module.replace(".", "/")
    candidates = [place.with_suffix(".py"), place / "__init__.py"] if module.split(".")[0] == "evidence" else []
    return next((path for path in candidates if path.is_file()), None)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """The tree without texts that stand alone, which do nothing."""
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [part for part in body if not _is_text(part)]  # type: ignore[attr-defined]
    return tree


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
