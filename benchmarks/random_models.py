"""Models of any shape with random weights, and rows of any length, without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<|pad|>", "<|end|>"]
RESPONSES = 9
"""Per prompt: the most in section 3.4 of the paper."""


def llama(hidden: int, intermediate: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    """Returns the configuration of a Llama with half as many heads for keys and values."""
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers}
    return {"model_type": "llama", **sizes, "num_attention_heads": heads, "num_key_value_heads": heads // 2, **more}


def write_model(
    folder: Path, described: dict[str, Any], dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Path:
    """Writes a model with random weights, drawn in `dtype` on `device`, and a tokenizer with one token per byte.

    `described` is its configuration as transformers has it, with model_type.
    """
    tokenizer = byte_tokenizer()
    config = AutoConfig.for_model(**described)
    config.pad_token_id, config.eos_token_id, config.bos_token_id = 0, 1, None
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(folder, max_shard_size="4GB")
    tokenizer.save_pretrained(folder)
    return folder


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer of 258 tokens: padding, the end, and one for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=SPECIAL[0], eos_token=SPECIAL[1])


def write_rows(path: Path, stage: str, count: int, length: int) -> Path:
    """Writes `count` rows of `length` tokens of that tokenizer for a stage: sft, rm or ppo.

    The tokens are those of prompt, response and the end together; in PPO, of the prompt.
    """
    rows = [_row(stage, f"{number:08d}", length) for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _row(stage: str, name: str, length: int) -> dict[str, Any]:
    if stage == "ppo":
        return {"prompt": name + "p" * (length - len(name))}
    half = length // 2
    prompt, rest = name + "p" * (half - len(name)), length - half - 1
    if stage == "sft":
        return {"prompt": prompt, "response": "r" * rest}
    answers = [f"{number}" + "r" * (rest - 1) for number in range(RESPONSES)]
    return {"prompt": prompt, "responses": answers, "ranks": list(range(1, RESPONSES + 1))}
