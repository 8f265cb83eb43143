"""A stage's language model as text in, text out: for sampling data, evaluation, chat and use from Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_instruct.batches import left_pad, length_batches, position_ids, right_pad
from lit_instruct.errors import UserError
from lit_instruct.fast.host_memory import spare_host_memory
from lit_instruct.fast.packing import enough_tokens
from lit_instruct.handover import bits_of, chosen_dtype, prompter_of
from lit_instruct.models.assemble import merged_language_model
from lit_instruct.models.checks import context_of
from lit_instruct.models.dtype import DtypeName
from lit_instruct.models.heads import token_log_probs
from lit_instruct.models.loading import find_source
from lit_instruct.models.logits import output_head
from lit_instruct.models.packed_weights import pack_frozen
from lit_instruct.models.quantised import Quantize, quantisation
from lit_instruct.progress import track
from lit_instruct.prompting import Prompt, Prompter
from lit_instruct.rollouts.generate import SamplingOptions, generate


class Response(NamedTuple):
    """One sampled response."""

    ids: list[int]
    """Token ids, the EOS included if there is one."""
    text: str
    """Its text, without special tokens."""
    ended: bool
    """True if the model ended it, False if the length limit cut it."""


class TextGenerator:
    """A language model with its prompt format.

    Args:
        model: transformers causal language model, in evaluation mode, adapters merged.
        prompter: its prompt format.
    """

    def __init__(self, model: torch.nn.Module, prompter: Prompter) -> None:
        self.model = model
        self.prompter = prompter

    @classmethod
    def from_source(
        cls, source: str, dtype: DtypeName = "auto", prompter: Prompter | None = None, quantize: Quantize | None = None
    ) -> TextGenerator:
        """Opens a model by embedded name, hub id, Hugging Face folder or stage folder.

        Args:
            source: the model.
            dtype: of its weights.
            prompter: a prompt format other than the model's own.
            quantize: quantisation of its base; None takes that of its training stage.

        Raises:
            UserError: it cannot be opened.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        spare_host_memory(device)
        found = find_source(source)
        kind = chosen_dtype(dtype, device, found).dtype
        quantised = quantisation(bits_of(found, quantize), device)
        if quantised is not None:
            model = merged_language_model(found, kind, quantised)
        else:  # adapters are merged in float32
            model = merged_language_model(found, torch.float32 if found.adapter else kind).to(device, kind)
        model.requires_grad_(False)
        pack_frozen(getattr(getattr(model, model.base_model_prefix), "layers", []))
        return cls(model, prompter or prompter_of(found))

    def respond(
        self,
        prompts: Sequence[Prompt],
        *,
        k: int = 1,
        max_new_tokens: int = 48,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        stop_ids: Sequence[int] = (),
        stop_strings: Sequence[str] = (),
        seed: int = 0,
        batch_size: int = 64,
        progress: str | None = None,
    ) -> list[list[Response]]:
        """Samples k responses per prompt; in float32 the result depends on the seed, not on the batch size.

        Args:
            prompts: B prompts.
            k: responses per prompt.
            max_new_tokens: length limit.
            temperature: divides the logits.
            top_p: nucleus probability; 1 keeps all tokens.
            top_k: number of most probable tokens kept; 0 keeps all.
            stop_ids: ids that end a response, in addition to the prompt format's own.
            stop_strings: texts that end a response; `Response.text` stops before them.
            seed: of the random numbers.
            batch_size: sequences per batch.
            progress: description of a progress bar; None shows no bar.

        Raises:
            UserError: a prompt leaves no room for its response in what the model reads.
        """
        options = SamplingOptions(max_new_tokens, temperature, top_p, top_k, list(stop_ids), list(stop_strings))
        stop = options.stop_rule(self.prompter)
        ids = [self.prompter.prompt_ids(prompt) for prompt in prompts]
        self._check_context(max(map(len, ids), default=0), max_new_tokens)
        jobs = [(row, sample) for row in range(len(ids)) for sample in range(k)]
        found: dict[tuple[int, int], Response] = {}
        batches = length_batches([len(ids[row]) for row, _ in jobs], rows=batch_size)
        for numbers in track(batches, progress):
            batch = [jobs[i] for i in numbers]
            padded, mask = self._to_device(*left_pad([ids[row] for row, _ in batch], self.prompter.pad_id))
            keys = [(seed, row, sample) for row, sample in batch]
            sampled = generate(self.model, padded, mask, options, stop, keys, self.prompter.pad_id)
            for job, row_ids, row_mask in zip(batch, sampled.ids, sampled.mask, strict=True):
                response = row_ids[row_mask].tolist()
                found[job] = Response(response, stop.text(response), stop.ended(response))
        return [[found[row, sample] for sample in range(k)] for row in range(len(ids))]

    @torch.no_grad()
    def log_probs(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[Response],
        batch_size: int = 32,
        progress: str | None = None,
    ) -> list[float]:
        """Returns the log-probability of each whole response in nats, its EOS included.

        Args:
            prompts: B prompts.
            responses: B responses, sampled from any model.
            batch_size: most sequences per batch.
            progress: description of a progress bar; None shows no bar.
        """
        prompt_ids = [self.prompter.prompt_ids(prompt) for prompt in prompts]
        sequences = [ids + response.ids for ids, response in zip(prompt_ids, responses, strict=True)]
        totals = [0.0] * len(sequences)
        decoder = getattr(self.model, self.model.base_model_prefix)
        head = output_head(self.model)
        lengths, device = [len(ids) for ids in sequences], next(self.model.parameters()).device.type
        tokens = enough_tokens(batch_size * max(lengths, default=0), device)
        batches = length_batches(lengths, rows=batch_size, tokens=tokens)
        for batch in track(batches, progress):
            ids, mask = self._to_device(*right_pad([sequences[i] for i in batch], self.prompter.pad_id))
            starts = torch.tensor([len(prompt_ids[i]) for i in batch], device=ids.device)
            inputs = {"attention_mask": mask.long(), "position_ids": position_ids(mask)}
            hidden = decoder(ids, **inputs, use_cache=False).last_hidden_state
            wanted = mask[:, 1:] & (torch.arange(1, ids.shape[1], device=ids.device) >= starts[:, None])
            chosen = token_log_probs(hidden[:, :-1][wanted], head, ids[:, 1:][wanted]).log_probs
            sums = torch.zeros(wanted.shape, device=ids.device).masked_scatter(wanted, chosen).sum(dim=1)
            for row, total in zip(batch, sums.tolist(), strict=True):
                totals[row] = total
        return totals

    def _check_context(self, longest: int, max_new_tokens: int) -> None:
        context = context_of(self.model.config)
        if context is not None and longest + max_new_tokens > context:
            raise UserError(
                f"a prompt has {longest} tokens, which with max_new_tokens={max_new_tokens} is more than the {context} "
                "that the model reads; leave out longer prompts, or lower max_new_tokens"
            )

    def _to_device(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        device = next(self.model.parameters()).device
        return ids.to(device), mask.to(device)
