"""Tiny random models of many architectures, as Hugging Face folders with the tokenizer of `tests.tiny`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from tests.tiny import tiny_tokenizer

CONTEXT = 256
SPARE = 24
"""Embeddings without a token: the tokenizers of some families add tokens of their own."""
LLAMAS = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
"""Sizes by Llama's names, which most families use."""
GPTS = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": CONTEXT}
"""Sizes by GPT-2's names."""
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": LLAMAS,
    "qwen2": LLAMAS,
    "qwen3": LLAMAS | {"head_dim": 8},
    "mistral": LLAMAS | {"sliding_window": 16},
    "smollm3": LLAMAS,
    "gemma": LLAMAS | {"head_dim": 8},
    "gemma2": LLAMAS
    | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16, "final_logit_softcapping": 3.0},
    "gemma3_text": LLAMAS | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16},
    "phi": LLAMAS | {"num_key_value_heads": 4},
    "phi3": LLAMAS,
    "gpt2": GPTS,
    "gptj": GPTS | {"rotary_dim": 4},
    "gpt_neox": LLAMAS,
    "gpt_bigcode": GPTS,
    "opt": LLAMAS | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4},
    "falcon": LLAMAS,
    "stablelm": LLAMAS,
    "starcoder2": LLAMAS,
    "cohere": LLAMAS | {"logit_scale": 0.25},
    "granite": LLAMAS | {"logits_scaling": 4.0},
    "hyperclovax": LLAMAS | {"logits_scaling": 0.25},
    "olmo2": LLAMAS,
    "mixtral": LLAMAS | {"num_local_experts": 4},
    "phimoe": LLAMAS | {"num_local_experts": 4, "lm_head_bias": True},
    "qwen3_moe": LLAMAS | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}
"""Names that transformers gives them, and their configurations."""


def tiny_family(folder: Path, family: str, classifier: bool = False, seed: int = 0, **other: Any) -> Path:
    """Writes a random model and its tokenizer to `folder`: weights large enough that logits differ between tokens.

    Args:
        folder: where.
        family: a name of FAMILIES.
        classifier: writes a reward model instead of a language model.
        seed: of the weights.
        other: further fields of the configuration.
    """
    tokenizer = tiny_tokenizer()
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    fields = FAMILIES[family] | {"vocab_size": len(tokenizer) + SPARE, **ids} | other
    config = AutoConfig.for_model(family, **fields)
    kind = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    if classifier:
        config.num_labels = 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = kind.from_config(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data *= 4
        head = None if classifier else model.get_output_embeddings()
        if getattr(head, "bias", None) is not None:
            head.bias.data.normal_(std=2.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
