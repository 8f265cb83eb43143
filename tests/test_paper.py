"""docs/paper.md: every name in it exists, and the parts of the paper that define the method are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)))


@pytest.mark.parametrize(("path", "name"), NAMES)
def test_a_name_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_the_method_is_there() -> None:
    assert len(NAMES) > 30
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("|")]
    for part in ("eq. 1", "eq. 2", "Appendix A", "C.1", "C.2", "C.3", "C.4"):
        assert any(part in row for row in rows), part
