"""`lit-instruct data inspect` on each kind of dataset: what it finds, prints and writes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from data_modules.hygiene.steps import HygieneOptions
from lit_instruct.cli import main
from lit_instruct.errors import DataError, UserError
from lit_instruct.inspection.inspect import inspect
from lit_instruct.inspection.kinds import find_kind
from lit_instruct.inspection.options import InspectOptions
from lit_instruct.inspection.show import show
from tests.data_modules.layouts import CASES, NAMES

SYSTEM = "<|im_start|>system\n<|im_end|>\n"
KIND_OF_ROW = {"Demonstration": "demonstrations", "RankedComparison": "comparisons", "PromptRow": "prompts"}


def write(folder: Path, *rows: Any, name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def user_turn(text: str) -> str:
    return f"{SYSTEM}<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def printed(report: dict[str, Any]) -> str:
    out = io.StringIO()
    show(report, Console(file=out, width=100, no_color=True))
    return out.getvalue()


@pytest.mark.parametrize(("row_type", "layout", "record", "_"), CASES, ids=NAMES)
def test_kind_and_layout_are_found(
    tmp_path: Path, tiny_model: Path, row_type: Any, layout: str, record: dict[str, Any], _: Any
):
    path = write(tmp_path, record)
    report = inspect(InspectOptions(path, base=str(tiny_model)))
    expected = KIND_OF_ROW[row_type.__name__]
    if layout == "conversations" or (layout == "messages" and record["messages"][-1]["role"] == "assistant"):
        expected = "demonstrations"  # an answered conversation, though prompts are read from it too
        layout = {"conversations": "sharegpt"}.get(layout, layout)
    assert (report["kind"], report["formats"], report["rows"]) == (expected, {path: [layout]}, 1)


def test_demonstrations(tmp_path: Path, tiny_model: Path):
    talk = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    messages = [{"role": role, "content": content} for role, content in talk]
    path = write(tmp_path, {"messages": messages}, {"messages": messages[:2]})
    out = tmp_path / "report.json"
    report = inspect(InspectOptions(path, base=str(tiny_model), json=str(out), examples=1))
    assert json.loads(out.read_text()) == report
    assert report["user_turns"] == {"1": 1, "2": 1}
    (example,) = report["examples"]
    assert example["where"] == f"{path}:1"
    assert [(piece["text"], piece["trained"]) for piece in example["pieces"]] == [
        (user_turn("a"), False),
        ("b<|im_end|>", True),
        ("\n" + user_turn("c").removeprefix(SYSTEM), False),
        ("d<|im_end|>", True),
    ]
    last = inspect(InspectOptions(path, base=str(tiny_model), examples=1, loss_on="last_response"))
    assert [piece["trained"] for piece in last["examples"][0]["pieces"]] == [False, True]
    text = printed(report)
    assert "⟦b<|im_end|>⟧" in text and "demonstrations" in text and "1 rows with 1, 1 rows with 2" in text


def test_responses_that_seem_cut_off_are_counted_and_marked(tmp_path: Path, tiny_model: Path):
    cut, whole, short = "one two three four five six seven and", "one two three four five six seven eight.", "Paris"
    path = write(tmp_path, {"prompt": "a", "responses": [cut, whole, short], "ranks": [1, 2, 3]})
    report = inspect(InspectOptions(path, base=str(tiny_model)))
    assert report["cut_off"] == {"responses": 1, "of": 3}
    texts = [piece["text"] for piece in report["examples"][0]["pieces"]]
    remark = " (seems cut off in the data; <|im_end|> is added all the same)"
    assert texts.count(remark) == 1 and texts[texts.index(remark) - 1] == f"{cut}<|im_end|>"
    assert "1 of 3 responses seem to stop inside a sentence" in printed(report)
    path = write(tmp_path, {"prompt": "a", "response": cut}, {"prompt": "b", "response": whole})
    pieces = [one["pieces"] for one in inspect(InspectOptions(path, base=str(tiny_model)))["examples"]]
    assert [piece["trained"] for piece in pieces[0]] == [False, True, False]
    assert [piece["trained"] for piece in pieces[1]] == [False, True]


def test_comparisons(tmp_path: Path, tiny_model: Path):
    rows = [
        {"prompt": "a", "responses": ["x", "y", "z"], "ranks": [2, 1, 2], "use_case": "chat"},
        {"prompt": "b", "responses": ["x", "y"], "ranks": [1, 1]},
    ]
    report = inspect(InspectOptions(write(tmp_path, *rows), base=str(tiny_model)))
    assert report["k"] == {"2": 1, "3": 1}
    assert report["ties"]["rows_all_tied"] == 1 and report["ties"]["tied_pairs"] == 2
    pieces = [(piece["text"], piece["trained"]) for piece in report["examples"][0]["pieces"]]
    assert pieces[0] == (user_turn("a"), False)
    assert [text for text, trained in pieces if trained] == ["y<|im_end|>", "x<|im_end|>", "z<|im_end|>"]
    assert "4, of which 2 are ties" in printed(report)


def test_prompts_and_what_hygiene_would_drop(tmp_path: Path, tiny_model: Path):
    rows = [
        {"prompt": "Write a poem about the sea.", "user": "u1", "use_case": "generation"},
        {"prompt": "Write a poem about the sea.", "user": "u2", "use_case": "generation"},
        {"prompt": "Mail anna.miller@gmail.com my thanks.", "user": "u1", "use_case": "rewrite"},
        {"prompt": "What is the capital of France?", "user": "u1", "use_case": "open_qa"},
        {"prompt": "Name a colour.", "user": "u1", "use_case": "open_qa"},
    ]
    path = write(tmp_path, *rows)
    options = HygieneOptions(unique_prefix=64, max_per_user=3)
    report = inspect(InspectOptions(path, base=str(tiny_model), hygiene=options))
    steps = {step["name"]: step for step in report["hygiene"]}
    assert {name: step["dropped"] for name, step in steps.items()} == {
        "shared prefix": 1,
        "over the limit of a user": 1,
        "personal information": 1,
        "use-case mix": 0,
    }
    assert [step["asked"] for step in steps.values()] == [True, True, True, False]
    whys = {name: [(one["where"], one["why"]) for one in step["examples"]] for name, step in steps.items()}
    assert whys["shared prefix"] == [(f"{path}:2", f"the first 64 tokens are those of {path}:1")]
    assert whys["over the limit of a user"] == [(f"{path}:5", "user u1 has 3 prompts before it")]
    assert whys["personal information"] == [(f"{path}:3", "holds email")]
    assert steps["personal information"]["examples"][0]["prompt"] == rows[2]["prompt"]
    assert report["use_cases"] == {"generation": 0.4, "open_qa": 0.4, "rewrite": 0.2}
    assert report["users"] == 2 and report["duplicates"]["prompts"] == 1
    assert "max_per_user=3" in printed(report)


def test_a_use_case_mix(tmp_path: Path, tiny_model: Path):
    rows = [{"prompt": f"prompt {n}", "use_case": "chat" if n % 3 else "open_qa"} for n in range(30)]
    options = HygieneOptions(use_case_mix="chat=0.5,open_qa=0.5")
    report = inspect(InspectOptions(write(tmp_path, *rows), base=str(tiny_model), hygiene=options))
    step = report["hygiene"][-1]
    assert step["dropped"] == 10 and {one["why"] for one in step["examples"]} == {"use case chat is over its share"}


def test_prompts_too_long_are_not_counted_twice(tmp_path: Path, tiny_model: Path):
    long = {"prompt": "Mail anna.miller@gmail.com " + "again and " * 200}
    report = inspect(InspectOptions(write(tmp_path, {"prompt": "a"}, long), base=str(tiny_model), max_length=100))
    assert report["length_limit"]["rows_over"] == 1
    assert [step["dropped"] for step in report["hygiene"]] == [0, 0, 0, 0]


@pytest.mark.parametrize("name", ["text.md", "rows.jsonl"])
def test_pretraining_text(tmp_path: Path, tiny_model: Path, name: str):
    rows = ["the sea"] if name == "text.md" else [{"text": "the sea"}, {"text": "the wind"}, {"text": 3}]
    path = write(tmp_path, *rows, name=name)
    report = inspect(InspectOptions(path, base=str(tiny_model)))
    documents = 1 if name == "text.md" else 2
    assert (report["kind"], report["rows"], report["bad_rows"]["count"]) == ("pretraining", documents, documents - 1)
    assert report["examples"][0]["pieces"][0]["trained"]
    assert report["blocks"]["128"] == 0 and report["total_tokens"] > 1
    assert "total" not in printed(report) and "blocks" in printed(report)


def test_a_text_file_holds_prompts_unless_told_otherwise(tmp_path: Path, tiny_model: Path):
    path = write(tmp_path, "Name a colour.", "Name a fish.", name="rows.txt")
    report = inspect(InspectOptions(path, base=str(tiny_model)))
    assert (report["kind"], report["formats"], report["rows"]) == ("prompts", {path: ["text"]}, 2)
    assert inspect(InspectOptions(path, kind="pretraining", base=str(tiny_model)))["rows"] == 1


def test_bad_rows_are_counted_and_written(tmp_path: Path, tiny_model: Path):
    path = write(tmp_path, {"prompt": "a", "response": "b"}, "{", {"prompt": "a", "response": ""})
    bad = tmp_path / "bad.jsonl"
    report = inspect(InspectOptions(path, base=str(tiny_model), bad_rows=str(bad)))
    assert report["rows"] == 1 and report["bad_rows"]["count"] == 2
    assert [json.loads(line)["where"] for line in bad.read_text().splitlines()] == [f"{path}:2", f"{path}:3"]
    assert "2, written to" in printed(report)
    with pytest.raises(DataError, match=f"^{path}:2: broken JSON"):
        inspect(InspectOptions(path, base=str(tiny_model), on_bad_row="error"))


def test_limit_reads_the_first_rows(tmp_path: Path, tiny_model: Path):
    path = write(tmp_path, *[{"prompt": f"p{n}"} for n in range(9)])
    assert inspect(InspectOptions(path, base=str(tiny_model), limit=4))["rows"] == 4


def test_rows_of_no_known_layout(tmp_path: Path):
    path = write(tmp_path, {"a": 1})
    with pytest.raises(DataError, match="rows.jsonl: the first rows are of no known layout; the first has a, ") as e:
        find_kind(path)
    assert "demonstrations: prompt-response (prompt, response), " in str(e.value)
    assert "; name its fields with --fields='{prompt: ..., response: ...}', or give --kind" in str(e.value)
    with pytest.raises(UserError, match="^--limit=0: must be at least 1$"):
        InspectOptions(path, limit=0)


def test_scored_rows_are_comparisons_if_a_prompt_has_several(tmp_path: Path):
    rows = [{"prompt": "a", "response": letter, "score": number} for number, letter in enumerate("bcd")]
    assert find_kind(write(tmp_path, *rows)) == "comparisons"
    assert find_kind(write(tmp_path, *({**row, "prompt": row["response"]} for row in rows))) == "demonstrations"
    rows = [{"q": "a", "a": "b"}]
    assert find_kind(write(tmp_path, *rows), {"prompt": "q", "response": "a"}) == "demonstrations"


def test_the_split_that_is_shown(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "rows").mkdir()
    for split in ("train", "test"):
        write(tmp_path / "rows", {"prompt": f"a {split} row", "response": "b"}, name=f"{split}.jsonl")
    assert main(["data", "inspect", str(tmp_path / "rows"), f"--base={tiny_model}"]) == 0
    shown = capsys.readouterr().out
    assert "a train row" in shown and "a test row" not in shown
    assert f"read its split train alone; it also has test: name one as {tmp_path}/rows:test." in shown


def test_json_alone_prints_json_and_nothing_else(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]):
    path = write(tmp_path, {"prompt": "é", "response": "b"}, "{")
    base = f"--base={tiny_model}"
    out = tmp_path / "out.json"
    assert main(["data", "inspect", path, base, f"--json={out}"]) == 0
    assert "Tokens of the prompt" in capsys.readouterr().out
    for words in ([path, base, "--json"], [path, "--json", base], ["--json", f"--path={path}", base]):
        assert main(["data", "inspect", *words]) == 0
        assert capsys.readouterr().out == out.read_text(encoding="utf-8")
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["out.json", "rows.jsonl"]


def test_command_line(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]):
    path = write(tmp_path, {"prompt": "[bold]a[/bold]", "response": "b"})
    out = tmp_path / "out.json"
    assert main(["data", "inspect", path, f"--base={tiny_model}", "--json", str(out)]) == 0
    assert "[bold]a[/bold]" in capsys.readouterr().out and json.loads(out.read_text())["rows"] == 1
    assert main(["data", "inspect", f"--path={path}", f"--base={tiny_model}", "--kind=prompts"]) == 0
    capsys.readouterr()
    for words, message in (
        (["inspect", str(tmp_path / "none.jsonl")], "none.jsonl: no such file"),
        (["look", path], "the only subcommand is `lit-instruct data inspect PATH`"),
        (
            ["inspect", path, f"--base={tiny_model}", f"--json={tmp_path}/none/a.json"],
            "choose another place with --json",
        ),
    ):
        assert main(["data", *words]) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error


def test_escape_sequences_in_data_are_written_out(tmp_path: Path, tiny_model: Path):
    row = {"prompt": "a\x1b]0;title\x07\u202eb", "use_case": "c\x1b[2J"}
    path = write(tmp_path, row, row)
    shown = printed(inspect(InspectOptions(path, base=str(tiny_model))))
    assert "a\\x1b]0;title\\x07\\u202eb" in shown and "c\\x1b[2J" in shown
    assert "\x1b" not in shown and "\x07" not in shown and "\u202e" not in shown


def test_forty_files_on_the_command_line(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]):
    files = [write(tmp_path, {"prompt": f"Hello {n}"}, name=f"part-with-a-long-name-{n}.jsonl") for n in range(40)]
    assert main(["data", "inspect", ",".join(files), f"--base={tiny_model}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 40
