"""Shapes of well-known models by name, so that a plan needs neither a network nor a licence to be accepted."""

from __future__ import annotations

from typing import Any

_LLAMA_3 = {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}
_SMOL = {"vocab_size": 49152, "tie_word_embeddings": True}
_QWEN = {"vocab_size": 151936, "tie_word_embeddings": True}
_QWEN_LARGE = {"vocab_size": 152064, "tie_word_embeddings": False}

NAMED: dict[str, tuple[str, tuple[int, int, int], dict[str, Any], tuple[str, ...]]] = {
    "smollm2-135m": (
        "llama",
        (576, 1536, 30),
        _SMOL | {"num_attention_heads": 9, "num_key_value_heads": 3},
        ("smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ),
    "smollm2-1.7b": (
        "llama",
        (2048, 8192, 24),
        _SMOL | {"num_attention_heads": 32, "num_key_value_heads": 32},
        ("HuggingFaceTB/SmolLM2-1.7B", "HuggingFaceTB/SmolLM2-1.7B-Instruct"),
    ),
    "llama-1b": (
        "llama",
        (2048, 8192, 16),
        _LLAMA_3 | {"head_dim": 64, "tie_word_embeddings": True},
        ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B-Instruct"),
    ),
    "llama-3b": (
        "llama",
        (3072, 8192, 28),
        _LLAMA_3 | {"num_attention_heads": 24, "head_dim": 128, "tie_word_embeddings": True},
        ("meta-llama/Llama-3.2-3B", "meta-llama/Llama-3.2-3B-Instruct"),
    ),
    "llama-8b": (
        "llama",
        (4096, 14336, 32),
        _LLAMA_3,
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct"),
    ),
    "llama-70b": (
        "llama",
        (8192, 28672, 80),
        _LLAMA_3 | {"num_attention_heads": 64},
        ("meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.1-70B-Instruct"),
    ),
    "mistral-7b": (
        "mistral",
        (4096, 14336, 32),
        {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32768},
        ("mistralai/Mistral-7B-v0.3", "mistralai/Mistral-7B-Instruct-v0.3"),
    ),
    "qwen-1.5b": (
        "qwen2",
        (1536, 8960, 28),
        _QWEN | {"num_attention_heads": 12, "num_key_value_heads": 2},
        ("Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-1.5B-Instruct"),
    ),
    "qwen-3b": (
        "qwen2",
        (2048, 11008, 36),
        _QWEN | {"num_attention_heads": 16, "num_key_value_heads": 2},
        ("Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-3B-Instruct"),
    ),
    "qwen-7b": (
        "qwen2",
        (3584, 18944, 28),
        _QWEN_LARGE | {"num_attention_heads": 28, "num_key_value_heads": 4},
        ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct"),
    ),
    "qwen-14b": (
        "qwen2",
        (5120, 13824, 48),
        _QWEN_LARGE | {"num_attention_heads": 40, "num_key_value_heads": 8},
        ("Qwen/Qwen2.5-14B", "Qwen/Qwen2.5-14B-Instruct"),
    ),
}
"""name -> family, (hidden size, intermediate size, layers), what else its configuration says, ids it stands for."""


def named_config(name: str) -> dict[str, Any] | None:
    """Returns the configuration of a named shape, or of a model that one stands for; None for any other name.

    Args:
        name: such as llama-8b, or a hub id, with or without its revision (org/name@revision).
    """
    wanted = name.partition("@")[0]
    for known, (family, (hidden, intermediate, layers), more, stands_for) in NAMED.items():
        if wanted == known or wanted in stands_for:
            sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers}
            return {"model_type": family, **sizes, **more}
    return None
