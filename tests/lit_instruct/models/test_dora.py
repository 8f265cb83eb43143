"""DoRA and rank-stabilised LoRA: PEFT's own, as adapters of stages and as roles that take turns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lit_instruct.errors import UserError
from lit_instruct.models.assemble import merged_language_model, policy_network, ppo_roles, scoring_network
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import LoraOptions, lora_layers
from lit_instruct.models.roles import Roles
from tests.lit_instruct.rollouts.stage_folders import reward_folder, sft_folder

DORA = LoraOptions(r=4, alpha=8.0, top_layers=2, dora=True)
LARGER = LoraOptions(r=6, alpha=3.0, top_layers=3, dora=True)
IDS = torch.arange(3, 27).view(2, 12)
MASK = torch.ones_like(IDS, dtype=torch.bool)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[str, str]:
    """Of an SFT and a reward stage with DoRA."""
    run = tmp_path_factory.mktemp("dora")
    sft = sft_folder(run / "sft", tiny_model, DORA)
    return str(sft), str(reward_folder(run / "rm", sft, DORA))


@torch.no_grad()
def _logits(network: nn.Module) -> Tensor:
    return network.eval()(input_ids=IDS).logits


def _plain(base: Path, folder: str) -> nn.Module:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(base)), folder)


def _roles(folders: tuple[str, str], dtype: torch.dtype = torch.float32) -> Roles:
    sft, reward = map(find_source, folders)
    return ppo_roles(sft, [reward], LARGER, dtype)


@pytest.mark.parametrize("rslora", [False, True])
def test_options_are_pefts(tiny_model: Path, rslora: bool) -> None:
    options = LoraOptions(r=16, alpha=8.0, rslora=rslora, dora=True)
    network = policy_network(find_source(str(tiny_model)), options, torch.float32)
    config = network.peft_config["default"]
    assert (config.use_dora, config.use_rslora) == (True, rslora)
    layer = next(iter(lora_layers(network, "default").values()))
    assert layer.scaling["default"] == (8 / 4 if rslora else 8 / 16)
    lengths = layer.lora_magnitude_vector["default"].weight
    torch.testing.assert_close(lengths.detach(), layer.get_base_layer().weight.norm(dim=1))
    assert lengths.requires_grad


def test_a_saved_adapter_opens_with_plain_peft(tiny_model: Path, folders: tuple[str, str]) -> None:
    assert json.loads((Path(folders[0]) / "adapter_config.json").read_text())["use_dora"] is True
    logits = _logits(_plain(tiny_model, folders[0]))
    assert (logits - _logits(AutoModelForCausalLM.from_pretrained(str(tiny_model)))).abs().max() > 1e-2
    source = find_source(folders[0])
    torch.testing.assert_close(_logits(policy_network(source, DORA, torch.float32)), logits, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(_logits(merged_language_model(source, torch.float32)), logits, atol=1e-5, rtol=1e-5)


def test_growth_keeps_the_function(tiny_model: Path, folders: tuple[str, str]) -> None:
    grown = policy_network(find_source(folders[0]), LARGER, torch.float32)
    torch.testing.assert_close(_logits(grown), _logits(_plain(tiny_model, folders[0])), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dora", [True, False])
def test_neither_kind_goes_on_as_the_other(tiny_model: Path, tmp_path: Path, dora: bool) -> None:
    parent = find_source(str(sft_folder(tmp_path / "sft", tiny_model, LoraOptions(r=4, dora=dora))))
    wanted = f"its adapter is {'DoRA' if dora else 'plain LoRA'}, which .*; give --model.lora.dora={str(dora).lower()}$"
    with pytest.raises(UserError, match=wanted):
        policy_network(parent, LoraOptions(r=4, dora=not dora), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_roles_take_turns(tiny_model: Path, folders: tuple[str, str], dtype: torch.dtype) -> None:
    roles = _roles(folders, dtype)
    assert {p.dtype for role in ("policy", "value") for p in roles.parameters_of(role)} == {torch.float32}
    assert any("lora_magnitude_vector.policy" in name for name, p in roles.named_parameters() if p.requires_grad)
    rewards = scoring_network(find_source(folders[1]), dtype, 0)
    with torch.no_grad():
        before = roles.hidden("reference", IDS, MASK)
        scores = roles.rewards(roles.hidden("reward", IDS, MASK), MASK[:, -3:])
        torch.testing.assert_close(scores, rewards(input_ids=IDS).logits.squeeze(-1), atol=1e-4, rtol=0)
    optimizer = torch.optim.AdamW(roles.parameters_of("policy"), 1e-2)
    roles.hidden("policy", IDS, MASK).float().square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        assert not torch.equal(roles.hidden("policy", IDS, MASK), before)
        assert torch.equal(roles.hidden("reference", IDS, MASK), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_merged_equals_the_adapter_and_restores_the_base(folders: tuple[str, str], dtype: torch.dtype) -> None:
    roles = _roles(folders, dtype)
    before = {name: value.clone() for name, value in roles.state_dict().items()}
    with torch.no_grad():
        expected = roles.hidden("policy", IDS, MASK)
        with roles.merged("policy") as model:
            weight = model.model.layers[3].self_attn.q_proj.get_base_layer().weight
            name = next(n for n in before if n.endswith("layers.3.self_attn.q_proj.base_layer.weight"))
            assert not torch.equal(weight, before[name])
            assert weight.dtype == dtype
            merged = model.model(input_ids=IDS).last_hidden_state
        tolerance = 1e-5 if dtype == torch.float32 else 0.15
        torch.testing.assert_close(merged, expected, atol=tolerance, rtol=tolerance)
        assert torch.equal(roles.hidden("policy", IDS, MASK), expected)
    after = roles.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_peft_refuses_batches_of_mixed_adapters(folders: tuple[str, str]) -> None:
    """Which is why roles take turns: nothing here makes such a batch."""
    network = _roles(folders).networks[0]
    with pytest.raises(ValueError, match="Cannot pass `adapter_names` when DoRA is enabled"):
        network(input_ids=IDS, adapter_names=["policy", "sft"])
