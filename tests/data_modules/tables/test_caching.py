"""The second start reuses what the first one built; anything that would change an item rebuilds it."""

from __future__ import annotations

import gzip
import inspect
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled

from data_modules import (
    PromptDataModule,
    PromptResponseDataModule,
    RankedComparisonDataModule,
    base,
)
from data_modules.base import RowDataModule
from data_modules.hygiene.steps import HygieneOptions
from data_modules.tables import cache as token_cache
from data_modules.tables.fingerprints import code_version, content_of
from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompter
from tests.tiny import tiny_tokenizer

MODULES: list[type[RowDataModule[Any]]] = [PromptDataModule, PromptResponseDataModule, RankedComparisonDataModule]
ROWS = {
    PromptDataModule: [{"prompt": f"{letter}b", "user": letter} for letter in "abcdefgh"],
    PromptResponseDataModule: [{"prompt": letter, "response": "x"} for letter in "abcdefgh"],
    RankedComparisonDataModule: [{"prompt": p, "responses": ["b", "c"], "ranks": [1, 2]} for p in "abcdefgh"],
}


class Built:
    """Counts how often tables were made."""

    count = 0


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    """An empty cache, and how often it was filled."""
    counter, build = Built(), base.build_tables

    def counted(*arguments: Any) -> Any:
        counter.count += 1
        return build(*arguments)

    monkeypatch.setattr(token_cache, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(base, "build_tables", counted)
    return counter


def start(module: type[RowDataModule[Any]], prompter: Prompter, path: str, **options: Any) -> Any:
    data = module(path, **options)
    data.prompter = prompter
    data.prepare_data()
    data.setup()
    return data


def items(data: Any) -> list[Any]:
    return [[dataset[i] for i in range(len(dataset))] for dataset in (data.train_dataset, data.validation_dataset)]


@pytest.mark.parametrize("module", MODULES)
def test_a_second_start_reads_nothing(write: Any, prompter: Prompter, built: Built, module: Any):
    path = write(*ROWS[module])
    first = start(module, prompter, path, validation_share=0.4)
    second = start(module, prompter, path, validation_share=0.4)
    assert built.count == 1
    assert items(first) == items(second)
    assert list(first.train_rows) == list(second.train_rows)
    assert first.report == second.report


def test_content_counts_not_the_place(tmp_path: Path, write: Any, prompter: Prompter, built: Built):
    path = write(*ROWS[PromptDataModule])
    start(PromptDataModule, prompter, path)
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.copy(path, tmp_path / "elsewhere" / "other.jsonl")
    start(PromptDataModule, prompter, str(moved))
    assert built.count == 1


@pytest.mark.parametrize("which", ["path", "validation_path", "demonstrations_path"])
def test_a_changed_file_makes_new_tables(write: Any, prompter: Prompter, built: Built, which: str):
    rows = ROWS[RankedComparisonDataModule]
    paths = {
        "path": write(*rows),
        "validation_path": write(*rows[:4], name="validation.jsonl"),
        "demonstrations_path": write({"prompt": "a", "response": "bc"}, name="demonstrations.jsonl"),
    }
    start(RankedComparisonDataModule, prompter, **paths)
    text = Path(paths[which]).read_text()
    Path(paths[which]).write_text(text.replace('"a"', '"z"', 1))  # the same length
    data = start(RankedComparisonDataModule, prompter, **paths)
    assert built.count == 2
    seen = {"path": data.train_rows[0], "validation_path": data.validation_rows[0]}
    assert seen.get(which, data.validation_rows[0]).prompt == ("a" if which == "demonstrations_path" else "z")
    assert next(data.demonstration_batches()).input_ids[0, 0] == (126 if which == "demonstrations_path" else 101)


CHANGES: dict[str, Any] = {
    "validation_share": 0.3,
    "validation_limit": 1,
    "max_prompt_length": 9,
    "max_length": 9,
    "on_long": "drop",
    "limit": 7,
    "format": "auto",
    "on_bad_row": "skip",
    "hygiene": HygieneOptions(unique_prefix=3),
    "loss_on": "all",
}
SAME = {"batch_size": 3, "seed": 5, "pretraining_block": 9}
OWN_TEST = {"path", "validation_path", "demonstrations_path", "pretraining_path"}


@pytest.mark.parametrize("module", MODULES)
def test_every_option_of_the_items_makes_new_tables(write: Any, prompter: Prompter, module: Any):
    path = write(*ROWS[module])

    def key(**options: Any) -> Any:
        data = module(path, **options)
        data.prompter = prompter
        return data.cache_key()

    names = set(inspect.signature(module.__init__).parameters) - {"self"} - OWN_TEST
    for name in names & CHANGES.keys() - {"format"}:
        assert key(**{name: CHANGES[name]}) != key(), name
    for name in names & SAME.keys():
        assert key(**{name: SAME[name]}) == key(), name
    assert key()["options"].keys() >= names - SAME.keys() - module.not_in_items
    layouts = [layout.name for layout in module.row_type.layouts]
    assert key(format=layouts[0]) != key()


def test_the_seed_counts_where_it_draws(write: Any, prompter: Prompter):
    path = write(*({"prompt": letter, "use_case": "chat"} for letter in "abc"))
    other = write({"prompt": "x"}, name="other.jsonl")

    def key(where: str, **options: Any) -> Any:
        data = PromptDataModule(where, **options)
        data.prompter = prompter
        return data.cache_key()

    assert key(path, seed=1) == key(path, seed=2)
    mixed, resampled = f"{path}@1,{other}@2", HygieneOptions(use_case_mix="chat=1")
    assert key(mixed, seed=1) != key(mixed, seed=2)
    assert key(path, seed=1, hygiene=resampled) != key(path, seed=2, hygiene=resampled)


def test_tokenizer_and_prompt_format_count(write: Any, built: Built):
    path = write({"prompt": "the cat"}, {"prompt": "the dog"})
    prompters = [
        Prompter(tiny_tokenizer()),
        Prompter(tiny_tokenizer(), "raw"),
        Prompter(tiny_tokenizer(), system="Be kind."),
    ]
    for prompter in prompters:
        start(PromptDataModule, prompter, path)
    assert built.count == 3
    longer = tiny_tokenizer()
    longer.add_tokens(["the cat"])
    start(PromptDataModule, Prompter(longer), path)
    assert built.count == 4
    start(PromptDataModule, Prompter(tiny_tokenizer()), path)
    assert built.count == 4


def test_a_tokenizer_that_was_used_is_still_the_same():
    used = Prompter(tiny_tokenizer())
    before = used.fingerprint()
    used.tokenizer(["a", "b c"], padding=True, truncation=True, max_length=2)
    assert used.fingerprint() == before == Prompter(tiny_tokenizer()).fingerprint()


def test_another_version_of_the_code_counts(
    write: Any, prompter: Prompter, built: Built, monkeypatch: pytest.MonkeyPatch
):
    path = write(*ROWS[PromptDataModule])
    start(PromptDataModule, prompter, path)
    monkeypatch.setattr(base, "code_version", lambda: "next")
    start(PromptDataModule, prompter, path)
    assert built.count == 2


def test_the_code_version_covers_readers_and_prompting(monkeypatch: pytest.MonkeyPatch):
    seen: list[Path] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (seen.append(path), read(path))[1])
    code_version.cache_clear()
    code_version()
    names = {path.name for path in seen}
    assert {"rows.py", "base.py", "prompts.py", "chat_template.py", "steps.py", "json_files.py", "messages.py"} <= names


