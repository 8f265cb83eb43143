"""Sizes of well-known models by name, so that a plan needs neither a network nor an accepted licence."""

from __future__ import annotations

from typing import Any, NamedTuple


class Named(NamedTuple):
    """The sizes that a model's configuration holds."""

    family: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    """Whether the output embedding is the input embedding."""
    stands_for: tuple[str, ...]
    """Names and hub ids of models of this shape."""

    def config(self) -> dict[str, Any]:
        """Returns the arguments of `AutoConfig.for_model`."""
        return {
            "model_type": self.family,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
        }


def _tuned(base: str) -> tuple[str, str]:
    return base, f"{base}-Instruct"


_SMOL_135M = ("smollm2-135m-instruct", *_tuned("HuggingFaceTB/SmolLM2-135M"))
_MISTRAL = ("mistralai/Mistral-7B-v0.3", "mistralai/Mistral-7B-Instruct-v0.3")
_GPT2 = ("openai-community/gpt2", "lvwerra/gpt2-imdb")
NAMED = {
    "gpt2": Named("gpt2", 768, 3072, 12, 12, 12, 50257, True, _GPT2),
    "smollm2-135m": Named("llama", 576, 1536, 30, 9, 3, 49152, True, _SMOL_135M),
    "smollm2-1.7b": Named("llama", 2048, 8192, 24, 32, 32, 49152, True, _tuned("HuggingFaceTB/SmolLM2-1.7B")),
    "llama-1b": Named("llama", 2048, 8192, 16, 32, 8, 128256, True, _tuned("meta-llama/Llama-3.2-1B")),
    "llama-3b": Named("llama", 3072, 8192, 28, 24, 8, 128256, True, _tuned("meta-llama/Llama-3.2-3B")),
    "llama-8b": Named("llama", 4096, 14336, 32, 32, 8, 128256, False, _tuned("meta-llama/Llama-3.1-8B")),
    "llama-70b": Named("llama", 8192, 28672, 80, 64, 8, 128256, False, _tuned("meta-llama/Llama-3.1-70B")),
    "mistral-7b": Named("mistral", 4096, 14336, 32, 32, 8, 32768, False, _MISTRAL),
    "qwen-1.5b": Named("qwen2", 1536, 8960, 28, 12, 2, 151936, True, _tuned("Qwen/Qwen2.5-1.5B")),
    "qwen-3b": Named("qwen2", 2048, 11008, 36, 16, 2, 151936, True, _tuned("Qwen/Qwen2.5-3B")),
    "qwen-7b": Named("qwen2", 3584, 18944, 28, 28, 4, 152064, False, _tuned("Qwen/Qwen2.5-7B")),
    "qwen-14b": Named("qwen2", 5120, 13824, 48, 40, 8, 152064, False, _tuned("Qwen/Qwen2.5-14B")),
}


def named_config(name: str) -> dict[str, Any] | None:
    """Returns the configuration of a named shape, or of a model of that shape; None for any other name.

    Args:
        name: such as llama-8b, or a hub id, with or without its revision (org/name@revision).
    """
    wanted = name.partition("@")[0]
    return next((one.config() for known, one in NAMED.items() if wanted in (known, *one.stands_for)), None)
