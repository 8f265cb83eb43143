"""Builds the roles of PPO, and the single models of the other stages, from the output of earlier stages."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from peft import PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_instruct.errors import UserError
from lit_instruct.fast.fused_lora import fuse_adapters
from lit_instruct.models import peft_private
from lit_instruct.models.heads import ScoreHead
from lit_instruct.models.loading import Source, load_causal_lm, load_sequence_classifier, load_tokenizer
from lit_instruct.models.lora import LoraOptions, adapter_weights, attach_adapter, load_adapter_weights, read_head
from lit_instruct.models.quantised import Quantisation, check_dora
from lit_instruct.models.roles import Role, RoleName, Roles, reward_role

ValueKind = Literal["reward_model", "zero_head", "policy_trunk"]
"""What the value function starts from: a copy of the reward model, that copy with a head of zeros (all values are 0 at
first), or a head of zeros on the policy's own decoder."""


def policy_network(
    source: Source, lora: LoraOptions | None, dtype: torch.dtype, quantised: Quantisation | None = None
) -> nn.Module:
    """Returns a trainable language model that starts as `source`.

    Args:
        source: the model to start from; its adapter is copied into the new one, or merged.
        lora: adapter options; None trains every weight, in float32.
        dtype: of frozen weights.
        quantised: how the base is quantised; None does not quantise, and is required if `lora` is None.

    Raises:
        UserError: the source cannot be opened, or its adapter is larger than `lora`.
    """
    if lora is None:
        return merged_language_model(source, torch.float32).requires_grad_(True)
    return _adapted(load_causal_lm(source, dtype, quantised), source, lora)


def reward_network(
    source: Source, lora: LoraOptions | None, dtype: torch.dtype, pad_id: int, quantised: Quantisation | None = None
) -> nn.Module:
    """Returns a trainable scalar model on the decoder of `source` with a fresh head.

    Args:
        source: usually the SFT stage ("the SFT model with the final unembedding layer removed", section 3.5).
        lora: adapter options; None trains every weight, in float32.
        dtype: of frozen weights.
        pad_id: id of padding.
        quantised: how the decoder is quantised; None does not quantise, and is required if `lora` is None.
    """
    if lora is not None:
        base = load_sequence_classifier(source, dtype, pad_id, new_head=True, quantised=quantised)
        return _adapted(base, source, lora, with_head=True)
    model = load_sequence_classifier(source, torch.float32, pad_id, new_head=True)
    if source.adapter is not None:
        merged = merged_language_model(source, torch.float32)
        decoder = getattr(model, model.base_model_prefix)
        decoder.load_state_dict(getattr(merged, merged.base_model_prefix).state_dict())
    return model.requires_grad_(True)


@torch.no_grad()
def set_head(network: nn.Module, source: Source, pad_id: int) -> None:
    """Gives a network of `reward_network` the trained head of `source`."""
    if source.adapter is not None:
        network.get_base_model().score.modules_to_save["default"].weight.copy_(read_head(source.adapter))
    else:
        trained = load_sequence_classifier(source, torch.float32, pad_id, new_head=False)
        network.score.weight.copy_(trained.score.weight)


def start_policy(network: nn.Module, loaded: nn.Module) -> None:
    """Starts the policy of PPO's roles as a loaded one.

    Args:
        network: of the policy role.
        loaded: by `policy_network`, with the same options.
    """
    if isinstance(network, PeftModel):
        set_peft_model_state_dict(network, adapter_weights(loaded), adapter_name="policy")
    else:
        network.load_state_dict(loaded.state_dict())


@peft_private.quiet()
def _adapted(base: PreTrainedModel, source: Source, lora: LoraOptions, with_head: bool = False) -> PeftModel:
    """Returns `base` with a new adapter that starts as the source's own, if it has one."""
    try:
        network = get_peft_model(base, lora.config(base, base.config.num_hidden_layers, with_head))
    except (ValueError, TypeError, NotImplementedError) as error:  # layers that PEFT knows it cannot adapt
        raise UserError(
            f"{source.name}: no adapters for this model ({' '.join(str(error).split())}); name other layers with "
            "--model.lora.targets, or train all weights with --model.lora=null"
        ) from error
    check_dora(network, "--model.lora.dora")
    fuse_adapters(network)
    if source.adapter is not None:
        load_adapter_weights(network, "default", source.adapter)
    return network


