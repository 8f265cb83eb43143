"""Rewards from text: a reward model with a tokenizer and base of its own, or any Python function."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from rich.progress import track
from torch import nn

from lit_instruct.batches import position_ids, right_pad
from lit_instruct.errors import UserError
from lit_instruct.fast.host_memory import spare_host_memory
from lit_instruct.handover import bits_of, prompter_of, read_stage_of
from lit_instruct.models.assemble import scoring_network
from lit_instruct.models.loading import DtypeName, find_source, pick_dtype
from lit_instruct.models.quantised import Quantize, quantisation
from lit_instruct.models.sharding import most_of_all, shard
from lit_instruct.prompting import Prompt, Prompter

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

TextScorer = Callable[[Sequence[Any], Sequence[str]], list[float]]
"""(prompts, responses) -> scores, for rewards that come from outside the shared base."""
Labeler = Callable[[list[tuple[str, str]]], list[float]]
BATCH_TOKENS = 8192
"""Tokens that a reward model reads at one time unless told otherwise."""


class TextReward:
    """A reward model that reads text.

    Args:
        network: sequence-classification model with one output, in evaluation mode.
        prompter: its prompt format.
        bias: added to every score (the reward stage sets it so that demonstrations score 0 on average).
    """

    def __init__(self, network: nn.Module, prompter: Prompter, bias: float = 0.0) -> None:
        self.network = network
        self.prompter = prompter
        self.bias = bias

    @property
    def max_length(self) -> int:
        """Most tokens that the model reads."""
        return int(getattr(self.network.config, "max_position_embeddings", None) or sys.maxsize)

    @classmethod
    def from_source(
        cls,
        source: str,
        dtype: DtypeName = "auto",
        quantize: Quantize | None = None,
        device: torch.device | None = None,
    ) -> TextReward:
        """Opens a reward model by stage folder, Hugging Face folder or hub id.

        Args:
            source: which.
            dtype: of its weights.
            quantize: of its base; None takes what its stage trained on.
            device: where it runs; None takes a GPU where there is one.

        Raises:
            UserError: it cannot be opened or has no trained scalar head.
        """
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        spare_host_memory(device)
        found = find_source(source)
        prompter = prompter_of(found)
        quantised = quantisation(bits_of(found, quantize), device)
        network = scoring_network(found, pick_dtype(dtype, device), prompter.pad_id, quantised)
        stage = read_stage_of(found)
        network = network.to(device) if quantised is None else network  # which is there already
        return cls(network, prompter, (stage.reward_bias if stage else None) or 0.0)

    def shard(self, mesh: DeviceMesh) -> None:
        """Cuts the weights up over processes, which from now on have to score in step."""
        if isinstance(self.network, PeftModel):  # whose own forward would go around FSDP2's hooks
            self.network = self.network.get_base_model()
        shard(self.network, mesh, None)

    def score(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        batch_tokens: int = BATCH_TOKENS,
        progress: str | None = None,
    ) -> list[float]:
        """Returns the reward of each response; higher is better.

        Args:
            prompts: B prompts.
            responses: B texts.
            batch_tokens: most tokens of prompts and responses at one time, padding included; a longer sequence runs
                alone.
            progress: text beside a progress bar; None shows none.
        """
        pairs = zip(prompts, responses, strict=True)
        return self.score_ids([self.ids(*pair) for pair in pairs], batch_tokens, progress)

    def ids(self, prompt: Prompt, response: str) -> list[int]:
        """Token ids of prompt and response, as the reward model reads them."""
        return self.prompter.prompt_ids(prompt) + self.prompter.response_ids(response)

    @torch.no_grad()
    def score_ids(
        self, sequences: Sequence[list[int]], batch_tokens: int = BATCH_TOKENS, progress: str | None = None
    ) -> list[float]:
        """Returns the reward of each sequence of `ids`."""
        rewards = [0.0] * len(sequences)
        device = next(self.network.parameters()).device
        batches = token_batches([len(sequence) for sequence in sequences], batch_tokens)
        others = most_of_all(self.network, len(batches))[0] - len(batches)
        batches = [[0]] * others + batches  # where other processes have more of them
        for batch in track(batches, description=progress, transient=True) if progress else batches:
            ids, mask = right_pad([sequences[i] for i in batch], self.prompter.pad_id)
            ids, mask = ids.to(device), mask.to(device)
            scores = self.network(
                input_ids=ids, attention_mask=mask.long(), position_ids=position_ids(mask), use_cache=False
            ).logits.squeeze(-1)
            for row, score in zip(batch, scores.float().tolist(), strict=True):
                rewards[row] = score + self.bias
        return rewards


def token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cuts sequences into batches of similar length, longest first, so that padding is short and memory shows early.

    Args:
        lengths: tokens of each sequence.
        budget: most tokens of a batch, number x longest; a sequence over it is a batch of its own.

    Returns:
        Their numbers, batch by batch.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    for i in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def load_labeler(import_path: str) -> Labeler:
    """Returns the Python function that an import path names.

    Args:
        import_path: such as `lit_instruct.evaluation.labelers.tone`; it takes a list of (prompt, response) and
            returns as many numbers, higher is better.

    Raises:
        UserError: there is no such function.
    """
    module_name, _, name = import_path.rpartition(".")
    try:
        labeler = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # whatever the user's module does when it is imported
        raise UserError(
            f"labeler {import_path}: cannot import it ({error}); give package.module.function on PYTHONPATH"
        ) from error
    if not callable(labeler):
        raise UserError(f"labeler {import_path}: it is not callable; give list[(prompt, response)] -> list[float]")
    return labeler


def label(labeler: Labeler, pairs: list[tuple[str, str]], name: str = "labeler", finite: bool = True) -> list[float]:
    """Returns a labeler's scores, checked: as many as pairs, each a number.

    Args:
        labeler: the function.
        pairs: prompts and responses.
        name: of the function, for the message.
        finite: whether each number must be finite.

    Raises:
        UserError: it raised an exception or returned something else; the message names the row.
    """
    try:
        scores = [float(score) for score in labeler(pairs)]
    except Exception as error:
        where = _row_that_breaks(labeler, pairs)
        raise UserError(f"{name}: it raised {type(error).__name__}: {error}{where}; mend the function") from error
    if len(scores) != len(pairs):
        raise UserError(f"{name}: it returned {len(scores)} scores for {len(pairs)} pairs; return one for each")
    for row, score in enumerate(scores):
        if finite and not math.isfinite(score):
            raise UserError(
                f"{name}: it returned {score} for row {row} ({pairs[row][1][:60]!r}); return finite numbers"
            )
    return scores


def _row_that_breaks(labeler: Labeler, pairs: list[tuple[str, str]]) -> str:
    """Says which row alone makes a function raise an exception; "" where only several together do."""
    for row, (prompt, response) in enumerate(pairs):
        try:
            [float(score) for score in labeler([(prompt, response)])]
        except Exception:
            return f" (row {row}: prompt {prompt[:60]!r}, response {response[:60]!r})"
    return ""
