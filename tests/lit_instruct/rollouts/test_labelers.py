"""Labelers that are no people."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_instruct.errors import UserError
from lit_instruct.judging.comparisons import Noise
from lit_instruct.rollouts.labelers import Ranking, labeler_of
from lit_instruct.rollouts.reward_functions import function_scorer
from lit_instruct.rollouts.text_reward import TextReward
from tests.lit_instruct.rollouts.stage_folders import reward_folder, sft_folder

LENGTH = "tests.lit_instruct.rollouts.broken_functions.length"
PROMPTS = ["Hello", [{"role": "user", "content": "A poem, please."}]]
RESPONSES = [["a", "bbb", "cc"], ["yes", "you"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    run = tmp_path_factory.mktemp("labelers")
    reward_folder(run / "rm", sft_folder(run / "sft", tiny_model))
    return run


def test_a_function_ranks() -> None:
    found = labeler_of(LENGTH).ranked(PROMPTS, RESPONSES)
    assert found == [Ranking([3, 1, 2], [1, 3, 2]), Ranking([1, 1], [3, 3])]


def test_a_function_reads_the_columns_of_the_rows() -> None:
    def right(prompts: list[str], responses: list[str], rows: list[dict[str, str]]) -> list[bool]:
        return [response == row["answer"] for response, row in zip(responses, rows, strict=True)]

    found = labeler_of(right).ranked(PROMPTS, RESPONSES, [{"answer": "cc"}, {"answer": "you"}])
    assert [one and one.ranks for one in found] == [[2, 2, 1], [2, 1]]


def test_scores_that_differ_after_four_decimals_tie() -> None:
    labeler = labeler_of(lambda pairs: [1.00001, 1.00002, 1.0002])
    assert labeler.ranked(["p"], [["a", "b", "c"]]) == [Ranking([2, 2, 1], [1.0, 1.0, 1.0002])]


def test_noise_is_part_of_the_name_and_takes_the_scores_away() -> None:
    labeler = labeler_of(LENGTH, Noise(1.0, seed=3))
    assert labeler.name == f"{LENGTH}, flip 1, seed 3"
    assert labeler.ranked(PROMPTS, RESPONSES) == [Ranking([1, 3, 2], None), Ranking([1, 1], None)]


def test_a_reward_model_ranks_as_it_scores(run: Path) -> None:
    reward = TextReward.from_source(str(run / "rm"))
    for spec in (f"reward:{run}", f"reward:{run / 'rm'}"):
        labeler = labeler_of(spec)
        assert labeler.name == spec
        for prompt, texts, ranking in zip(PROMPTS, RESPONSES, labeler.ranked(PROMPTS, RESPONSES), strict=True):
            scores = reward.score([prompt] * len(texts), texts)
            assert ranking is not None and ranking.scores == pytest.approx(scores, abs=1e-3)
            assert sorted(texts, key=lambda text: -scores[texts.index(text)])[0] == texts[ranking.ranks.index(1)]


def test_a_reward_model_is_a_reward_function(run: Path) -> None:
    scores = function_scorer(f"reward:{run}")(PROMPTS, ["Hi.", "no"], [{}, {}])
    assert scores == pytest.approx(TextReward.from_source(str(run / "rm")).score(PROMPTS, ["Hi.", "no"]), abs=1e-3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("runs/none", "runs/none: no such folder"),
        ("{run}/nothing", "no rm model in .*; run `lit-instruct rm fit"),
    ],
)
def test_reward_models_that_are_not_there(run: Path, name: str, message: str) -> None:
    (run / "nothing").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=message):
        labeler_of(f"reward:{name.format(run=run)}")
