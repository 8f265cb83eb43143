"""All three stages on bases in 8 and 4 bits: learning, hand-over, resuming, and opening what they leave."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_instruct.rollouts.text import TextGenerator
from lit_instruct.rollouts.text_reward import TextReward
from tests.lit_instruct.stages.helpers import (
    WORDS,
    Files,
    column,
    demonstrations,
    fit,
    prompts,
    run,
    sentence,
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
    parents = [f"--model.base={trained / 'sft'}", f"--model.reward.model={quantised('4bit') / 'rm'}"]
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
        "ppo": [f"--model.base={folder / 'sft'}", f"--model.reward.model={folder / 'rm'}"],
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
    options = [f"--model.base={quantised('4bit') / 'sft'}", f"--model.reward.model={foreign}", "--model.iterations=1"]
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


def _pairs(count: int, seed: int) -> list[dict[str, Any]]:
    """Comparisons of which a reward model can learn something."""
    draw = random.Random(seed)
    answers = [(f"good sun {draw.choice(WORDS)}", f"bad rain {draw.choice(WORDS)}") for _ in range(count)]
    return [{"prompt": sentence(draw), "responses": list(pair), "ranks": [1, 2]} for pair in answers]


LEARNING: dict[str, tuple[str, list[str]]] = {
    "sft": ("val/loss", ["--trainer.max_epochs=6", "--data.batch_size=8", "--model.optimizer.learning_rate=1e-2"]),
    "rm": ("val/loss", ["--trainer.max_epochs=6", "--data.batch_size=4", "--model.optimizer.learning_rate=5e-4"]),
    "ppo": (
        "loss/value",
        [
            "--model.reward.function=tests.lit_instruct.stages.rewards.letters",
            "--model.iterations=6",
            "--trainer.limit_val_batches=0",
            "--data.batch_size=32",
            "--model.value.learning_rate=5e-3",
            "--model.optimizer.warmup_iterations=0",
        ],
    ),
}
"""The loss whose curve is compared, and a training in which it falls steadily."""
UNTRAINED = {"sft": 5.99, "rm": 0.69, "ppo": 3.0}
"""What a training that learns nothing would stay at."""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_loss_curves_stay_within_twice_the_spread_of_three_seeds(tmp_path: Path, tiny_model: Path, stage: str) -> None:
    data = Files(tmp_path)
    data.sft = write_rows(tmp_path / "more.jsonl", demonstrations(64))
    data.sft_validation = write_rows(tmp_path / "more_validation.jsonl", demonstrations(32, 1))
    data.rm = write_rows(tmp_path / "pairs.jsonl", _pairs(32, 0))
    data.rm_validation = write_rows(tmp_path / "pairs_validation.jsonl", _pairs(16, 1))
    data.ppo = write_rows(tmp_path / "more_prompts.jsonl", prompts(40))
    name, options = LEARNING[stage]

    def curve(run_name: str, seed: int, bits: str) -> Tensor:
        given = [f"--model.base={tiny_model}", f"--seed_everything={seed}", f"--model.quantize={bits}", *options]
        assert fit(stage, tmp_path / run_name, data, *given, lora="--model.lora.r=8") == 0
        return torch.tensor(column(tmp_path / run_name / stage / "logs/metrics.csv", name))

    plain = torch.stack([curve(f"seed-{seed}", seed, "none") for seed in range(3)])
    mean, spread = plain.mean(dim=0), plain.amax(dim=0) - plain.amin(dim=0)
    assert float(mean[-1] + 2 * spread[-1]) < UNTRAINED[stage]
    for bits in BITS:
        found = curve(bits, 0, bits)
        assert ((found - mean).abs() <= 2 * spread).all(), (bits, found, plain)
