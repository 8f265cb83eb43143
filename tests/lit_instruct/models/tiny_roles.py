"""Roles on the tiny model, a batch for them, and steps of training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lit_instruct.batches import left_pad, position_ids, right_pad
from lit_instruct.fast.short_attention import choose_short_attention
from lit_instruct.models.assemble import ppo_roles
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.roles import Roles
from lit_instruct.rollouts.text_reward import TextReward

PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
RESPONSES = [[20, 21, 2], [22, 23, 24, 25], [26]]
LARGER = LoraOptions(r=6, alpha=8.0, top_layers=3)


@dataclass
class Folders:
    base: Path
    sft: Path
    reward: Path


def make_roles(
    folders: Folders,
    lora: LoraOptions | None = LARGER,
    dtype: torch.dtype = torch.float32,
    reward: bool = True,
) -> Roles:
    torch.manual_seed(0)
    return ppo_roles(find_source(str(folders.sft)), [find_source(str(folders.reward))] if reward else [], lora, dtype)


def ids_and_masks() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, mask, response tokens and response mask."""
    prompts, prompt_mask = left_pad(PROMPTS, 0)
    responses, response_mask = right_pad(RESPONSES, 0)
    ids, mask = torch.cat([prompts, responses], dim=1), torch.cat([prompt_mask, response_mask], dim=1)
    return ids, mask, responses, response_mask


def sft_model(folders: Folders, dtype: torch.dtype = torch.float32) -> nn.Module:
    base = AutoModelForCausalLM.from_pretrained(str(folders.base), dtype=dtype)
    choose_short_attention(base)  # it rounds differently from sdpa in bfloat16
    return PeftModel.from_pretrained(base, str(folders.sft)).eval()


@torch.no_grad()
def plain_hidden(network: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    decoder = network.get_base_model().model if isinstance(network, PeftModel) else network.model
    return decoder(
        input_ids=ids, attention_mask=mask.long(), position_ids=position_ids(mask), use_cache=False
    ).last_hidden_state


def policy_loss(roles: Roles, trunk: Tensor | None = None) -> Tensor:
    ids, mask, tokens, response_mask = ids_and_masks()
    hidden = roles.hidden("policy", ids, mask, trunk)
    return -roles.response_log_probs("policy", hidden, tokens, response_mask, 1.0)[0].sum()


def value_loss(roles: Roles, trunk: Tensor | None = None) -> Tensor:
    ids, mask, _, response_mask = ids_and_masks()
    return (roles.values(roles.hidden("value", ids, mask, trunk), response_mask) - 3).square().sum()


def train(roles: Roles, role: Any, count: int = 2) -> None:
    optimizer = torch.optim.AdamW(roles.parameters_of(role), lr=1e-2)
    for _ in range(count):
        optimizer.zero_grad()
        (policy_loss if role == "policy" else value_loss)(roles).backward()
        optimizer.step()


def copied_state(roles: Roles) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in roles.state_dict().items()}


def changed(before: dict[str, Tensor], roles: Roles) -> set[str]:
    """Names of the weights that differ from an earlier `copied_state`."""
    after = roles.state_dict()
    assert before.keys() == after.keys()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def reward_scores(folders: Folders) -> Tensor:
    reward = TextReward.from_source(str(folders.reward), dtype="float32")
    ids, mask = right_pad([p + r for p, r in zip(PROMPTS, RESPONSES, strict=True)], reward.prompter.pad_id)
    with torch.no_grad():
        return reward.network(input_ids=ids, attention_mask=mask.long()).logits.squeeze(-1)
