"""Tiny random sequence classifiers as Hugging Face folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import BertWordPieceTokenizer
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertTokenizerFast,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from tests.tiny import SENTENCES, tiny_tokenizer

LABELS = {0: "NEGATIVE", 1: "POSITIVE"}
SIZES = {"dim": 32, "hidden_dim": 32, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 64}


def word_pieces() -> BertTokenizerFast:
    """A lower-case WordPiece tokenizer of a few hundred pieces, as DistilBERT has."""
    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator(SENTENCES, vocab_size=300, min_frequency=1, show_progress=False)
    return BertTokenizerFast(tokenizer_object=trained._tokenizer, do_lower_case=True)


def distilbert(folder: Path, labels: dict[int, str] = LABELS, kind: str = "distilbert", **other: Any) -> Path:
    """Writes a random DistilBERT with these labels and its tokenizer to `folder`."""
    tokenizer = word_pieces()
    names = {"id2label": labels, "label2id": {name: number for number, name in labels.items()}}
    sizes = {"vocab_size": len(tokenizer), "initializer_range": 0.1, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(kind, **{**SIZES, **sizes, **names, **other})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def gpt2(folder: Path) -> tuple[Path, PreTrainedTokenizerFast]:
    """Writes a random GPT-2 without a chat template, whose EOS is its only special token, and returns its tokenizer."""
    made = tiny_tokenizer(chat=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made.backend_tokenizer, eos_token="<|im_end|>")
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=256,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, tokenizer
