"""Rounds: what they leave, that they go on where they stopped, and what they refuse."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lit_instruct.cli import main
from lit_instruct.errors import UserError
from lit_instruct.iterating import loop
from lit_instruct.iterating.loop import iterate, time_left
from lit_instruct.iterating.options import FreshPrompts, IterateOptions
from tests.lit_instruct.iterating.helpers import Commands, Pretend, loop_options, read, run_loop
from tests.lit_instruct.stages.helpers import Files
from tests.lit_instruct.test_cli import one_message

ROOT = Path(__file__).parents[3]


class Made(NamedTuple):
    """Complete rounds and the commands that made them."""

    options: IterateOptions
    folder: Path
    given: list[list[str]]


@pytest.fixture(scope="module")
def made(trained: Path, files: Files, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two rounds; tests must not write into them."""
    options = loop_options(tmp_path_factory.mktemp("rounds"), files, trained / "sft", from_sft=1)
    commands = Pretend(trained)
    return Made(options, run_loop(options, commands), commands.given)


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the page out, which takes most of the time of rounds that only pretend."""
    monkeypatch.setattr(loop, "write_page", lambda options, record: Path(options.run))


def test_no_prompt_is_used_twice(made: Made) -> None:
    folders = [made.folder / f"round-{number}/comparisons" for number in (0, 1)]
    asked = [row["prompt"] for folder in folders for row in read(folder / "prompts-0.jsonl")]
    assert len(asked) == len(set(asked)) == 16
    ranked = [read(folder / f"{part}.jsonl") for folder in folders for part in ("train", "held_out")]
    used = [row["prompt"] for rows in ranked for row in rows]
    assert set(used) <= set(asked) and len(used) == len(set(used))
    assert [{row["round"] for row in rows} for rows in ranked] == [{0}, {0}, {1}, {1}]


def test_later_rounds_sample_the_newest_policy_and_a_share_of_sft(made: Made) -> None:
    sft, newest = made.options.sft, str(made.folder / "round-0/ppo")
    rows = read(made.folder / "round-1/comparisons/samples.jsonl")
    assert {policy for row in rows for policy in row["runs"]} == {sft, newest}
    assert all(row["runs"].count(sft) <= 1 for row in rows)
    first = read(made.folder / "round-0/comparisons/samples.jsonl")
    assert {policy for row in first for policy in row["runs"]} == {sft}


def test_the_reward_model_learns_from_all_rounds_and_ppo_starts_from_sft(made: Made) -> None:
    words = {
        (name, run[run.index("--run") + 1][-1]): run
        for run in made.given
        if (name := run[0]) in ("rm", "ppo") and "--run" in run
    }
    train, held_out = (
        [str(made.folder / f"round-{n}/comparisons/{part}.jsonl") for n in (0, 1)] for part in ("train", "held_out")
    )
    assert f"--data.path={','.join(train)}" in words["rm", "1"]
    assert f"--data.validation_path={','.join(held_out)}" in words["rm", "1"]
    for number in ("0", "1"):
        assert {f"--model.base={made.options.sft}", f"--seed_everything={number}"} <= {*words["ppo", number]}
        assert f"--model.reward.model={made.folder}/round-{number}/rm" in words["ppo", number]


def test_rounds_json_and_the_page_have_every_round(made: Made) -> None:
    record = json.loads((made.folder / "rounds.json").read_text())
    assert [one["round"] for one in record["rounds"]] == [0, 1]
    assert [len(row) for row in record["matrix"]] == [2, 2]
    assert all(0 <= found["value"] <= 1 for row in record["matrix"] for found in row)
    last = record["rounds"][1]
    assert last["newest_policy"]["by_the_model_before"] == record["matrix"][0][1]
    report = json.loads((made.folder / "round-1/eval/report.json").read_text())
    assert last["policy"]["labeler"] == report["labeler"]["ppo"]
    assert last["frontier"]["score"] == "reward" and len(last["frontier"]["kl"]) == 2
    assert set(record["seconds"][0]) == {"comparisons", "rm", "ppo", "eval", "matrix"}
    page = (made.folder / "rounds.html").read_text()
    assert "of round 1" in page and "by round" in page and "<script" not in page


def test_complete_rounds_are_not_repeated(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    commands = Commands()
    iterate(made.options, commands)
    assert commands.given == []
    assert ", step " not in capsys.readouterr().out


def test_a_changed_option_or_file_is_refused(made: Made, tmp_path: Path) -> None:
    for other, said in (({"k": 4}, "--k=3 there, 4 here"), ({"start": "last"}, "--start=sft there, last here")):
        with pytest.raises(UserError, match=said):
            iterate(replace(made.options, **other), Commands())
    config = Path(made.options.stages.rm)
    before = config.read_text()
    config.write_text(before + "# changed\n")
    with pytest.raises(UserError, match=r"rm\.yaml has changed since"):
        iterate(made.options, Commands())
    config.write_text(before)


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize("killed_at", [1, 3, 5, 8])
def test_stopped_at_any_step_it_goes_on(
    made: Made, trained: Path, files: Files, tmp_path: Path, killed_at: int
) -> None:
    options = loop_options(tmp_path, files, trained / "sft", from_sft=1)
    with pytest.raises(KeyboardInterrupt):
        iterate(options, Pretend(trained, killed_at))
    commands = Pretend(trained)
    iterate(options, commands)
    assert len(commands.given) == len(made.given) - killed_at + 1
    before, now = (json.loads((Path(run) / "rounds.json").read_text()) for run in (made.folder, options.run))
    assert (now["rounds"], now["matrix"]) == (before["rounds"], before["matrix"])


def test_what_got_worse_is_told(
    trained: Path, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = loop_options(tmp_path, files, trained / "sft")
    folder = run_loop(options, Pretend(trained, scores=(0.4, 0.1), pair_accuracy=0))
    lower = "round 1 scores lower than round 0 by the labeler: -0.30 (-0.30 to -0.30), clearly"
    chance = "the reward model of the round before orders 0% of the newest policy's pairs as labelled"
    found = json.loads((folder / "rounds.json").read_text())["rounds"][1]["warnings"]
    assert len(found) == 3 and found[0] == lower and chance in found[1]
    page = " ".join((folder / "rounds.html").read_text().split())
    for text in (capsys.readouterr().out, page):
        assert lower in text and chance.replace("'", "&#39;" if text is page else "'") in text


@pytest.mark.usefixtures("no_page")
def test_weights_older_policies_and_the_last_policy_as_start(trained: Path, files: Files, tmp_path: Path) -> None:
    more: dict[str, Any] = {"from_older": 1, "weights": [2.0, 1.0], "start": "last"}
    options = loop_options(tmp_path, files, trained / "sft", rounds=4, **more)
    options.prompts = FreshPrompts(str(tmp_path / "fresh.jsonl"), per_round=4, held_out=0.5)
    commands = Pretend(trained, scores=(0.1,) * 4)
    folder = run_loop(options, commands)
    train = [f"{folder}/round-{n}/comparisons/train.jsonl" for n in range(4)]
    data = [word for words in commands.given if words[:2] == ["rm", "fit"] for word in words if "data.path" in word]
    assert (
        data[0] == f"--data.path={train[0]}"
        and data[3] == f"--data.path={train[0]}@1,{train[1]}@1,{train[2]}@1,{train[3]}@2"
    )
    starts = [
        word for words in commands.given if words[0] == "ppo" for word in words if word.startswith("--model.base")
    ]
    assert starts == [
        f"--model.base={place}" for place in (trained / "sft", *(folder / f"round-{n}/ppo" for n in range(3)))
    ]
    rows = read(folder / "round-3/comparisons/samples.jsonl")
    older = [(set(row["runs"]) - {f"{folder}/round-2/ppo"}).pop() for row in rows]
    assert sorted(set(older)) == [f"{folder}/round-0/ppo", f"{folder}/round-1/ppo"]


def test_rounds_are_added_and_compared(trained: Path, files: Files, tmp_path: Path) -> None:
    options = loop_options(tmp_path, files, trained / "sft", rounds=1)
    run_loop(options, Pretend(trained))
    more = replace(options, rounds=2, compare=options.run)
    commands = Pretend(trained)
    page = (run_loop(more, commands) / "rounds.html").read_text()
    assert len(commands.given) == 6 and f"Dashed: <code>{options.run}</code>" in page
    with pytest.raises(UserError, match="--rounds=1: there are 2 rounds"):
        iterate(options, Commands())


@pytest.mark.usefixtures("no_page")
def test_responses_of_changed_policies_are_never_sampled_again(trained: Path, files: Files, tmp_path: Path) -> None:
    options = loop_options(tmp_path, files, trained / "sft")
    folder = run_loop(options, Pretend(trained))
    stage = folder / "round-0/ppo/stage.json"
    stage.write_text(stage.read_text() + "\n")
    with pytest.raises(UserError, match="of policies that have changed since"):
        iterate(options, Pretend(trained))


def test_the_time_left_is_that_of_the_steps_of_the_round_before() -> None:
    steps = {"comparisons": 10.0, "rm": 20.0, "ppo": 30.0, "eval": 5.0, "matrix": 1.0}
    assert time_left([{}], 0, "rm", 3) is None
    assert time_left([steps, {"comparisons": 11.0}], 1, "rm", 3) == 56.0 + 66.0
    assert time_left([steps, steps, steps], 2, "matrix", 3) == 1.0


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prompts": {"per_round": 15}}, "no fresh prompts are left for round 1: it has 20"),
    ({"prompts": {"path": "missing.jsonl"}}, "missing.jsonl"),
    ({"sft": "no/such/sft"}, "--sft=no/such/sft: there is no model in this folder; train one first"),
    ({"labeler": "no.such.labeler"}, "--labeler no.such.labeler: cannot import it"),
    ({"run": "a,b"}, "name another folder"),
    ({"labeler": "people", "people": {"host": "0.0.0.0"}}, "choose a secret for it"),
]


@pytest.mark.parametrize(("other", "said"), REFUSED, ids=str)
def test_a_mistake_is_told_before_anything_is_made(
    trained: Path, files: Files, tmp_path: Path, other: dict[str, Any], said: str
) -> None:
    options = loop_options(tmp_path, files, trained / "sft")
    for name, value in other.items():
        own = getattr(options, name)
        setattr(options, name, replace(own, **value) if isinstance(value, dict) else value)
    with pytest.raises(UserError, match=said):
        iterate(options, Commands())
    assert not (tmp_path / "loop").exists()


def test_ranges_are_checked(trained: Path, files: Files, tmp_path: Path) -> None:
    for other, said in (
        ({"k": 1}, "--k=1"),
        ({"rounds": 0}, "--rounds=0"),
        ({"from_sft": 3}, "must come from the newest"),
        ({"weights": [0.0]}, "--weights"),
    ):
        with pytest.raises(UserError, match=said):
            loop_options(tmp_path, files, trained / "sft", **other)
    with pytest.raises(UserError, match="--prompts.per_round=1"):
        FreshPrompts("x.jsonl", per_round=1)


def test_a_labeler_that_fails_loses_no_response(trained: Path, files: Files, tmp_path: Path) -> None:
    options = loop_options(
        tmp_path, files, trained / "sft", rounds=1, labeler="tests.lit_instruct.iterating.helpers.broken"
    )
    commands = Pretend(trained)
    for _ in range(2):
        with pytest.raises(UserError, match=r"broken: it raised ValueError: out of order"):
            iterate(options, commands)
    assert [words[0] for words in commands.given] == ["sample"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rounds=0"], "--rounds=0: must be at least 1"),
        (["--k=1"], "--k=1: a comparison needs at least 2 responses"),
        (["--sft=no/such/sft"], "--sft=no/such/sft: there is no model in this folder"),
        (["--stages.rm=missing.yaml"], "missing.yaml: no such file; give the config of the stage"),
        (["--prompts.per_round=500"], "no fresh prompts are left for round 2"),
    ],
    ids=str,
)
def test_the_command_line_tells_a_mistake_in_a_sentence(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    given = ["iterate", "--config", str(ROOT / "recipes/demo/iterate.yaml"), f"--run={tmp_path / 'loop'}"]
    with contextlib.chdir(ROOT):
        assert main([*given, f"--sft={trained / 'sft'}", *words]) == 2
    assert said in one_message(capsys)
    assert not (tmp_path / "loop").exists()
