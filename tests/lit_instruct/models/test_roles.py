"""Four roles on one base: each is the model it claims to be, and training one leaves the others alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lit_instruct.batches import left_pad, position_ids, right_pad
from lit_instruct.errors import UserError
from lit_instruct.fast.short_attention import choose_short_attention
from lit_instruct.models.assemble import ppo_roles
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import LoraOptions, lora_layers, save_adapter
from lit_instruct.models.roles import Roles
from lit_instruct.rollouts.text_reward import TextReward
from tests.lit_instruct.rollouts.stage_folders import SFT_LORA, reward_folder, sft_folder

PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
RESPONSES = [[20, 21, 2], [22, 23, 24, 25], [26]]
LARGER = LoraOptions(r=6, alpha=8.0, top_layers=3)


@dataclass
class Folders:
    base: Path
    sft: Path
    reward: Path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Folders:
    run = tmp_path_factory.mktemp("run")
    sft = sft_folder(run / "sft", tiny_model)
    return Folders(tiny_model, sft, reward_folder(run / "rm", sft))


def _roles(
    folders: Folders,
    lora: LoraOptions | None = LARGER,
    dtype: torch.dtype = torch.float32,
    reward: bool = True,
) -> Roles:
    torch.manual_seed(0)
    return ppo_roles(find_source(str(folders.sft)), find_source(str(folders.reward)) if reward else None, lora, dtype)


def _batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, mask, response tokens and response mask."""
    prompts, prompt_mask = left_pad(PROMPTS, 0)
    responses, response_mask = right_pad(RESPONSES, 0)
    ids, mask = torch.cat([prompts, responses], dim=1), torch.cat([prompt_mask, response_mask], dim=1)
    return ids, mask, responses, response_mask


def _sft_model(folders: Folders, dtype: torch.dtype = torch.float32) -> nn.Module:
    base = AutoModelForCausalLM.from_pretrained(str(folders.base), dtype=dtype)
    choose_short_attention(base)  # which rounds apart from sdpa in bfloat16
    return PeftModel.from_pretrained(base, str(folders.sft)).eval()


@torch.no_grad()
def _plain_hidden(network: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    decoder = network.get_base_model().model if isinstance(network, PeftModel) else network.model
    return decoder(
        input_ids=ids, attention_mask=mask.long(), position_ids=position_ids(mask), use_cache=False
    ).last_hidden_state


def _policy_loss(roles: Roles, trunk: Tensor | None = None) -> Tensor:
    ids, mask, tokens, response_mask = _batch()
    hidden = roles.hidden("policy", ids, mask, trunk)
    return -roles.response_log_probs("policy", hidden, tokens, response_mask, 1.0)[0].sum()


def _value_loss(roles: Roles, trunk: Tensor | None = None) -> Tensor:
    ids, mask, _, response_mask = _batch()
    return (roles.values(roles.hidden("value", ids, mask, trunk), response_mask) - 3).square().sum()


def _step(roles: Roles, role: Any, count: int = 2) -> None:
    optimizer = torch.optim.AdamW(roles.parameters_of(role), lr=1e-2)
    for _ in range(count):
        optimizer.zero_grad()
        (_policy_loss if role == "policy" else _value_loss)(roles).backward()
        optimizer.step()


def _state(roles: Roles) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in roles.state_dict().items()}


def _changed(before: dict[str, Tensor], roles: Roles) -> set[str]:
    after = roles.state_dict()
    assert before.keys() == after.keys()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lora", [SFT_LORA, LARGER, LoraOptions(r=4, alpha=2.0), None])
def test_reference_is_the_sft_model_to_the_bit(folders: Folders, lora: LoraOptions | None, dtype: torch.dtype) -> None:
    ids, mask, *_ = _batch()
    plain = _sft_model(folders, dtype)
    roles = _roles(folders, lora, dtype)
    if lora is None:  # a network of its own, merged
        plain = plain.merge_and_unload()
    expected = _plain_hidden(plain, ids, mask)
    for _ in range(2):
        with torch.no_grad():
            hidden, _ = roles.hidden_with_trunk("reference", ids, mask)
        assert torch.equal(hidden, expected)
        _step(roles, "policy")
        _step(roles, "value")


def test_without_an_adapter_the_reference_is_the_base(folders: Folders) -> None:
    ids, mask, *_ = _batch()
    torch.manual_seed(0)
    roles = ppo_roles(find_source(str(folders.base)), None, SFT_LORA, torch.float32)
    expected = _plain_hidden(AutoModelForCausalLM.from_pretrained(str(folders.base)), ids, mask)
    for role in ("reference", "policy"):
        with torch.no_grad():
            assert torch.equal(roles.hidden(role, ids, mask), expected)
    _step(roles, "policy")
    _step(roles, "value")
    with torch.no_grad():
        assert not torch.equal(roles.hidden("policy", ids, mask)[mask], expected[mask])
        assert torch.equal(roles.hidden("reference", ids, mask), expected)


