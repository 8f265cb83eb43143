"""The sentiment finding on IMDB: prompts, policies and the judge, from reviews of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evidence import imdb, judge
from evidence.context import Context
from evidence.samples import rows_of
from tests.lit_instruct.rollouts.classifier_folders import gpt2


@pytest.fixture
def context(tmp_path: Path, hub_files: Path) -> Context:
    folder, _ = gpt2(tmp_path / "gpt2")
    return Context(tmp_path / "runs", source="hub", base=str(folder))


def test_the_recipe_s_prompts_are_written_once(context: Context, hub_files: Path) -> None:
    folder = imdb.data(context)
    assert folder == context.runs / "data/imdb" and len(rows_of(folder / "prompts_train.jsonl")) == 32
    (hub_files / "imdb-train.jsonl").unlink()
    assert imdb.data(context) == folder


def test_the_base_is_the_recipe_s_unless_another_is_named(context: Context, tmp_path: Path) -> None:
    assert imdb.base(Context(tmp_path)) == "lvwerra/gpt2-imdb"
    assert imdb.base(context) == str(tmp_path / "gpt2")


def test_policies_with_and_without_a_penalty(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, list[str]] = {}

    def run_stage(name: str, config: Path, run: Path, options: list[str]) -> None:
        given[run.name] = options

    monkeypatch.setattr(imdb, "run_stage", run_stage)
    for penalty in (True, False):
        assert imdb.policy(context, 2, penalty).name == "ppo"
    assert given.keys() == {"imdb-kl-2", "imdb-no-kl-2"}
    with_it, without = given["imdb-kl-2"], given["imdb-no-kl-2"]
    assert without == [*with_it, "--model.kl.coef=0", "--model.kl.target=null"]
    assert "--seed_everything=2" in with_it
    assert "--model.reward.function=classifier:lvwerra/distilbert-imdb#POSITIVE" in with_it


def test_the_judge_learns_from_validation_reviews(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Judge:
        """Calls "wonderful" positive."""

    def fitted(labelled: list[Any]) -> Judge:
        seen["labels"] = [one.fresh for one in labelled]
        return Judge()

    monkeypatch.setattr(judge, "fitted", fitted)
    monkeypatch.setattr(judge, "probabilities", lambda model, texts: [float("wonderful" in text) for text in texts])
    asked = imdb.asked(context)
    assert asked.judge([("a", "It is wonderful."), ("wonderful", "a mat")]) == [1.0, 0.0]
    assert asked.auc() == 1.0
    known = [row["label"] == 1 for row in rows_of(asked.prompts.with_name("prompts_validation.jsonl"))]
    assert seen["labels"] == known and {True, False} == set(known)
    assert asked.second == "classifier:lvwerra/distilbert-imdb#POSITIVE"
    first = asked.sentences[0]
    assert f"{first['prompt']} {first['response']}" in [
        row["text"] for row in rows_of(asked.prompts.with_name("reviews_test.jsonl"))
    ]
