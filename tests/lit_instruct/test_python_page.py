"""The code of docs/python.md, and the cells of the notebook, run on a tiny model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lit_instruct import PPOModule

PAGE = (Path(__file__).parents[2] / "docs/python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_the_code(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert BLOCKS
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"BASE": str(tiny_model)}
    for block in BLOCKS:
        exec(block, names)
    assert isinstance(names["policy"], PPOModule)
    assert names["policy"].iterations_done == 2
    assert (tmp_path / "runs/python/ppo/adapter_config.json").is_file()


def test_the_notebook(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = json.loads((Path(__file__).parents[2] / "examples/stages.ipynb").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in page["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]).replace("smollm2-135m-instruct", str(tiny_model)), names)
    assert (tmp_path / "runs/notebook/ppo/stage.json").is_file()