@pytest.mark.parametrize("role", ["policy", "value"])
def test_a_step_changes_one_role_alone(folders: Folders, role: str) -> None:
    roles = _roles(folders)
    before = _state(roles)
    _step(roles, role)
    expected = {name for name in before if f".{role}." in name}
    assert expected
    if role == "value":
        expected |= {"value_head.weight", "value_head.bias"}
    assert _changed(before, roles) == expected


@pytest.mark.parametrize("role", ["policy", "value"])
def test_a_step_changes_one_role_alone_in_full_fine_tuning(folders: Folders, role: str) -> None:
    roles = _roles(folders, lora=None)
    assert len(roles.networks) == 3
    before = _state(roles)
    _step(roles, role)
    number = list(roles.networks).index(roles.roles[role].network)
    changed = _changed(before, roles)
    expected = {name for name in before if name.startswith(f"networks.{number}.")}
    if role == "value":  # its unused output embedding is tied to the input embedding
        expected |= {"value_head.weight", "value_head.bias"}
    assert changed == expected


def test_trainable_is_what_policy_and_value_own(folders: Folders) -> None:
    for lora in (LARGER, None):
        roles = _roles(folders, lora)
        policy, value = ({id(p) for p in roles.parameters_of(role)} for role in ("policy", "value"))
        assert not policy & value
        assert {id(p) for p in roles.parameters() if p.requires_grad} == policy | value
        assert all(p.dtype == torch.float32 for p in roles.parameters() if p.requires_grad)


def test_trainable_weights_are_float32_on_a_bfloat16_base(folders: Folders) -> None:
    for lora in (LARGER, None):
        roles = _roles(folders, lora, torch.bfloat16)
        assert all(p.dtype == torch.float32 for p in roles.parameters() if p.requires_grad)
        assert roles.output_weight("reference").dtype == torch.bfloat16


def test_activating_a_role_flips_no_requires_grad(folders: Folders) -> None:
    roles = _roles(folders)
    before = {name: p.requires_grad for name, p in roles.named_parameters()}
    for role in ("reference", "value", "policy", "reward"):
        roles.activate(role)
        with roles.merged(role):
            pass
        assert {name: p.requires_grad for name, p in roles.named_parameters()} == before


def test_policy_starts_as_the_reference(folders: Folders) -> None:
    ids, mask, *_ = _batch()
    with torch.no_grad():
        same, larger = _roles(folders, SFT_LORA), _roles(folders, LARGER)
        assert torch.equal(same.hidden("policy", ids, mask), same.hidden("reference", ids, mask))
        torch.testing.assert_close(larger.hidden("policy", ids, mask), larger.hidden("reference", ids, mask))


def test_response_log_probs_are_those_of_plain_transformers(folders: Folders) -> None:
    ids, mask, tokens, response_mask = _batch()
    roles, temperature = _roles(folders), 0.8
    with torch.no_grad():
        log_probs, entropy = roles.response_log_probs(
            "reference", roles.hidden("reference", ids, mask), tokens, response_mask, temperature, with_entropy=True
        )
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            logits = _sft_model(folders)(torch.tensor([prompt + response])).logits[0] / temperature
            expected = logits[len(prompt) - 1 : -1].log_softmax(dim=-1)
            length = len(response)
            torch.testing.assert_close(log_probs[row, :length], expected[range(length), response], atol=1e-5, rtol=1e-5)
            exact = -(expected.exp() * expected).sum(dim=-1)
            torch.testing.assert_close(entropy[row, :length], exact, atol=1e-5, rtol=1e-5)
    assert (log_probs[~response_mask] == 0).all()
    assert (entropy[~response_mask] == 0).all()


