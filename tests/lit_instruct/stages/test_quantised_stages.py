"""All three stages on bases in 8 and 4 bits: learning, hand-over, resuming, and opening what they leave."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_instruct.rollouts.score import TextReward
from lit_instruct.rollouts.text import TextGenerator
from tests.lit_instruct.stages.helpers import (
    Files,
    column,
    comparisons,
    demonstrations,
    fit,
    prompts,
    run,
    weights,
    write_rows,
)
from tests.lit_instruct.stages.test_resume import PRESS, assert_same_run

EVERYTHING = [
    "--model.optimizer.name=adamw_8bit",
    "--model.memory.gradient_checkpointing=true",
    "--model.memory.activation_offloading=true",
    "--model.lora.r=128",  # large enough for 8-bit states
    "--model.lora.rslora=true",
]
BITS = ["8bit", "4bit"]
RUNS = [pytest.param("8bit", marks=pytest.mark.slow), "4bit"]


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, files: Files) -> Callable[[str], Path]:
    """Bits -> run folder with the three stages; tests must not write into it."""

    @cache
    def made(bits: str) -> Path:
        folder = tmp_path_factory.mktemp("runs") / bits
        options = [f"--model.quantize={bits}", *EVERYTHING]
        assert fit("sft", folder, files, f"--model.base={tiny_model}", *options) == 0
        assert fit("rm", folder, files, f"--data.demonstrations_path={files.sft}", *options) == 0
        assert fit("ppo", folder, files, *options) == 0
        return folder

    return made


def _opened_on_another_base(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if "opened on a base" in message]


@pytest.mark.parametrize("bits", RUNS)
def test_hand_over(quantised: Callable[[str], Path], tiny_model: Path, bits: str) -> None:
    folder = quantised(bits)
    for stage in ("sft", "rm", "ppo"):
        record = json.loads((folder / stage / "stage.json").read_text())
        assert record["base_precision"] == bits
        assert record["options"]["model"]["quantize"] == bits
        adapter = json.loads((folder / stage / "adapter_config.json").read_text())
        assert (adapter["base_model_name_or_path"], adapter["use_rslora"]) == (str(tiny_model), True)
        saved = weights(folder / stage)
        assert {value.dtype for value in saved.values()} == {torch.float32}
        assert any(name.endswith("lora_B.weight") and value.abs().max() > 0 for name, value in saved.items())
    assert max(column(folder / "ppo/logs/metrics.csv", "ppo/first_ratio_error")) == 0


def test_records_of_other_bases(trained: Path) -> None:
    assert json.loads((trained / "sft/stage.json").read_text())["base_precision"] == "float32"


@pytest.mark.parametrize("bits", RUNS)
def test_a_result_is_opened_as_it_was_trained(
    quantised: Callable[[str], Path], caplog: pytest.LogCaptureFixture, bits: str
) -> None:
    sft, rm = str(quantised(bits) / "sft"), str(quantised(bits) / "rm")
    asked = ["the cat sings", "a good dog"]
    generator, reward = TextGenerator.from_source(sft, "float32"), TextReward.from_source(rm, "float32")
    for model in (generator.model, reward.network.get_base_model()):
        assert getattr(model, f"is_loaded_in_{bits}")
    answers = [answer[0] for answer in generator.respond(asked, max_new_tokens=8)]
    log_probs, scores = generator.log_probs(asked, answers), reward.score(asked, ["good", "bad"])
    assert not _opened_on_another_base(caplog)
    plain = TextGenerator.from_source(sft, "float32", quantize="none")
    other = TextReward.from_source(rm, "float32", "none")
    for stage, message in zip((sft, rm), _opened_on_another_base(caplog), strict=True):
        assert message.startswith(f"{stage}: trained on a base in {bits} and opened on a base that is not quantised")
    assert not getattr(plain.model, "is_quantized", False)
    assert plain.log_probs(asked, answers) == pytest.approx(log_probs, abs=0.1)
    assert other.score(asked, ["good", "bad"]) == pytest.approx(scores, abs=0.3)


def test_a_stage_says_that_its_parent_stood_on_another_base(
    tmp_path: Path, files: Files, trained: Path, quantised: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    parents = [f"--model.base={trained / 'sft'}", f"--model.reward={quantised('4bit') / 'rm'}"]
    assert fit("ppo", tmp_path, files, *parents, "--model.quantize=8bit", "--model.iterations=1") == 0
    said = _opened_on_another_base(caplog)
    assert [message.partition(" and ")[0].rpartition("/")[2] for message in said] == [
        "sft: trained on a base in float32",
        "rm: trained on a base in 4bit",
    ]
    assert all("opened on a base in 8bit" in message for message in said)


@pytest.mark.parametrize(
    ("bits", "stage", "during"),
    [("4bit", "sft", 4), pytest.param("8bit", "rm", 2, marks=pytest.mark.slow), ("4bit", "ppo", 1)],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, files: Files, tiny_model: Path, quantised: Callable[[str], Path], bits: str, stage: str, during: int
) -> None:
    folder = quantised(bits)
    start = {
        "sft": [f"--model.base={tiny_model}"],
        "rm": [f"--model.base={folder / 'sft'}", f"--data.demonstrations_path={files.sft}"],
        "ppo": [f"--model.base={folder / 'sft'}", f"--model.reward={folder / 'rm'}"],
    }[stage]
    options = [*start, f"--model.quantize={bits}", *EVERYTHING]
    assert fit(stage, tmp_path, files, *options, PRESS, f"--trainer.callbacks.during={during}") == 130
    assert fit(stage, tmp_path, files, *options, "--ckpt_path=last") == 0
    assert_same_run(folder / stage, tmp_path / stage)


def test_the_separate_base_of_a_reward_model_is_quantised(
    tmp_path: Path, files: Files, quantised: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    original = TextReward.from_source.__func__  # type: ignore[attr-defined]

    def watch(cls: type, source: str, *rest: Any, **options: Any) -> TextReward:
        opened.append(original(cls, source, *rest, **options))
        return opened[-1]

    monkeypatch.setattr(TextReward, "from_source", classmethod(watch))
    foreign = tmp_path / "foreign"
    model = TextReward.from_source(str(quantised("4bit") / "rm"), "float32", "none")
    model.network.merge_and_unload().save_pretrained(foreign)
    model.prompter.tokenizer.save_pretrained(foreign)
    options = [f"--model.base={quantised('4bit') / 'sft'}", f"--model.reward={foreign}", "--model.iterations=1"]
    assert fit("ppo", tmp_path / "run", files, *options, "--model.quantize=4bit", *EVERYTHING[3:]) == 0
    assert [getattr(reward.network, "is_loaded_in_4bit", False) for reward in opened] == [False, True]
    assert opened[1].network.score.weight.dtype == torch.float32


@pytest.mark.parametrize("bits", RUNS)
def test_the_command_line_opens_results(
    tmp_path: Path, files: Files, quantised: Callable[[str], Path], capsys: pytest.CaptureFixture[str], bits: str
) -> None:
    out = tmp_path / "sampled.jsonl"
    sampling = ["--data.path", files.ppo_validation, "--k=2", "--sampling.max_new_tokens=6", "--out", out]
    assert run("sample", "--run", quantised(bits) / "sft", *sampling) == 0
    assert run("rm", "score", "--run", quantised(bits), f"--data.path={files.sft}", "--out", tmp_path / "s.jsonl") == 0
    assert len(out.read_text().splitlines()) > 0
    assert run("sample", "--run", quantised(bits) / "sft", *sampling, "--quantize=2bit") == 2


def _curve(stage: str, folder: Path, files: Files, *options: Any) -> Tensor:
    """The validation loss after each epoch; for PPO the reward at each iteration."""
    name = {"sft": "val/loss", "rm": "val/loss", "ppo": "ppo/reward"}[stage]
    length = ["--model.iterations=12"] if stage == "ppo" else ["--trainer.max_epochs=4", "--data.batch_size=8"]
    rate = "--model.optimizer.learning_rate=1e-2"
    assert fit(stage, folder, files, *length, rate, *options, lora="--model.lora.r=8") == 0
    return torch.tensor(column(folder / stage / "logs/metrics.csv", name))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_loss_curves_stay_within_twice_the_spread_of_seeds(
    tmp_path: Path, tiny_model: Path, files: Files, trained: Path, stage: str
) -> None:
    larger = Files(tmp_path)
    larger.sft = write_rows(tmp_path / "more.jsonl", demonstrations(40))
    larger.sft_validation = write_rows(tmp_path / "more_validation.jsonl", demonstrations(24, 1))
    larger.rm = write_rows(tmp_path / "more_ranked.jsonl", comparisons(40))
    larger.rm_validation = write_rows(tmp_path / "more_ranked_validation.jsonl", comparisons(24, 1))
    larger.ppo = write_rows(tmp_path / "more_prompts.jsonl", prompts(40))
    letters = "--model.reward_function=tests.lit_instruct.stages.rewards.letters"
    start = [f"--model.base={tiny_model}"] + ([letters, "--data.batch_size=16"] if stage == "ppo" else [])
    seeds = [_curve(stage, tmp_path / f"{s}", larger, *start, f"--seed_everything={s}") for s in range(3)]
    plain = torch.stack(seeds)
    mean, spread = plain.mean(dim=0), plain.amax(dim=0) - plain.amin(dim=0)
    assert float((mean[0] - mean[-1]).abs()) > 2 * float(
        spread[-1]
    )  # a training that learns nothing would be found out
    for bits in BITS:
        found = _curve(stage, tmp_path / bits, larger, *start, "--seed_everything=0", f"--model.quantize={bits}")
        assert ((found - mean).abs() <= 2 * spread).all(), (bits, found, plain)
