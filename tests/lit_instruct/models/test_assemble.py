"""Single models of the stages, and which reward model can share the policy's base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from lit_instruct.errors import UserError
from lit_instruct.models.assemble import (
    merged_language_model,
    policy_network,
    ppo_roles,
    reward_network,
    scoring_network,
    shares_base,
)
from lit_instruct.models.loading import Source, find_source
from lit_instruct.models.lora import LoraOptions
from tests.lit_instruct.rollouts.stage_folders import SFT_LORA, reward_folder, sft_folder
from tests.tiny import tiny_llama

IDS = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Source:
    return find_source(str(sft_folder(tmp_path_factory.mktemp("assemble") / "sft", tiny_model)))


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory, sft: Source) -> Source:
    return find_source(str(reward_folder(tmp_path_factory.mktemp("assemble") / "rm", Path(sft.name))))


@torch.no_grad()
def _hidden(network: nn.Module) -> Tensor:
    model = network.eval().get_base_model() if hasattr(network, "peft_config") else network.eval()
    return model.model(input_ids=IDS).last_hidden_state


def test_merged_language_model_is_the_policy(sft: Source, tiny_model: Path) -> None:
    adapted = policy_network(sft, SFT_LORA, torch.float32)
    merged = merged_language_model(sft, torch.float32)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(_hidden(merged), _hidden(adapted), atol=1e-5, rtol=1e-5)
    base = merged_language_model(find_source(str(tiny_model)), torch.float32)
    assert (_hidden(base) - _hidden(merged)).abs().max() > 0.01


def test_full_policy_trains_every_weight_in_float32(sft: Source) -> None:
    network = policy_network(sft, None, torch.bfloat16)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in network.parameters())


def test_lora_policy_trains_the_adapter_alone(sft: Source) -> None:
    network = policy_network(sft, SFT_LORA, torch.bfloat16)
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        assert parameter.dtype == (torch.float32 if "lora_" in name else torch.bfloat16)


@pytest.mark.parametrize("lora", [SFT_LORA, LoraOptions(r=8, alpha=4.0), None])
def test_reward_network_starts_on_the_sft_trunk(sft: Source, lora: LoraOptions | None) -> None:
    torch.manual_seed(0)
    network = reward_network(sft, lora, torch.float32, pad_id=0)
    torch.testing.assert_close(
        _hidden(network), _hidden(merged_language_model(sft, torch.float32)), atol=1e-5, rtol=1e-5
    )
    heads = [p for name, p in network.named_parameters() if "score" in name and p.requires_grad]
    assert [head.shape for head in heads] == [(1, 32)]
    assert heads[0].std().item() == pytest.approx(33**-0.5, rel=0.5)
    assert network.config.num_labels == 1


def test_reward_network_on_a_bfloat16_base_keeps_a_float32_head(sft: Source) -> None:
    network = reward_network(sft, SFT_LORA, torch.bfloat16, pad_id=0)
    assert all(p.dtype == torch.float32 for p in network.parameters() if p.requires_grad)
    with torch.no_grad():
        assert network(input_ids=IDS).logits.dtype == torch.float32


def test_full_reward_network_survives_saving(sft: Source, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = reward_network(sft, None, torch.float32, pad_id=0).eval()
    network.save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(str(tmp_path)).eval()
    ours = scoring_network(find_source(str(tmp_path)), torch.float32, pad_id=0)
    with torch.no_grad():
        expected = network(input_ids=IDS).logits
        assert expected.shape == (2, 1)
        assert torch.equal(plain(input_ids=IDS).logits, expected)
        assert torch.equal(ours(input_ids=IDS).logits, expected)


def test_scoring_network_is_frozen_and_refuses_what_has_no_head(sft: Source, reward: Source, tiny_model: Path) -> None:
    network = scoring_network(reward, torch.float32, pad_id=0)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    for wrong in (sft, find_source(str(tiny_model))):
        with pytest.raises(UserError, match="no .*reward head"):
            scoring_network(wrong, torch.float32, pad_id=0)


def test_shares_base(sft: Source, reward: Source, tiny_model: Path) -> None:
    assert shares_base(sft, reward)
    assert shares_base(find_source(str(tiny_model)), reward)
    assert not shares_base(sft, None)
    assert not shares_base(sft, find_source(str(tiny_model)))  # a whole model is no adapter
    assert not shares_base(Source("other", "other/base", None), reward)


@pytest.mark.parametrize("lora", [SFT_LORA, None])
def test_reward_model_of_another_base_stays_outside(sft: Source, tmp_path: Path, lora: LoraOptions | None) -> None:
    other = tiny_llama(tmp_path / "other", seed=7)
    foreign = find_source(str(reward_folder(tmp_path / "rm", sft_folder(tmp_path / "sft", other))))
    roles = ppo_roles(sft, [foreign], lora, torch.float32, reward_bias=0.5)
    assert "reward" not in roles.roles
    classifier = scoring_network(foreign, torch.float32, pad_id=0)
    mask = torch.ones_like(IDS, dtype=torch.bool)
    with torch.no_grad():
        values = roles.values(roles.hidden("value", IDS, mask), mask[:, 1:])[:, -1]
        expected = classifier(input_ids=IDS[:, :-1]).logits.squeeze(-1) + 0.5
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)  # on the reward model's own base
