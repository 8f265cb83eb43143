"""How much a response and its prompt tell about each other, by a frozen language model, in nats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lit_instruct.batches import length_batches, position_ids, right_pad
from lit_instruct.fast.host_memory import spare_host_memory
from lit_instruct.fast.packing import enough_tokens
from lit_instruct.handover import chosen_dtype
from lit_instruct.models.dtype import DtypeName
from lit_instruct.models.embedded import NAME
from lit_instruct.models.heads import token_log_probs
from lit_instruct.models.loading import find_source, load_causal_lm, load_tokenizer
from lit_instruct.models.logits import output_head

MOST_NATS = 2.0
"""A token's gain counts between plus and minus this: one rare word that is said again would outweigh the rest."""
MOST_PROMPT, MOST_RESPONSE = 512, 256
"""Tokens that are read: the last ones of a prompt, where the question usually is, and the first ones of a response."""
BATCH_TOKENS = 4096
"""Most tokens of a batch, padding included."""
REMEMBERED = 4096
"""Prompts whose log-probabilities without a response are kept: labelers score the same prompts many times."""


class PromptGain:
    """A frozen language model that says how much more probable a response makes its prompt, and the other way round.

    Args:
        model: transformers causal language model in evaluation mode.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._alone: dict[str, Tensor] = {}

    @classmethod
    def from_source(cls, source: str = NAME, dtype: DtypeName = "auto") -> PromptGain:
        """Opens a base by embedded name, hub id or folder, on a GPU if there is one.

        Args:
            source: the model, without an adapter.
            dtype: of its weights; auto takes the faster one of this processor.

        Raises:
            UserError: it cannot be opened.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        spare_host_memory(device)
        found = find_source(source)
        model = load_causal_lm(found, chosen_dtype(dtype, device, found).dtype)
        return cls(model.to(device), load_tokenizer(found))

    def gains(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Returns the gain of each response, higher the more it says about its own prompt.

        ``gain = sum_t clip(log p(x_t | y, x_<t) - log p(x_t | x_<t), -2, 2) / sqrt(n)`` over the n tokens x_t of the
        prompt, read as "Answer: y\\nQuestion: x" and as "Question: x". It is the pointwise mutual information of prompt
        and response with each token's share clipped; the root keeps prompts of different lengths comparable, as in a
        test statistic. 0 for a response that would fit any prompt; 0 without a prompt.

        Args:
            prompts: B texts.
            responses: B texts.
        """
        self._remember(prompts)
        start, end = self._start + self._ids("Answer:"), self._ids("\nQuestion:")
        contexts = [start + self._response_ids(response) + end for response in responses]
        given = self._log_probs(contexts, [self._prompt_ids(prompt) for prompt in prompts])
        return [_gain(told, self._alone[prompt]) for prompt, told in zip(prompts, given, strict=True)]

    def response_gains(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Returns how much more probable each prompt makes its response: `gains` with the two texts exchanged.

        ``gain = sum_t clip(log p(y_t | x, y_<t) - log p(y_t | y_<t), -2, 2) / sqrt(n)`` over the n tokens y_t of the
        response, read as "Question: x\\nAnswer: y" and as "Answer: y". 0 for a response without words.

        Args:
            prompts: B texts.
            responses: B texts.
        """
        start, answer = self._start + self._ids("Question:"), self._ids("\nAnswer:")
        contexts = [start + self._prompt_ids(prompt) + answer for prompt in prompts]
        texts = [self._response_ids(response) for response in responses]
        alone = self._log_probs([self._start + self._ids("Answer:")] * len(texts), texts)
        given = self._log_probs(contexts, texts)
        return [_gain(told, one) for told, one in zip(given, alone, strict=True)]

    @property
    def _start(self) -> list[int]:
        """The token that separates documents, if the tokenizer names one: the model has read texts that follow it."""
        ids = (self.tokenizer.convert_tokens_to_ids("<|endoftext|>"), self.tokenizer.bos_token_id)
        return [next((token for token in ids if token is not None), 0)]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def _prompt_ids(self, prompt: str) -> list[int]:
        return self._ids(f" {prompt.strip()}")[-MOST_PROMPT:] if prompt.strip() else []

    def _response_ids(self, response: str) -> list[int]:
        return self._ids(f" {response.strip()}")[:MOST_RESPONSE] if response.strip() else []

    def _remember(self, prompts: Sequence[str]) -> None:
        if len(self._alone) + len(prompts) > REMEMBERED:
            self._alone.clear()
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._alone]
        context = self._start + self._ids("Question:")
        found = self._log_probs([context] * len(new), [self._prompt_ids(prompt) for prompt in new])
        self._alone.update(zip(new, found, strict=True))

    @torch.no_grad()
    def _log_probs(self, contexts: list[list[int]], texts: list[list[int]]) -> list[Tensor]:
        """Log-probabilities of the tokens of each text after its context."""
        sequences = [context + text for context, text in zip(contexts, texts, strict=True)]
        found: list[Tensor] = [torch.zeros(0)] * len(sequences)
        device = next(self.model.parameters()).device
        decoder, head = getattr(self.model, self.model.base_model_prefix), output_head(self.model)
        tokens = enough_tokens(BATCH_TOKENS, device.type)
        for batch in length_batches([len(ids) for ids in sequences], tokens=tokens):
            ids, mask = (part.to(device) for part in right_pad([sequences[i] for i in batch], 0))
            inputs = {"attention_mask": mask.long(), "position_ids": position_ids(mask)}
            hidden = decoder(ids, **inputs, use_cache=False).last_hidden_state
            starts = torch.tensor([len(contexts[i]) for i in batch], device=device)
            wanted = mask[:, 1:] & (torch.arange(1, ids.shape[1], device=device) >= starts[:, None])
            chosen = token_log_probs(hidden[:, :-1][wanted], head, ids[:, 1:][wanted]).log_probs.float().cpu()
            for row, part in zip(batch, chosen.split(wanted.sum(dim=1).tolist()), strict=True):
                found[row] = part
        return found


@lru_cache(maxsize=1)
def embedded_gain() -> PromptGain:
    """Returns the embedded base, loaded once per process."""
    return PromptGain.from_source()


def _gain(told: Tensor, alone: Tensor) -> float:
    return float((told - alone).clamp(-MOST_NATS, MOST_NATS).sum()) / math.sqrt(max(len(alone), 1))