def scoring_network(
    source: Source, dtype: torch.dtype, pad_id: int, quantised: Quantisation | None = None
) -> nn.Module:
    """Returns a frozen reward model for scoring: any sequence classifier, or a stage's adapter with its head.

    Raises:
        UserError: it has no trained head.
    """
    if source.adapter is None:
        return load_sequence_classifier(source, dtype, pad_id, False, quantised).requires_grad_(False)
    head = read_head(source.adapter)
    base = load_sequence_classifier(source, dtype, pad_id, new_head=True, quantised=quantised)
    network = attach_adapter(base, source.adapter)
    network.get_base_model().score.modules_to_save["default"].weight.data.copy_(head)
    return network.eval().requires_grad_(False)


def merged_language_model(source: Source, dtype: torch.dtype, quantised: Quantisation | None = None) -> nn.Module:
    """Returns the language model of `source` with its adapter, if any, merged into the weights.

    On a quantised base the adapter is not merged: rounding the sum to 8 or 4 bits would lose it.
    """
    base = load_causal_lm(source, dtype, quantised)
    if source.adapter is None:
        return base
    network = attach_adapter(base, source.adapter)
    return (network.merge_and_unload() if quantised is None else network.get_base_model()).eval()


def shares_base(policy: Source, reward: Source | None) -> bool:
    """Tells whether the reward model is an adapter on the policy's base, so that both can share one copy."""
    return reward is not None and reward.adapter is not None and reward.base == policy.base


def ppo_roles(
    policy: Source,
    rewards: Sequence[Source],
    lora: LoraOptions | None,
    dtype: torch.dtype,
    reward_bias: float = 0.0,
    value: ValueKind = "reward_model",
    quantised: Quantisation | None = None,
) -> Roles:
    """Returns the roles of PPO.

    Args:
        policy: the SFT model; it is also the reference.
        rewards: the reward model, or several adapters on the policy's base as an ensemble. Adapters on that base are
            also the reward roles; otherwise the value function gets the reward model's own base, and the reward has
            to come from elsewhere. The value function starts as the first one; without a reward model, or if its
            vocabulary differs, as the SFT model with a head of zeros.
        lora: adapter options of the policy; None trains every weight of policy and value.
        dtype: of frozen weights.
        reward_bias: added to the reward; a value function that starts as the reward model starts with it too.
        value: what the value function starts from.
        quantised: how the base is quantised; None does not quantise, and is required if `lora` is None.

    Raises:
        UserError: a model cannot be opened or does not fit.
    """
    reward = rewards[0] if rewards else None
    shares = shares_base(policy, reward)
    if reward is not None and not shares and not _same_vocabulary(policy, reward):
        rank_zero_info(f"the value function starts as the SFT model: {reward.name} has another vocabulary")
        reward = None
    if lora is None:
        return _separate_roles(policy, reward, dtype, reward_bias, value)
    base = load_causal_lm(policy, dtype, quantised)
    if reward is None or shares or value == "policy_trunk":
        return _shared_roles(base, policy, rewards if shares else [], lora, reward_bias, value)
    roles = _shared_roles(base, policy, [], lora, reward_bias, "policy_trunk").roles
    own = load_sequence_classifier(reward, dtype, 0, reward.adapter is not None, quantised)
    role, head = _value_beside(own, reward, lora)
    return Roles({**roles, "value": role}, _value_head(head, reward_bias, value))


@peft_private.quiet()
def _value_beside(base: PreTrainedModel, reward: Source, lora: LoraOptions) -> tuple[Role, Tensor]:
    """Returns the value role on the reward model's own base, with its adapter or a fresh one, and the reward head."""
    if reward.adapter is not None:
        config, head = _adapter_config(reward), read_head(reward.adapter)
    else:
        config, head = replace(lora, dropout=0.0).config(base, base.config.num_hidden_layers), base.score.weight.data
    base.score, config.task_type = nn.Identity(), None  # not a language model
    network = get_peft_model(base, config, adapter_name="value")
    if reward.adapter is not None:
        load_adapter_weights(network, "value", reward.adapter)
    fuse_adapters(network)
    return Role(network, "value"), head


