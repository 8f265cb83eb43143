"""Exports hold what transformers 4 looks for, under its names, and version 5 reads them as before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lit_instruct.exporting.export import export
from lit_instruct.exporting.older import add_older_names
from lit_instruct.exporting.options import ExportOptions

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
SCALED = {name: value for name, value in LLAMA3.items() if name != "rope_theta"}
TWO = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


def older(folder: Path, name: str, **record: Any) -> dict[str, Any]:
    (folder / name).write_text(json.dumps(record))
    add_older_names(folder)
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}, {"rope_theta": 1e5}),
        ({"rope_parameters": LLAMA3}, {"rope_theta": 5e5, "rope_scaling": SCALED}),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            {"rope_theta": 1e4, "partial_rotary_factor": 0.5},
        ),
        (
            {"rope_parameters": TWO},
            {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        ),
        ({"dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}),
        ({"model_type": "gpt2"}, {}),
    ],
    ids=["default", "llama3", "partial", "two", "dtype", "no rope"],
)
def test_names_of_the_config(tmp_path: Path, given: dict[str, Any], added: dict[str, Any]) -> None:
    assert older(tmp_path, "config.json", **given) == given | added
    inside = older(tmp_path, "config.json", text_config=given)
    assert inside == {"text_config": given | added}


def test_names_of_the_tokenizer(tmp_path: Path) -> None:
    new = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<a>"], "is_local": True}
    kept = {"tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": ["<a>"]}
    assert older(tmp_path, "tokenizer_config.json", **new) == kept
    other = {"tokenizer_class": "Qwen2Tokenizer", "extra_special_tokens": {"image": "<i>"}}
    assert older(tmp_path, "tokenizer_config.json", **other) == other


@pytest.mark.parametrize("rope", [LLAMA3, {"rope_type": "default", "rope_theta": 500.0}], ids=["llama3", "theta"])
def test_this_version_computes_the_same_with_the_older_names(tmp_path: Path, rope: dict[str, Any]) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model("llama", vocab_size=20, max_position_embeddings=64, rope_parameters=rope, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    ids = torch.arange(40)[None] % 20
    with torch.no_grad():
        before = AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits
        add_older_names(tmp_path)
        model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(model(ids).logits, before)
    assert model.config.rope_parameters == rope
    assert json.loads((tmp_path / "config.json").read_text())["rope_theta"] == rope["rope_theta"]


@pytest.mark.parametrize(("stage", "merge"), [("sft", False), ("ppo", True), ("rm", True)])
def test_an_export_has_them(tmp_path: Path, trained: Path, stage: str, merge: bool) -> None:
    export(ExportOptions(str(trained / stage), str(tmp_path / "out"), merge=merge))
    tokenizer = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not {"is_local", "local_files_only", "name_or_path"} & tokenizer.keys()
    if merge:
        config = json.loads((tmp_path / "out/config.json").read_text())
        assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
        assert config["torch_dtype"] == config["dtype"]
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (trained / stage, tmp_path / "out"))
    text = "<|im_start|>user\nthe cat<|im_end|>"
    assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert (ours.eos_token_id, ours.pad_token_id) == (theirs.eos_token_id, theirs.pad_token_id)
