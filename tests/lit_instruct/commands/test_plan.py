"""`lit-instruct plan`: its table, its JSON, its advice and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lit_instruct.commands.plan import Asked, plan_of, read_arguments
from lit_instruct.planning.plan import Plan
from lit_instruct.planning.rates import file_name
from tests.lit_instruct.stages.helpers import run

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "recipes" / "demo"
BIG = ("--model.base=llama-8b", "--model.sampling.max_new_tokens=512")


def planned(*words: Any) -> Plan:
    return plan_of(read_arguments([str(word) for word in words]))


def test_a_plan_that_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--gpu=8GB", "--tokens-per-second=1000", "--run", tmp_path / "untrained")
    assert run("plan", "--config", DEMO / "ppo.yaml", *words) == 0
    text = capsys.readouterr().out
    for words in ("ppo: smollm2-135m", "KV cache of the rollout", "update", "total", "It fits", "Disk:", "tokens/s"):
        assert words in text, words
    assert "Time: 11.1 min for at most 0.35 million tokens" not in text  # that of 512 + 40 tokens, below
    assert "5.9 min for at most 0.35 million tokens at 1000 tokens/s (given)" in text


def test_a_plan_that_does_not_fit_names_two_ways(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("plan", "--config", DEMO / "ppo.yaml", "--gpu=16GB", *BIG)
    assert run(*words) == 1
    text = capsys.readouterr().out
    assert "It does not fit" in text and "of the card" in text
    ways = text.split("It would fit with:\n")[1].split("\n\n")[0].splitlines()
    assert len(ways) == 2
    for way in ways:
        assert run(*words, *way.split("  (")[0].split()) == 0


def test_no_two_options_make_seventy_billion_fit_eight_gb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "--config", DEMO / "sft.yaml", "--gpu=8GB", "--model.base=llama-70b") == 1
    assert "use a smaller --model.base" in capsys.readouterr().out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "--config", DEMO / "rm.yaml", "--gpu=8GB", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    phase = found["memory"][found["peak"]["phase"]]
    assert found["peak"]["bytes"] == sum(phase.values())
    assert (found["stage"], found["fits"], found["limit"]) == ("rm", True, 8 * 2**30)
    assert found["disk"]["result"] > 0 and found["tokens"] > 0 and found["seconds"] is None


def test_json_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("plan", "--config", DEMO / "rm.yaml", "--gpu=8GB")
    assert run(*words, "--json") == 0
    alone = capsys.readouterr().out
    for option in (["--json", tmp_path / "a.json"], [f"--json={tmp_path / 'b.json'}"]):
        assert run(*words, *option) == 0
        assert "It fits" in capsys.readouterr().out
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text() == alone


def test_advice_fits_and_uses_more() -> None:
    plan = planned("--config", DEMO / "sft.yaml", "--gpu=24GB")
    assert plan.fits and plan.limit is not None
    assert plan.advice
    assert all(plan.memory.peak < advice.peak <= plan.limit for advice in plan.advice)


def test_a_named_shape_needs_no_recipe() -> None:
    plan = planned("--stage=sft", "--model.base=qwen-7b", "--gpu=24GB", "--model.quantize=4bit")
    assert plan.work.model.name == "qwen-7b"
    assert plan.tokens is None


def test_what_overrides_a_recipe_counts() -> None:
    few, many = (planned("--config", DEMO / "ppo.yaml", "--gpu=8GB", f"--model.lora.r={r}") for r in (8, 64))
    assert many.memory.phases["step"]["adapters"] > 7 * few.memory.phases["step"]["adapters"]


def test_the_base_of_later_stages_is_that_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text("model:\n  base: llama-3b\n")
    (tmp_path / "rm.yaml").write_text("# Hardware: one GPU of 12 GB\nmodel:\n  max_tokens: 4096\n")
    words = ("--config", tmp_path / "rm.yaml", "--data.path=x", f"--run={tmp_path}")
    plan = planned(*words)
    assert plan.work.model.name == "llama-3b"
    assert (plan.device, plan.limit) == ("cuda", 12 * 2**30)  # of the recipe
    assert planned(*words, "--gpu=8GB").limit == 8 * 2**30


def test_rows_and_steps_tell_the_tokens(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "a", "response": "b"}\n\n' * 5)
    words = ("--stage=sft", f"--data.path={data}", "--gpu=8GB", "--data.max_length=100", "--trainer.max_epochs=2")
    assert planned(*words).tokens == 5 * 100 * 2
    assert planned(*words, "--data.limit=3").tokens == 3 * 100 * 2
    assert planned(*words, "--rows=7").tokens == 7 * 100 * 2
    assert planned(*words, "--trainer.max_steps=4").tokens == 4 * 8 * 100


def test_measured_speed_is_taken_from_the_check(tmp_path: Path) -> None:
    recipe, results = tmp_path / "recipes" / "gpu-9gb", tmp_path / "benchmarks" / "results"
    recipe.mkdir(parents=True)
    results.mkdir(parents=True)
    (recipe / "sft.yaml").write_text("# Hardware: one GPU of 9 GB\nmodel:\n  base: llama-1b\n")
    stages = {"stages": {"sft": {"tokens_per_second": 500.0, "peak_bytes": 1}}}
    (results / file_name("gpu-9gb")).write_text(json.dumps(stages))
    plan = planned("--config", recipe / "sft.yaml", "--data.path=x", "--rows=10", "--trainer.max_epochs=1")
    assert plan.seconds == 10 * 512 / 500
    assert plan.rate is not None and plan.rate.origin == "measured, benchmarks/results/gpu-9gb.json"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpu=24GB"], "which stage?"),
        (["--config=missing/sft.yaml"], "no such file"),
        (["--stage=sft", "--gpu=large"], "not the memory of a GPU"),
        (["--stage=sft", "--gpu=8GB", "--model.base=org/unknown"], "org/unknown"),
        (["--stage=sft", "--gpu=8GB", "--tokens-per-second=0"], "above 0"),
        (["--stage=sft", "--gpu=8GB", "--model.lora.r=0"], "--model.lora.r=0: must be at least 1"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", *words) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("lit-instruct: error: ") and said in error[-1]


def test_what_is_asked_for() -> None:
    asked = read_arguments(["--stage=ppo", "--rows=5", "--json", "--model.lora.r=4", "--trainer.devices=2"])
    words = ["--model.lora.r=4", "--trainer.devices=2"]
    assert asked == Asked("ppo", None, None, "-", 5, None, words)
