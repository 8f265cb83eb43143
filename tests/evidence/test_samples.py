"""Samples are kept until model, prompts, options or labeler change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evidence.answers import BASE, BEST, PPO, PTX, SFT, Sampling, answers
from evidence.models import Models
from evidence.samples import chosen_prompts, rows_of, sampled, source_of
from lit_instruct.commands.sample import SampleData, SampleOptions
from lit_instruct.errors import UserError
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.text_reward import TextReward
from tests.lit_instruct.rollouts.stage_folders import reward_folder, sft_folder

PROMPTS = ["What is the sea?", "Name a tree.", "Say something about rain."]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Models:
    run = tmp_path_factory.mktemp("run")
    sft = sft_folder(run / "sft", tiny_model)
    return Models(str(tiny_model), sft, reward_folder(run / "rm", sft), sft, sft)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    return path


def test_samples_are_taken_once(models: Models, prompts: Path, tmp_path: Path) -> None:
    def options(k: int) -> SampleOptions:
        data, sampling = SampleData(str(prompts)), SamplingOptions(max_new_tokens=4)
        return SampleOptions(str(models.sft), data, str(tmp_path / "new/a.jsonl"), k, "evidence.people.ada", sampling)

    first = sampled(options(2))
    written = first.stat().st_mtime_ns
    assert sampled(options(2)) == first
    assert first.stat().st_mtime_ns == written
    assert [row["prompt"] for row in rows_of(first)] == PROMPTS
    assert sampled(options(3)) != first
    prompts.write_text(json.dumps({"prompt": PROMPTS[0]}) + "\n")
    assert len(rows_of(sampled(options(2)))) == 1


def test_prompts_are_spread_over_the_file_and_differ(prompts: Path, tmp_path: Path) -> None:
    prompts.write_text(prompts.read_text() * 2)
    found = rows_of(chosen_prompts(prompts, 2, tmp_path / "new/chosen.jsonl"))
    assert [row["prompt"] for row in found] == PROMPTS[:2]
    assert len(rows_of(chosen_prompts(prompts, 9, tmp_path / "all.jsonl"))) == 3


def test_the_module_of_a_labeler_counts() -> None:
    assert source_of("evidence.people.ada").name == "people.py"
    with pytest.raises(UserError, match="no module nowhere"):
        source_of("nowhere.people.ada")


def test_every_system_answers_and_the_best_of_n_is_the_reward_models_choice(models: Models, tmp_path: Path) -> None:
    sampling = Sampling(tokens=5, best_of=3)
    found = answers(models, PROMPTS, sampling, tmp_path / "0", seed=1)
    assert found.keys() == {BASE, SFT, BEST, PPO, PTX}
    assert all(len(own) == len(PROMPTS) for own in found.values())
    assert found[SFT] == found[PPO]  # the same model with the same random numbers
    assert found[BASE] != found[SFT]
    reward = TextReward.from_source(str(models.rm))
    (path,) = (tmp_path / "0").glob("SFT-*.json")
    for prompt, own, best in zip(PROMPTS, json.loads(path.read_text()), found[BEST], strict=True):
        scores = reward.score([prompt] * 3, own)
        assert best == own[scores.index(max(scores))]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert answers(models, PROMPTS, sampling, tmp_path / "0", seed=1) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == before
