"""What a stage leaves for the next one, and one sentence where it is missing, damaged or does not fit."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import LlamaConfig

from lit_instruct.errors import UserError
from lit_instruct.handover import (
    Stage,
    check_same_format,
    finish_stage,
    prompter_of,
    read_stage,
    read_stage_of,
    replacing_stage,
    stage_or_model,
    tell_ends,
    write_stage,
)
from lit_instruct.models.loading import Source, find_source
from lit_instruct.models.places import fill_run
from lit_instruct.prompting import Prompter
from tests.lit_instruct.prompting.tokenizers import only_end
from tests.lit_instruct.rollouts.stage_folders import sft_folder
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


@pytest.mark.parametrize(
    ("first", "second"), [("adapter_config.json", "config.json"), ("config.json", "adapter_config.json")]
)
def test_the_new_model_is_the_one_that_opens(tmp_path: Path, first: str, second: str) -> None:
    """A run with LoRA after one without it, or the reverse, must not leave the earlier kind of model beside it."""
    for name in (first, second):
        with replacing_stage(tmp_path) as scratch:
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


@pytest.mark.parametrize(("ids", "stops"), [([2, 7], [2, 7]), (7, [2, 7]), (2, [2]), (None, [2]), ([2, 4000], [2])])
def test_a_response_ends_at_every_id_of_the_generation_config(tmp_path: Path, ids: object, stops: list[int]) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny_tokenizer().save_pretrained(adapter)
    LlamaConfig().save_pretrained(base)
    assert prompter_of(Source("x", str(base), adapter)).stop_ids == [2]
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    assert prompter_of(Source("x", str(base), adapter)).stop_ids == stops
    write_stage(adapter, STAGE)
    assert prompter_of(Source("x", str(base), adapter)).stop_ids == stops


@pytest.mark.parametrize(("before", "after"), [(2, [2, 7]), ([7, 2], [7, 2]), (None, [2, 7]), ([2, 7, 9], [2, 7])])
def test_a_whole_model_says_where_responses_end(before: object, after: list[int]) -> None:
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=before))
    tell_ends(model, Prompter(tiny_tokenizer(), more_stop_ids=[7]))
    assert model.generation_config.eos_token_id == after


def test_a_classifier_is_told_of_padding_only_if_that_is_no_end() -> None:
    model = SimpleNamespace(score=None, config=SimpleNamespace(pad_token_id=None))
    tell_ends(model, Prompter(tiny_tokenizer()))
    assert model.config.pad_token_id == 0
    tell_ends(model, Prompter(only_end()))
    assert model.config.pad_token_id is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{broken", b"[]", b"null", b'{"versions": 1}', b"\xff\xfe\x00garbage"],
)
def test_damaged_record(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stage.json").write_bytes(content)
    with pytest.raises(UserError, match=r"stage\.json: damaged .*; run that stage again"):
        read_stage(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("seed", "0", "seed is '0'"),
        ("seed", True, "seed is True"),
        ("seconds", None, "seconds is None"),
        ("metrics", {"val/loss": "low"}, "metrics is {'val/loss': 'low'}"),
        ("metrics", [], "metrics is []"),
        ("parents", {"sft": 1}, "parents is {'sft': 1}"),
        ("base", "some/base", "base is 'some/base'"),
        ("base", {}, "base without source"),
        ("prompt_format", {"template": "raw"}, "prompt_format without system"),
        ("prompt_format", {"template": "new", "system": None}, "prompt_format: template is 'new'"),
        ("prompt_format", {"template": "raw", "system": 7}, "prompt_format: system is 7"),
        ("base", {"source": ["a"], "revision": None}, "base: source is ['a']"),
        ("options", 3, "options is 3"),
        ("options", {"model": "x"}, "options: model is 'x'"),
        ("data", {"train": "many"}, "data: train is 'many'"),
        ("data", {"sources": {"path": 3}}, "data: sources is {'path': 3}"),
        ("reward_bias", "much", "reward_bias is 'much'"),
    ],
)
def test_values_of_another_type(tmp_path: Path, name: str, value: object, found: str) -> None:
    write_stage(tmp_path, STAGE)
    record = json.loads((tmp_path / "stage.json").read_text())
    (tmp_path / "stage.json").write_text(json.dumps(record | {name: value}))
    with pytest.raises(UserError) as caught:
        read_stage(tmp_path)
    assert str(caught.value) == f"{tmp_path}/stage.json: damaged ({found}); run that stage again"


WRONG = [None, True, -1, 2.5, "", "text", "\x00", [], ["a"], {}, {"a": 1}, {"a": {"b": []}}, [[[1]]]]


def test_any_value_in_any_place_gives_a_sentence_or_a_prompt_format(tmp_path: Path, tiny_model: Path) -> None:
    """A property of every field and of the fields in it: nothing but a UserError is raised."""
    folder = sft_folder(tmp_path / "sft", tiny_model)
    path = folder / "stage.json"
    record = json.loads(path.read_text())
    record |= {"options": {"model": {}}, "data": {"train": 1, "sources": {"path": {"read": 1}}}, "metrics": {"a": 1.0}}
    places = [(name,) for name in record]
    places += [(name, key) for name, value in record.items() if isinstance(value, dict) for key in value]
    refused = 0
    for *outer, last in places:
        for value in WRONG:
            changed = copy.deepcopy(record)
            (changed[outer[0]] if outer else changed)[last] = value
            path.write_text(json.dumps(changed))
            try:
                assert read_stage(folder) is not None
                if outer == ["prompt_format"]:
                    prompter_of(find_source(str(folder))).prompt_ids("Hello")
            except UserError as error:
                refused += 1
                assert "\n" not in str(error)
    assert refused > len(places) * len(WRONG) / 2


def test_a_whole_number_is_a_figure_and_none_may_stand_where_it_is_allowed(tmp_path: Path) -> None:
    stage = replace(STAGE, seconds=2, metrics={"val/loss": 1}, reward_bias=None, data=None)
    write_stage(tmp_path, stage)
    found = read_stage(tmp_path)
    assert found is not None and replace(found, versions={}, created="") == stage


def test_figures_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    write_stage(tmp_path, replace(STAGE, metrics={"val/loss": 0.5, "a": math.nan, "b": -math.inf}))
    assert json.loads((tmp_path / "stage.json").read_text())["metrics"] == {"val/loss": 0.5}


def test_a_result_that_is_being_replaced_is_not_read(tmp_path: Path) -> None:
    write_stage(tmp_path, STAGE)
    (tmp_path / ".ready").mkdir()
    (tmp_path / ".ready" / "stage.json").write_text((tmp_path / "stage.json").read_text())
    with pytest.raises(UserError, match=r"a run is replacing this result, or was killed .* --ckpt_path=last"):
        read_stage(tmp_path)
    finish_stage(tmp_path)
    assert read_stage(tmp_path) is not None


def test_missing_stage_names_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "sft"
    message = f"^ppo: no sft model in {folder}; run `lit-instruct sft fit --run {folder.parent}` first"
    with pytest.raises(UserError, match=message):
        stage_or_model(str(folder), "sft", "ppo")
    folder.mkdir(parents=True)  # an interrupted run leaves logs, but no model
    (folder / "stage.json").write_text("{}")
    with pytest.raises(UserError, match=message):
        stage_or_model(str(folder), "sft", "ppo")


@pytest.mark.parametrize("run", ["mine", "runs/mine", "somewhere/else/mine"])
def test_missing_default_names_the_command_whatever_the_run_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for made in (False, True):
        with pytest.raises(
            UserError, match="^ppo: no rm model in .*mine/rm; run `lit-instruct rm fit --run .*mine` first"
        ):
            stage_or_model(fill_run("{run}/rm", run), "rm", "ppo")
        if not made:
            Path(run).mkdir(parents=True)  # by an earlier stage
    assert fill_run("{run}/rm", run) == f"{run}/rm"


@pytest.mark.parametrize("name", ["org/llama-rm", "org/rm", "org/sft", "sft"])
def test_hub_id_that_ends_like_a_stage_is_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    for stage in ("sft", "rm"):
        assert stage_or_model(name, stage, "ppo") == Source(name, name, None)


@pytest.mark.parametrize("name", ["sft", "x-rm", "rm", "moved"])
@pytest.mark.parametrize("is_stage", [False, True])
def test_folder_opens_under_any_name(tmp_path: Path, name: str, is_stage: bool) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    if is_stage:
        write_stage(folder, STAGE)
    source = stage_or_model(str(folder), "rm", "ppo")
    assert source == Source(str(folder), str(folder), None)
    assert (read_stage_of(source) is not None) == is_stage


def test_moved_adapter(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
    assert stage_or_model(str(tmp_path), "sft", "rm") == Source(str(tmp_path), "some/base", tmp_path)


def test_prompt_format_is_the_recorded_one(tmp_path: Path) -> None:
    folders = {}
    for name, prompt_format in (
        ("raw", {"template": "raw", "system": None}),
        ("chat", {"template": "chat", "system": "Be brief."}),
    ):
        folders[name] = tmp_path / name
        tiny_tokenizer().save_pretrained(folders[name])
        LlamaConfig().save_pretrained(folders[name])
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
