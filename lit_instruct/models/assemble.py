"""Builds the roles of PPO, and the single models of the other stages, from what earlier stages left."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn

from lit_instruct.models.heads import ScoreHead
from lit_instruct.models.loading import Source, load_causal_lm, load_sequence_classifier
from lit_instruct.models.lora import LoraOptions, attach_adapter, load_adapter_weights, read_head
from lit_instruct.models.roles import Role, RoleName, Roles

ValueKind = Literal["reward_model", "zero_head", "policy_trunk"]
"""What the value function starts from; the first two give it weights of its own, the last only a head."""


def policy_network(source: Source, lora: LoraOptions | None, dtype: torch.dtype) -> nn.Module:
    """Returns a trainable language model that starts as `source`.

    Args:
        source: of the weights to start from; its adapter is copied into the new one, or merged.
        lora: adapter options; None trains every weight, in float32.
        dtype: of frozen weights.

    Raises:
        UserError: the source cannot be opened, or its adapter is larger than `lora`.
    """
    if lora is None:
        return merged_language_model(source, torch.float32).requires_grad_(True)
    base = load_causal_lm(source, dtype)
    network = get_peft_model(base, lora.config(base, base.config.num_hidden_layers))
    if source.adapter is not None:
        load_adapter_weights(network, "default", source.adapter)
    return network


def reward_network(source: Source, lora: LoraOptions | None, dtype: torch.dtype, pad_id: int) -> nn.Module:
    """Returns a trainable scalar model on the trunk of `source` with a fresh head.

    Args:
        source: usually the SFT stage ("the SFT model with the final unembedding layer removed", section 3.5).
        lora: adapter options; None trains every weight, in float32.
        dtype: of frozen weights.
        pad_id: id of padding.
    """
    if lora is None:
        model = load_sequence_classifier(_base_only(source), torch.float32, pad_id, new_head=True)
        if source.adapter is not None:
            merged = merged_language_model(source, torch.float32)
            getattr(model, model.base_model_prefix).load_state_dict(
                getattr(merged, merged.base_model_prefix).state_dict()
            )
        return model.requires_grad_(True)
    base = load_sequence_classifier(_base_only(source), dtype, pad_id, new_head=True)
    network = get_peft_model(base, lora.config(base, base.config.num_hidden_layers, with_head=True))
    if source.adapter is not None:
        load_adapter_weights(network, "default", source.adapter)
    return network


def scoring_network(source: Source, dtype: torch.dtype, pad_id: int) -> nn.Module:
    """Returns a frozen reward model for scoring: any sequence classifier, or a stage's adapter with its head.

    Raises:
        UserError: it has no trained head.
    """
    if source.adapter is None:
        return load_sequence_classifier(source, dtype, pad_id, new_head=False).requires_grad_(False)
    head = read_head(source.adapter)
    base = load_sequence_classifier(_base_only(source), dtype, pad_id, new_head=True)
    network = attach_adapter(base, source.adapter)
    network.get_base_model().score.modules_to_save["default"].weight.data.copy_(head)
    return network.eval().requires_grad_(False)


def merged_language_model(source: Source, dtype: torch.dtype) -> nn.Module:
    """Returns the language model of `source` with its adapter, if it has one, folded into the weights."""
    base = load_causal_lm(source, dtype)
    if source.adapter is None:
        return base
    return attach_adapter(base, source.adapter).merge_and_unload().eval()


def shares_base(policy: Source, reward: Source | None) -> bool:
    """Tells whether the reward model is an adapter on the policy's own base, so that both fit on one copy."""
    return reward is not None and reward.adapter is not None and reward.base == policy.base


