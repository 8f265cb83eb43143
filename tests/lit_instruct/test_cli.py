"""The top level of the command line, and one clear message for each mistake of a user."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lit_instruct
import lit_instruct.handover as handover
from lit_instruct.cli import COMMANDS, main
from tests.lit_instruct.stages.helpers import Files, fit, run, snapshot
from tests.tiny import tiny_llama


def one_message(capsys: pytest.CaptureFixture[str]) -> str:
    """The only error line on stderr."""
    error = capsys.readouterr().err
    assert "Traceback" not in error
    lines = [line for line in error.splitlines() if line.startswith("lit-instruct: error: ")]
    assert len(lines) == 1, error[-2000:]
    return lines[0].removeprefix("lit-instruct: error: ")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {command} " in text for command in COMMANDS)
    assert "  rm score " in text
    assert run("rm", "--help") == 0
    assert "rm score --help" in " ".join(capsys.readouterr().out.split())
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == lit_instruct.__version__


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time; from lit_instruct.cli import main; main(['--help']);"
        "heavy = ('torch', 'lightning', 'transformers', 'jsonargparse');"
        "print(time.process_time(), [name for name in heavy if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds, heavy = out.splitlines()[-1].split(" ", 1)
    assert heavy == "[]"
    assert float(seconds) < 0.5


@pytest.mark.parametrize("words", [["data", "inspect"], ["--help"], ["sft", "fit", "--help"]])
def test_a_reader_that_ends_early_is_no_error(tmp_path: Path, words: list[str]) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "a", "response": "b"}\n')
    code = "import sys; from lit_instruct.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *words, *([str(data)] if words[0] == "data" else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 141
    assert error == ""


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("dpo", "fit") == 2
    assert "'dpo'" in one_message(capsys)


GOOD = '{"prompt": "a", "response": "b"}\n'
RANKED = '{"prompt": "a", "responses": ["b", "c"], "ranks": [1, 2]}\n'
BAD_FILES = [
    ("sft", None, "missing.jsonl"),
    ("sft", "", "bad.jsonl"),
    ("sft", GOOD + '{"prompt": "a", \n', "bad.jsonl:2"),
    ("sft", GOOD + '{"prompt": "a"}\n', "bad.jsonl:2"),
    ("sft", GOOD + '{"prompt": "a", "response": ""}\n', "bad.jsonl:2"),
    ("sft", GOOD + '{"prompt": "a", "response": "b b b b b b b b"}\n', "--data.max_length"),
    ("rm", RANKED + '{"prompt": "a", "responses": ["b"], "ranks": [1]}\n', "bad.jsonl:2"),
    ("rm", RANKED + '{"prompt": "a", "responses": ["b", "c"], "ranks": [1]}\n', "bad.jsonl:2"),
    ("rm", RANKED + '{"prompt": "a", "responses": ["b", "c"], "ranks": ["x", 1]}\n', "bad.jsonl:2"),
    ("ppo", '{"prompt": "a"}\n{"response": "b"}\n', "bad.jsonl:2"),
    ("ppo", '{"prompt": "a b c d e f g h i j k l m n o p"}\n', "--data.max_prompt_length"),
]
NAMES = (
    "missing,empty,broken JSON,no response,empty response,too long,K=1,too few ranks,odd ranks,no prompt,long prompt"
)


@pytest.mark.parametrize(("stage", "text", "named"), BAD_FILES, ids=NAMES.split(","))
def test_bad_data_names_file_and_line_and_leaves_the_run_alone(
    run_folder: Path, files: Files, capsys: pytest.CaptureFixture[str], stage: str, text: str | None, named: str
) -> None:
    path = run_folder.parent / ("missing.jsonl" if text is None else "bad.jsonl")
    if text is not None:
        path.write_text(text)
    limit = "--data.max_prompt_length=25" if stage == "ppo" else "--data.max_length=25"
    limits = [limit] if "max" in named else []
    before = snapshot(run_folder)
    base = [f"--model.base={run_folder / 'sft'}"] if stage != "sft" else [f"--model.base={_base(run_folder)}"]
    assert fit(stage, run_folder, files, *base, f"--data.path={path}", *limits) == 2
    assert named in one_message(capsys)
    assert snapshot(run_folder) == before


def _base(run_folder: Path) -> str:
    return json.loads((run_folder / "sft/stage.json").read_text())["base"]["source"]


@pytest.mark.parametrize(
    ("stage", "options", "named"),
    [
        ("sft", ["--model.base=/nowhere/model"], "/nowhere/model"),
        ("sft", ["--model.base=nobody/no-such-model"], "nobody/no-such-model"),
        ("rm", ["--model.base=nobody/no-such-model"], "nobody/no-such-model"),
        ("ppo", ["--model.reward.model=/nowhere/model"], "/nowhere/model"),
        ("sft", ["--model.lora.top_layers=9"], "--model.lora.top_layers=9"),
        ("sft", ["--model.lora.targets=nonsense"], "--model.lora.targets"),
        ("sft", ["--data.batch_size=0"], "--data.batch_size"),
        ("ppo", ["--model.objective.minibatches=99"], "--model.objective.minibatches=99"),
        ("ppo", ["--model.reward.function=no.such.function"], "no.such.function"),
        ("ppo", ["--model.reward.function=tests.lit_instruct.stages.rewards.not_a_number"], "row 2"),
        ("ppo", ["--data.pretraining_path=/nowhere.txt"], "/nowhere.txt"),
        ("ppo", ["--model.pretraining.ptx_coef=1"], "--data.pretraining_path"),
        ("sft", ["--ckpt_path=/nowhere.ckpt"], "/nowhere.ckpt"),
        ("sft", ["--model.lora.r=4", "--ckpt_path=last"], "--ckpt_path"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_bad_options_are_named_and_leave_the_run_alone(
    run_folder: Path, files: Files, capsys: pytest.CaptureFixture[str], stage: str, options: list[str], named: str
) -> None:
    begun = "minibatches" in options[0] or "not_a_number" in options[0]
    before = snapshot(run_folder, begun)
    base = [f"--model.base={_base(run_folder)}"] if stage == "sft" else []
    assert fit(stage, run_folder, files, *base, *options) == 2
    assert named in one_message(capsys)
    assert snapshot(run_folder, begun) == before


@pytest.mark.parametrize(
    "options",
    [
        ["--model.learning_rat=1"],
        ["--nonsense=1"],
        ["--model.lora.r=many"],
        ["--model.lora.r=0"],
        ["--model.objective.minibatches=0"],
        ["--config=recipes/no_such/sft.yaml"],
    ],
    ids=lambda options: options[0],
)
def test_unknown_options_and_recipes_end_in_code_2(
    run_folder: Path, files: Files, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    before = snapshot(run_folder)
    assert fit("ppo", run_folder, files, *options) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert options[0].lstrip("-").partition("=")[0].rpartition(".")[2] in error or "recipes/no_such" in error
    assert snapshot(run_folder) == before


@pytest.mark.parametrize(("stage", "parent"), [("rm", "sft"), ("ppo", "sft")])
def test_a_stage_without_its_parent_names_the_command(
    tmp_path: Path, files: Files, capsys: pytest.CaptureFixture[str], stage: str, parent: str
) -> None:
    assert fit(stage, tmp_path / "fresh", files) == 2
    message = one_message(capsys)
    assert f"lit-instruct {parent} fit --run {tmp_path / 'fresh'}" in message
    assert not (tmp_path / "fresh" / stage / "stage.json").exists()


def test_ppo_without_its_reward_model_names_the_command(
    tmp_path: Path, trained: Path, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("ppo", tmp_path / "fresh", files, f"--model.base={trained / 'sft'}") == 2
    assert f"lit-instruct rm fit --run {tmp_path / 'fresh'}" in one_message(capsys)


def test_a_reward_model_in_another_prompt_format(
    tmp_path: Path, trained: Path, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    base = f"--model.base={_base(trained)}"
    assert fit("sft", tmp_path / "raw", files, base, "--model.prompt.template=raw") == 0
    capsys.readouterr()
    start = [f"--model.base={tmp_path / 'raw/sft'}", f"--model.reward.model={trained / 'rm'}"]
    assert fit("ppo", tmp_path / "raw", files, *start) == 2
    message = one_message(capsys)
    assert "prompt format" in message
    assert f"lit-instruct rm fit --run {trained}" in message


def test_a_reward_adapter_of_another_base_is_read_as_text(tmp_path: Path, trained: Path, files: Files) -> None:
    """It cannot share the policy's base, but it can score: it is loaded by itself."""
    other = tiny_llama(tmp_path / "other", seed=5)
    assert fit("sft", tmp_path / "run", files, f"--model.base={other}") == 0
    assert fit("ppo", tmp_path / "run", files, f"--model.reward.model={trained / 'rm'}") == 0


