"""Prompts with system prompts and earlier turns, and every way to sample and to stop, in a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_instruct.batches import PromptBatch
from lit_instruct.ppo.collect import Collector
from lit_instruct.ppo.objective import ObjectiveOptions
from lit_instruct.ppo.options import RewardOptions
from lit_instruct.rollouts.generate import SamplingOptions
from tests.lit_instruct.stages.helpers import Files, write_rows
from tests.lit_instruct.stages.test_ppo import FAST, train

SYSTEM = {"role": "system", "content": "You are a cat."}
TURNS = [
    {"role": "user", "content": "Sing to me."},
    {"role": "assistant", "content": "The rain sings."},
    {"role": "user", "content": "And the sun?"},
]
ROWS: list[dict[str, Any]] = [
    {"prompt": "Hello"},
    {"prompt": "Hello there", "system": "You are a dog."},
    {"prompt": TURNS},
    {"prompt": [SYSTEM, *TURNS]},
]
STOP_IDS = [30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41]


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[PromptBatch, list[list[int]]]]:
    """The prompts and responses of every iteration."""
    kept: list[tuple[PromptBatch, list[list[int]]]] = []
    score = Collector.score

    def keep(collector: Collector, batch: PromptBatch, responses: list[list[int]], parts: Any) -> Any:
        kept.append((batch, responses))
        return score(collector, batch, responses, parts)

    monkeypatch.setattr(Collector, "score", keep)
    return kept


def test_system_prompts_and_earlier_turns_are_read_and_sampling_options_hold(
    tmp_path: Path, tiny_model: Path, files: Files, sampled: list[tuple[PromptBatch, list[list[int]]]]
) -> None:
    path = write_rows(tmp_path / "conversations.jsonl", ROWS)
    sampling = SamplingOptions(max_new_tokens=40, temperature=0.9, top_p=0.95, top_k=300, stop_ids=STOP_IDS)
    more = {"sampling": sampling, "iterations": 3, **FAST, "objective": ObjectiveOptions(minibatches=2)}
    module, rows = train(tmp_path, files, tiny_model, more, {"path": str(path), "batch_size": 4})
    stops = {*STOP_IDS, *module.prompter.stop_ids}
    ended = []
    for batch, responses in sampled:
        texts = {module.prompter.tokenizer.decode(ids[mask]) for ids, mask in _rows(batch)}
        assert any("You are a cat." in text and "The rain sings." in text for text in texts)
        assert any("You are a dog." in text and "Hello there" in text for text in texts)
        assert sum("The rain sings." in text for text in texts) == 2
        for row, (ids, mask) in zip(batch.rows, _rows(batch), strict=True):
            assert ids[mask].tolist() == module.prompter.prompt_ids(row.prompt)
        for response in responses:
            assert not stops & set(response[:-1])
            assert response[-1] in stops or len(response) == 40
            ended.append(response[-1])
    assert len(stops & set(ended)) > 2  # not by the end of turn alone
    share = sum(token in stops for token in ended) / len(ended)
    assert sum(row["ppo/eos_share"] for row in rows) / 3 == pytest.approx(share)


def _rows(batch: PromptBatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(batch.prompt_ids, batch.prompt_mask, strict=True))


def test_a_reward_function_reads_the_last_turn_of_the_user(
    tmp_path: Path, tiny_model: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "conversations.jsonl", ROWS)
    asked: list[str] = []
    rewards = "tests.lit_instruct.stages.rewards"
    monkeypatch.setattr(f"{rewards}.length", lambda pairs: (asked.extend(p for p, _ in pairs), [0.0] * len(pairs))[1])
    more = {"reward": RewardOptions(None, f"{rewards}.length")}
    train(tmp_path, files, tiny_model, more, {"path": str(path), "batch_size": 4})
    assert sorted(asked) == ["And the sun?", "And the sun?", "Hello", "Hello there"]