def test_content_of_folders_and_kinds(tmp_path: Path):
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"prompt": "a"}\n')
    one = content_of(str(folder), True)
    (folder / "b.jsonl").write_text('{"prompt": "b"}\n')
    two = content_of(str(folder), True)
    (folder / "notes.md").write_text("x")
    assert one != two == content_of(str(folder), True)
    as_text = tmp_path / "a.txt"
    as_text.write_text('{"prompt": "a"}\n')
    assert content_of(str(as_text), True) != content_of(str(folder / "a.jsonl"), True)
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(b"x"))
    assert content_of(f"{packed}@1,{as_text}@2", True) != content_of(f"{packed}@2,{as_text}@1", True)


def test_a_hub_dataset_is_known_by_its_commit(monkeypatch: pytest.MonkeyPatch):
    def info(api: HfApi, name: str, revision: str | None, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(sha=f"{name} at {revision}")

    def offline(*_: Any, **__: Any) -> None:
        raise OfflineModeIsEnabled("offline")

    monkeypatch.setattr(HfApi, "dataset_info", info)
    assert content_of("org/name:train", True) == [["org/name:train", "org/name at None", None]]
    assert content_of("org/name@abc:train", True) == [["org/name@abc:train", "org/name at abc", None]]
    monkeypatch.setattr(HfApi, "dataset_info", offline)
    assert content_of("org/name:train", True) is None
    commit = "0123456789abcdef" * 2 + "01234567"
    assert content_of(f"org/name@{commit}:train", True) == [[f"org/name@{commit}:train", commit, None]]


def test_content_that_cannot_be_known_is_not_cached(
    write: Any, prompter: Prompter, built: Built, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(base, "content_of", lambda *_: None)
    path = write(*ROWS[PromptDataModule])
    first, second = (start(PromptDataModule, prompter, path) for _ in range(2))
    assert built.count == 2
    assert items(first) == items(second)


def test_bad_rows_are_counted_and_set_aside_at_every_start(
    tmp_path: Path, write: Any, prompter: Prompter, built: Built, caplog: pytest.LogCaptureFixture
):
    path = write({"prompt": "a"}, {"prompt": ""}, {"prompt": "b"}, {"no": 1})
    for run in ("one", "two"):
        caplog.clear()
        data = PromptDataModule(path, on_bad_row="skip", validation_share=0)
        data.prompter = prompter
        data.trainer = SimpleNamespace(global_rank=0, world_size=1, default_root_dir=tmp_path / run)  # type: ignore[assignment]
        with caplog.at_level(logging.INFO):
            data.setup()
        assert [row.prompt for row in data.train_rows] == ["a", "b"]
        aside = tmp_path / run / "path.bad.jsonl"
        assert len(aside.read_text().splitlines()) == 2
        message = f"{path}: 2 bad rows skipped, written to {aside}; the first: {path}:2: "
        assert message in caplog.text
        assert data.report.sources["path"]["bad"] == 2
    assert built.count == 1


def test_a_bad_file_leaves_nothing_in_the_cache(tmp_path: Path, write: Any, prompter: Prompter):
    data = PromptDataModule(write({"prompt": "a"}, {"prompt": ""}))
    data.prompter = prompter
    with pytest.raises(UserError, match=":2: "):
        data.setup()
    assert not list((tmp_path / "cache" / "tokens").glob("[!.]*"))
