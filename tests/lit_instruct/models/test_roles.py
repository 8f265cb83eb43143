"""Four roles on one base: each is the model it claims to be, and training one leaves the others alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from lit_instruct.errors import UserError
from lit_instruct.models.assemble import ppo_roles
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import LoraOptions, lora_layers, save_adapter
from tests.lit_instruct.models.tiny_roles import (
    LARGER,
    Folders,
    changed,
    copied_state,
    ids_and_masks,
    make_roles,
    plain_hidden,
    policy_loss,
    sft_model,
    train,
    value_loss,
)
from tests.lit_instruct.rollouts.stage_folders import SFT_LORA


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lora", [SFT_LORA, LARGER, LoraOptions(r=4, alpha=2.0), None])
def test_reference_is_the_sft_model_to_the_bit(folders: Folders, lora: LoraOptions | None, dtype: torch.dtype) -> None:
    ids, mask, *_ = ids_and_masks()
    plain = sft_model(folders, dtype)
    roles = make_roles(folders, lora, dtype)
    if lora is None:  # a network of its own, merged
        plain = plain.merge_and_unload()
    expected = plain_hidden(plain, ids, mask)
    for _ in range(2):
        with torch.no_grad():
            hidden, _ = roles.hidden_with_trunk("reference", ids, mask)
        assert torch.equal(hidden, expected)
        train(roles, "policy")
        train(roles, "value")


def test_without_an_adapter_the_reference_is_the_base(folders: Folders) -> None:
    ids, mask, *_ = ids_and_masks()
    torch.manual_seed(0)
    roles = ppo_roles(find_source(str(folders.base)), [], SFT_LORA, torch.float32)
    expected = plain_hidden(AutoModelForCausalLM.from_pretrained(str(folders.base)), ids, mask)
    for role in ("reference", "policy"):
        with torch.no_grad():
            assert torch.equal(roles.hidden(role, ids, mask), expected)
    train(roles, "policy")
    train(roles, "value")
    with torch.no_grad():
        assert not torch.equal(roles.hidden("policy", ids, mask)[mask], expected[mask])
        assert torch.equal(roles.hidden("reference", ids, mask), expected)


@pytest.mark.parametrize("role", ["policy", "value"])
def test_a_step_changes_one_role_alone(folders: Folders, role: str) -> None:
    roles = make_roles(folders)
    before = copied_state(roles)
    train(roles, role)
    expected = {name for name in before if f".{role}." in name}
    assert expected
    if role == "value":
        expected |= {"value_head.weight", "value_head.bias"}
    assert changed(before, roles) == expected


@pytest.mark.parametrize("role", ["policy", "value"])
def test_a_step_changes_one_role_alone_in_full_fine_tuning(folders: Folders, role: str) -> None:
    roles = make_roles(folders, lora=None)
    assert len(roles.networks) == 3
    before = copied_state(roles)
    train(roles, role)
    number = list(roles.networks).index(roles.roles[role].network)
    found = changed(before, roles)
    expected = {name for name in before if name.startswith(f"networks.{number}.")}
    if role == "value":  # its unused output embedding is tied to the input embedding
        expected |= {"value_head.weight", "value_head.bias"}
    assert found == expected


def test_trainable_is_what_policy_and_value_own(folders: Folders) -> None:
    for lora in (LARGER, None):
        roles = make_roles(folders, lora)
        policy, value = ({id(p) for p in roles.parameters_of(role)} for role in ("policy", "value"))
        assert not policy & value
        assert {id(p) for p in roles.parameters() if p.requires_grad} == policy | value
        assert all(p.dtype == torch.float32 for p in roles.parameters() if p.requires_grad)


def test_trainable_weights_are_float32_on_a_bfloat16_base(folders: Folders) -> None:
    for lora in (LARGER, None):
        roles = make_roles(folders, lora, torch.bfloat16)
        assert all(p.dtype == torch.float32 for p in roles.parameters() if p.requires_grad)
        assert roles.output_weight("reference").dtype == torch.bfloat16


def test_activating_a_role_flips_no_requires_grad(folders: Folders) -> None:
    roles = make_roles(folders)
    before = {name: p.requires_grad for name, p in roles.named_parameters()}
    for role in ("reference", "value", "policy", "reward"):
        roles.activate(role)
        with roles.merged(role):
            pass
        assert {name: p.requires_grad for name, p in roles.named_parameters()} == before


def test_policy_starts_as_the_reference(folders: Folders) -> None:
    ids, mask, *_ = ids_and_masks()
    with torch.no_grad():
        same, larger = make_roles(folders, SFT_LORA), make_roles(folders, LARGER)
        assert torch.equal(same.hidden("policy", ids, mask), same.hidden("reference", ids, mask))
        torch.testing.assert_close(larger.hidden("policy", ids, mask), larger.hidden("reference", ids, mask))


def test_another_role_between_forward_and_backward_changes_no_gradient(folders: Folders) -> None:
    roles = make_roles(folders)
    parameters = roles.parameters_of("policy")
    alone = torch.autograd.grad(policy_loss(roles), parameters)
    policy, value = policy_loss(roles), value_loss(roles)
    (policy + value).backward()
    for parameter, expected in zip(parameters, alone, strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def test_policy_smaller_than_the_sft_adapter_is_refused(folders: Folders) -> None:
    with pytest.raises(UserError, match="does not fit into the new adapter"):
        make_roles(folders, LoraOptions(r=2, top_layers=2))


def test_dropout_is_off(folders: Folders) -> None:
    ids, mask, *_ = ids_and_masks()
    roles = make_roles(folders, LoraOptions(r=4, alpha=8.0, top_layers=2, dropout=0.5)).train()
    with torch.no_grad():
        assert torch.equal(roles.hidden("policy", ids, mask), roles.hidden("reference", ids, mask))


def test_trained_policy_opens_with_plain_peft(folders: Folders, tmp_path: Path) -> None:
    ids, mask, *_ = ids_and_masks()
    roles = make_roles(folders)
    train(roles, "policy")
    save_adapter(roles.roles["policy"].network, "policy", tmp_path)
    plain = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(plain_hidden(plain, ids, mask), roles.hidden("policy", ids, mask))


def test_roles_share_one_copy_of_the_base(folders: Folders) -> None:
    roles = make_roles(folders)
    assert len(roles.networks) == 1
    base = sum(p.numel() for n, p in roles.named_parameters() if "lora_" not in n and "head" not in n)
    assert base == AutoModelForCausalLM.from_pretrained(str(folders.base)).num_parameters()
    network = roles.roles["policy"].network
    assert {a: len(lora_layers(network, a)) for a in ("policy", "sft", "reward", "value")} == {
        "policy": 21,
        "sft": 14,
        "reward": 14,
        "value": 14,
    }