@peft_private.quiet()
def _shared_roles(
    base: PreTrainedModel, policy: Source, rewards: Sequence[Source], lora: LoraOptions, bias: float, value: ValueKind
) -> Roles:
    policy_config = replace(lora, dropout=0.0).config(base, base.config.num_hidden_layers)
    network = get_peft_model(base, policy_config, adapter_name="policy")
    own = value != "policy_trunk"
    roles: dict[RoleName, Role] = {
        "policy": Role(network, "policy"),
        "value": Role(network, "value" if own else "policy"),
    }
    if policy.adapter is not None:
        network.add_adapter("sft", _adapter_config(policy))
        for name in ("sft", "policy"):
            load_adapter_weights(network, name, policy.adapter)
    roles["reference"] = Role(network, "sft" if policy.adapter is not None else None)
    value_head, reward_heads = _zero_head(base.config.hidden_size), []
    for member, reward in enumerate(rewards):
        role = reward_role(member)
        reward_heads.append(_reward_role(network, reward, (role, "value") if own and member == 0 else (role,)))
        roles[role] = Role(network, role)
    if rewards:
        value_head = _value_head(reward_heads[0].weight.data, bias, value)
    elif own:
        network.add_adapter("value", copy.deepcopy(policy_config))
        if policy.adapter is not None:
            load_adapter_weights(network, "value", policy.adapter)
    check_dora(network, "--model.lora.dora")
    fuse_adapters(network)
    return Roles(roles, value_head, reward_heads)


def _reward_role(network: PeftModel, reward: Source, adapters: tuple[str, ...]) -> ScoreHead:
    """Loads a reward model's adapter under each of the names; returns its head."""
    assert reward.adapter is not None
    for name in adapters:
        network.add_adapter(name, _adapter_config(reward))
        load_adapter_weights(network, name, reward.adapter)
    head = ScoreHead(network.get_base_model().config.hidden_size, 1, bias=False)
    head.weight.data.copy_(read_head(reward.adapter))
    return head


def _separate_roles(policy: Source, reward: Source | None, dtype: torch.dtype, bias: float, value: ValueKind) -> Roles:
    trained = merged_language_model(policy, torch.float32)
    reference = merged_language_model(policy, dtype)
    roles: dict[RoleName, Role] = {"policy": Role(trained, None), "reference": Role(reference, None)}
    if value == "policy_trunk":
        return Roles({**roles, "value": roles["policy"]}, _zero_head(trained.config.hidden_size))
    if reward is None:
        own = merged_language_model(policy, torch.float32)
        return Roles({**roles, "value": Role(own, None)}, _zero_head(own.config.hidden_size))
    classifier = scoring_network(reward, torch.float32, pad_id=0)
    if isinstance(classifier, PeftModel):
        classifier = classifier.merge_and_unload()
    head = _value_head(classifier.score.weight.data, bias, value)
    classifier.score = nn.Identity()
    return Roles({**roles, "value": Role(classifier, None)}, head)


def _value_head(reward_head: Tensor, bias: float, value: ValueKind) -> ScoreHead:
    """Returns a head that equals the reward head, bias included, or one of zeros."""
    head = _zero_head(reward_head.shape[1])
    if value == "reward_model":
        head.weight.data.copy_(reward_head)
        nn.init.constant_(head.bias, bias)
    return head


def _zero_head(hidden_size: int) -> ScoreHead:
    head = ScoreHead(hidden_size, 1, bias=True)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _same_vocabulary(one: Source, other: Source) -> bool:
    return load_tokenizer(one).get_vocab() == load_tokenizer(other).get_vocab()


def _adapter_config(source: Source) -> PeftConfig:
    """Returns the saved configuration for a language model, without dropout: PPO compares probabilities."""
    config = PeftConfig.from_pretrained(str(source.adapter))
    config.task_type, config.modules_to_save, config.lora_dropout = "CAUSAL_LM", None, 0.0
    config.inference_mode = False
    return config