def ppo_roles(
    policy: Source,
    reward: Source | None,
    lora: LoraOptions | None,
    dtype: torch.dtype,
    reward_bias: float = 0.0,
    value: ValueKind = "reward_model",
) -> Roles:
    """Returns the roles of PPO.

    Args:
        policy: the SFT model; it is also the reference.
        reward: the reward model; one that is an adapter on the policy's base plays its role on that base and
            starts the value function. Otherwise the value function starts as a copy of the SFT model with a zero
            head and the reward has to come from elsewhere.
        lora: adapter options of the policy; None trains every weight of policy and value.
        dtype: of frozen weights.
        reward_bias: what is added to the reward head's output; a value function that starts from the reward model
            starts with it too, or its first values would all be off by as much.
        value: "reward_model" starts the value function as a copy of the reward model, "zero_head" as a copy with a head
            of zeros (all values are 0 at first), "policy_trunk" as such a head on the policy's own trunk.

    Raises:
        UserError: a model cannot be opened or does not fit.
    """
    if lora is None:
        return _separate_roles(policy, reward, dtype, reward_bias, value)
    return _shared_roles(policy, reward if shares_base(policy, reward) else None, lora, dtype, reward_bias, value)


def _shared_roles(
    policy: Source, reward: Source | None, lora: LoraOptions, dtype: torch.dtype, bias: float, value: ValueKind
) -> Roles:
    base = load_causal_lm(policy, dtype)
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
    value_head, reward_head = _zero_head(base.config.hidden_size), None
    if reward is not None and reward.adapter is not None:
        for name in ("reward", "value") if own else ("reward",):
            network.add_adapter(name, _adapter_config(reward))
            load_adapter_weights(network, name, reward.adapter)
        reward_head = ScoreHead(base.config.hidden_size, 1, bias=False)
        reward_head.weight.data.copy_(read_head(reward.adapter))
        if value == "reward_model":
            value_head.weight.data.copy_(reward_head.weight)
            nn.init.constant_(value_head.bias, bias)
        roles["reward"] = Role(network, "reward")
    elif own:
        network.add_adapter("value", copy.deepcopy(policy_config))
        if policy.adapter is not None:
            load_adapter_weights(network, "value", policy.adapter)
    return Roles(roles, value_head, reward_head)


def _separate_roles(policy: Source, reward: Source | None, dtype: torch.dtype, bias: float, value: ValueKind) -> Roles:
    trained = merged_language_model(policy, torch.float32)
    reference = merged_language_model(policy, dtype)
    roles: dict[RoleName, Role] = {"policy": Role(trained, None), "reference": Role(reference, None)}
    if value == "policy_trunk":
        return Roles({**roles, "value": roles["policy"]}, _zero_head(trained.config.hidden_size), None)
    value_trunk = merged_language_model(policy, torch.float32)
    value_head = _zero_head(trained.config.hidden_size)
    if reward is not None:
        classifier = _merged_classifier(reward)
        own, theirs = _decoder_of(value_trunk), _decoder_of(classifier)
        if {k: v.shape for k, v in own.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}:
            own.load_state_dict(theirs.state_dict())
            if value == "reward_model":
                value_head.weight.data.copy_(classifier.score.weight)
                nn.init.constant_(value_head.bias, bias)
    return Roles({**roles, "value": Role(value_trunk, None)}, value_head, None)


def _merged_classifier(source: Source) -> nn.Module:
    network = scoring_network(source, torch.float32, pad_id=0)
    return network.merge_and_unload() if isinstance(network, PeftModel) else network


def _zero_head(hidden_size: int) -> ScoreHead:
    head = ScoreHead(hidden_size, 1, bias=True)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _decoder_of(model: nn.Module) -> nn.Module:
    return getattr(model, model.base_model_prefix)


def _base_only(source: Source) -> Source:
    return Source(source.name, source.base, None)


def _adapter_config(source: Source) -> PeftConfig:
    """The saved configuration as a plain adapter of a language model, without dropout: PPO compares probabilities."""
    config = PeftConfig.from_pretrained(str(source.adapter))
    config.task_type, config.modules_to_save, config.lora_dropout = "CAUSAL_LM", None, 0.0
    config.inference_mode = False
    return config
