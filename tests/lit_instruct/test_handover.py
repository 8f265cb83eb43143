"""What stages leave: all or nothing, and one sentence where it is missing, damaged or does not fit."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from lit_instruct.errors import UserError
from lit_instruct.files import replacing_files
from lit_instruct.handover import (
    Stage,
    check_same_format,
    find_parent,
    prompter_of,
    read_stage,
    read_stage_of,
    write_stage,
)
from lit_instruct.models.loading import Source, find_source
from lit_instruct.prompting import Prompter
from tests.tiny import tiny_tokenizer

STAGE = Stage(
    stage="rm",
    base={"source": "some/base", "revision": "abc"},
    parents={"sft": "runs/demo/sft"},
    prompt_format={"template": "raw", "system": None},
    metrics={"val/loss": 0.5},
    seed=3,
    seconds=1.5,
    reward_bias=-0.25,
    data={"train": 3, "removed": {"shared prefix": 1}},
)


def _earlier(tmp_path: Path) -> Path:
    folder = tmp_path / "sft"
    folder.mkdir()
    (folder / "stage.json").write_text("earlier record")
    (folder / "model.safetensors").write_text("earlier model")
    (folder / "logs").mkdir()
    return folder


def _content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def _fill(scratch: Path) -> None:
    (scratch / "stage.json").write_text("new record")
    (scratch / "model.safetensors").write_text("new model")


def test_replaces_what_is_new_and_leaves_the_rest(tmp_path: Path) -> None:
    folder = _earlier(tmp_path)
    (folder / "notes.txt").write_text("mine")
    with replacing_files(folder) as scratch:
        _fill(scratch)
        assert _content(folder)["stage.json"] == "earlier record"
    assert _content(folder) == {
        "stage.json": "new record",
        "model.safetensors": "new model",
        "notes.txt": "mine",
    }
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["logs"]


def test_makes_the_folder(tmp_path: Path) -> None:
    with replacing_files(tmp_path / "runs" / "demo" / "sft") as scratch:
        _fill(scratch)
    assert _content(tmp_path / "runs" / "demo" / "sft")["model.safetensors"] == "new model"


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_an_error_inside_leaves_the_earlier_result(tmp_path: Path, error: BaseException) -> None:
    folder = _earlier(tmp_path)
    before = _content(folder)
    with pytest.raises(type(error)), replacing_files(folder) as scratch:
        _fill(scratch)
        raise error
    assert _content(folder) == before
    assert not list(folder.glob(".writing-*"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        # what `save_file` raises there is no OSError
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_sentence(tmp_path: Path, error: Exception) -> None:
    folder = _earlier(tmp_path)
    before = _content(folder)
    with (
        pytest.raises(UserError, match=f"{folder}: no space left on the disk; free some"),
        replacing_files(folder) as scratch,
    ):
        _fill(scratch)
        raise error
    assert _content(folder) == before
    assert not list(folder.glob(".writing-*"))


def test_a_disk_that_fills_up_while_moving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _earlier(tmp_path)
    before = _content(folder)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="no space left"), replacing_files(folder) as scratch:
        _fill(scratch)
    assert _content(folder) == before
    assert not list(folder.glob(".writing-*"))


def test_the_record_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace_file = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(a).name), replace_file(a, b)))
    with replacing_files(tmp_path) as scratch:
        for name in ("z.json", "stage.json", "a.json", "tokenizer.json"):
            (scratch / name).write_text("{}")
    assert order[-1] == "stage.json"
    assert len(order) == 4


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = "file/sft: cannot write here .*; choose another folder with --run"
    with pytest.raises(UserError, match=message), replacing_files(tmp_path / "file" / "sft"):
        pass


def test_a_folder_of_the_same_name_is_replaced(tmp_path: Path) -> None:
    """Tokenizers with several chat templates are saved with a folder of them."""
    for content in ("old", "new"):
        with replacing_files(tmp_path) as scratch:
            (scratch / "additional_chat_templates").mkdir()
            (scratch / "additional_chat_templates" / "tool_use.jinja").write_text(content)
    assert (tmp_path / "additional_chat_templates" / "tool_use.jinja").read_text() == "new"


@pytest.mark.parametrize(
    ("first", "second"), [("adapter_config.json", "config.json"), ("config.json", "adapter_config.json")]
)
def test_the_new_model_is_the_one_that_opens(tmp_path: Path, first: str, second: str) -> None:
    """A run with LoRA after one without it, or the reverse, must not leave the earlier kind of model beside it."""
    for name in (first, second):
        with replacing_files(tmp_path) as scratch:
            (scratch / name).write_text(json.dumps({"base_model_name_or_path": "some/base"}))
            (scratch / "stage.json").write_text("{}")
    is_adapter = find_source(str(tmp_path)).adapter is not None
    assert is_adapter == (second == "adapter_config.json")
    assert not (tmp_path / first).exists()


def test_record_round_trip(tmp_path: Path) -> None:
    write_stage(tmp_path, STAGE)
    found = read_stage(tmp_path)
    assert found is not None
    assert {"torch", "transformers", "peft"} <= found.versions.keys()
    assert found.created.startswith("20")
    assert replace(found, versions={}, created="") == STAGE


def test_folder_of_no_stage(tmp_path: Path, tiny_model: Path) -> None:
    assert read_stage(tmp_path) is None
    assert read_stage_of(find_source(str(tiny_model))) is None
    assert read_stage_of(Source("some/model", "some/model", None)) is None


def test_record_beside_an_adapter_counts_not_that_of_the_base(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder, seed in ((base, 1), (adapter, 2)):
        folder.mkdir()
        write_stage(folder, replace(STAGE, seed=seed))
    found = read_stage_of(Source("x", str(base), adapter))
    assert found is not None and found.seed == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"{broken", b"[]", b"null", b'{"stage": "rm"}', b'{"unknown": 1}', b"\xff\xfe\x00garbage"],
)
def test_damaged_record(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stage.json").write_bytes(content)
    with pytest.raises(UserError, match=r"stage\.json: damaged .*; run that stage again"):
        read_stage(tmp_path)


def test_missing_parent_names_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "sft"
    message = f"^ppo: no sft model in {folder}; run `make sft RUN=mine` first"
    with pytest.raises(UserError, match=message):
        find_parent(str(folder), "sft", "ppo")
    folder.mkdir(parents=True)  # an interrupted run leaves logs, but no model
    (folder / "stage.json").write_text("{}")
    with pytest.raises(UserError, match=message):
        find_parent(str(folder), "sft", "ppo")


def test_parent(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
    assert find_parent(str(tmp_path), "sft", "rm") == Source(str(tmp_path), "some/base", tmp_path)


def test_prompt_format_is_the_recorded_one(tmp_path: Path) -> None:
    folders = {}
    for name, prompt_format in (
        ("raw", {"template": "raw", "system": None}),
        ("chat", {"template": "chat", "system": "Be brief."}),
    ):
        folders[name] = tmp_path / name
        tiny_tokenizer().save_pretrained(folders[name])
        write_stage(folders[name], replace(STAGE, prompt_format=prompt_format))
    raw, chat = (prompter_of(Source("x", str(folder), None)) for folder in folders.values())
    assert (raw.kind, raw.system) == ("raw", None)
    assert (chat.kind, chat.system) == ("chat", "Be brief.")


def test_prompt_format_of_no_stage_is_the_tokenizers(tiny_model: Path) -> None:
    prompter = prompter_of(find_source(str(tiny_model)))
    assert prompter.describe() == Prompter(tiny_tokenizer()).describe()


def test_same_format_is_accepted() -> None:
    own = Prompter(tiny_tokenizer())
    recorded = json.loads(json.dumps(own.describe()))
    check_same_format(own, replace(STAGE, prompt_format=recorded), "runs/demo/rm", "make rm RUN=demo")
    check_same_format(own, None, "hub/model", "make rm RUN=demo")


def test_another_format_names_what_differs_and_the_command() -> None:
    own = Prompter(tiny_tokenizer())
    theirs = Prompter(tiny_tokenizer(), "chat", "Be brief.").describe()
    with pytest.raises(UserError) as caught:
        check_same_format(own, replace(STAGE, prompt_format=theirs), "runs/demo/rm", "make rm RUN=demo")
    message = str(caught.value)
    assert message.startswith("runs/demo/rm: it was trained with another prompt format (system: ")
    assert "'Be brief.'" in message
    assert message.endswith("run `make rm RUN=demo` again")