def test_an_adapter_without_a_head_is_no_reward_model(
    run_folder: Path, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("ppo", run_folder, files, f"--model.reward.model={run_folder / 'sft'}") == 2
    assert "head" in one_message(capsys)


@pytest.mark.parametrize("where", ["weights", "checkpoint"])
def test_a_full_disk_leaves_the_earlier_result(
    run_folder: Path, files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "weights":
        monkeypatch.setattr(handover, "write_stage", full)
        monkeypatch.setattr("lit_instruct.stages.saving.write_stage", full)
    else:
        monkeypatch.setattr("torch.save", full)
    keep = ("adapter_model.safetensors", "adapter_config.json", "stage.json")
    before = {name: (run_folder / "rm" / name).read_bytes() for name in keep}
    assert fit("rm", run_folder, files) == 2
    assert "no space left" in one_message(capsys)
    assert {name: (run_folder / "rm" / name).read_bytes() for name in keep} == before
    assert not list((run_folder / "rm").glob(".writing-*"))


def test_a_broken_stage_json(run_folder: Path, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    (run_folder / "sft/stage.json").write_text("{")
    assert fit("rm", run_folder, files) == 2
    assert "stage.json" in one_message(capsys)


def test_samples_become_comparisons(tmp_path: Path, trained: Path, files: Files) -> None:
    out = tmp_path / "ranked.jsonl"
    labeler = "tests.lit_instruct.stages.rewards.letters"
    words = ["--run", trained / "ppo", "--data.path", files.ppo_validation, "--k", "3", "--labeler", labeler]
    assert run("sample", *words, "--out", out, "--sampling.max_new_tokens=8") == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows
    assert all(len(row["responses"]) == len(row["ranks"]) for row in rows)
    assert fit("rm", tmp_path / "run", files, f"--model.base={trained / 'sft'}", f"--data.path={out}") == 0
    again = tmp_path / "again.jsonl"
    assert run("sample", *words, "--out", again, "--sampling.max_new_tokens=8") == 0
    assert again.read_bytes() == out.read_bytes()