@pytest.mark.parametrize("role", ["policy", "reference", "value", "reward"])
def test_side_of_the_padding_does_not_matter(folders: Folders, role: Any) -> None:
    roles = _roles(folders)
    left, left_mask = left_pad(PROMPTS, 0)
    right, right_mask = right_pad(PROMPTS, 0)
    wide, wide_mask = nn.functional.pad(left, (3, 0)), nn.functional.pad(left_mask, (3, 0))
    with torch.no_grad():
        expected = roles.hidden(role, right, right_mask)[right_mask]
        for ids, mask in ((left, left_mask), (wide, wide_mask)):
            hidden = roles.hidden(role, ids, mask)
            assert hidden.isfinite().all()
            torch.testing.assert_close(hidden[mask], expected, atol=1e-5, rtol=1e-5)
            ids = ids.where(mask, 99)  # what stands in the padding is nobody's business
            torch.testing.assert_close(roles.hidden(role, ids, mask)[mask], hidden[mask])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trunk_equals_the_full_forward(folders: Folders, dtype: torch.dtype) -> None:
    ids, mask, *_ = _batch()
    roles = _roles(folders, dtype=dtype)
    assert roles.split == 1  # of 4 layers, the policy adapts the upper 3
    with torch.no_grad():
        _, trunk = roles.hidden_with_trunk("reference", ids, mask)
        for role in ("reference", "policy", "value", "reward"):
            assert torch.equal(roles.hidden(role, ids, mask, trunk), roles.hidden(role, ids, mask))
    roles.check_trunk(ids.device)
    assert roles.split == 1


def test_trunk_gives_the_same_gradients(folders: Folders) -> None:
    ids, mask, *_ = _batch()
    roles = _roles(folders)
    with torch.no_grad():
        _, trunk = roles.hidden_with_trunk("reference", ids, mask)
    for role, loss in (("policy", _policy_loss), ("value", _value_loss)):
        parameters = roles.parameters_of(role)
        with_trunk = torch.autograd.grad(loss(roles, trunk), parameters)
        without = torch.autograd.grad(loss(roles), parameters)
        assert any((g != 0).any() for g in without)
        for one, other in zip(with_trunk, without, strict=True):
            torch.testing.assert_close(one, other)


