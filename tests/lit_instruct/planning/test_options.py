"""Which model a plan takes the shape of, where the stages before it may not have been trained yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_instruct.models.embedded import NAME as EMBEDDED
from lit_instruct.planning.options import base_of


def test_base_of_an_sft_stage_that_is_not_trained_is_the_recipes(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text("model: {base: org/base}\n")
    options = {"model.base": "{run}/sft", "run": str(tmp_path / "mine")}
    assert base_of(options, tmp_path) == "org/base"
    assert base_of(options) == EMBEDDED


@pytest.mark.parametrize("name", ["org/sft", "sft"])
def test_hub_id_called_sft_is_no_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert base_of({"model.base": name, "run": "runs/demo"}, tmp_path) == name
