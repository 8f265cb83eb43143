"""Where models are found, and one sentence if they are not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaModel

from lit_instruct.errors import UserError
from lit_instruct.fast.host_memory import KEPT_PRODUCTS, PRODUCT_CACHES
from lit_instruct.models import loading
from lit_instruct.models.assemble import policy_network
from lit_instruct.models.heads import ScoreHead
from lit_instruct.models.loading import (
    Source,
    find_source,
    load_causal_lm,
    load_sequence_classifier,
    load_tokenizer,
    pinned,
)
from lit_instruct.models.lora import LoraOptions, save_adapter


def _adapter(folder: Path, text: str) -> str:
    (folder / "adapter_config.json").write_text(text)
    return str(folder)


def test_folder(tiny_model: Path) -> None:
    assert find_source(str(tiny_model)) == Source(str(tiny_model), str(tiny_model), None)
    assert find_source(str(tiny_model)).tokenizer == str(tiny_model)


def test_adapter_folder(tmp_path: Path) -> None:
    name = _adapter(tmp_path, json.dumps({"base_model_name_or_path": "some/base"}))
    source = find_source(name)
    assert source == Source(name, "some/base", tmp_path)
    assert (source.place, source.tokenizer) == (name, "some/base")  # PEFT saves no tokenizer
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert source.tokenizer == name


def test_hub_id() -> None:
    assert find_source("some/model") == Source("some/model", "some/model", None)


def test_embedded_name_also_below_an_adapter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loading, "resolve", lambda name: "/cache/it" if name == "embedded-name" else name)
    assert find_source("embedded-name") == Source("embedded-name", "/cache/it", None)
    name = _adapter(tmp_path, json.dumps({"base_model_name_or_path": "embedded-name"}))
    assert find_source(name) == Source(name, "/cache/it", tmp_path)


@pytest.mark.parametrize("name", ["runs/none/sft", "./nothing", "/no/such/folder", "a/b/c", "~/no-such-folder"])
def test_missing_folder(name: str) -> None:
    with pytest.raises(UserError, match=f"^{name}: no such folder"):
        find_source(name)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model in this folder"):
        find_source(str(tmp_path))


@pytest.mark.parametrize("text", ["{broken", "{}", '{"base_model_name_or_path": null}', "[]"])
def test_damaged_adapter_config(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="adapter_config.json"):
        find_source(_adapter(tmp_path, text))


def test_unknown_hub_id_names_it() -> None:
    source = find_source("no-such-user/no-such-model")
    for load in (load_tokenizer, lambda s: load_causal_lm(s, torch.float32)):
        with pytest.raises(UserError, match="^no-such-user/no-such-model: cannot open this"):
            load(source)


def test_damaged_model_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot open this language model"):
        load_causal_lm(find_source(str(tmp_path)), torch.float32)


def test_language_model_is_in_evaluation_mode(tiny_model: Path) -> None:
    model = load_causal_lm(find_source(str(tiny_model)), torch.bfloat16)
    assert not model.training
    assert model.dtype == torch.bfloat16


def test_the_cache_of_products_is_bounded_before_the_first_product(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both libraries read their bound at the first product: a model's first pass must not come before it is set."""
    for name in PRODUCT_CACHES:
        monkeypatch.setenv(name, "1")  # so that the test leaves no variable behind
        monkeypatch.delenv(name)
    seen = []

    forward = LlamaModel.forward

    def recorded(*args: Any, **given: Any) -> Any:
        seen.append([os.environ.get(name) for name in PRODUCT_CACHES])
        return forward(*args, **given)

    monkeypatch.setattr(LlamaModel, "forward", recorded)
    load_causal_lm(find_source(str(tiny_model)), torch.float32)
    load_sequence_classifier(find_source(str(tiny_model)), torch.float32, 0, new_head=True)
    assert len(seen) >= 2 and all(found == [str(KEPT_PRODUCTS)] * len(PRODUCT_CACHES) for found in seen)


def test_a_language_model_is_no_reward_model(tiny_model: Path) -> None:
    with pytest.raises(UserError, match="no trained reward head"):
        load_sequence_classifier(find_source(str(tiny_model)), torch.float32, 0, new_head=False)


def test_trained_classifier_keeps_its_head(tiny_model: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = AutoModelForSequenceClassification.from_pretrained(str(tiny_model), num_labels=1)
    plain.save_pretrained(tmp_path)
    model = load_sequence_classifier(find_source(str(tmp_path)), torch.bfloat16, 5, new_head=False)
    assert isinstance(model.score, ScoreHead)
    assert torch.equal(model.score.weight, plain.score.weight.bfloat16().float())
    assert model.score.weight.dtype == torch.float32
    assert model.config.pad_token_id == 5


def test_new_head_is_drawn_from_the_seed(tiny_model: Path) -> None:
    heads = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        model = load_sequence_classifier(find_source(str(tiny_model)), torch.float32, 0, new_head=True)
        heads.append(model.score.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_revision_of_the_hub_is_opened_and_handed_on(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, opened = [], AutoModelForCausalLM.from_pretrained

    def from_hub(pretrained_model_name_or_path: str, revision: str, **options: Any) -> Any:
        asked.append((pretrained_model_name_or_path, revision))
        return opened(tiny_model, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_hub)
    source = find_source("org/name@0e9e39f2")
    network = policy_network(source, LoraOptions(r=2), torch.float32)
    network.get_base_model().name_or_path = network.peft_config["default"].base_model_name_or_path = "org/name"
    save_adapter(network, "default", tmp_path)
    assert asked == [("org/name", "0e9e39f2")]
    assert find_source(str(tmp_path)).base == source.base  # the next stage opens the same commit
    closed = {"trust_remote_code": False}
    assert pinned(str(tiny_model)) == {"pretrained_model_name_or_path": str(tiny_model)} | closed
    odd = tmp_path / "a@b"
    odd.mkdir()
    assert pinned(str(odd)) == {"pretrained_model_name_or_path": str(odd)} | closed
