"""Files of a stage: half-written and damaged ones, and folders that are no runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_instruct.errors import UserError
from lit_instruct.run_views.shown import digits_of, figures_of, samples_of, warnings_of
from lit_instruct.run_views.stage_log import StageLog, stages_in
from tests.lit_instruct.run_views.runs import ppo_log, progress, record, sample, training_run, write_stage

DIAGNOSED = "ppo/first_ratio_error,ppo/advantage_std,ppo/explained_variance,ppo/reward_length_correlation"


def test_stages_in_their_order(tmp_path: Path) -> None:
    run = training_run(tmp_path / "x")
    assert [log.stage for log in stages_in(run)] == ["sft", "ppo"]
    write_stage(run / "rm", lock=1.0)
    (run / "eval").mkdir()
    assert [log.stage for log in stages_in(run)] == ["sft", "rm", "ppo"]


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    run = training_run(tmp_path / "runs" / "x")
    (empty := tmp_path / "empty").mkdir()
    for path, said in (
        (tmp_path / "nope", "nope: no such run folder; check the path"),
        (empty, "empty: none of the stages sft, rm and ppo is in this folder; start a training with --run first"),
        (run / "ppo", f"ppo: this is a stage; give the folder of the run, {run}"),
        (
            run.parent,
            f"runs: none of the stages sft, rm and ppo is in this folder; there are runs in it, such as {run}",
        ),
    ):
        with pytest.raises(UserError) as told:
            stages_in(path)
        assert str(told.value).endswith(said)


def test_a_half_written_line_is_left_out_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    log = StageLog(write_stage(tmp_path / "ppo", ppo_log(2), samples=[sample(2)]))
    path = log.folder / "logs" / "samples.jsonl"
    path.write_bytes(path.read_bytes() + b'{"iteration": 2, "prom')
    assert [row["iteration"] for row in log.samples] == [2]
    assert log.wrong == []
    path.write_bytes(path.read_bytes() + b"\n[1]\n" + path.read_bytes().splitlines()[0] + b"\n")
    again = StageLog(log.folder)
    assert [row["iteration"] for row in again.samples] == [2, 2]
    assert again.wrong == [f"{path}:2: no sample, and 1 more lines"]


def test_the_samples_of_the_last_validation(tmp_path: Path) -> None:
    log = StageLog(training_run(tmp_path / "x") / "ppo")
    assert [row["iteration"] for row in samples_of(log)] == [4, 4]
    assert samples_of(StageLog(tmp_path / "x" / "sft")) == []


@pytest.mark.parametrize("content", ["", "[]", "{", '{"done": "3"}', "[" * 100_000])
def test_a_damaged_progress_file_is_told_once(tmp_path: Path, content: str) -> None:
    log = StageLog(write_stage(tmp_path / "ppo", ppo_log(2)))
    (log.folder / "logs" / "progress.json").write_text(content)
    assert log.progress is None and log.progress is None
    assert len(log.wrong) == 1 and "progress.json" in log.wrong[0]
    assert log.wrong == warnings_of(log)


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    log = StageLog(write_stage(tmp_path / "ppo", ppo_log(2)))
    (log.folder / "stage.json").write_text("{")
    assert log.record is None
    assert "stage.json: damaged" in log.wrong[0]


def test_figures_are_the_last_values(tmp_path: Path) -> None:
    log = StageLog(training_run(tmp_path / "x") / "ppo")
    found = {one.title: one for one in figures_of(log)}
    assert list(found) == ["reward", "KL to SFT, nats per response", "response length, tokens", "EOS share"]
    assert (found["reward"].now, found["reward"].training[-1]) == (2.0, 1.0)
    assert (found["EOS share"].now, found["EOS share"].validation) == (0.75, [])


def test_warnings_are_those_of_ppo(tmp_path: Path) -> None:
    rows = [f"{i},{i + 1},0.5,{-1.0 if i == 3 else 1.0},20,0.9,,,0.0,0.5,0.5,0.1\r\n" for i in range(5)]
    head = ppo_log(0).replace("\r\n", f",{DIAGNOSED}\r\n")
    made = record("ppo", {}, options={"model": {"sampling": {"max_new_tokens": 64}}})
    log = StageLog(write_stage(tmp_path / "ppo", head + "".join(rows), progress("ppo", 5, 5), made))
    (warning,) = warnings_of(log)
    assert warning.startswith("KL is -1 nats per response, which no divergence can be")


def test_digits() -> None:
    assert [digits_of(value) for value in (0.0, 1234.5, 12.3, 0.5, 0.0005)] == [3, 0, 2, 3, 6]
