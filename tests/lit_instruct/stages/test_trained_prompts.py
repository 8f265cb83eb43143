"""A stage's folder knows which prompts the stage trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data_modules.rows import Demonstration
from lit_instruct.errors import UserError
from lit_instruct.handover import PROMPTS_FILE, read_stage, read_trained_prompts
from lit_instruct.prompting.hashes import prompt_hash
from lit_instruct.stages.given import trained_prompts
from tests.lit_instruct.stages.helpers import Files

ASKED = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_the_prompts_of_a_trained_stage(trained: Path, files: Files, stage: str) -> None:
    record = read_stage(trained / stage)
    assert record is not None
    rows = [json.loads(line)["prompt"] for line in getattr(files, stage).read_text().splitlines()]
    held_out = [json.loads(line)["prompt"] for line in getattr(files, f"{stage}_validation").read_text().splitlines()]
    found = read_trained_prompts(trained / stage, record)
    assert found is not None and record.trained_prompts == len(set(rows))
    assert found.tolist() == sorted({prompt_hash(row) for row in rows})
    assert not set(found.tolist()) & {prompt_hash(row) for row in held_out}
    assert (trained / stage / PROMPTS_FILE).stat().st_size == 128 + 8 * len(found)


@pytest.mark.parametrize(("loss_on", "count"), [("responses", 2), ("all", 2), ("last_response", 1)])
def test_sft_on_every_turn_trains_on_every_question(loss_on: str, count: int) -> None:
    rows = [Demonstration(ASKED, "d")]
    found = trained_prompts(SimpleNamespace(train_rows=rows, loss_on=loss_on))
    assert found is not None and len(found) == count


def test_rows_that_are_not_kept_are_not_known() -> None:
    assert trained_prompts(None) is None
    assert trained_prompts(SimpleNamespace(train_rows=[])) is None


def test_a_damaged_file_is_one_sentence(run_folder: Path) -> None:
    folder = run_folder / "sft"
    record = read_stage(folder)
    assert record is not None
    assert read_trained_prompts(folder, replace(record, trained_prompts=None)) is None  # of an earlier version
    np.save(folder / PROMPTS_FILE, np.array([1], dtype=np.uint64))
    with pytest.raises(UserError, match="damaged .not 20 hashes.; run that stage again"):
        read_trained_prompts(folder, record)
    (folder / PROMPTS_FILE).write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match="damaged"):
        read_trained_prompts(folder, record)
    (folder / PROMPTS_FILE).unlink()
    assert read_trained_prompts(folder, record) is None
