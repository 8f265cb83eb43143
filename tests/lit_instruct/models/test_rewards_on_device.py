"""Rewards of batches on the host, computed on a device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import LlamaConfig

from lit_instruct.models.rewards import RewardForward
from tests.lit_instruct.models.tiny_classifiers import ranked_batch


class Embedder(nn.Module):
    """A decoder without layers: those of transformers read values of their own to build masks."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 8)

    def forward(self, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.table(input_ids))


class Embedding(nn.Module):
    """What `RewardForward` needs of a sequence classifier."""

    base_model_prefix = "model"

    def __init__(self) -> None:
        super().__init__()
        self.config = LlamaConfig(hidden_size=8, num_attention_heads=1, num_key_value_heads=1)
        self.model, self.score = Embedder(), nn.Linear(8, 1)


class Copies(TorchFunctionMode):
    """Collects whether each copy to a device waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[bool] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.to and any(isinstance(argument, torch.device) for argument in args):
            self.waiting.append(not (kwargs or {}).get("non_blocking"))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("max_tokens", [40, 8192])
def test_no_token_is_read_back_from_the_device(max_tokens: int) -> None:
    """Reading a value of a meta tensor, which has none, is an error."""
    network, batch = Embedding().to("meta"), ranked_batch()
    forward = RewardForward(network, "off", max_tokens)
    groups = forward.split(batch)
    rewards = torch.cat([forward.rewards(group) for group in groups])
    assert (rewards.device.type, rewards.shape) == ("meta", batch.ranks.shape)
    rewards.sum().backward()


def test_no_copy_to_the_device_waits_for_it() -> None:
    forward = RewardForward(Embedding().to("meta"), "off")
    with Copies() as copies:
        forward.rewards(ranked_batch())
    assert copies.waiting and not any(copies.waiting)
