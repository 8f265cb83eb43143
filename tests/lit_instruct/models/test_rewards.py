"""Rewards and gradients of shared rows against one sequence at a time, for the kinds of models there are."""

from __future__ import annotations

import copy
import logging
import random
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    BloomConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    JambaConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from lit_instruct.batches import RankedBatch, right_pad
from lit_instruct.errors import UserError
from lit_instruct.fast import prefix_attention
from lit_instruct.losses.ranking import ranking_loss
from lit_instruct.models.heads import ScoreHead
from lit_instruct.models.quantised import keep_differentiable
from lit_instruct.models.rewards import RewardForward

SIZE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
SHARING: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(num_key_value_heads=2, **SIZE),
    "qwen2": Qwen2Config(num_key_value_heads=2, **SIZE),
    "gemma": GemmaConfig(num_key_value_heads=1, head_dim=8, **SIZE),
    "gpt_neox": GPTNeoXConfig(**SIZE),
    "gpt2": GPT2Config(
        vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=128, pad_token_id=0, initializer_range=0.3
    ),
    "opt": OPTConfig(
        **{name: SIZE[name] for name in SIZE if name not in ("intermediate_size", "initializer_range")},
        ffn_dim=48,
        init_std=0.3,
        word_embed_proj_dim=32,
    ),
}
NOT_SHARING: dict[str, PreTrainedConfig] = {
    "jamba": JambaConfig(
        num_key_value_heads=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        num_experts=1,
        mamba_d_state=4,
        mamba_d_conv=2,
        use_mamba_kernels=False,
        **SIZE,
    ),
    "mistral": MistralConfig(num_key_value_heads=2, sliding_window=8, **SIZE),
    "bloom": BloomConfig(vocab_size=64, hidden_size=32, n_layer=3, n_head=4, pad_token_id=0, initializer_range=0.3),
    "gpt_neo": GPTNeoConfig(
        **{name: SIZE[name] for name in SIZE if name not in ("num_hidden_layers", "num_attention_heads")},
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
    ),
}


def classifier(config: PreTrainedConfig, **options: Any) -> nn.Module:
    """A random model of a kind, without dropout."""
    config = copy.deepcopy(config)
    for name in [name for name in vars(config) if "dropout" in name or name.endswith("_pdrop")]:
        if isinstance(getattr(config, name), float):
            setattr(config, name, 0.0)
    config.num_labels = 1
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, **options)
    model.score = ScoreHead.like(model.score, fresh=True)
    return model


def ranked_batch(prompts: int = 5, seed: int = 0, prompt: int = 12, response: int = 9) -> RankedBatch:
    """Random prompts of up to so many tokens, 2 to 6 responses each; a response begins like another now and then."""
    draw, sequences, owners, ranks = random.Random(seed), [], [], []
    for number in range(prompts):
        beginning = [draw.randint(3, 63) for _ in range(draw.randint(1, prompt))]
        size = draw.randint(2, 6)
        for rank in draw.sample(range(size), size):
            answer = [draw.randint(3, 63) for _ in range(draw.randint(0, response))]
            sequences.append([*beginning, *answer, 2])
            owners.append(number)
            ranks.append(rank + 1)
    ids, mask = right_pad(sequences, 0)
    zeros = torch.zeros(len(ranks))
    return RankedBatch(ids, mask, torch.tensor(ranks), torch.tensor(owners), torch.arange(prompts), zeros)


def one_by_one(network: nn.Module, batch: RankedBatch) -> Tensor:
    """Rewards by the model's own forward of each sequence alone."""
    lengths = batch.attention_mask.sum(dim=1).tolist()
    rows = [ids[None, :length] for ids, length in zip(batch.input_ids, lengths, strict=True)]
    return torch.cat([network(input_ids=row, use_cache=False).logits.flatten().float() for row in rows])


def gradients(network: nn.Module) -> dict[str, Tensor]:
    """Takes the gradients off the network."""
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    return found


def loss_of(rewards: Tensor, batch: RankedBatch) -> Tensor:
    return ranking_loss(rewards, batch.ranks, batch.prompt_index).loss


