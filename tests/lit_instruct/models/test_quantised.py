"""Bases in 8 and 4 bits: which layers they are, and what adapters on them do."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import Tensor, nn

from lit_instruct.errors import UserError
from lit_instruct.models.assemble import (
    merged_language_model,
    policy_network,
    ppo_roles,
    reward_network,
    scoring_network,
)
from lit_instruct.models.heads import ScoreHead
from lit_instruct.models.loading import find_source, load_causal_lm, load_sequence_classifier
from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.quantised import Quantisation, keep_differentiable, quantisation
from lit_instruct.models.roles import Roles
from lit_instruct.rollouts.decode import decoding, fits_llama_decoding
from tests.lit_instruct.rollouts.stage_folders import SFT_LORA, reward_folder, sft_folder

CPU = torch.device("cpu")
BITS = [Quantisation("8bit", CPU), Quantisation("4bit", CPU)]
IDS = torch.arange(3, 27).view(2, 12)
MASK = torch.ones_like(IDS, dtype=torch.bool)
BF16 = torch.bfloat16


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[str, str]:
    """Of an SFT and a reward stage."""
    run = tmp_path_factory.mktemp("quantised")
    sft = sft_folder(run / "sft", tiny_model)
    return str(sft), str(reward_folder(run / "rm", sft))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_file_of_the_weights_is_left(tmp_path: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    source = find_source(str(tmp_path / "model"))

    def mapped(bits: Quantisation | None) -> bool:
        models = [
            load_causal_lm(source, torch.float32, bits),
            load_sequence_classifier(source, torch.float32, 0, True, bits),
        ]
        found = str(tmp_path) in Path("/proc/self/maps").read_text()
        assert all(bool(weight.isfinite().all()) for model in models for weight in model.parameters())
        return found

    assert not any(mapped(bits) for bits in BITS)
    assert mapped(None)


def _roles(folders: tuple[str, str], bits: Quantisation, dtype: torch.dtype = torch.float32, **lora: Any) -> Roles:
    options = LoraOptions(**({"r": 6, "alpha": 8.0, "top_layers": 3} | lora))
    sft, reward = map(find_source, folders)
    return ppo_roles(sft, [reward], options, dtype, quantised=bits)


@pytest.mark.parametrize("bits", BITS, ids=lambda bits: bits.kind)
def test_linear_layers_are_quantised_and_nothing_else(folders: tuple[str, str], bits: Quantisation) -> None:
    network = reward_network(find_source(folders[0]), SFT_LORA, BF16, 0, bits)
    kinds = {"8bit": Linear8bitLt, "4bit": Linear4bit}
    found = [name for name, layer in network.named_modules() if isinstance(layer, kinds[bits.kind])]
    assert len(found) == 4 * 7
    assert all(".layers." in name for name in found)
    head = network.get_base_model().score.original_module
    assert isinstance(head, ScoreHead)
    assert head.weight.dtype == torch.float32
    assert network.get_base_model().model.embed_tokens.weight.dtype == BF16
    language_model = policy_network(find_source(folders[0]), SFT_LORA, BF16, bits).get_base_model()
    assert type(language_model.lm_head) is nn.Linear


def test_four_bits_are_nf4_with_double_quantisation(tiny_model: Path) -> None:
    model = merged_language_model(find_source(str(tiny_model)), BF16, BITS[1])
    layer = model.model.layers[0].mlp.up_proj
    assert (layer.weight.quant_type, layer.weight.quant_state.nested, layer.compute_dtype) == ("nf4", True, BF16)


@pytest.mark.parametrize("bits", BITS, ids=lambda bits: bits.kind)
@pytest.mark.parametrize("lora", [{}, {"dora": True}, {"rslora": True}], ids=str)
def test_what_is_trained_is_float32(tiny_model: Path, bits: Quantisation, lora: dict[str, Any]) -> None:
    if bits.kind == "8bit" and "dora" in lora:
        return  # refused on a CPU
    source, options = find_source(str(tiny_model)), LoraOptions(r=4, **lora)
    roles = ppo_roles(source, [], options, BF16, quantised=bits)
    for network in (policy_network(source, options, BF16, bits), reward_network(source, options, BF16, 0, bits), roles):
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        assert {parameter.dtype for parameter in trained} == {torch.float32}
        assert len(trained) >= 4 * 7 * 2


@pytest.mark.parametrize("bits", BITS, ids=lambda bits: bits.kind)
def test_a_row_does_not_depend_on_the_rows_beside_it(folders: tuple[str, str], bits: Quantisation) -> None:
    roles = _roles(folders, bits)
    with torch.no_grad():
        together = roles.hidden("policy", IDS, MASK)
        alone = torch.cat([roles.hidden("policy", IDS[row : row + 1], MASK[:1]) for row in range(2)])
        torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
        for layer in roles.modules():
            if isinstance(layer, Linear8bitLt):
                layer.state.threshold = 2.0  # what outliers are kept apart by: then it does depend on them
        changed = roles.hidden("policy", IDS, MASK)
        alone = torch.cat([roles.hidden("policy", IDS[row : row + 1], MASK[:1]) for row in range(2)])
        assert ((changed - alone).abs().max() > 1e-4) == (bits.kind == "8bit")


@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=str)
@pytest.mark.parametrize(("bits", "dora"), [(BITS[0], False), (BITS[1], False), (BITS[1], True)], ids=str)
def test_decoding_is_the_adapters_own_path(
    folders: tuple[str, str], tiny_model: Path, bits: Quantisation, dora: bool, dtype: torch.dtype
) -> None:
    """Rollouts merge adapters into plain bases only; on quantised ones our step and the forward go through them."""
    own = (str(tiny_model), folders[1]) if dora else folders
    roles = _roles(own, bits, dtype, dora=dora)
    with torch.no_grad():
        for name, parameter in roles.named_parameters():
            if ".policy." in name and "lora_B" in name:
                parameter.add_(0.1)
        before = {name: value.clone() for name, value in roles.state_dict().items()}
        expected = roles.hidden("policy", IDS, MASK) @ roles.output_weight("policy").T
        with roles.merged("policy") as model:
            torch.testing.assert_close(
                model(input_ids=IDS).logits, expected, atol=0 if dtype == torch.float32 else 0.05, rtol=0
            )
            way = decoding(model, 3)
            assert fits_llama_decoding(model)
            steps = [way.start(IDS[:, :9], MASK[:, :9]), *(way.step(IDS[:, at]) for at in (9, 10, 11))]
    after = roles.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    own = torch.stack(steps, dim=1).float()
    assert (own - expected[:, 8:].float()).norm() < (1e-4 if dtype == torch.float32 else 0.1) * expected.float().norm()


@pytest.mark.parametrize("bits", BITS, ids=lambda bits: bits.kind)
def test_a_language_model_for_text_keeps_its_adapter_beside_the_base(
    folders: tuple[str, str], bits: Quantisation
) -> None:
    source = find_source(folders[0])
    model = merged_language_model(source, torch.float32, bits)
    with torch.no_grad():
        logits = model(input_ids=IDS).logits
        expected = policy_network(source, SFT_LORA, torch.float32, bits).eval()(input_ids=IDS).logits
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("bits", BITS, ids=lambda bits: bits.kind)
def test_an_adapter_scores_alike_on_every_base(folders: tuple[str, str], bits: Quantisation) -> None:
    source = find_source(folders[1])
    plain, other = (scoring_network(source, torch.float32, 0, kind) for kind in (None, bits))
    with torch.no_grad():
        scores = [network(input_ids=IDS).logits for network in (plain, other)]
    assert not torch.equal(*scores)
    torch.testing.assert_close(*scores, atol=0.3, rtol=0)


def _kl(policy: Tensor, other: Tensor) -> float:
    """Mean KL(policy || other) of next-token distributions, in nats per token."""
    log_p, log_q = policy.log_softmax(-1), other.log_softmax(-1)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


def test_an_adapter_trained_on_four_bits_works_on_sixteen(tiny_model: Path) -> None:
    """What changes is what quantisation changed in the base; docs/memory.md has it measured on a real model."""
    source = find_source(str(tiny_model))
    nets = [policy_network(source, LoraOptions(r=8), torch.float32, bits) for bits in (BITS[1], None)]
    optimizer = torch.optim.AdamW([p for p in nets[0].parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(60):
        loss = nets[0].train()(input_ids=IDS, labels=IDS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    trained = {name: value for name, value in nets[0].state_dict().items() if "lora_" in name}
    nets[1].load_state_dict(trained, strict=False)
    with torch.no_grad():
        on_four, on_full = (net.eval()(input_ids=IDS, labels=IDS) for net in nets)
    assert losses[-1] < losses[0] - 0.4
    assert abs(float(on_full.loss - on_four.loss)) < 0.02
    assert 0 < _kl(on_four.logits, on_full.logits) < 1e-3


@pytest.mark.filterwarnings("error:.*autograd kernel was not registered")
def test_gradients_after_evaluation() -> None:
    network = nn.Sequential(nn.Linear(64, 64), Linear4bit(64, 64, compute_dtype=torch.float32)).to("cpu")
    keep_differentiable(network)
    inputs = torch.randn(3, 64)
    gradients = []
    for _ in range(2):
        network.zero_grad()
        network.train()(inputs).square().sum().backward()
        gradients.append(network[0].weight.grad.clone())
        with torch.no_grad():
            network.eval()(inputs)
    assert float(gradients[0].abs().max()) > 0
    assert torch.equal(*gradients)


def test_what_is_loaded_is_kept_differentiable(folders: tuple[str, str]) -> None:
    for network in (_roles(folders, BITS[1]), reward_network(find_source(folders[0]), SFT_LORA, BF16, 0, BITS[1])):
        layers = [layer for layer in network.modules() if isinstance(layer, Linear4bit)]
        assert layers and not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_dora_on_eight_bits_is_refused_on_a_cpu(tiny_model: Path, tmp_path: Path) -> None:
    source, dora = find_source(str(tiny_model)), LoraOptions(r=4, dora=True)
    with pytest.raises(UserError, match=r"^--model.lora.dora: on a CPU, DoRA does not work on a base in 8 bits; use"):
        policy_network(source, dora, torch.float32, BITS[0])
    folder = find_source(str(sft_folder(tmp_path / "sft", tiny_model, dora)))
    with pytest.raises(UserError, match=r"/sft: on a CPU, DoRA does not work"):
        merged_language_model(folder, torch.float32, BITS[0])


def test_none_quantises_nothing() -> None:
    assert quantisation("none", torch.device("mps")) is None


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"^--model.quantize=4bit: needs bitsandbytes; install it with pip install"):
        quantisation("4bit", CPU, "--model.quantize")


def test_unsupported_device() -> None:
    with pytest.raises(UserError, match=r"^--quantize=8bit: works on a CPU or a CUDA device, not on mps; choose"):
        quantisation("8bit", torch.device("mps"))
