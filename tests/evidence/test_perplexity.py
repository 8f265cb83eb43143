"""Perplexity of given texts, against the model's own loss."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from evidence.perplexity import Likelihood, likelihoods
from lit_instruct.handover import prompter_of
from lit_instruct.models.loading import find_source
from tests.tiny import tiny_tokenizer


def test_perplexity_by_hand() -> None:
    found = Likelihood(np.array([-2.0, -6.0]), np.array([2, 3]))
    assert found.perplexity(np.array([0])) == pytest.approx(math.e)
    assert found.perplexity(np.array([0, 1, 1])) == pytest.approx(math.exp(14 / 8))


def test_it_is_that_of_the_response_with_its_eos_after_the_prompt(tiny_model: Path) -> None:
    rows = [{"prompt": "What is the sea?", "response": "Much water."}, {"prompt": "Hi", "response": "The cat sat."}]
    found = likelihoods({"tiny": str(tiny_model)}, rows, dtype="float32")["tiny"]
    prompter = prompter_of(find_source(str(tiny_model)))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), tiny_tokenizer()
    for row, nats, tokens in zip(rows, found.nats, found.tokens, strict=True):
        start = prompter.prompt_ids(row["prompt"])
        end = [*tokenizer(row["response"])["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([start + end])).logits[0, len(start) - 1 : -1]
        expected = torch.log_softmax(logits, dim=-1)[torch.arange(len(end)), torch.tensor(end)].sum()
        assert tokens == len(end) and nats == pytest.approx(float(expected), abs=1e-3)