def test_another_role_between_forward_and_backward_changes_no_gradient(folders: Folders) -> None:
    roles = _roles(folders)
    parameters = roles.parameters_of("policy")
    alone = torch.autograd.grad(_policy_loss(roles), parameters)
    policy, value = _policy_loss(roles), _value_loss(roles)
    (policy + value).backward()
    for parameter, expected in zip(parameters, alone, strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def test_no_trunk_where_every_layer_is_adapted_or_nothing_is_shared(folders: Folders) -> None:
    ids, mask, *_ = _batch()
    for lora in (LoraOptions(r=4, alpha=8.0), None):
        roles = _roles(folders, lora)
        assert roles.split == 0
        with torch.no_grad():
            hidden, trunk = roles.hidden_with_trunk("policy", ids, mask)
            assert trunk is None
            assert torch.equal(hidden, roles.hidden("policy", ids, mask))


def test_trunk_is_given_up_where_it_is_not_exact(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    roles = _roles(folders)
    layer = roles.language_model("policy").model.layers[3]
    monkeypatch.setattr(layer, "forward", lambda hidden, **_: hidden + torch.rand(()))
    roles.check_trunk(torch.device("cpu"))
    assert roles.split == 0


@pytest.mark.parametrize("role", ["policy", "reference", "value", "reward"])
def test_merged_equals_the_adapter_and_restores_the_base(folders: Folders, role: Any) -> None:
    ids, mask, *_ = _batch()
    roles = _roles(folders)
    _step(roles, "policy")
    before = _state(roles)
    with torch.no_grad():
        expected = roles.hidden(role, ids, mask)
        with roles.merged(role) as model:
            merged = _plain_hidden(model, ids, mask)
            weight = model.model.layers[3].self_attn.q_proj.get_base_layer().weight
            name = "layers.3.self_attn.q_proj.base_layer.weight"
            assert not torch.equal(weight, next(v for k, v in before.items() if k.endswith(name)))
        torch.testing.assert_close(merged[mask], expected[mask], atol=1e-5, rtol=1e-5)
        assert not _changed(before, roles)
        assert torch.equal(roles.hidden(role, ids, mask), expected)
        with pytest.raises(KeyError), roles.merged(role):
            raise KeyError
        assert not _changed(before, roles)
        assert torch.equal(roles.hidden(role, ids, mask), expected)


def test_merged_restores_a_bfloat16_base(folders: Folders) -> None:
    ids, mask, *_ = _batch()
    roles = _roles(folders, dtype=torch.bfloat16)
    before = _state(roles)
    with torch.no_grad():
        expected = roles.hidden("policy", ids, mask)
        with roles.merged("policy") as model:
            assert model.dtype == torch.bfloat16
            merged = _plain_hidden(model, ids, mask)
    torch.testing.assert_close(merged[mask], expected[mask], atol=0.15, rtol=0.05)
    assert not _changed(before, roles)


def test_merged_without_adapter_is_the_network(folders: Folders) -> None:
    ids, mask, *_ = _batch()
    roles = ppo_roles(find_source(str(folders.base)), None, SFT_LORA, torch.float32)
    _step(roles, "policy")
    expected = _plain_hidden(AutoModelForCausalLM.from_pretrained(str(folders.base)), ids, mask)
    with roles.merged("reference") as model:
        assert torch.equal(_plain_hidden(model, ids, mask), expected)
    full = _roles(folders, lora=None)
    with full.merged("policy") as model:
        assert model is full.language_model("policy")


def _reward_scores(folders: Folders) -> Tensor:
    reward = TextReward.from_source(str(folders.reward), dtype="float32")
    ids, mask = right_pad([p + r for p, r in zip(PROMPTS, RESPONSES, strict=True)], reward.prompter.pad_id)
    with torch.no_grad():
        return reward.network(input_ids=ids, attention_mask=mask.long()).logits.squeeze(-1)


def test_reward_and_value_start_as_the_reward_model(folders: Folders) -> None:
    ids, mask, _, response_mask = _batch()
    roles = _roles(folders)
    with torch.no_grad():
        rewards = roles.rewards(roles.hidden("reward", ids, mask), response_mask)
        hidden = roles.hidden("value", ids, mask)
        last = 5 + response_mask.sum(dim=1) - 1
        values = roles.value_head(hidden[torch.arange(3), last]).squeeze(-1)
        torch.testing.assert_close(rewards, _reward_scores(folders), atol=1e-5, rtol=1e-5)
        assert torch.equal(values, rewards)
        # V before token t is read where token t is predicted
        per_state = roles.values(hidden, response_mask)
        torch.testing.assert_close(per_state[1, 1:], roles.value_head(hidden[1, 5:8]).squeeze(-1))
        torch.testing.assert_close(per_state[1, 0], roles.value_head(hidden[1, 4]).squeeze(-1))
        assert (per_state[~response_mask] == 0).all()
        assert per_state.dtype == torch.float32


def test_full_fine_tuning_starts_the_value_as_the_reward_model(folders: Folders) -> None:
    ids, mask, _, response_mask = _batch()
    roles = _roles(folders, lora=None)
    assert roles.reward_head is None
    with torch.no_grad():
        last = 5 + response_mask.sum(dim=1) - 1
        values = roles.value_head(roles.hidden("value", ids, mask)[torch.arange(3), last]).squeeze(-1)
    torch.testing.assert_close(values, _reward_scores(folders), atol=1e-5, rtol=1e-5)


def test_without_a_reward_model_the_value_is_zero_and_can_learn(folders: Folders) -> None:
    ids, mask, _, response_mask = _batch()
    for lora in (LARGER, None):
        roles = _roles(folders, lora, reward=False)
        assert "reward" not in roles.roles
        with torch.no_grad():
            hidden = roles.hidden("value", ids, mask)
            assert (roles.values(hidden, response_mask) == 0).all()
            torch.testing.assert_close(hidden, roles.hidden("reference", ids, mask))
        _step(roles, "value")
        assert (roles.value_head.weight != 0).any()


def test_reward_model_without_head_is_refused(folders: Folders) -> None:
    for lora in (LARGER, None):
        with pytest.raises(UserError, match="no reward head"):
            ppo_roles(find_source(str(folders.sft)), find_source(str(folders.sft)), lora, torch.float32)


def test_policy_smaller_than_the_sft_adapter_is_refused(folders: Folders) -> None:
    with pytest.raises(UserError, match="does not fit into the new adapter"):
        _roles(folders, LoraOptions(r=2, top_layers=2))


def test_dropout_is_off(folders: Folders) -> None:
    ids, mask, *_ = _batch()
    roles = _roles(folders, LoraOptions(r=4, alpha=8.0, top_layers=2, dropout=0.5)).train()
    with torch.no_grad():
        assert torch.equal(roles.hidden("policy", ids, mask), roles.hidden("reference", ids, mask))


def test_trained_policy_opens_with_plain_peft(folders: Folders, tmp_path: Path) -> None:
    ids, mask, *_ = _batch()
    roles = _roles(folders)
    _step(roles, "policy")
    save_adapter(roles.roles["policy"].network, "policy", tmp_path)
    plain = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(_plain_hidden(plain, ids, mask), roles.hidden("policy", ids, mask))


def test_roles_share_one_copy_of_the_base(folders: Folders) -> None:
    roles = _roles(folders)
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


def test_position_ids() -> None:
    mask = torch.tensor([[False, False, True, True], [True, True, True, False]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]
