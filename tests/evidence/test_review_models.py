"""Trainings on critics' sentences: their options are real ones, and their data is that of the right part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evidence import review_models
from evidence.context import Context
from evidence.reviews import Review
from lit_instruct.commands.plan import stage_options


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Stage -> its options by dotted name, as the command line reads them; nothing is trained."""
    found: dict[str, dict[str, Any]] = {}

    def run_stage(name: str, config: Path, run: Path, options: list[str]) -> float:
        found[name] = stage_options(name, ["--config", str(config), *options])
        return 0.0

    monkeypatch.setattr(review_models, "run_stage", run_stage)
    return found


@pytest.mark.parametrize("quick", [False, True])
def test_stages_follow_each_other(
    quick: bool, trained: dict[str, dict[str, Any]], small_reviews: dict[str, list[Review]], tmp_path: Path
) -> None:
    context = Context(tmp_path / "runs", quick=quick)
    reward = review_models.reward_model(context, 2, 100)
    assert reward == tmp_path / "runs/reviews-100-2/rm"
    policy = review_models.policy(context, 2, reward, penalty=True)
    assert policy == tmp_path / "runs/reviews-kl-2/ppo"
    data = tmp_path / "runs/data/reviews"
    assert trained["sft"]["data.path"] == str(data / "demonstrations_training.jsonl")
    assert trained["rm"]["data.path"] == str(data / "ranked_training.jsonl")
    assert trained["ppo"]["data.path"] == str(data / "prompts_training.jsonl")
    for stage in ("rm", "ppo"):
        assert trained[stage]["model.base"] == str(tmp_path / "runs/reviews/sft")
        assert trained[stage]["seed_everything"] == 2
        assert Path(trained[stage]["data.validation_path"]).is_file()
    assert trained["rm"]["data.limit"] == 100
    assert trained["ppo"]["model.reward.model"] == str(reward)
    assert trained["ppo"]["model.kl.coef"] > 0 and trained["ppo"]["model.kl.budget"] == 4
    assert trained["ppo"]["model.iterations"] == (2 if quick else 8)


def test_without_penalty_there_is_none_and_no_budget(
    trained: dict[str, dict[str, Any]], small_reviews: dict[str, list[Review]], tmp_path: Path
) -> None:
    policy = review_models.policy(Context(tmp_path / "runs"), 0, tmp_path / "rm", penalty=False)
    assert policy == tmp_path / "runs/reviews-no-kl-0/ppo"
    assert [trained["ppo"][f"model.kl.{name}"] for name in ("coef", "budget", "bound")] == [0, None, None]
