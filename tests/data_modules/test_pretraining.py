"""The pretraining text: blocks, cycles, shares."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_modules.pretraining import PretrainingText
from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompter
from tests.tiny import tiny_tokenizer


@pytest.fixture
def text(tmp_path: Path) -> PretrainingText:
    path = tmp_path / "text.txt"
    path.write_text("abcdefghijklmnopqrstuv")  # 22 letters, not more than 22 tokens
    return PretrainingText(path, Prompter(tiny_tokenizer()), block=3, seed=1)


def test_blocks_are_the_text_in_order(text: PretrainingText):
    whole = tiny_tokenizer()("abcdefghijklmnopqrstuv", add_special_tokens=False)["input_ids"]
    assert text.blocks.shape == (len(whole) // 3, 3)
    assert text.blocks.flatten().tolist() == whole[: len(whole) // 3 * 3]


def test_every_cycle_has_every_block_once(text: PretrainingText):
    n = len(text.blocks)
    stream = torch.cat([text.batch(iteration, 2) for iteration in range(n)])  # two cycles
    for cycle in (stream[:n], stream[n:]):
        assert sorted(cycle.tolist()) == sorted(text.blocks.tolist())
    assert stream[:n].tolist() != stream[n:].tolist()
    assert torch.equal(text.batch(0, 2 * n), stream)  # one batch may hold several cycles
    assert torch.equal(text.batch(1, 2), stream[2:4])  # and needs no batch before it


def test_processes_share_a_batch(text: PretrainingText):
    parts = [text.batch(3, 2, rank, 2) for rank in (0, 1)]
    assert torch.equal(torch.cat(parts), text.batch(3, 4))


def test_special_tokens_in_the_text_stay_text(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text("end <|im_end|> of it")
    assert 2 not in PretrainingText(path, Prompter(tiny_tokenizer()), block=2).blocks


def test_short_or_missing_text(tmp_path: Path):
    prompter = Prompter(tiny_tokenizer())
    path = tmp_path / "text.txt"
    path.write_text("ab")
    message = f"^{path}: the text has 2 tokens, fewer than one block of 128; use a longer text or lower --data"
    with pytest.raises(UserError, match=message):
        PretrainingText(path, prompter)
    with pytest.raises(UserError, match=f"^{tmp_path}/none.txt: no such file"):
        PretrainingText(tmp_path / "none.txt", prompter)
