"""How many tokens a forward has where more are allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lit_instruct.fast.packing import ENOUGH_TOKENS, enough_tokens
from lit_instruct.rollouts.text import Response, TextGenerator
from lit_instruct.rollouts.text_reward import TextReward


@pytest.mark.parametrize(
    ("most", "device", "tokens"), [(8192, "cpu", 1024), (300, "cpu", 300), (8192, "cuda", 8192), (8192, "mps", 8192)]
)
def test_a_forward_on_a_cpu_is_no_larger_than_its_cache_likes(most: int, device: str, tokens: int) -> None:
    assert enough_tokens(most, device) == tokens


def test_scores_and_log_probabilities_follow_it(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, texts = [f"Say {n}." for n in range(6)], [f"It is {'very ' * n}good." for n in range(6)]
    reward, model = (
        TextReward.from_source(str(trained / "rm"), "float32"),
        TextGenerator.from_source(str(trained / "sft"), "float32"),
    )
    responses = [Response(model.prompter.response_ids(text), text, ended=True) for text in texts]
    sizes: list[int] = []

    def note(module: torch.nn.Module, given: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
        sizes.append((given[0] if given else named["input_ids"]).numel())

    for network in (reward.network, getattr(model.model, model.model.base_model_prefix)):
        network.register_forward_pre_hook(note, with_kwargs=True)
    found = []
    for limit in (ENOUGH_TOKENS["cpu"], 60):
        monkeypatch.setitem(ENOUGH_TOKENS, "cpu", limit)
        sizes.clear()
        found.append(reward.score(prompts, texts) + model.log_probs(prompts, responses))
        assert len(sizes) == 2 if limit > 60 else len(sizes) > 4 and max(sizes) <= 60
    assert found[0] == pytest.approx(found[1], abs=1e-4)
