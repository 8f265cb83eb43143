"""Rows that are longer than the model reads are refused before it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_modules import PromptResponseDataModule, RankedComparisonDataModule
from lit_instruct.errors import UserError
from lit_instruct.models import loading
from lit_instruct.stages.reward import RewardModule
from lit_instruct.stages.sft import SFTModule
from tests.families import CONTEXT, tiny_family
from tests.lit_instruct.stages.helpers import comparisons, demonstrations, plain_trainer, write_rows

LONG = "the cat " * 200


@pytest.mark.parametrize("family", ["opt", "llama"])
@pytest.mark.parametrize("stage", ["sft", "rm", "demonstrations"])
def test_a_row_longer_than_the_context(
    tmp_path: Path, family: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = str(tiny_family(tmp_path / "base", family))
    monkeypatch.setattr(loading, "AutoModelForCausalLM", None)
    monkeypatch.setattr(loading, "AutoModelForSequenceClassification", None)
    long = write_rows(tmp_path / "long.jsonl", [{"prompt": LONG, "response": "the dog"}, *demonstrations(3)])
    ranked = comparisons(4)
    if stage == "rm":
        ranked[0]["responses"][1] = LONG
    pairs = write_rows(tmp_path / "ranked.jsonl", ranked)
    more: dict[str, Any] = {"max_length": 700, "validation_share": 0.0, "batch_size": 2}
    if stage == "sft":
        module: Any = SFTModule(base, dtype="float32")
        data: Any = PromptResponseDataModule(str(long), **more)
    else:
        module = RewardModule(base, dtype="float32")
        data = RankedComparisonDataModule(
            str(pairs), **more, demonstrations_path=str(long) if stage == "demonstrations" else None
        )
    with pytest.raises(UserError) as error:
        plain_trainer(tmp_path, max_steps=1).fit(module, data)
    option = "demonstrations_path" if stage == "demonstrations" else "path"
    assert str(error.value).startswith(f"--data.{option}: its longest row has ")
    assert str(error.value).endswith(
        f" tokens, more than the {CONTEXT} tokens that {base} (--model.base) reads; give --data.max_length={CONTEXT} "
        "with --data.on_long=drop"
    )