def assert_same(network: nn.Module, forward: RewardForward, batch: RankedBatch, tolerance: float = 2e-5) -> None:
    """Compares rewards and gradients, the latter relative to the largest."""
    network.zero_grad()
    expected = one_by_one(network, batch)
    loss_of(expected, batch).backward()
    wanted = gradients(network)
    rewards = forward.rewards(batch)
    torch.testing.assert_close(rewards, expected, rtol=tolerance, atol=tolerance)
    loss_of(rewards, batch).backward()
    found = gradients(network)
    assert found.keys() == wanted.keys() and wanted
    largest = max(float(grad.abs().max()) for grad in wanted.values())
    for name, grad in wanted.items():
        torch.testing.assert_close(
            found[name], grad, rtol=0, atol=tolerance * largest, msg=lambda m, n=name: f"{n} {m}"
        )


@pytest.fixture(params=["dense", "gathered"])
def attention(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of attending over suffixes on a CPU; sizes choose between them otherwise."""
    monkeypatch.setattr(prefix_attention, "GATHER_FACTOR", 1e9 if request.param == "dense" else 0)
    monkeypatch.setattr(prefix_attention, "GATHER_PAIRS", 0)
    return request.param


@pytest.mark.parametrize("kind", SHARING)
def test_shared_rows_equal_one_sequence_at_a_time(kind: str, attention: str) -> None:
    network = classifier(SHARING[kind])
    forward = RewardForward(network, "on", longest=24)
    assert forward.micro_batches.sharing == "on"
    assert_same(network, forward, ranked_batch())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_shared_rows_with_eager_attention(kind: str) -> None:
    network = classifier(SHARING[kind], attn_implementation="eager")
    forward = RewardForward(network, "on", longest=24)
    assert_same(network, forward, ranked_batch())
    assert network.config._attn_implementation == "eager"


@pytest.mark.parametrize("kind", NOT_SHARING)
def test_models_on_which_sharing_would_be_wrong_fall_back(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    network = classifier(NOT_SHARING[kind])
    before = network.config._attn_implementation
    forward = RewardForward(network, "auto", longest=24)
    with caplog.at_level(logging.INFO):
        assert_same(network, forward, ranked_batch())
    assert forward.micro_batches.sharing == "off"
    assert network.config._attn_implementation == before
    assert len([record for record in caplog.records if "cannot share" in record.getMessage()]) == 1
    with pytest.raises(UserError, match=r"^--model.shared_prompt=on: this model cannot share prompts"):
        RewardForward(network, "on", longest=24).rewards(ranked_batch())


def test_a_window_longer_than_all_sequences_does_no_harm() -> None:
    network = classifier(MistralConfig(num_key_value_heads=2, sliding_window=24, **SIZE))
    assert_same(network, RewardForward(network, "on", longest=22), ranked_batch())


def test_a_wrong_mask_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    network = classifier(SHARING["llama"])
    monkeypatch.setattr(prefix_attention, "GATHER_FACTOR", 1e9)
    causal = torch.ones(1, 1, 99, 99, dtype=torch.bool).tril()
    monkeypatch.setattr(
        prefix_attention, "dense_mask", lambda segment: causal[..., : segment.shape[1], : segment.shape[1]]
    )
    with pytest.raises(UserError, match="hidden states differ"):
        RewardForward(network, "on", longest=24).rewards(ranked_batch())


@pytest.mark.parametrize("sharing", ["on", "off", "auto"])
@pytest.mark.parametrize("max_tokens", [1, 16, 40, 8192])
def test_any_limit_of_tokens_gives_the_same(sharing: Any, max_tokens: int) -> None:
    network = classifier(SHARING["llama"])
    assert_same(network, RewardForward(network, sharing, max_tokens, longest=24), ranked_batch())


@pytest.mark.parametrize("sharing", ["on", "off"])
@pytest.mark.parametrize("max_tokens", [1, 40, 100])
def test_groups_of_prompts_add_up_to_the_batch(sharing: Any, max_tokens: int) -> None:
    network, batch = classifier(SHARING["llama"]), ranked_batch(prompts=9)
    batch = batch._replace(margin=torch.arange(len(batch.ranks)) / 10)
    forward = RewardForward(network, sharing, max_tokens, longest=24)

    def loss(part: RankedBatch) -> Tensor:
        return ranking_loss(forward.rewards(part), part.ranks, part.prompt_index, part.margin).loss

    loss(batch).backward()
    wanted = gradients(network)
    groups = forward.split(batch)
    assert len(groups) > 1
    assert sorted(torch.cat([group.row_number for group in groups]).tolist()) == list(range(9))
    for group in groups:
        loss(group).backward()
    for name, grad in gradients(network).items():
        torch.testing.assert_close(grad, wanted[name], rtol=1e-4, atol=1e-5)


def test_groups_stay_below_the_limit_of_tokens() -> None:
    network, batch = classifier(SHARING["llama"]), ranked_batch(prompts=30)
    forward = RewardForward(network, "on", 120, longest=24)
    seen: list[int] = []
    network.model.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    for group in forward.split(batch):
        seen.clear()
        forward.rewards(group)
        assert sum(seen) <= 120


def lora(network: nn.Module, **options: Any) -> nn.Module:
    config = LoraConfig(
        task_type="SEQ_CLS", r=4, target_modules=["q_proj", "v_proj", "down_proj"], modules_to_save=["score"], **options
    )
    torch.manual_seed(1)
    wrapped = get_peft_model(network, config)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    return wrapped


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("layers", [None, [2]])
def test_lora_and_gradient_checkpointing(checkpointing: bool, layers: list[int] | None) -> None:
    network = lora(classifier(SHARING["llama"]), layers_to_transform=layers).train()
    if checkpointing:
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    forward = RewardForward(network, "on", longest=24)
    assert_same(network, forward, ranked_batch())
    assert_same(network, RewardForward(network, "on", 16, longest=24), ranked_batch())
    assert "base_model.model.score.modules_to_save.default.weight" in dict(network.named_parameters())


@pytest.mark.filterwarnings("error:.*autograd kernel was not registered")
@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_bases(bits: int, tmp_path: Any) -> None:
    classifier(LlamaConfig(**{**SIZE, "hidden_size": 64, "intermediate_size": 128})).save_pretrained(tmp_path)
    options = {"load_in_8bit": True, "llm_int8_threshold": 0.0} if bits == 8 else {"load_in_4bit": True}
    base = AutoModelForSequenceClassification.from_pretrained(
        tmp_path,
        quantization_config=BitsAndBytesConfig(**options, llm_int8_skip_modules=["score"]),
        dtype=torch.float32,
    )
    network = lora(base).train()
    keep_differentiable(network)
    forward = RewardForward(network, "on", longest=24)
    assert forward.micro_batches.sharing == "on"
    assert_same(network, forward, ranked_batch(), tolerance=2e-2 if bits == 8 else 1e-4)


def test_bfloat16_is_within_its_rounding() -> None:
    network = classifier(SHARING["llama"]).to(torch.bfloat16)
    network.score.float()
    forward = RewardForward(network, "on", longest=24)
    batch = ranked_batch()
    with torch.no_grad():
        torch.testing.assert_close(forward.rewards(batch), one_by_one(network, batch), rtol=0.1, atol=0.1)


def test_dropout_is_drawn_again_alike_when_forwards_are_repeated() -> None:
    network = classifier(SHARING["llama"])
    network = lora(network, lora_dropout=0.3).train()
    batch = ranked_batch(prompts=1)
    forward = RewardForward(network, "off", 8)

    def value_and_gradient() -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(5)
        rewards = forward.rewards(batch)
        rewards.sum().backward()
        return rewards.detach(), gradients(network)

    rewards, found = value_and_gradient()
    head = network.get_base_model().score.modules_to_save["default"].weight
    with torch.no_grad():
        head += 1e-2 * found["base_model.model.score.modules_to_save.default.weight"]
    moved, _ = value_and_gradient()
    slope = (found["base_model.model.score.modules_to_save.default.weight"] ** 2).sum() * 1e-2
    assert float((moved - rewards).sum()) == pytest.approx(float(slope), rel=1e-3)
