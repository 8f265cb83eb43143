"""Adapters: options, growth that keeps the function, and folders that plain PEFT opens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from lit_instruct.errors import UserError
from lit_instruct.models.assemble import policy_network, ppo_roles, reward_network, scoring_network
from lit_instruct.models.loading import find_source, load_causal_lm
from lit_instruct.models.lora import LoraOptions, load_adapter_weights, lora_layers, read_head, save_adapter
from tests.families import tiny_family
from tests.lit_instruct.rollouts.stage_folders import SFT_LORA, reward_folder, sft_folder, shake

IDS = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return sft_folder(tmp_path_factory.mktemp("lora") / "sft", tiny_model)


@torch.no_grad()
def _logits(network: nn.Module) -> Tensor:
    return network.eval()(input_ids=IDS).logits


def _plain(base: Path, folder: Path) -> nn.Module:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(base)), str(folder))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "--model.lora.r=0"),
        ({"dropout": 1.0}, "--model.lora.dropout=1.0"),
        ({"top_layers": -1}, "--model.lora.top_layers=-1"),
    ],
)
def test_options_are_checked(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LoraOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (LoraOptions(top_layers=5), "--model.lora.top_layers=5: the model has only 4 layers"),
        (LoraOptions(targets="q_proj,w_proj"), "--model.lora.targets: .*'w_proj'.*q_proj"),
    ],
)
def test_options_are_checked_against_the_model(tiny_model: Path, options: LoraOptions, message: str) -> None:
    with pytest.raises(UserError, match=message):
        policy_network(find_source(str(tiny_model)), options, torch.float32)


def test_targets_and_top_layers(tiny_model: Path) -> None:
    options = LoraOptions(r=2, targets="q_proj, v_proj", top_layers=1)
    network = policy_network(find_source(str(tiny_model)), options, torch.float32)
    found = [name.split("layers.")[1] for name in lora_layers(network, "default")]
    assert found == ["3.self_attn.q_proj", "3.self_attn.v_proj"]
    everything = policy_network(find_source(str(tiny_model)), LoraOptions(r=2), torch.float32)
    assert len(lora_layers(everything, "default")) == 4 * 7  # the output embedding stays out
    assert lora_layers(everything, "other") == {}


@pytest.mark.parametrize(
    "larger",
    [
        LoraOptions(r=4, alpha=8.0, top_layers=2),
        LoraOptions(r=9, alpha=8.0, top_layers=2),
        LoraOptions(r=4, alpha=32.0, top_layers=3),
        LoraOptions(r=6, alpha=3.0, top_layers=0),
    ],
)
def test_growth_keeps_the_function(tiny_model: Path, sft: Path, larger: LoraOptions) -> None:
    grown = policy_network(find_source(str(sft)), larger, torch.float32)
    logits = _logits(_plain(tiny_model, sft))
    assert (logits - _logits(AutoModelForCausalLM.from_pretrained(str(tiny_model)))).abs().max() > 1e-2
    torch.testing.assert_close(_logits(grown), logits, atol=1e-6, rtol=1e-5)
    if larger == SFT_LORA:
        assert torch.equal(_logits(grown), logits)


def test_the_added_rank_can_learn(sft: Path) -> None:
    grown = policy_network(find_source(str(sft)), LoraOptions(r=6, alpha=8.0, top_layers=2), torch.float32)
    grown(input_ids=IDS, labels=IDS).loss.backward()
    gradients = [p.grad for name, p in grown.named_parameters() if "lora_B" in name and p.grad is not None]
    assert gradients and all((g[:, 4:] != 0).any() for g in gradients)


@pytest.mark.parametrize(
    "smaller",
    [
        LoraOptions(r=3, top_layers=2),
        LoraOptions(r=4, top_layers=1),
        LoraOptions(r=4, top_layers=2, targets="q_proj"),
    ],
)
def test_smaller_is_refused(sft: Path, smaller: LoraOptions) -> None:
    with pytest.raises(UserError, match="does not fit into the new adapter"):
        policy_network(find_source(str(sft)), smaller, torch.float32)


def test_rank_stabilised_parent_keeps_its_function(tiny_model: Path, tmp_path: Path) -> None:
    """An adapter that other tools trained may scale by alpha / sqrt(r)."""
    base = AutoModelForCausalLM.from_pretrained(str(tiny_model))
    config = LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=["q_proj"], task_type="CAUSAL_LM")
    foreign = get_peft_model(base, config)
    shake(foreign, seed=3)
    save_adapter(foreign, "default", tmp_path)
    options = LoraOptions(r=4, alpha=8.0, targets="q_proj")
    grown = policy_network(find_source(str(tmp_path)), options, torch.float32)
    torch.testing.assert_close(_logits(grown), _logits(_plain(tiny_model, tmp_path)), atol=1e-6, rtol=1e-5)


def test_saved_adapter_opens_with_plain_peft(tiny_model: Path, sft: Path, tmp_path: Path) -> None:
    base = load_causal_lm(find_source(str(sft)), torch.float32)
    network = get_peft_model(base, SFT_LORA.config(base, 4), adapter_name="policy")
    network.add_adapter("other", SFT_LORA.config(base, 4))
    load_adapter_weights(network, "policy", sft)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".policy." in name:
                parameter.mul_(1.5)
    save_adapter(network, "policy", tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files
    assert PeftConfig.from_pretrained(str(tmp_path)).inference_mode
    assert not network.peft_config["policy"].inference_mode
    assert torch.equal(_logits(AutoPeftModelForCausalLM.from_pretrained(str(tmp_path))), _logits(network))


def test_the_hub_is_not_asked_for_a_base_that_has_a_name_only(
    sft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda name, *_: asked.append(name))
    network = policy_network(find_source(str(sft)), SFT_LORA, torch.float32)
    network.peft_config["default"].base_model_name_or_path = "smollm2-135m-instruct"
    save_adapter(network, "default", tmp_path)
    load_adapter_weights(network, "default", tmp_path)
    assert asked == []


def test_saved_reward_model_opens_with_plain_peft(tiny_model: Path, sft: Path, tmp_path: Path) -> None:
    folder = reward_folder(tmp_path / "rm", sft)
    base = AutoModelForSequenceClassification.from_pretrained(str(tiny_model), num_labels=1)
    plain = PeftModel.from_pretrained(base, str(folder))
    ours = scoring_network(find_source(str(folder)), torch.float32, pad_id=0)
    assert torch.equal(_logits(plain), _logits(ours))
    assert torch.equal(plain.get_base_model().score.weight, read_head(folder))


def test_head_of_the_reward_network_is_saved_as_trained(sft: Path, tmp_path: Path) -> None:
    network = reward_network(find_source(str(sft)), SFT_LORA, torch.float32, pad_id=0)
    head = network.get_base_model().score
    trained = [name for name, p in network.named_parameters() if p.requires_grad and "score" in name]
    assert len(trained) == 1
    with torch.no_grad():
        head.modules_to_save["default"].weight.fill_(0.25)
    save_adapter(network, "default", tmp_path)
    assert read_head(tmp_path).tolist() == [[0.25] * 32]


def test_adapter_without_head_is_no_reward_model(sft: Path) -> None:
    with pytest.raises(UserError, match="no reward head"):
        read_head(sft)


def _opened(folder: Path) -> list[Callable[[], object]]:
    """Every way in which the stages open an adapter."""
    source = find_source(str(folder))
    larger = LoraOptions(r=8, alpha=8.0)
    return [
        lambda: policy_network(source, larger, torch.float32),
        lambda: policy_network(source, None, torch.float32),
        lambda: reward_network(source, larger, torch.float32, pad_id=0),
        lambda: ppo_roles(source, [], larger, torch.float32),
        lambda: scoring_network(source, torch.float32, pad_id=0),
    ]


@pytest.mark.parametrize("way", range(5))
@pytest.mark.parametrize("content", [None, b"cut short"])
def test_adapter_without_weights_is_one_sentence(sft: Path, tmp_path: Path, way: int, content: bytes | None) -> None:
    (tmp_path / "adapter_config.json").write_text((sft / "adapter_config.json").read_text())
    if content is not None:
        (tmp_path / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=f"^{tmp_path}"):
        _opened(tmp_path)[way]()


@pytest.mark.parametrize("way", range(5))
@pytest.mark.parametrize("width", [16, 64])
def test_adapter_of_another_base_is_refused(sft: Path, tiny_model: Path, tmp_path: Path, way: int, width: int) -> None:
    config = AutoConfig.from_pretrained(str(tiny_model))
    config.update({"hidden_size": width, "intermediate_size": 2 * width, "head_dim": width // 4})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    folder = reward_folder(tmp_path / "rm", sft) if way == 4 else tmp_path / "sft"
    if way != 4:
        shutil.copytree(sft, folder)
    record = json.loads((folder / "adapter_config.json").read_text())
    record["base_model_name_or_path"] = str(tmp_path / "base")
    (folder / "adapter_config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=f"^{folder}"):
        _opened(folder)[way]()


def test_weights_that_are_no_lora_are_not_dropped(sft: Path, tmp_path: Path) -> None:
    """PEFT adapters can carry whole layers (`modules_to_save`), which the roles could not share."""
    shutil.copytree(sft, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.model.lm_head.weight": torch.zeros(400, 32)}, file)
    with pytest.raises(UserError, match="lm_head"):
        policy_network(find_source(str(tmp_path / "adapter")), SFT_LORA, torch.float32)


def test_conv1d_layers_get_adapters_that_plain_peft_opens(tmp_path: Path) -> None:
    base = tiny_family(tmp_path / "base", "gpt2")
    folder = sft_folder(tmp_path / "sft", base, LoraOptions(r=4))
    source = find_source(str(folder))
    network = policy_network(source, LoraOptions(r=8), torch.float32)
    assert len(lora_layers(network, "default")) == 3 * 4
    expected = _logits(_plain(base, folder))
    assert (expected - _logits(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 0.1
    torch.testing.assert_close(_logits(network), expected, rtol=1e-4, atol=1e-4)
    roles = ppo_roles(source, [], LoraOptions(r=4), torch.float32)
    with torch.no_grad(), roles.merged("policy") as model:
        assert type(model.transformer.h[0].attn.c_attn.get_base_layer()).__name__ == "Conv1D"
        torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-4, atol=1e-4)


def test_a_model_without_linear_layers(tmp_path: Path) -> None:
    network = nn.ModuleList([nn.Embedding(2, 2)])
    network.get_output_embeddings = lambda: None
    with pytest.raises(UserError, match="--model.lora: ModuleList has no linear layer; train all weights with null"):
        LoraOptions().config(network, 1)


def test_the_experts_that_adapters_do_not_reach_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = tiny_family(tmp_path / "base", "mixtral")
    with caplog.at_level("INFO"):
        network = policy_network(find_source(str(base)), LoraOptions(r=2), torch.float32)
    assert {name.rpartition(".")[2] for name in lora_layers(network, "default")} == {
        f"{letter}_proj" for letter in "qkvo"
    }
    assert "LoRA leaves out the experts of this model: their weights are fused" in caplog.text


def test_routers_of_experts_have_no_adapter(tmp_path: Path) -> None:
    """They are linear layers by class, and return more than a product."""
    network = policy_network(find_source(str(tiny_family(tmp_path, "phimoe"))), LoraOptions(r=2), torch.float32)
    assert {name.rpartition(".")[2] for name in lora_layers(network, "default")} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    }
    network(input_ids=IDS, labels=IDS).loss.backward()


def test_a_model_that_peft_cannot_adapt_is_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("Module 'out_proj' is incompatible\nwith Mamba-based models.")

    monkeypatch.setattr("lit_instruct.models.assemble.get_peft_model", refuse)
    with pytest.raises(
        UserError, match="no adapters for this model .Module 'out_proj' is incompatible with Mamba-base"
    ):
        policy_network(find_source(str(tiny_model)), LoraOptions(r=2), torch.float32)
