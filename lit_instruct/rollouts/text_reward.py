"""Rewards from a reward model that reads text, with its own tokenizer and base."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import PeftModel
from torch import nn

from lit_instruct.batches import length_batches, position_ids, right_pad
from lit_instruct.errors import UserError
from lit_instruct.fast.host_memory import spare_host_memory
from lit_instruct.fast.packing import Row, enough_tokens
from lit_instruct.handover import bits_of, chosen_dtype, prompter_of, read_stage_of, stage_or_model
from lit_instruct.models.assemble import scoring_network
from lit_instruct.models.checks import context_of
from lit_instruct.models.dtype import DtypeName
from lit_instruct.models.loading import find_source
from lit_instruct.models.quantised import Quantize, quantisation
from lit_instruct.models.rewards import RewardForward, classifier_of
from lit_instruct.models.sharding import in_step, is_sharded, shard
from lit_instruct.progress import track
from lit_instruct.prompting import Prompt, Prompter
from lit_instruct.rollouts.function_forms import Call, TextScorer

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

REWARD = "reward:"
"""Before the name of a reward model, wherever a function is named."""
BATCH_TOKENS = 8192
"""Default number of tokens that a reward model reads at a time."""


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
        self._forward: RewardForward | None = None
        self._attention = ""

    @property
    def max_length(self) -> int:
        """The model's maximum sequence length in tokens."""
        return context_of(self.network.config) or sys.maxsize

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
            source: the model.
            dtype: of its weights.
            quantize: quantisation of its base; None takes that of its training stage.
            device: where it runs; None takes a GPU if there is one.

        Raises:
            UserError: it cannot be opened or has no trained scalar head.
        """
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        spare_host_memory(device)
        found = find_source(source)
        prompter = prompter_of(found)
        quantised = quantisation(bits_of(found, quantize), device)
        network = scoring_network(found, chosen_dtype(dtype, device, found).dtype, prompter.pad_id, quantised)
        stage = read_stage_of(found)
        network = network.to(device) if quantised is None else network  # a quantised one is there already
        return cls(network, prompter, (stage.reward_bias if stage else None) or 0.0)

    def shard(self, mesh: DeviceMesh) -> None:
        """Shards the weights over ranks, which must then score in step."""
        if isinstance(self.network, PeftModel):  # its own forward would bypass FSDP2's hooks
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
            batch_tokens: most tokens of a batch, padding included; a longer sequence is a batch of its own.
            progress: description of a progress bar; None shows no bar.
        """
        pairs = zip(prompts, responses, strict=True)
        rows = [[self.ids(*pair) for pair in group] for _, group in groupby(pairs, key=itemgetter(0))]
        return list(chain.from_iterable(self.score_ids(rows, batch_tokens, progress)))

    def ids(self, prompt: Prompt, response: str) -> list[int]:
        """Returns the token ids of prompt and response, as the reward model reads them."""
        return self.prompter.prompt_ids(prompt) + self.prompter.response_ids(response)

    @torch.no_grad()
    def score_ids(
        self, prompts: Sequence[Row], batch_tokens: int = BATCH_TOKENS, progress: str | None = None
    ) -> list[list[float]]:
        """Returns the rewards of the sequences of each prompt.

        Sequences of one prompt are packed into a row that has their common prefix once, if that is cheaper and the
        model supports it (`RewardForward`).

        Args:
            prompts: of each prompt, the token ids of its sequences, as `ids` gives them.
            batch_tokens: most tokens of a batch, padding included; a longer sequence is a batch of its own.
            progress: description of a progress bar; None shows no bar.

        Raises:
            UserError: one is longer than the model reads.
        """
        sequences = [ids for row in prompts for ids in row]
        longest = max(map(len, sequences), default=0)
        if longest > self.max_length:
            raise UserError(
                f"a prompt with its response has {longest} tokens, more than the {self.max_length} that the reward "
                "model reads; leave out longer prompts, or sample shorter responses"
            )
        rewards = self._shared(prompts, batch_tokens, longest, progress)
        found = iter(self._separate(sequences, batch_tokens, progress) if rewards is None else rewards)
        return [[next(found) + self.bias for _ in row] for row in prompts]

    def _shared(
        self, prompts: Sequence[Row], batch_tokens: int, longest: int, progress: str | None
    ) -> list[float] | None:
        """Returns the rewards of all sequences without the bias; None if no prompt is shared."""
        model = classifier_of(self.network)
        known = self._forward
        if known is None or known.max_tokens != batch_tokens or known.longest < longest:
            known = RewardForward(self.network, "auto", batch_tokens, longest)
        if is_sharded(self.network) or not hasattr(model, "score") or not known.worth_sharing(prompts):
            return None
        before = model.config._attn_implementation
        try:  # the choice of attention must not change later scores of separate sequences
            if known is not self._forward:
                known.packing  # noqa: B018  tests whether the model supports sharing, once
                self._forward, self._attention = known, model.config._attn_implementation
            model.set_attn_implementation(self._attention)
            return None if known.packing.sharing == "off" else known.rewards_of(prompts, progress).tolist()
        finally:
            model.set_attn_implementation(before)

    def _separate(self, sequences: Sequence[list[int]], batch_tokens: int, progress: str | None) -> list[float]:
        """Returns the reward of each sequence without the bias."""
        rewards = [0.0] * len(sequences)
        device = next(self.network.parameters()).device
        tokens = enough_tokens(batch_tokens, device.type)
        batches = in_step(length_batches([len(ids) for ids in sequences], tokens=tokens), [0], self.network)
        for batch in track(batches, progress):
            ids, mask = right_pad([sequences[i] for i in batch], self.prompter.pad_id)
            ids, mask = ids.to(device), mask.to(device)
            inputs = {"input_ids": ids, "attention_mask": mask.long(), "position_ids": position_ids(mask)}
            scores = self.network(**inputs, use_cache=False).logits.squeeze(-1)
            for row, score in zip(batch, scores.float().tolist(), strict=True):
                rewards[row] = score
        return rewards


