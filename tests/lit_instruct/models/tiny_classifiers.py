"""Tiny random sequence classifiers, and their rewards and gradients against one sequence at a time."""

from __future__ import annotations

import copy
import random
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
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
from lit_instruct.losses.ranking import ranking_loss
from lit_instruct.models.heads import ScoreHead
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
