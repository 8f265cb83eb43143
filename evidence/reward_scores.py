"""Scores of many responses by several reward models at once: adapters on one base, whose frozen layers run once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from peft import PeftConfig

from lit_instruct.batches import length_batches, right_pad
from lit_instruct.errors import UserError
from lit_instruct.fast.packing import enough_tokens
from lit_instruct.handover import chosen_dtype, prompter_of
from lit_instruct.models.assemble import ppo_roles
from lit_instruct.models.dtype import DtypeName
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.roles import Roles, reward_role
from lit_instruct.ppo.ensemble import check_ensemble, parents_of
from lit_instruct.progress import track
from lit_instruct.prompting import Prompt

BATCH_TOKENS = 4096
"""Most tokens of a batch, padding included."""


def reward_scores(
    policy: Path | str,
    rewards: Sequence[Path | str],
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    dtype: DtypeName = "auto",
) -> np.ndarray:
    """Returns the scores of B responses by M reward models, as `lit_instruct.score` gives them: (M, B).

    Args:
        policy: stage folder of the SFT model whose base the reward models share.
        rewards: M stage folders of reward models, trained with LoRA.
        prompts: B prompts.
        responses: B texts.
        dtype: of the frozen weights.

    Raises:
        UserError: a reward model is on another base or has another prompt format.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    source, sources = find_source(str(policy)), [find_source(str(reward)) for reward in rewards]
    if source.adapter is None:
        raise UserError(f"{policy}: it has no LoRA adapter; reward models are scored together on the base of one")
    check_ensemble(source, [*sources, *sources[:1]], with_lora=True)  # a single one must share the base too
    prompter = prompter_of(source)
    parents = parents_of(sources, prompter, "none")
    kind = chosen_dtype(dtype, device, source).dtype
    roles = ppo_roles(source, sources, _lora_of(source.adapter), kind, value="policy_trunk").to(device)
    roles.check_trunk(device)
    sequences = [
        prompter.prompt_ids(prompt) + prompter.response_ids(response)
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    scores = _scores(roles, len(sources), sequences, prompter.pad_id)
    biases = [(parent.reward_bias if parent is not None else None) or 0.0 for parent in parents]
    return scores + np.array(biases)[:, None]


def _lora_of(adapter: Path) -> LoraOptions:
    """The options of an adapter, which the unused policy role takes."""
    saved = PeftConfig.from_pretrained(str(adapter))
    layers = saved.layers_to_transform or []
    return LoraOptions(saved.r, saved.lora_alpha, top_layers=len(layers), dora=saved.use_dora, rslora=saved.use_rslora)


@torch.no_grad()
def _scores(roles: Roles, members: int, sequences: Sequence[list[int]], pad_id: int) -> np.ndarray:
    found = np.zeros((members, len(sequences)))
    device = next(roles.parameters()).device
    tokens = enough_tokens(BATCH_TOKENS, device.type)
    batches = length_batches([len(ids) for ids in sequences], tokens=tokens)
    for batch in track(batches, f"{members} reward models: scores of {len(sequences)} responses"):
        ids, mask = (part.to(device) for part in right_pad([sequences[i] for i in batch], pad_id))
        hidden, trunk = roles.hidden_with_trunk(reward_role(0), ids, mask)
        for member in range(members):
            if member:
                hidden = roles.hidden(reward_role(member), ids, mask, trunk)
            last = hidden[torch.arange(len(batch), device=device), mask.sum(dim=1) - 1]
            found[member, batch] = roles.reward_heads[member](last).squeeze(-1).float().cpu()
    return found
