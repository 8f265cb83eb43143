"""How far a merged model is from the trained one, measured on the trained model's own responses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn

from lit_instruct.batches import position_ids, right_pad
from lit_instruct.prompting import Prompter
from lit_instruct.rollouts.text import TextGenerator

PROMPTS = (
    "Write one sentence about the sea.",
    "What is the capital of France?",
    "Give me three ideas for a rainy afternoon.",
    "Explain to a child why the sky is blue.",
    "Rewrite this more politely: send me the file.",
    "Name a fruit that is yellow.",
    "Summarise: the meeting was moved from Monday to Thursday because two people were ill.",
    "Is a whale a fish? Answer briefly.",
)
RESPONSES, RESPONSE_TOKENS = 4, 32
"""Responses per prompt, and maximum number of tokens of each."""


@dataclass(frozen=True)
class Texts:
    """Token ids on which two models are compared."""

    sequences: list[list[int]]
    """Prompt and response."""
    starts: list[int]
    """Where each response begins."""


def sampled_texts(network: nn.Module, prompter: Prompter) -> Texts:
    """Returns prompts with responses that a language model sampled at temperature 1."""
    model = network.get_base_model() if isinstance(network, PeftModel) else network
    prompts = [prompter.prompt_ids(text) for text in PROMPTS]
    with computing_as_trained(network):
        answers = TextGenerator(model, prompter).respond(PROMPTS, k=RESPONSES, max_new_tokens=RESPONSE_TOKENS)
    pairs = [(ids, response) for ids, row in zip(prompts, answers, strict=True) for response in row]
    return Texts([ids + response.ids for ids, response in pairs], [len(ids) for ids, _ in pairs])


def written_texts(prompter: Prompter) -> Texts:
    """Returns each prompt with the next one as its response, for reward models, which cannot sample."""
    prompts = [prompter.prompt_ids(text) for text in PROMPTS]
    answers = [prompter.response_ids(text) for text in PROMPTS[1:] + PROMPTS[:1]]
    return Texts([p + a for p, a in zip(prompts, answers, strict=True)], [len(ids) for ids in prompts])


@torch.no_grad()
def next_token_log_probs(network: nn.Module, texts: Texts) -> Tensor:
    """Returns the log-probabilities of the next token at each token of the responses: (tokens, V) float32."""
    logits = _logits(network, texts)
    parts = [row[start - 1 : -1] for row, start in zip(logits, texts.starts, strict=True)]
    return torch.cat(parts).float().log_softmax(dim=-1)


def rewards(network: nn.Module, texts: Texts) -> Tensor:
    """Returns a sequence classifier's score of each text, without the bias: (B,) float32."""
    return torch.cat(_logits(network, texts)).flatten().float()


def mean_kl(trained: Tensor, exported: Tensor) -> float:
    """Returns the mean over tokens of sum_v p(v) (log p(v) - log q(v)), in nats, from log p and log q: (tokens, V)."""
    kl = (trained.double().exp() * (trained.double() - exported.double())).sum(dim=-1).mean()
    return max(0.0, float(kl))  # rounding can make it slightly negative


@torch.no_grad()
def _logits(network: nn.Module, texts: Texts) -> list[Tensor]:
    """Logits of each text (T, V), one row at a time to save memory."""
    found = []
    device = next(network.parameters()).device
    with computing_as_trained(network):
        for sequence in texts.sequences:
            ids, mask = (tensor.to(device) for tensor in right_pad([sequence], 0))
            positions = position_ids(mask)
            output = network(input_ids=ids, attention_mask=mask.long(), position_ids=positions, use_cache=False)
            found.append(output.logits[0].float().cpu())
    return found


@contextlib.contextmanager
def computing_as_trained(network: nn.Module) -> Iterator[None]:
    """Autocasts if frozen weights are bfloat16 and trained ones float32, as Lightning's bf16-mixed does."""
    dtypes = {parameter.dtype for parameter in network.parameters()}
    device = next(network.parameters()).device.type
    mixed = torch.bfloat16 in dtypes and torch.float32 in dtypes
    with torch.autocast(device, dtype=torch.bfloat16) if mixed else contextlib.nullcontext():
        yield