def reward_source(run: str, wanted_by: str = "rm score") -> str:
    """Returns the reward model's folder for a run folder, and any other model name unchanged.

    Raises:
        UserError: the run has no reward model.
    """
    folder = Path(run)
    is_model = any((folder / name).is_file() for name in ("adapter_config.json", "config.json"))
    if is_model or not folder.is_dir():
        return run
    stage = folder if folder.name == "rm" else folder / "rm"
    stage_or_model(str(stage), "rm", wanted_by)
    return str(stage)


def model_scorer(
    model: str, dtype: DtypeName, quantize: Quantize, device: torch.device, mesh: DeviceMesh | None = None
) -> TextScorer:
    """Returns a reward model with its own tokenizer and base as a scorer of texts.

    Args:
        model: stage folder, Hugging Face folder or hub id of a sequence classifier with one output.
        dtype: of its weights.
        quantize: quantisation of its base.
        device: where it runs.
        mesh: ranks to shard its weights over, which then score in step; None does not shard.

    Raises:
        UserError: it cannot be opened.
    """
    reward = TextReward.from_source(model, dtype, quantize, device)
    if mesh is not None:
        reward.shard(mesh)
    return lambda prompts, responses, rows: reward.score(prompts, responses)


def reward_model_call(run: str, name: str) -> Call:
    """Returns a reward model, named as `reward:RUN` where a function could be, as a call of a scoring function.

    It is opened when the first texts are scored, on this process's GPU if it has one.

    Args:
        run: run folder such as runs/demo, its stage folder runs/demo/rm, or any sequence classifier with one output.
        name: the option and what it names, for messages.

    Raises:
        UserError: there is no such model.
    """
    source = reward_source(str(Path(run).expanduser()) if run.startswith("~") else run, name)
    find_source(source)
    opened = cache(TextReward.from_source)
    return lambda prompts, responses, rows: opened(source).score(prompts, responses)
