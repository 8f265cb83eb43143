"""lm_eval's tasks on models of ours: in the report, and as lm_eval alone measures them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_instruct.errors import UserError
from lit_instruct.evaluation.tasks import asked
from tests.lit_instruct.stages.helpers import run as command
from tests.tiny import tiny_llama

QUERY = "Question: is the cat in the house number {}?\nAnswer:"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two models, prompts and tasks."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a", "b")):
        tiny_llama(tmp_path / name, seed)
    questions = [{"query": QUERY.format(i), "choices": ["yes, it is", "no"], "gold": i % 2} for i in range(6)]
    texts = [{"text": f"The cat number {i} sings in the house."} for i in range(3)]
    for name, rows in (("q", questions), ("t", texts), ("p", [{"prompt": "a b"}, {"prompt": "c d"}])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: q.jsonl}\ntest_split: train\n"
        'output_type: multiple_choice\ndoc_to_text: "{{query}} {{choices | length}}"\ndoc_to_choice: choices\n'
        "doc_to_target: gold\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    return tmp_path


def evaluated(*words: str, b: str = "b") -> int:
    labeler = "--labeler=lit_instruct.evaluation.labelers.tone"
    systems = ["--systems.a=a", f"--systems.b={b}", "--prompts=p.jsonl", "--max_new_tokens=2", "--out=out"]
    return command("eval", *systems, labeler, *words)


def test_tasks_are_part_of_the_report(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluated("--tasks=q.jsonl,t.jsonl,mine.yaml", "--tasks_limit=4") == 0
    report = json.loads((here / "out/report.json").read_text())
    assert list(report["tasks"]) == ["q", "t", "mine", "all questions"] and report["task_pairs"] == [["b", "a"]]
    assert report["tasks"]["q"]["questions"] == 4 and report["tasks"]["q"]["chance"] == 0.5
    assert set(report["tasks"]["q"]["measures"]) == {"acc", "acc_norm", "log_prob"}
    rows = [json.loads(line) for line in (here / "out/tasks.jsonl").read_text().splitlines()]
    assert [row["question"] for row in rows if row["task"] == "q"] == [0, 1, 3, 4]  # spread over all six
    difference = report["tasks"]["q"]["measures"]["log_prob"]["b_minus_a"]["mean"]
    own = [row["b"]["log_prob"] - row["a"]["log_prob"] for row in rows if row["task"] == "q"]
    assert difference == pytest.approx(sum(own) / 4, abs=1e-5) and difference != 0
    assert "mine (4, guessing 0.50)" in capsys.readouterr().out
    assert "q: log-probability (nats)" in (here / "out/report.html").read_text()


def test_lm_eval_is_an_extra(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(asked, "find_spec", lambda name: None)
    assert evaluated("--tasks=q.jsonl") == 2
    assert "install the extra: pip install 'lit-instruct[tasks]'" in capsys.readouterr().err
    assert not (here / "out").exists()


def test_a_name_is_needed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluated("--tasks=,") == 2 and "--tasks: no name in it" in capsys.readouterr().err
    assert evaluated("--tasks=q.jsonl", "--tasks_limit=0") == 2 and "--tasks_limit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("metric: org/evil", "metric_list: org/evil is no metric of lm_eval"),
        ("{{query.__class__.__mro__}}", "SecurityError"),
        ("doc_to_target: golds", "question 0 of mine has no right answer ('golds')"),
        ("data_files: none.jsonl", "lm_eval cannot open it (FileNotFoundError"),
    ],
)
def test_bad_tasks(here: Path, task: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    old = {
        "metric:": "metric: acc",
        "{{query": "{{query}}",
        "doc_to": "doc_to_target: gold",
        "data_f": "data_files: q.jsonl",
    }
    replaced = next(value for start, value in old.items() if task.startswith(start))
    path = here / "mine.yaml"
    path.write_text(path.read_text().replace(replaced, task, 1))
    assert evaluated("--tasks=mine.yaml") == 2
    assert said in capsys.readouterr().err


def test_what_does_not_fit(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_llama(here / "short", max_position_embeddings=8)
    assert evaluated("--tasks=q.jsonl", b="short") == 2
    assert "question 0 of q has" in (said := capsys.readouterr().err) and "more than the 8 that b reads" in said
    assert evaluated("--tasks=q.jsonl,mine.yaml,./q.jsonl") == 2
    assert "q is named twice" in capsys.readouterr().err


@pytest.mark.slow
def test_unknown_tasks_and_no_network(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluated("--tasks=piqax") == 2
    assert "lm_eval knows no task 'piqax'" in (said := capsys.readouterr().err) and "did you mean piqa" in said
    assert evaluated("--tasks=piqa") == 2
    assert "--tasks=piqa: the hub cannot be reached" in capsys.readouterr().err


def alone(model: str, prompts: dict[str, Any]) -> dict[str, list[float]]:
    """What lm_eval measures when it opens the model itself."""
    from lm_eval import simple_evaluate

    from lit_instruct.evaluation.tasks.opening import open_tasks

    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": model, "dtype": "float32"},
        tasks=list(open_tasks(["q.jsonl", "t.jsonl"]).values()),
        device="cpu",
        batch_size=8,
        bootstrap_iters=0,
        **prompts,
    )
    scores = {"q": [pair[0] for one in found["samples"]["q"] for pair in one["filtered_resps"]]}
    return scores | {"t": [one["filtered_resps"][0] for one in found["samples"]["t"]]}


@pytest.mark.slow
def test_a_model_in_memory_gives_the_figures_of_lm_eval_alone(here: Path) -> None:
    import math

    from lit_instruct.evaluation.tasks.harness import Harness
    from lit_instruct.rollouts.text import TextGenerator

    opened = TextGenerator.from_source("a", "float32")
    ours = Harness(["q.jsonl", "t.jsonl"]).answers(opened.model, opened.prompter)
    theirs = alone("a", {})
    pairs = torch.tensor(theirs["q"], dtype=torch.float64).view(-1, 2)
    expected = torch.log_softmax(pairs, 1)[range(6), [0, 1] * 3]
    assert ours["q"].measures["log_prob"] == pytest.approx(expected.tolist(), abs=1e-4)
    sizes = [len(f"The cat number {i} sings in the house.") for i in range(3)]
    bits = [-score / math.log(2) / size for score, size in zip(theirs["t"], sizes, strict=True)]
    assert ours["t"].measures["bits_per_byte"] == pytest.approx(bits, abs=1e-5)


@pytest.mark.slow
def test_the_prompt_format_is_that_of_the_stages(here: Path) -> None:
    from lit_instruct.evaluation.tasks.harness import Harness, chat_text
    from lit_instruct.rollouts.text import TextGenerator

    opened = TextGenerator.from_source("a", "float32")
    text = chat_text(opened.prompter, [{"role": "user", "content": QUERY}])
    assert opened.prompter.texts_ids([text]) == [opened.prompter.prompt_ids(QUERY)]
    raw, chat = (Harness(["q.jsonl"], chat=chat).answers(opened.model, opened.prompter) for chat in (False, True))
    assert raw["q"].measures["log_prob"] != chat["q"].measures["log_prob"]
    opened.prompter.kind = "raw"
    with pytest.raises(UserError, match="b has no chat template"):
        Harness(["q.jsonl"], chat=True).check_context("b", opened.prompter, None)
