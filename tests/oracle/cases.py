"""What is recorded: settings, networks and prompts."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

PAD, EOS, VOCABULARY = 0, 1, 16
EPISODES, RESPONSE_LENGTH = 8, 7
PROMPTS = [[5, 9], [6, 2, 7, 11], [10, 3, 8], [7, 12, 9, 4, 10], [15, 2], [3, 14, 9, 6], [2, 8, 13], [13, 11, 5]]
NETWORK = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}
"""Configuration of every network; at this width of initialisation no gradient is close to zero."""
LORA = {"r": 2, "lora_alpha": 4, "target_modules": "all-linear"}


@dataclasses.dataclass(frozen=True)
class Case:
    """Settings of one recording, in the words of TRL's PPOConfig where it has them."""

    name: str
    kl_estimator: str = "k1"
    whiten_rewards: bool = False
    missing_eos_penalty: float | None = None
    num_ppo_epochs: int = 1
    gamma: float = 0.97
    lam: float = 0.9
    kl_coef: float = 0.3
    temperature: float = 1.0
    vf_coef: float = 1.0
    cliprange: float = 0.1
    cliprange_value: float = 0.05
    num_mini_batches: int = 1
    micro_batches: int = 1
    max_grad_norm: float = 1.0
    stops: bool = True
    """False: no stop token, so that every response has the full length."""
    last_of_pass: bool = False
    """Whether the batch is the last one of a pass over the data."""
    lora: bool = False
    processes: int = 1
    learning_rate: float = 4e-3
    adam_epsilon: float = 2e-3
    """Above rounding noise: with 1e-8 the sign of a gradient that is all rounding decides a whole step."""


def cases() -> list[Case]:
    """The grid, and one recording for each thing beside it."""
    grid = [
        Case(
            f"{kl}{'-whitened' if whiten else ''}{'-penalty' if penalty else ''}-{epochs}",
            kl_estimator=kl,
            whiten_rewards=whiten,
            missing_eos_penalty=penalty,
            num_ppo_epochs=epochs,
        )
        for kl, whiten, penalty, epochs in itertools.product(("k1", "k3"), (False, True), (None, 1.5), (1, 4))
    ]
    full = {"stops": False, "num_ppo_epochs": 2}
    return [
        *grid,
        Case("full-length", stops=False, adam_epsilon=1e-8),
        Case("full-length-whitened", whiten_rewards=True, kl_estimator="k3", **full),
        Case("full-length-micro-batches", micro_batches=4, max_grad_norm=0.01, **full),
        Case("undiscounted", gamma=1.0, lam=1.0),
        Case("temperature", temperature=0.7, num_ppo_epochs=2),
        Case("value-coefficient", vf_coef=0.1, num_ppo_epochs=2),
        Case("lora", lora=True, num_ppo_epochs=2),
        Case("micro-batches", micro_batches=4),
        Case("mini-batches", micro_batches=4, num_mini_batches=2),
        Case("last-of-pass", micro_batches=4, last_of_pass=True),
        Case("two-processes", processes=2),
    ]


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; the text plays no part."""
    words = {"<pad>": PAD, "<eos>": EOS} | {f"w{i}": i for i in range(2, VOCABULARY)}
    inner = Tokenizer(models.WordLevel(words, unk_token="w2"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", padding_side="left")


def network(kind: Any, seed: int) -> Any:
    """A random Llama."""
    config = LlamaConfig(**NETWORK, num_labels=1)
    torch.manual_seed(seed)
    model = kind(config)
    if kind is LlamaForCausalLM:
        _steer(model)
    else:
        model.score = torch.nn.Linear(config.hidden_size, 1, bias=True)  # as lit-instruct's value head
    return model


@torch.no_grad()
def _steer(model: Any) -> None:
    """Makes the first feature of every hidden state positive, and with it padding impossible and the end frequent."""
    layer = model.model.layers[0]
    model.model.embed_tokens.weight[:, 0] = 1.5
    for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
        projection.weight[0] = 0.0
    model.lm_head.weight[:, 0] = 0.0
    model.lm_head.weight[PAD, 0] = -30.0
    model.lm_head.weight[EOS, 0] = 0.5


def networks(case: Case) -> dict[str, Any]:
    """Policy, reference (None: the policy without its adapter), value and reward model."""
    policy, reference = network(LlamaForCausalLM, 1), network(LlamaForCausalLM, 1)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if "lm_head" not in name:
                parameter += 0.05 * torch.randn_like(parameter)
    if case.lora:
        torch.manual_seed(3)
        adapter = LoraConfig(**LORA, init_lora_weights=False)
        policy, reference = get_peft_model(policy, adapter), None
    value, reward = (network(LlamaForSequenceClassification, seed) for seed in (4, 5))
    return {"policy": policy, "reference": reference, "value": value, "reward": reward}


def trained(policy: Any, value: Any) -> dict[str, Tensor]:
    """What the optimizer holds, by role and name."""
    parts = {"policy": policy, "value": value}
    return {
        f"{role}.{name}": parameter.detach().clone()
        for role, part in parts.items()
        for name, parameter in part.named_parameters()
        if parameter.requires_grad
    }
