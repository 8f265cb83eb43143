"""`lit-instruct sample`: ranked rows that the reward stage reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_modules.rows import RankedComparison, read_rows
from lit_instruct.commands.sample import SampleData, SampleOptions, sample, write_jsonl
from lit_instruct.errors import UserError
from lit_instruct.judging.comparisons import Noise, ranks
from lit_instruct.prompting import Prompt
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.text import Response, TextGenerator

LENGTH = "tests.lit_instruct.rollouts.broken_functions.length"
PROMPTS: list[Prompt] = ["Hello", [{"role": "user", "content": "Grüße 🙂"}], "What is the capital of France?"]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    return path


def _options(model: Path | str, prompts: Path, **more: Any) -> SampleOptions:
    settings = {
        "out": str(prompts.parent / "ranked.jsonl"),
        "k": 3,
        "labeler": LENGTH,
        "sampling": SamplingOptions(max_new_tokens=6),
    }
    return SampleOptions(str(model), SampleData(str(prompts)), **(settings | more))


def _answers(monkeypatch: pytest.MonkeyPatch, texts: list[list[str]]) -> None:
    """A generator that says just this."""

    class Says:
        def respond(self, prompts: list[Prompt], **_: Any) -> list[list[Response]]:
            return [[Response([3], text, True) for text in row] for row in texts[: len(prompts)]]

    monkeypatch.setattr(TextGenerator, "from_source", classmethod(lambda cls, source, **_: Says()))


def test_rows_can_be_read_by_the_reward_stage(tiny_model: Path, prompts: Path) -> None:
    out = sample(_options(tiny_model, prompts))
    rows = read_rows(out, RankedComparison)
    assert [row.prompt for row in rows] == PROMPTS
    for row in rows:
        assert len(row.responses) == 3
        assert row.ranks == ranks([len(text) for text in row.responses])
        assert row.extra["scores"] == [len(text) for text in row.responses]
        assert row.extra["labeler"] == LENGTH
    generator = TextGenerator.from_source(str(tiny_model))
    drawn = generator.respond(PROMPTS, k=3, max_new_tokens=6, seed=0)
    assert [row.responses for row in rows] == [[response.text for response in row] for row in drawn]
    assert [path.name for path in prompts.parent.iterdir() if path.name.startswith(".")] == []


def test_seed_makes_the_file(tiny_model: Path, prompts: Path) -> None:
    first = sample(_options(tiny_model, prompts)).read_text()
    assert sample(_options(tiny_model, prompts)).read_text() == first
    assert sample(_options(tiny_model, prompts, seed=1)).read_text() != first


def test_equal_scores_get_equal_ranks(monkeypatch: pytest.MonkeyPatch, prompts: Path) -> None:
    _answers(monkeypatch, [["aa", "bb", "c"], ["a", "bbb", "cc"], ["a", "b", "c"]])
    rows = read_rows(sample(_options("any", prompts)), RankedComparison)
    assert [row.ranks for row in rows] == [[1, 1, 2], [3, 1, 2], [1, 1, 1]]


def test_noise_turns_comparisons_around(monkeypatch: pytest.MonkeyPatch, prompts: Path) -> None:
    _answers(monkeypatch, [["aa", "bb", "c"], ["a", "bbb", "cc"], ["a", "b", "c"]])
    rows = read_rows(sample(_options("any", prompts, noise=Noise(1.0, 5))), RankedComparison)
    assert [row.ranks for row in rows] == [[2, 2, 1], [1, 3, 2], [1, 1, 1]]
    assert [row.extra for row in rows] == [{"labeler": f"{LENGTH}, flip 1, seed 5"}] * 3


def test_empty_responses_are_left_out(
    monkeypatch: pytest.MonkeyPatch, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _answers(monkeypatch, [["aa", "", "b"], ["", "only one", ""], ["a", "bb", "ccc"]])
    rows = read_rows(sample(_options("any", prompts)), RankedComparison)
    assert [(row.responses, row.ranks) for row in rows] == [(["aa", "b"], [1, 2]), (["a", "bb", "ccc"], [3, 2, 1])]
    assert "2 prompts, K = 3; 1 left out, with fewer than two" in capsys.readouterr().out


def test_limit(monkeypatch: pytest.MonkeyPatch, prompts: Path) -> None:
    _answers(monkeypatch, [["a", "b"]] * 3)
    options = _options("any", prompts)
    options.data.limit = 2
    assert len(read_rows(sample(options), RankedComparison)) == 2


@pytest.mark.parametrize("k", [1, 0, -1])
def test_one_response_compares_nothing(k: int, prompts: Path) -> None:
    with pytest.raises(UserError, match=f"--k={k}: a comparison needs at least 2 responses"):
        _options("any", prompts, k=k)


def test_missing_out_folder_is_said_before_anything_is_loaded(prompts: Path) -> None:
    with pytest.raises(UserError, match="--out=.*absent/ranked.jsonl: no such folder; make it first"):
        sample(_options("runs/none/sft", prompts, out=str(prompts.parent / "absent" / "ranked.jsonl")))


def test_wrong_labeler_is_said_before_the_model_is_loaded(prompts: Path) -> None:
    with pytest.raises(UserError, match="^--labeler no.such.function: cannot import it"):
        sample(_options("runs/none/sft", prompts, labeler="no.such.function"))


def test_missing_prompts_and_model(prompts: Path) -> None:
    with pytest.raises(UserError, match="runs/none/sft: no such folder"):
        sample(_options("runs/none/sft", prompts))
    prompts.unlink()
    with pytest.raises(UserError, match="prompts.jsonl: no such file"):
        sample(_options("runs/none/sft", prompts))


def test_a_failing_labeler_leaves_the_earlier_file(monkeypatch: pytest.MonkeyPatch, prompts: Path) -> None:
    _answers(monkeypatch, [["a", "b", "c"]] * 3)
    out = prompts.parent / "ranked.jsonl"
    out.write_text("earlier")
    with pytest.raises(UserError, match="raises: it raised KeyError"):
        sample(_options("any", prompts, labeler=LENGTH.replace("length", "raises")))
    assert out.read_text() == "earlier"


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "ranked.jsonl"
    out.write_text("earlier")
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="ranked.jsonl: no space left on the disk"):
        write_jsonl(out, [{"prompt": "a"}])
    assert [path.name for path in tmp_path.iterdir()] == ["ranked.jsonl"]
    assert out.read_text() == "earlier"
