"""Refuses models whose weights, tokenizer and configuration do not belong together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from lit_instruct.errors import UserError

log = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken", "tekken.json")
"""Patterns of files that hold a vocabulary."""
NAMED = 3
"""Most tensors that a message names."""


def check_weights(name: str, model: nn.Module, report: dict[str, Any], new_head: bool = False) -> None:
    """Refuses weights that the files lack or have in another shape: transformers draws them at random.

    Args:
        name: of the model, as the user gave it.
        model: as loaded.
        report: transformers' `output_loading_info`; it does not count tied weights as missing.
        new_head: the `score` head is going to be drawn, so it may be missing.

    Raises:
        UserError: naming the first tensors.
    """
    missing = sorted(key for key in report["missing_keys"] if not (new_head and key.startswith("score.")))
    if missing:
        raise UserError(
            f"{name}: {len(missing)} of the weights of {type(model).__name__} are missing from its files "
            f"({_first(missing)}), so they would be random; copy or download the whole model again"
        )
    wrong = sorted(found for found in report["mismatched_keys"] if not (new_head and found[0].startswith("score.")))
    if wrong:
        key, saved, expected = wrong[0]
        if key.startswith("score."):
            raise UserError(f"{name}: a reward model has one output, this one has {saved[0]}; give another")
        raise UserError(
            f"{name}: {key} has the shape {tuple(saved)} in its files, but {tuple(expected)} by its config.json"
            f"{f' (and {len(wrong) - 1} more)' if len(wrong) > 1 else ''}; give the config.json of these weights"
        )
    unread = sorted(key for key in report["unexpected_keys"] if not key.startswith(("lm_head.", "score.")))
    if unread:
        log.warning(
            "%s: %d tensors of its files are not part of %s and are ignored (%s)",
            *(name, len(unread), type(model).__name__, _first(unread)),
        )


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:NAMED]) + (", ..." if len(keys) > NAMED else "")


@torch.no_grad()
def check_score(name: str, model: Any) -> None:
    """Refuses a sequence classifier whose output is not its `score` head on the last hidden state.

    Args:
        name: of the model, as the user gave it.
        model: with the head that will be used and its padding id, in evaluation mode.

    Raises:
        UserError: its own forward gives another score.
    """
    pad_id = model.config.pad_token_id
    ids = [number for number in range(3, 13) if number != pad_id]
    batch = torch.tensor([ids], device=model.score.weight.device) % model.config.get_text_config().vocab_size
    try:  # an unknown model may fail in any way
        theirs = model(batch, use_cache=False).logits.float()
        hidden = getattr(model, model.base_model_prefix)(batch, use_cache=False).last_hidden_state
        same = torch.allclose(model.score(hidden[:, -1]), theirs, rtol=0.02, atol=1e-3)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise UserError(f"{name}: {type(model).__name__} cannot be read as a reward model ({error})") from error
    if not same:
        raise UserError(
            f"{name}: the output of {type(model).__name__} is not its `score` head on the last hidden state; give "
            "another reward model"
        )


def has_tokenizer(folder: Path) -> bool:
    """Tells whether a folder holds files of a tokenizer."""
    return any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES)


def check_tokenizer(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses the empty tokenizer that transformers makes up where the files of a vocabulary are missing.

    Args:
        name: of the model, as the user gave it.
        tokenizer: as loaded.

    Raises:
        UserError: it has at most one token besides special ones.
    """
    added = len(tokenizer.get_added_vocab())
    if len(tokenizer) <= added + 1:
        has = "no vocabulary, only" if len(tokenizer) <= added else "a vocabulary of one, and"
        raise UserError(
            f"{name}: its tokenizer has {has} {added} special tokens; copy tokenizer.json (or "
            "the files of its vocabulary) of the model into the folder"
        )


def check_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase, base: str, config: PreTrainedConfig) -> None:
    """Refuses a tokenizer with more tokens than the model has embeddings.

    Args:
        name: of the model, as the message calls it.
        tokenizer: its tokenizer.
        base: name of its base, for the message.
        config: of the base.

    Raises:
        UserError: naming both sizes.
    """
    tokens, size = len(tokenizer), config.get_text_config().vocab_size
    if tokens > size:
        raise UserError(
            f"{name}: its tokenizer has {tokens} tokens, but its base {base} has only {size}; "
            "give the tokenizer and the base that it was trained with"
        )


def check_eos_ids(name: str, ids: Sequence[int], config: PreTrainedConfig) -> None:
    """Refuses ids of a generation config that end a response but that the model cannot sample.

    Args:
        name: of the model, as the message calls it.
        ids: of the tokens that end a response.
        config: of the model's base.

    Raises:
        UserError: naming the first one.
    """
    size = config.get_text_config().vocab_size
    wrong = next((i for i in ids if not 0 <= i < size), None)
    if wrong is not None:
        raise UserError(
            f"{name}: eos_token_id {wrong} in its generation_config.json is no token of the model, which has {size}; "
            "correct it there"
        )


def context_of(config: PreTrainedConfig) -> int | None:
    """Returns the longest sequence in tokens that a model reads; None if its configuration sets no limit."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)
