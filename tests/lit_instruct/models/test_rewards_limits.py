"""The limit of tokens: rewards do not depend on it, and the groups of a batch add up to the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lit_instruct.batches import RankedBatch
from lit_instruct.losses.ranking import ranking_loss
from lit_instruct.models.rewards import RewardForward
from tests.lit_instruct.models.tiny_classifiers import SHARING, assert_same, classifier, gradients, ranked_batch


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
