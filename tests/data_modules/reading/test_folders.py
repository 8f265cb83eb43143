"""Folders of a downloaded or saved dataset: which files of them are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from data_modules import PromptDataModule
from data_modules.reading.readers import notes_on_splits
from data_modules.rows import PromptRow, read_rows
from data_modules.tables.fingerprints import content_of
from lit_instruct.errors import DataError, UserError
from lit_instruct.prompting import Prompter
from tests.data_modules.reading.files import prompts, reason

CONFIGS = """---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path:
    - main/test-*
- config_name: socratic
  data_files: socratic/*.jsonl
---
# A card
"""


def tree(folder: Path, *names: str) -> Path:
    """Files with one prompt each: the file's own name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("prompt\n" + name if name.endswith(".csv") else json.dumps({"prompt": name}))
    return folder


@pytest.mark.parametrize(
    ("names", "read"),
    [
        (["train.jsonl", "test.jsonl"], ["train.jsonl"]),
        (["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "data/test-00000-of-00001.jsonl"], 2),
        (["train/a.jsonl", "train/b.csv", "valid/c.jsonl"], ["train/a.jsonl", "train/b.csv"]),
        (["sft_train.jsonl", "sft_dev.jsonl"], ["sft_train.jsonl"]),
        (["Training.jsonl", "evaluation.jsonl"], ["Training.jsonl"]),
        (["a.jsonl", "b.jsonl", "more/c.csv"], 3),  # nothing tells of splits
        (["train.jsonl", "more.jsonl"], 2),  # nothing is held out
        (["train_prefs-00000-of-00001.jsonl"], 1),
        (["train/x/a.jsonl", "train/y/b.jsonl"], 2),
        (["constraints.jsonl", "contest.jsonl"], 2),  # train and test are no words of these
    ],
)
def test_a_folder_stands_for_its_train_split(tmp_path: Path, names: list[str], read: list[str] | int) -> None:
    found = prompts(tree(tmp_path, *names))
    assert (found if isinstance(read, list) else len(found)) == read
    assert all("test-" not in name for name in found)


@pytest.mark.parametrize(
    ("split", "read"),
    [("test", ["test.jsonl"]), ("valid", ["dev.jsonl"]), ("validation", ["dev.jsonl"]), ("train", ["train.jsonl"])],
)
def test_a_split_is_named_after_a_colon(tmp_path: Path, split: str, read: list[str]) -> None:
    folder = tree(tmp_path / "rows", "train.jsonl", "dev.jsonl", "test.jsonl")
    assert prompts(f"{folder}:{split}") == read
    assert prompts(f"{folder}:{split},{folder}") == [*read, "train.jsonl"]


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    folder = tree(tmp_path / "rows", "train.jsonl", "dev.jsonl")
    with pytest.raises(DataError, match=f"^{folder}: it has no split test; it has train, validation$"):
        read_rows(f"{folder}:test", PromptRow)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["validation.jsonl", "test.jsonl"], ": it holds the splits test, validation; name what to read, such as"),
        (["train.jsonl", "test.jsonl", "more.jsonl"], ": it holds the splits test, train and files of no split, such"),
        (
            ["train_prefs-00000-of-00001.jsonl", "train_sft-00000-of-00001.jsonl", "test_sft-00000-of-00001.jsonl"],
            ": it holds the splits test_sft, train_prefs, train_sft; name what to read, such as",
        ),
        (["a/train.jsonl", "a/test.jsonl", "b/train.jsonl", "b/test.jsonl"], ": it holds the subsets a, b; name one, "),
    ],
)
def test_a_choice_that_has_to_be_made(tmp_path: Path, names: list[str], message: str) -> None:
    folder = tree(tmp_path / "rows", *names)
    assert reason(folder).startswith(message)
    assert f"{folder}:" in reason(folder)


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (["test.jsonl"], "test"),
        (["test/a.jsonl", "test/b.csv"], "test"),
        (["more/validation.csv"], "validation"),
        (["data/test_prefs-00000-of-00001.jsonl"], "test_prefs"),
        (["dev-00000-of-00001.jsonl"], "validation"),
    ],
)
def test_a_folder_without_a_train_split(tmp_path: Path, names: list[str], split: str) -> None:
    folder = tree(tmp_path / "rows", *names)
    assert reason(folder) == (
        f": all its files are of the split {split}, and none of train; if they are meant, name it: {folder}:{split}"
    )
    assert prompts(f"{folder}:{split}") == names
    assert [row.prompt for row in read_rows(folder, PromptRow, split=None)] == names  # of commands that do not train


def test_a_parquet_folder_without_a_train_split(tmp_path: Path) -> None:
    (folder := tmp_path / "rows").mkdir()
    Dataset.from_dict({"prompt": ["a"]}).to_parquet(folder / "test-00000-of-00001.parquet")
    assert reason(folder).startswith(": all its files are of the split test, and none of train")
    assert prompts(f"{folder}:test") == ["a"]


@pytest.mark.parametrize("names", [["train.jsonl"], ["train.jsonl", "more.jsonl"]])
def test_validation_does_not_read_the_train_split(tmp_path: Path, names: list[str]) -> None:
    folder = tree(tmp_path / "rows", *names)
    with pytest.raises(DataError, match=f"{folder}.* the splits? train"):
        read_rows(folder, PromptRow, split="validation")
    assert len(read_rows(f"{folder}:train", PromptRow, split="validation")) == 1


def test_subsets(tmp_path: Path) -> None:
    folder = tree(tmp_path / "rows", "a/train.jsonl", "a/test.jsonl", "b/train.jsonl", "b/test.jsonl")
    assert prompts(f"{folder}:train") == ["a/train.jsonl", "b/train.jsonl"]
    assert prompts(f"{folder}:b:test") == ["b/test.jsonl"]
    assert prompts(folder / "b") == ["b/train.jsonl"]
    with pytest.raises(DataError, match="it has no subset c; it has a, b$"):
        read_rows(f"{folder}:c:train", PromptRow)


def test_the_configurations_of_the_hub(tmp_path: Path) -> None:
    names = ("main/train-0.jsonl", "main/test-0.jsonl", "socratic/a.jsonl", "socratic/test.jsonl", "other.jsonl")
    folder = tree(tmp_path / "rows", *names)
    (folder / "README.md").write_text(CONFIGS)
    assert reason(folder) == (
        f": it holds the subsets main, socratic; name one, such as {folder}:main:train, or take all of them with "
        f"{folder}:train"
    )
    assert prompts(f"{folder}:main:test") == ["main/test-0.jsonl"]
    assert prompts(f"{folder}:socratic:train") == ["socratic/a.jsonl", "socratic/test.jsonl"]
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    assert "files of no split, such as other.jsonl" in reason(folder)


def test_a_split_that_the_card_leaves_out(tmp_path: Path) -> None:
    folder = tree(tmp_path / "rows", "data/train-0.jsonl", "data/test-0.jsonl", "raw.jsonl")
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: data/train-*\n---\n")
    assert prompts(folder) == ["data/train-0.jsonl"]
    assert prompts(f"{folder}:test") == ["data/test-0.jsonl"]
    with pytest.raises(DataError, match="it holds the splits test, train; name what to read"):
        read_rows(folder, PromptRow, split="validation")


def test_metadata_beside_data_is_not_data(tmp_path: Path) -> None:
    folder = tree(tmp_path / "rows", "train.jsonl")
    for name in ("dataset_info.json", "dataset_infos.json", "state.json"):
        (folder / name).write_text('{"splits": {"train": 1}, "files": ["train.jsonl"]}')
    (folder / "notes.json").write_text('{"author": "me"}')
    assert prompts(folder) == ["train.jsonl"]
    (folder / "squad.json").write_text('{"data": [{"prompt": "a"}]}')
    assert reason(folder).startswith("/squad.json:1: a .json file must hold a list of rows")


@pytest.mark.parametrize("split", [None, "test"])
def test_what_datasets_saved(tmp_path: Path, split: str | None) -> None:
    splits = {"train": Dataset.from_dict({"prompt": ["a", "b"]}), "test": Dataset.from_dict({"prompt": ["c"]})}
    folder = tmp_path / "saved"
    DatasetDict(splits).save_to_disk(folder)
    (folder / "train" / "cache-0123.arrow").write_bytes(b"left by map")
    assert prompts(f"{folder}:{split}" if split else folder) == (["c"] if split else ["a", "b"])
    assert read_rows(folder, PromptRow)[1].where == f"{folder}/train/data-00000-of-00001.arrow:row 2"


def test_one_saved_dataset_in_several_files(tmp_path: Path) -> None:
    Dataset.from_dict({"prompt": ["a", "b", "c"]}).save_to_disk(tmp_path / "saved", num_shards=2)
    assert prompts(tmp_path / "saved") == ["a", "b", "c"]
    (shard := tmp_path / "saved" / "data-00001-of-00002.arrow").write_bytes(b"cut off")
    assert reason(tmp_path / "saved").startswith(f"/{shard.name}:row 1: no Arrow file, or a damaged one (")


def test_splits_with_names_of_their_own_that_datasets_saved(tmp_path: Path) -> None:
    splits = {"first": Dataset.from_dict({"prompt": ["a"]}), "second": Dataset.from_dict({"prompt": ["b"]})}
    DatasetDict(splits).save_to_disk(folder := tmp_path / "saved")
    assert prompts(f"{folder}:second") == ["b"]
    assert reason(folder).startswith(": it holds the splits first, second; name what to read, such as")


def test_training_and_validation_of_one_folder(
    tmp_path: Path, prompter: Prompter, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for split, letter in (("train", "a"), ("validation", "b"), ("test", "c")):
        (folder / f"{split}.jsonl").write_text(json.dumps({"prompt": letter}))
    data = PromptDataModule(str(folder), validation_path=str(folder))
    data.prompter = prompter
    with caplog.at_level("INFO"):
        data.setup()
    assert [row.prompt for row in data.train_rows] == ["a"]
    assert [row.prompt for row in data.validation_rows] == ["b"]
    assert f"{folder}: read its split train alone; it also has test, validation: name one as {folder}:test." in (
        caplog.text
    )
    (folder / "validation.jsonl").unlink()
    data = PromptDataModule(str(folder), validation_path=str(folder))
    data.prompter = prompter
    with pytest.raises(UserError, match=f"^{folder}: it holds the splits test, train; name what to read, such as"):
        data.setup()


def test_only_what_is_read_counts_for_the_cache(tmp_path: Path) -> None:
    folder = tree(tmp_path / "rows", "train.jsonl", "test.jsonl")
    before = content_of(str(folder), True)
    assert before == content_of(str(folder / "train.jsonl"), True) == content_of(f"{folder}:train", True)
    assert content_of(f"{folder}:test", True) == content_of(str(folder), True, "test") != before


def test_no_note_where_nothing_is_left_out(tmp_path: Path) -> None:
    folder = tree(tmp_path / "rows", "train.jsonl", "more.jsonl")
    assert notes_on_splits(f"{folder},{folder}:train,org/name:train", True, "train") == []
