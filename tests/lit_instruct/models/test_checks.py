"""Models whose files do not belong together are refused when they are opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoTokenizer, LlamaForSequenceClassification, PreTrainedTokenizerFast

from lit_instruct.errors import UserError
from lit_instruct.handover import prompter_of
from lit_instruct.models.checks import check_tokenizer, context_of
from lit_instruct.models.loading import (
    find_source,
    load_causal_lm,
    load_config,
    load_sequence_classifier,
    load_tokenizer,
)
from tests.families import tiny_family
from tests.tiny import tiny_tokenizer


def changed(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def open_language_model(folder: Path) -> Any:
    return load_causal_lm(find_source(str(folder)), torch.float32)


def open_classifier(folder: Path, new_head: bool = False) -> Any:
    return load_sequence_classifier(find_source(str(folder)), torch.float32, 0, new_head)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    gone = [f"model.layers.1.mlp.{name}_proj.weight" for name in ("down", "gate", "up")] + ["model.norm.weight"]
    folder = changed(tiny_family(tmp_path / "m", "qwen2"), lambda weights: [weights.pop(name) for name in gone])
    for load in (open_language_model, lambda place: open_classifier(place, new_head=True)):
        with pytest.raises(UserError) as error:
            load(folder)
        assert " 4 of the weights of Qwen2For" in str(error.value)
        assert f"are missing from its files ({', '.join(gone[:3])}, ...)" in str(error.value)


def test_an_untied_output_embedding_must_be_there_and_a_tied_one_need_not(tmp_path: Path) -> None:
    tied = tiny_family(tmp_path / "tied", "llama", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    open_language_model(tied)
    own = tiny_family(tmp_path / "own", "llama", tie_word_embeddings=False)
    changed(own, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(UserError, match=r"1 of the weights of LlamaForCausalLM are missing .*\(lm_head.weight\)"):
        open_language_model(own)
    open_classifier(own, new_head=True)  # it has no output embedding


def test_weights_of_another_shape_are_named_with_both(tmp_path: Path) -> None:
    folder = tiny_family(tmp_path / "m", "llama")
    changed(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(48)}))
    with pytest.raises(UserError, match=r"model.norm.weight has the shape \(48,\) in its files, but \(32,\) by its"):
        open_language_model(folder)


def test_a_reward_model_with_more_outputs(tmp_path: Path) -> None:
    folder = tiny_family(tmp_path / "m", "llama", classifier=True)
    changed(folder, lambda weights: weights.update({"score.weight": torch.ones(3, 32)}))
    with pytest.raises(UserError, match="a reward model has one output, this one has 3; give another"):
        open_classifier(folder)
    assert open_classifier(folder, new_head=True).score.weight.shape == (1, 32)


def test_weights_that_are_not_read_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tiny_family(tmp_path / "m", "llama")
    changed(folder, lambda weights: weights.update({"model.layers.9.mlp.up_proj.weight": torch.ones(2)}))
    open_language_model(folder)
    assert "1 tensors of its files are not part of LlamaForCausalLM and are ignored (model.layers.9" in caplog.text


def test_damaged_weights_are_one_sentence(tmp_path: Path) -> None:
    folder = tiny_family(tmp_path / "m", "llama")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])
    with pytest.raises(UserError, match="cannot open this language model"):
        open_language_model(folder)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gemma2"])
def test_a_folder_without_a_tokenizer(tmp_path: Path, family: str) -> None:
    folder = tiny_family(tmp_path / "m", family)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"cannot open this tokenizer|its tokenizer has no vocabulary, only \d special"):
        load_tokenizer(find_source(str(folder)))
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(UserError) as error:
        load_tokenizer(find_source(str(folder)))
    assert str(error.value) == (
        f"{folder}: no tokenizer in this folder; copy tokenizer.json and tokenizer_config.json of the model into it"
    )


def test_a_vocabulary_of_one() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, "a")), eos_token="<end>")
    with pytest.raises(UserError, match="^one: its tokenizer has a vocabulary of one, and 1 special tokens; copy tok"):
        check_tokenizer("one", tokenizer)


def test_an_adapter_without_a_tokenizer_has_that_of_its_base(tmp_path: Path) -> None:
    base = tiny_family(tmp_path / "base", "llama")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    source = find_source(str(adapter))
    assert len(load_tokenizer(source)) == len(AutoTokenizer.from_pretrained(base))
    (base / "tokenizer.json").unlink()
    (base / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match=f"^{adapter}: no tokenizer in its base {base}"):
        load_tokenizer(source)


def test_an_adapter_of_another_kind(tmp_path: Path) -> None:
    config = {"base_model_name_or_path": "some/base", "peft_type": "IA3"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="an adapter of the kind IA3, and only LoRA is supported; merge it into its"):
        find_source(str(tmp_path))


def test_a_tokenizer_larger_than_the_embedding(tmp_path: Path) -> None:
    size = len(tiny_tokenizer())
    folder = tiny_family(tmp_path / "m", "llama", vocab_size=size)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError) as error:
        prompter_of(find_source(str(folder)))
    assert str(error.value) == (
        f"{folder}: its tokenizer has {size + 1} tokens, but its base {folder} has only {size}; give the tokenizer and "
        "the base that it was trained with"
    )


@pytest.mark.parametrize("ids", [-1, [2, 100_000]])
def test_an_eos_id_that_is_no_token(tmp_path: Path, ids: int | list[int]) -> None:
    folder = tiny_family(tmp_path / "m", "llama")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    with pytest.raises(UserError, match=r"m: eos_token_id (-1|100000) in its generation_config.json is no token of"):
        prompter_of(find_source(str(folder)))


@pytest.mark.parametrize(("family", "context"), [("llama", 256), ("gpt2", 256), ("opt", 256), ("bloom", None)])
def test_context(tmp_path: Path, family: str, context: int | None) -> None:
    assert context_of(load_config(find_source(str(tiny_family(tmp_path / "m", family))))) == context


def test_a_score_that_is_not_the_head_on_the_last_hidden_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, forward = tiny_family(tmp_path / "m", "llama", classifier=True), LlamaForSequenceClassification.forward

    def doubled(self: Any, *args: Any, **options: Any) -> Any:
        output = forward(self, *args, **options)
        output.logits = output.logits * 2
        return output

    monkeypatch.setattr(LlamaForSequenceClassification, "forward", doubled)
    with pytest.raises(UserError, match="the output of LlamaForSequenceClassification is not its `score` head"):
        open_classifier(folder)
