"""Sizes of models from their configuration alone, against the models themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from lit_instruct.errors import UserError
from lit_instruct.models.lora import LoraOptions
from lit_instruct.planning.shapes import shape_of, shape_of_config
from lit_instruct.planning.weights import adapter_sizes

PUBLISHED = {
    "gpt2": 124_439_808,
    "smollm2-135m": 134_515_008,
    "smollm2-1.7b": 1_711_376_384,
    "llama-8b": 8_030_261_248,
    "llama-70b": 70_553_706_496,
    "mistral-7b": 7_248_023_552,
    "qwen-1.5b": 1_543_714_304,
    "qwen-7b": 7_615_616_512,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_named_shapes_have_as_many_parameters_as_the_models(name: str) -> None:
    assert shape_of(name).parameters == PUBLISHED[name]


def test_a_hub_id_is_known_with_and_without_its_revision() -> None:
    named = shape_of("llama-8b")
    for name in ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct@0e9e39f249a1"):
        found = shape_of(name)
        assert (found.parameters, found.linears) == (named.parameters, named.linears)


def test_gpt2_keeps_its_matrices_transposed() -> None:
    shape = shape_of("lvwerra/gpt2-imdb")
    sizes = {linear.name: (linear.inputs, linear.outputs) for linear in shape.linears if linear.layer == 0}
    assert sizes == {"c_attn": (768, 2304), "c_proj": (3072, 768), "c_fc": (768, 3072)}  # two are called c_proj
    assert (shape.layers, shape.hidden, shape.intermediate, shape.head_parameters) == (12, 768, 3072, 0)


def test_an_unknown_model_is_told_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"org/unknown.*known without a network are .*llama-8b"):
        shape_of("org/unknown")


def test_what_is_no_decoder_is_refused() -> None:
    from transformers import BertConfig

    with pytest.raises(UserError, match="my-bert: cannot plan for this model"):
        shape_of_config(BertConfig(), "my-bert")


def test_a_folder_has_the_shape_of_its_model(tiny_model: Path) -> None:
    model, shape = AutoModelForCausalLM.from_pretrained(tiny_model), shape_of(str(tiny_model))
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim) == (4, 32, 4, 2, 8)
    assert (shape.intermediate, shape.head_parameters, len(shape.linears)) == (64, 0, 4 * 7)


def test_an_output_embedding_of_its_own_is_counted() -> None:
    config = LlamaConfig(vocab_size=10, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    config.tie_word_embeddings = False
    assert shape_of_config(config, "x").head_parameters == 80


@pytest.mark.parametrize(
    "lora",
    [
        LoraOptions(r=4),
        LoraOptions(r=3, top_layers=2),
        LoraOptions(r=2, targets="q_proj,v_proj"),
        LoraOptions(r=4, dora=True, top_layers=1),
    ],
    ids=str,
)
def test_adapters_have_as_many_numbers_as_those_of_peft(tiny_model: Path, lora: LoraOptions) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    network = get_peft_model(base, lora.config(base, 4))
    trained = sorted(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert sorted(adapter_sizes(shape_of(str(tiny_model)), lora)) == trained


@pytest.mark.parametrize("lora", [LoraOptions(top_layers=5), LoraOptions(targets="query")])
def test_adapters_that_the_model_cannot_have_are_refused(tiny_model: Path, lora: LoraOptions) -> None:
    with pytest.raises(UserError, match=r"--model\.lora\."):
        shape_of(str(tiny_model)).adapted(lora)
