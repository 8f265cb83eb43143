"""CUDA-only paths against the plain ones on small random models: the largest relative difference of each."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.random_models import llama, write_model
from lit_instruct.batches import RankedBatch, right_pad
from lit_instruct.models.assemble import policy_network, reward_network
from lit_instruct.models.heads import token_log_probs
from lit_instruct.models.loading import find_source
from lit_instruct.models.logits import output_head
from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.rewards import RewardForward

DESCRIBED = llama(512, 1408, 4, 8, vocab_size=4096, max_position_embeddings=2048)


def compare_paths(device: str = "cuda") -> dict[str, Any]:
    """Returns, by path, the difference relative to the size of what is compared; a CPU has some of the paths."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_model(Path(scratch) / "model", DESCRIBED)
        return {
            "bf16-mixed log-probabilities against float32": mixed_precision(folder, device),
            "compiled forward against eager": compiled_forward(folder, device),
            "scaled-dot-product attention against eager": attention_kernel(folder, device),
            "rewards with shared prompts against separate ones": shared_prompts(folder, device),
        }


def _ids(device: str, rows: int = 4, length: int = 256) -> Tensor:
    return torch.arange(rows * length, device=device).view(rows, length) * 7 % 4000 + 2


def _difference(found: Tensor, plain: Tensor) -> float:
    return round(float((found.float() - plain.float()).norm() / plain.float().norm()), 5)


@torch.no_grad()
def mixed_precision(folder: Path, device: str) -> float:
    """Log-probabilities of tokens, as PPO computes them."""
    network = policy_network(find_source(str(folder)), LoraOptions(r=4), torch.float32).to(device)
    model, ids = network.get_base_model(), _ids(device)

    def log_probs() -> Tensor:
        hidden = model.model(ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
        return token_log_probs(hidden, output_head(model), ids[:, 1:].flatten()).log_probs

    plain = log_probs()
    with torch.autocast(device, torch.bfloat16):
        return _difference(log_probs(), plain)


@torch.no_grad()
def compiled_forward(folder: Path, device: str) -> float:
    """Hidden states with and without torch.compile."""
    decoder = policy_network(find_source(str(folder)), None, torch.float32).to(device).eval().model
    plain = decoder(_ids(device), use_cache=False).last_hidden_state
    return _difference(torch.compile(decoder)(_ids(device), use_cache=False).last_hidden_state, plain)


@torch.no_grad()
def attention_kernel(folder: Path, device: str) -> float:
    """Hidden states with the fused and with the eager attention."""
    model = policy_network(find_source(str(folder)), None, torch.float32).to(device).eval()
    fused = model.model(_ids(device), use_cache=False).last_hidden_state
    model.set_attn_implementation("eager")
    return _difference(fused, model.model(_ids(device), use_cache=False).last_hidden_state)


@torch.no_grad()
def shared_prompts(folder: Path, device: str) -> float:
    """Rewards of four responses to each of two prompts: flex attention on CUDA."""
    torch.manual_seed(0)
    network = reward_network(find_source(str(folder)), LoraOptions(r=4), torch.float32, 0).to(device).eval()
    prompts, answers = _ids("cpu", 2, 300).tolist(), _ids("cpu", 4, 40).tolist()
    input_ids, mask = right_pad([prompt + answer for prompt in prompts for answer in answers], 0)
    ranks = torch.tensor([1, 2, 3, 4] * 2)
    owners = torch.arange(2).repeat_interleave(4)
    numbers, margin = torch.arange(2), torch.zeros(8)
    batch = RankedBatch(*(part.to(device) for part in (input_ids, mask, ranks, owners, numbers, margin)))
    separate = RewardForward(network, "off", 8192, 340).rewards(batch)
    return _difference(RewardForward(network, "on", 8192, 340).rewards(batch), separate)
