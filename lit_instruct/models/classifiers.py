"""Opens sequence classifiers with labels, of any architecture: judges of texts, which share nothing with the policy."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from lit_instruct.errors import UserError
from lit_instruct.models.checks import check_weights, context_of
from lit_instruct.models.loading import LOADING, find_source, load_tokenizer, opening, pinned

COUNTED_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "longformer", "mpnet", "data2vec-text")
"""Kinds of models that number positions from the padding id + 1 on, so that they read that many tokens less."""


class LabelledClassifier(NamedTuple):
    """A classifier in evaluation mode with its tokenizer, which keeps the end of a text that is too long."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    column: int
    """Of the label in the model's outputs."""
    longest: int
    """Tokens that it reads."""
    pad_id: int


def load_classifier(name: str, label: str) -> LabelledClassifier:
    """Opens a sequence classifier in float32 on the CPU, from safetensors alone.

    Args:
        name: hub id (org/name or org/name@revision) or folder.
        label: one of its labels, as its config.json spells it.

    Raises:
        UserError: it cannot be opened, is no trained classifier, or has no such label.
    """
    source = find_source(name)
    if source.adapter is not None:
        raise UserError(f"{name}: this is an adapter, no classifier; merge it into its base, and give that folder")
    with opening(source, "sequence classifier", models="a hub id or a folder"):
        model, report = AutoModelForSequenceClassification.from_pretrained(
            **pinned(source.base), dtype=torch.float32, **LOADING
        )
    column = _column(name, model.config.id2label, label)
    check_weights(name, model, report)
    tokenizer = load_tokenizer(source)
    tokenizer.truncation_side = "left"
    pad_id = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    if model.config.pad_token_id is None:  # decoders find the last token by it
        model.config.pad_token_id = pad_id
    return LabelledClassifier(model.eval(), tokenizer, column, _longest(model.config, tokenizer), pad_id)


def _column(name: str, labels: dict[int, str], label: str) -> int:
    for column, known in labels.items():
        if known == label:
            return int(column)
    raise UserError(f"{name}: it has no label {label!r}; its labels are {', '.join(map(str, labels.values()))}")


def _longest(config: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    context = context_of(config)
    if context is None:
        return int(tokenizer.model_max_length)
    unused = (config.pad_token_id or 0) + 1 if config.model_type in COUNTED_FROM_PADDING else 0
    return min(int(tokenizer.model_max_length), context - unused)
