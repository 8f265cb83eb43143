"""The pretraining text: blocks, cycles, shares."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest
import torch

from data_modules.batching.pretraining import PretrainingText, shuffled
from data_modules.reading.texts import stream_documents
from lit_instruct.errors import DataError, UserError
from lit_instruct.prompting import Prompter
from tests.tiny import tiny_tokenizer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIT_INSTRUCT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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


def ids_of(text: str) -> list[int]:
    return list(tiny_tokenizer()(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.jsonl.gz", "folder"])
def test_rows_of_text_are_packed_with_eos_between_them(tmp_path: Path, name: str):
    rows = [{"text": "the sea"}, {"text": " "}, {"text": "the wind.", "id": 2}]
    lines = "\n".join(json.dumps(row) for row in rows)
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        (path / "1.jsonl").write_text(lines)
    else:
        content = (json.dumps(rows) if name == "rows.json" else lines).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    text = PretrainingText(path, Prompter(tiny_tokenizer()), block=2)
    whole = [*ids_of("the sea"), 2, *ids_of("the wind.")]
    assert text.blocks.flatten().tolist() == whole[: len(whole) // 2 * 2]


def test_bad_rows_of_text(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "the sea and the wind"}\n{"text": 3}\n{"prompt": "a"}\n[]\n')
    with pytest.raises(DataError, match=f'^{path}:2: field "text" must be a text, not a number; correct the row$'):
        PretrainingText(path, Prompter(tiny_tokenizer()), block=2)
    for _ in range(2):  # made, and found in the cache
        text = PretrainingText(path, Prompter(tiny_tokenizer()), block=2, on_bad_row="skip")
        assert text.bad == 3 and text.first_bad.startswith(f"{path}:2: ")
        assert [json.loads(line)["where"][-1] for line in text.bad_rows.read_text().splitlines()] == ["2", "3", "4"]
    assert text.blocks.flatten().tolist() == ids_of("the sea and the wind")[: text.blocks.numel()]


def test_plain_text_in_pieces_has_the_tokens_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    content = "The cat sat on the mat.\n\n  The children\nare   playing é in the garden, and so on. \n" * 5
    path = tmp_path / "text.txt"
    path.write_text(content)
    for size in (1, 7, 64):
        monkeypatch.setattr("data_modules.reading.texts.PIECE", size)
        (document,) = map(list, stream_documents(path))
        assert "".join(document) == content
        assert [i for piece in document for i in ids_of(piece)] == ids_of(content)


def test_a_word_without_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "text.txt"
    path.write_text("x" * 100 + " y")
    monkeypatch.setattr("data_modules.reading.texts.PIECE", 8)
    monkeypatch.setattr("data_modules.reading.texts.LONGEST_WORD", 16)
    (pieces,) = map(list, stream_documents(path))
    assert "".join(pieces) == "x" * 100 + " y" and max(map(len, pieces)) <= 24


def test_a_second_start_reads_no_text_and_a_changed_text_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
):
    path, prompter = tmp_path / "text.txt", Prompter(tiny_tokenizer())
    path.write_text("the sea and the wind")
    first = PretrainingText(path, prompter, block=2).blocks
    with monkeypatch.context() as patched:
        patched.setattr("data_modules.batching.pretraining.stream_documents", None)
        assert torch.equal(PretrainingText(path, prompter, block=2).blocks, first)
        with pytest.raises(TypeError):
            PretrainingText(path, Prompter(tiny_tokenizer(chat=False)), block=2)
    path.write_text("the wind and the sea")
    assert not torch.equal(PretrainingText(path, prompter, block=2).blocks, first)


def test_memory_does_not_grow_with_the_text(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        file.writelines(json.dumps({"text": "the sea " * 50}) + "\n" for _ in range(20_000))  # 8 MB
    tracemalloc.start()
    count = sum(len(piece) for document in stream_documents(path) for piece in document)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000 * 400 and peak < 2**20


@pytest.mark.parametrize("length", [1, 2, 3, 5, 16, 17, 100])
def test_shuffles_are_permutations_that_differ(length: int):
    orders = [[shuffled(index, length, key) for index in range(length)] for key in ("0:0", "0:1", "1:0")]
    assert all(sorted(order) == list(range(length)) for order in orders)
    assert length < 5 or len({tuple(order) for order in orders}) == 3


def test_a_shuffle_is_even():
    """Over many keys each index lands everywhere about equally often: chi-squared with 81 degrees of freedom."""
    n, keys = 10, 2000
    counts = torch.zeros(n, n)
    for key in range(keys):
        for index in range(n):
            counts[index, shuffled(index, n, str(key))] += 1
    chi_squared = ((counts - keys / n) ** 2 / (keys / n)).sum()
    assert chi_squared < 150
