"""`lit-instruct rm score` and `lit_instruct.score`: any layout, any length, continued exactly, or refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lit_instruct
from data_modules.rows import RankedComparison, read_rows
from lit_instruct.commands import score as scoring
from lit_instruct.commands.score import ScoreData, ScoreOptions, reward_source, score_file
from lit_instruct.errors import UserError
from lit_instruct.rollouts.text_reward import TextReward
from tests.lit_instruct.commands.scoring import lines, options
from tests.lit_instruct.stages.helpers import comparisons, demonstrations, run, write_rows


def test_one_response_gets_a_reward(demo: Path, tmp_path: Path) -> None:
    rows = [{**row, "id": i} for i, row in enumerate(demonstrations(5))]
    out = score_file(options(demo, write_rows(tmp_path / "rows.jsonl", rows)))
    scores = lit_instruct.score(
        demo, [row["prompt"] for row in rows], [row["response"] for row in rows], dtype="float32"
    )
    assert len(set(scores)) == 5
    for line, row, expected in zip(lines(out), rows, scores, strict=True):
        assert line == {**row, "reward": pytest.approx(expected, abs=1e-5)}
        assert list(line)[-1] == "reward"


def test_several_responses_get_rewards_in_their_order(demo: Path, tmp_path: Path) -> None:
    ranked = comparisons(6)
    unranked = [{"prompt": row["prompt"], "responses": row["responses"][:1]} for row in ranked]
    reward = TextReward.from_source(str(demo / "rm"), "float32")
    for name, rows in {"ranked": ranked, "unranked": unranked}.items():
        path = write_rows(tmp_path / f"{name}.jsonl", rows)
        out = score_file(options(demo, path, out=str(tmp_path / f"{name}-out.jsonl")))
        for line, row in zip(lines(out), rows, strict=True):
            expected = reward.score([row["prompt"]] * len(row["responses"]), row["responses"])
            assert line == {**row, "rewards": pytest.approx(expected, abs=1e-5)}


def test_other_layouts_become_ours(demo: Path, tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    rows = [{"chosen": [*asked, _reply("Paris")], "rejected": [*asked, _reply("Rome")], "labeler": "b"}]
    out = score_file(options(demo, write_rows(tmp_path / "rows.jsonl", rows)))
    (line,) = lines(out)
    good, bad = lit_instruct.score(demo, [asked, asked], ["Paris", "Rome"], dtype="float32")
    own = {"prompt": asked, "responses": ["Paris", "Rome"], "ranks": [1, 2], "labeler": "b"}
    assert line == {**own, "rewards": [pytest.approx(good, abs=1e-5), pytest.approx(bad, abs=1e-5)]}
    (row,) = read_rows(out, RankedComparison)  # what it writes, the stages read
    assert row.extra["rewards"] == line["rewards"]
    alpaca = write_rows(tmp_path / "alpaca.jsonl", [{"instruction": "Add.", "input": "1 + 1", "output": "2"}])
    (line,) = lines(score_file(options(demo, alpaca, out=str(tmp_path / "alpaca-out.jsonl"))))
    assert (line["prompt"], line["response"]) == ("Add.\n\n1 + 1", "2")


def _reply(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_the_result_depends_on_neither_windows_nor_budget(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", comparisons(9))
    reference = lines(score_file(options(demo, rows)))
    for window, tokens in ((1, 1), (4, 64)):
        monkeypatch.setattr(scoring, "WINDOW", window)
        again = lines(score_file(options(demo, rows, out=str(tmp_path / f"{window}.jsonl"), batch_tokens=tokens)))
        for one, other in zip(reference, again, strict=True):
            assert one["rewards"] == pytest.approx(other["rewards"], abs=1e-5)


def test_a_field_of_that_name_is_not_overwritten(demo: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{**row, "rewards": [0.5] * 2} for row in comparisons(3, k=2)])
    with pytest.raises(UserError, match=r"rows.jsonl:1: the row already has a field 'rewards'; choose another"):
        score_file(options(demo, rows))
    assert not (tmp_path / "scored.jsonl").exists()
    out = score_file(options(demo, rows, field="again"))
    assert all(len(line["again"]) == 2 and line["rewards"] == [0.5] * 2 for line in lines(out))


def test_what_sample_writes_keeps_its_labels(demo: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{**row, "scores": [0.5] * 2} for row in comparisons(3, k=2)])
    assert all(
        len(line["rewards"]) == 2 and line["scores"] == [0.5] * 2 for line in lines(score_file(options(demo, rows)))
    )


def test_bad_rows_stop_it_before_the_model_is_opened_or_are_put_aside(demo: Path, tmp_path: Path) -> None:
    good = demonstrations(3)
    rows = write_rows(tmp_path / "rows.jsonl", [*good[:2], {"prompt": "a", "response": ""}, good[2]])
    with pytest.raises(UserError, match="rows.jsonl:3: .*response"):
        score_file(ScoreOptions("runs/none", ScoreData(str(rows)), str(tmp_path / "scored.jsonl")))
    data = ScoreData(str(rows), on_bad_row="skip")
    out = score_file(ScoreOptions(str(demo), data, str(tmp_path / "scored.jsonl")))
    assert [line["prompt"] for line in lines(out)] == [row["prompt"] for row in good]
    assert [line["where"] for line in lines(tmp_path / "scored.bad.jsonl")] == [f"{rows}:3"]


def test_a_row_that_the_template_refuses_is_a_bad_row(demo: Path, tmp_path: Path) -> None:
    run = tmp_path / "demo"
    shutil.copytree(demo, run)
    template = run / "rm" / "chat_template.jinja"
    refusing = "{% if messages[-1]['content'] == 'no' %}{{ raise_exception('not this') }}{% endif %}"
    template.write_text(refusing + template.read_text())
    good = demonstrations(2)
    rows = write_rows(tmp_path / "rows.jsonl", [good[0], {"prompt": "no", "response": "a"}, good[1]])
    with pytest.raises(UserError, match=r"rows.jsonl:2: prompt: .*refuses these messages \(not this\)"):
        score_file(options(run, rows))
    data = ScoreData(str(rows), on_bad_row="skip")
    out = score_file(ScoreOptions(str(run), data, str(tmp_path / "scored.jsonl"), dtype="float32"))
    assert [line["prompt"] for line in lines(out)] == [row["prompt"] for row in good]
    assert [line["where"] for line in lines(tmp_path / "scored.bad.jsonl")] == [f"{rows}:2"]


def test_a_row_longer_than_the_model_is_named(demo: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [*demonstrations(2), {"prompt": "a", "response": "z9" * 400}])
    with pytest.raises(UserError, match=r"rows.jsonl:3: prompt and response have \d+ tokens, .* at most 512"):
        score_file(options(demo, rows))


def test_half_a_character_in_a_further_field_is_kept(demo: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{**demonstrations(1)[0], "note": "a\ud83d", "word": "ö"}])
    (line,) = lines(score_file(options(demo, rows)))
    assert (line["note"], line["word"]) == ("a\ud83d", "ö")


def test_which_model_a_name_means(demo: Path, tmp_path: Path) -> None:
    assert reward_source(str(demo)) == reward_source(str(demo / "rm")) == str(demo / "rm")
    assert reward_source("nobody/some-model") == "nobody/some-model"
    assert reward_source(str(demo / "sft")) == str(demo / "sft")
    for folder in (tmp_path, tmp_path / "rm"):
        folder.mkdir(exist_ok=True)
        with pytest.raises(
            UserError, match=f"no rm model in {tmp_path / 'rm'}; run `lit-instruct rm fit --run {tmp_path}`"
        ):
            reward_source(str(folder))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_tokens": 0}, "--batch_tokens=0"),
        ({"out": "/nowhere/out.jsonl"}, "--out=/nowhere/out.jsonl: no such folder"),
        ({"out": "{rows}"}, "it is one of the files to score"),
    ],
    ids=["budget", "folder", "itself"],
)
def test_options_are_checked(demo: Path, tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", demonstrations(1))
    given = {name: str(rows) if value == "{rows}" else value for name, value in wrong.items()}
    with pytest.raises(UserError, match=message):
        options(demo, rows, **given)


def test_a_folder_is_not_scored_into_itself(demo: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", demonstrations(1))
    with pytest.raises(UserError, match="it is one of the files to score"):
        ScoreOptions(str(demo), ScoreData(str(tmp_path)), str(tmp_path / "scored.jsonl"))


def test_the_command(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", demonstrations(3))
    words = ["rm", "score", "--run", demo / "rm", "--data.path", rows, "--out", tmp_path / "scored.jsonl"]
    assert run(*words) == 0
    assert "scored.jsonl: 3 rows" in capsys.readouterr().out
    assert run(*words) == 0
    assert "3 rows, 3 of them from an earlier run" in capsys.readouterr().out
    assert run("rm", "score", "--run", demo / "sft", *words[4:-1], tmp_path / "other.jsonl") == 2
    error = capsys.readouterr().err
    assert "head" in error
    assert "Traceback" not in error
    assert not (tmp_path / "other.jsonl").exists()
    assert run("rm", "score", "--help") == 0
    assert "--batch_tokens" in capsys.readouterr().out


def test_score_is_imported_on_demand_and_never_the_module() -> None:
    code = (
        "import sys, lit_instruct; assert 'torch' not in sys.modules;"
        "import lit_instruct.rollouts.text_reward, lit_instruct.commands.score; print(callable(lit_instruct.score))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "True"


def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lengths:
        """A reward model that gives a sequence's length."""

        max_length = 100
        prompter = SimpleNamespace(prompt_ids=len)

        def ids(self, prompt: Any, response: str) -> list[int]:
            return list(range(len(response)))

        def score_ids(self, prompts: list[list[list[int]]], batch_tokens: int) -> list[list[float]]:
            return [[float(len(sequence)) for sequence in row] for row in prompts]

    monkeypatch.setattr(TextReward, "from_source", classmethod(lambda cls, *_: Lengths()))
    peaks = []
    for count in (500, 500, 5000):  # the first to import and cache what there is
        rows = write_rows(tmp_path / f"{count}.jsonl", [{"prompt": f"{i}", "response": "ab"} for i in range(count)])
        out = tmp_path / "out.jsonl"
        out.unlink(missing_ok=True)
        tracemalloc.start()
        score_file(ScoreOptions("any", ScoreData(str(rows)), str(out)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(out.read_bytes().splitlines()) == count
    assert peaks[2] < peaks[1] + 200_000  # 4,500 rows more are a megabyte in memory
