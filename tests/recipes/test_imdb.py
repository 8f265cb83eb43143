"""The recipe imdb, offline: its prompts from reviews of our own, and its stages with tiny random models."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from data_modules.rows import PromptRow
from lit_instruct.handover import read_stage
from tests.lit_instruct.rollouts.classifier_folders import distilbert, gpt2
from tests.lit_instruct.stages.helpers import QUICK, run, write_rows
from tests.scripts import load_script
from tests.tiny import SENTENCES

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes/imdb"
SMALL = [
    "--model.iterations=1",
    "--model.sampling.max_new_tokens=6",
    "--data.batch_size=4",
    "--data.validation_limit=3",
    "--model.objective.minibatches=2",
    "--trainer.val_check_interval=1",
    "--trainer.logger=false",
    *QUICK,
]


@pytest.fixture(scope="module")
def make_data() -> ModuleType:
    return load_script(RECIPE / "make_data.py")


def reviews(count: int, seed: int) -> list[dict[str, Any]]:
    """Texts of 4 to 30 sentences with the fields of stanfordnlp/imdb."""
    draw = random.Random(seed)
    return [
        {"text": f"{number}: " + " ".join(draw.choices(SENTENCES, k=draw.randint(4, 30))), "label": number % 2}
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_data: ModuleType) -> Path:
    """A folder with the models, and the prompts in data/."""
    folder = tmp_path_factory.mktemp("imdb")
    gpt2(folder / "gpt2")
    distilbert(folder / "distilbert")
    train, test = (
        write_rows(folder / f"{name}.jsonl", reviews(30, seed)) for seed, name in enumerate(("train", "test"))
    )
    words = [f"--train={train}", f"--test={test}", f"--base={folder / 'gpt2'}", "--seed=3", f"--out={folder / 'data'}"]
    assert make_data.main(words) == 0
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_prompt_is_the_last_tokens_of_half_a_review(made: Path, make_data: ModuleType, tmp_path: Path) -> None:
    _, tokenizer = gpt2(tmp_path / "gpt2")
    texts = {name: {row["text"] for row in rows(made / f"{name}.jsonl")} for name in ("train", "test")}
    parts = {name: rows(made / f"data/prompts_{name}.jsonl") for name in ("train", "validation", "test")}
    assert [len(found) for found in parts.values()] == [24, 6, 30]
    for name, found in parts.items():
        known = {make_data.half(text) for text in texts["test" if name == "test" else "train"]}
        assert {row["before_prompt"] + row["prompt"] for row in found} <= known
        lengths = [len(tokenizer(row["prompt"])["input_ids"]) for row in found]
        assert max(lengths) <= 64
        assert all(n > 48 for n, row in zip(lengths, found, strict=True) if row["before_prompt"])
    assert any(row["before_prompt"] for row in parts["train"])
    assert json.loads((made / "data/origin.json").read_text())["seed"] == 3


def test_short_prompts_have_two_to_seven_tokens(made: Path, make_data: ModuleType, tmp_path: Path) -> None:
    _, tokenizer = gpt2(tmp_path / "gpt2")
    found = rows(made / "data/short_train.jsonl")
    lengths = [len(tokenizer(row["prompt"])["input_ids"]) for row in found]
    assert (min(lengths), max(lengths)) == (2, 7)
    texts = [row["text"] for row in rows(made / "train.jsonl")]
    assert all(any(text.startswith(row["prompt"]) for text in texts) for row in found)
    row = PromptRow("x" * 200)
    assert not list(make_data.beginnings([row], tokenizer, random.Random(0)))


def test_the_seed_decides_and_the_longest_reviews_are_left_out(
    made: Path, make_data: ModuleType, tmp_path: Path
) -> None:
    _, tokenizer = gpt2(tmp_path / "gpt2")
    found = [PromptRow(row["text"], extra={"label": row["label"]}) for row in reviews(12, 0)]
    one, same, other = (make_data.made(found, found, tokenizer, seed) for seed in (0, 0, 1))
    assert one == same != other
    long = PromptRow("wonderful " * 2000)
    assert list(make_data.whole([long, found[0]], tokenizer)) == [{"text": found[0].prompt}]


def test_a_cut_word_never_makes_a_prompt_too_long(make_data: ModuleType, tmp_path: Path) -> None:
    _, tokenizer = gpt2(tmp_path / "gpt2")
    for most in range(1, 12):
        before, prompt = make_data.last_tokens(SENTENCES[4], tokenizer, most)
        assert before + prompt == SENTENCES[4]
        assert 0 < len(tokenizer(prompt)["input_ids"]) <= most
    assert make_data.last_tokens("", tokenizer) == ("", "")


def test_without_the_hub_a_sentence(make_data: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_data.main([f"--out={tmp_path / 'data'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "make_data: error: lvwerra/gpt2-imdb: cannot open this tokenizer (the hub cannot be reached"
    )
    assert error.count("\n") == 1 and not (tmp_path / "data").exists()


def models(made: Path, words: str = "") -> list[str]:
    spec = f"classifier:{made / 'distilbert'}#POSITIVE{words}"
    return [f"--model.base={made / 'gpt2'}", f"--model.reward.function={spec}"]


def data(made: Path, train: str, validation: str) -> list[str]:
    return [f"--data.path={made / 'data' / train}.jsonl", f"--data.validation_path={made / 'data' / validation}.jsonl"]


def test_the_recipe_runs_and_is_evaluated(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    given = ["--config", RECIPE / "ppo.yaml", "--run", tmp_path / "run", *models(made), *SMALL]
    given += data(made, "prompts_train", "prompts_validation")
    assert run("ppo", "fit", *given) == 0, capsys.readouterr().err
    record = read_stage(tmp_path / "run/ppo")
    assert record is not None and record.options is not None and 0 < record.metrics["val/reward"] < 1
    assert record.options["model"]["kl"]["target"] == 24.0 and record.options["model"]["lora"] is None
    samples = rows(tmp_path / "run/ppo/logs/samples.jsonl") if (tmp_path / "run/ppo/logs").is_dir() else []
    assert all(0 < sample["reward"] < 1 for sample in samples)
    judge = f"--labeler=classifier:{made / 'distilbert'}#POSITIVE"
    words = ["--prompts", made / "data/prompts_test.jsonl", "--limit=4", "--max_new_tokens=6", judge, "--tasks=null"]
    assert run("eval", "--config", RECIPE / "eval.yaml", "--run", tmp_path / "run", *words) == 0, (
        capsys.readouterr().err
    )
    report = json.loads((tmp_path / "run/eval/report.json").read_text())
    assert 0 < report["labeler"]["ppo"]["mean"] < 1


def test_the_overlay_of_trl_runs(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    configs = ["--config", RECIPE / "ppo.yaml", "--config", RECIPE / "trl.yaml"]
    given = [
        *configs,
        "--run",
        tmp_path / "run",
        *models(made, ",logit"),
        *SMALL,
        *data(made, "short_train", "short_test"),
    ]
    assert run("ppo", "fit", *given) == 0, capsys.readouterr().err
    record = read_stage(tmp_path / "run/ppo")
    assert record is not None and record.options is not None
    assert record.options["model"]["value"]["start"] == "policy_trunk"
    assert record.options["model"]["objective"]["discount"] == 1.0
