"""What a result is made from: other code, recipes, data, seeds or options are another fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evidence.context import Context
from evidence.origin import fingerprint, missing, modules_of, recipe_files

MODULE = '''"""A finding."""
from evidence import parts
from evidence.context import Context
RECIPE = "recipes/reviews"
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with a finding that imports two modules and names a recipe."""
    files = {
        "evidence/findings/made_up.py": MODULE,
        "evidence/parts.py": "import no_such_package.part\n\ndef f():\n    from evidence.deeper import g\n",
        "evidence/deeper.py": "def g():\n    '''Nothing.'''\n    return 'recipes/alone/rm.yaml'\n",
        "evidence/context.py": "import json\n",
        "evidence/apart.py": "x = 1\n",
        "recipes/reviews/ppo.yaml": "model: {}\n",
        "recipes/reviews/data/rows.jsonl": "{}\n",
        "recipes/alone/rm.yaml": "model: {}\n",
        "recipes/alone/sft.yaml": "model: {}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_modules_and_files_are_found_by_imports_and_names(root: Path) -> None:
    modules = modules_of("made_up", root)
    assert sorted(modules) == [f"evidence.{name}" for name in ("context", "deeper", "findings.made_up", "parts")]
    found = [str(path.relative_to(root / "recipes")) for path in recipe_files(modules.values(), root)]
    assert found == ["alone/rm.yaml", "reviews/data/rows.jsonl", "reviews/ppo.yaml"]
    assert missing("made_up", ("also_missing", "json"), root) == ["also_missing", "no_such_package"]


def changed(name: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(text)


@pytest.mark.parametrize(
    "change",
    [
        changed("evidence/findings/made_up.py", MODULE + "y = 2\n"),
        changed("evidence/deeper.py", "def g():\n    return 'recipes/alone/sft.yaml'\n"),
        changed("recipes/reviews/ppo.yaml", "model: {iterations: 2}\n"),
        changed("recipes/reviews/data/rows.jsonl", ""),
    ],
)
def test_a_change_of_what_it_is_made_from_changes_it(root: Path, change: Callable[[Path], object]) -> None:
    before = fingerprint("made_up", Context(root), root)
    change(root)
    assert fingerprint("made_up", Context(root), root) != before


@pytest.mark.parametrize(
    "change",
    [
        changed("evidence/findings/made_up.py", MODULE.replace("A finding.", "Another.") + "# a comment\n"),
        changed("evidence/apart.py", "x = 2\n"),
        changed("recipes/alone/sft.yaml", "model: {iterations: 2}\n"),
    ],
)
def test_other_changes_do_not(root: Path, change: Callable[[Path], object]) -> None:
    before = fingerprint("made_up", Context(root), root)
    change(root)
    assert fingerprint("made_up", Context(root / "runs"), root) == before


@pytest.mark.parametrize("other", [{"seeds": (0,)}, {"source": "hub"}, {"quick": True}, {"base": "gpt2"}])
def test_options_count(root: Path, other: dict[str, object]) -> None:
    assert fingerprint("made_up", Context(root), root) != fingerprint("made_up", Context(root, **other), root)  # type: ignore[arg-type]


def test_the_findings_name_their_recipes() -> None:
    found = {path.as_posix().split("/recipes/")[1] for path in recipe_files(modules_of("overoptimization").values())}
    assert {"evidence/overoptimization/ppo.yaml", "evidence/own_samples/rm.yaml", "demo/sft.yaml"} <= found
    assert "demo/data/prompts_train.jsonl" in found
