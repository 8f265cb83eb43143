"""Options of PPO that contradict each other are refused before any model is loaded, with both names."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import lit_instruct.models.loading as loading
from data_modules.hygiene.steps import HygieneOptions
from lit_instruct.errors import UserError
from lit_instruct.models.lora import LoraOptions
from lit_instruct.ppo.checks import check_batch
from lit_instruct.ppo.objective import KLOptions, ObjectiveOptions
from lit_instruct.ppo.options import FurtherReward, PretrainingOptions, RewardOptions
from lit_instruct.rollouts.engine_options import RolloutOptions
from lit_instruct.rollouts.generate import SamplingOptions
from tests.lit_instruct.rollouts.stage_folders import reward_folder, sft_folder
from tests.lit_instruct.stages.helpers import Files, write_rows
from tests.lit_instruct.stages.test_ppo import LETTERS, train


@pytest.fixture(autouse=True)
def no_model_loads(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Fails where weights are opened."""

    def opened(*_: Any, **__: Any) -> None:
        pytest.fail("a model was loaded")

    if "reward_models" not in request.fixturenames:
        for name in ("AutoModelForCausalLM", "AutoModelForSequenceClassification"):
            monkeypatch.setattr(loading, name, SimpleNamespace(from_pretrained=opened))


VLLM = RolloutOptions("vllm", "http://127.0.0.1:9")


def refused(folder: Path, files: Files, base: Path, more: dict[str, Any], data: dict[str, Any] | None = None) -> str:
    """The message of a training that is refused."""
    with pytest.raises(UserError) as caught:
        train(folder, files, base, more, data)
    return str(caught.value)


CONTRADICTIONS: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    (
        {"objective": ObjectiveOptions(minibatches=9)},
        {},
        ["--model.objective.minibatches=9", "8 prompts of --data.batch_size"],
    ),
    (
        {"objective": ObjectiveOptions(minibatches=3)},
        {},
        ["--data.batch_size=8", "not a multiple of --model.objective.minibatches=3"],
    ),
    ({}, {"batch_size": 32}, ["--data.batch_size=32", "only 20 prompts", "--data.hygiene"]),
    (
        {"sampling": SamplingOptions(max_new_tokens=512)},
        {},
        ["--model.sampling.max_new_tokens=512", "the 512 tokens", "--model.base"],
    ),
    (
        {"sampling": SamplingOptions(max_new_tokens=500)},
        {},
        ["--data.path: its longest prompt has ", "--model.sampling.max_new_tokens=500", "--data.max_prompt_length=12"],
    ),
    (
        {"pretraining": PretrainingOptions(ptx_coef=1.0)},
        {},
        ["--model.pretraining.ptx_coef", "--data.pretraining_path"],
    ),
    ({"sampling": SamplingOptions(stop_ids=[4000])}, {}, ["stop_ids=[4000]: the tokenizer has only"]),
    ({"iterations": 0}, {}, ["--model.iterations=0: must be at least 1"]),
    ({"rollouts": VLLM, "lora": None}, {}, ["--model.rollouts.engine=vllm", "--model.lora=null", "engine=native"]),
    ({"rollouts": VLLM, "lora": LoraOptions(dora=True)}, {}, ["--model.rollouts.engine=vllm", "no DoRA"]),
    ({"rollouts": VLLM, "quantize": "4bit"}, {}, ["--model.rollouts.engine=vllm", "--model.quantize=4bit"]),
    (
        {"rollouts": VLLM, "sampling": SamplingOptions(top_k=5)},
        {},
        ["--model.rollouts.engine=vllm", "--model.sampling.top_k=5"],
    ),
    (
        {"rollouts": VLLM, "sampling": SamplingOptions(temperature=0.001)},
        {},
        ["--model.sampling.temperature=0.001", "0.01"],
    ),
]


@pytest.mark.parametrize(("more", "data", "named"), CONTRADICTIONS)
def test_contradictions_are_refused(
    tmp_path: Path,
    files: Files,
    tiny_model: Path,
    more: dict[str, Any],
    data: dict[str, Any],
    named: list[str],
) -> None:
    message = refused(tmp_path, files, tiny_model, more, data)
    assert all(part in message for part in named), message


def test_a_gain_without_a_target() -> None:
    with pytest.raises(UserError, match=r"gain=0.2: the coefficient is fixed with --model.kl.target="):
        KLOptions(gain=0.2)


def test_a_target_for_a_coefficient_of_zero() -> None:
    with pytest.raises(UserError, match=r"--model.kl.target=6.0: it multiplies --model.kl.coef, which is 0"):
        KLOptions(coef=0.0, target=6.0)


def test_two_rewards_of_one_name() -> None:
    further = [FurtherReward("length", function=LETTERS)] * 2
    with pytest.raises(UserError, match=r"--model.reward.further: two rewards have one name \(main, length, length\)"):
        RewardOptions(None, LETTERS, further)


def test_a_batch_that_the_processes_cannot_share() -> None:
    data: Any = SimpleNamespace(batch_size=9, world_size=2, train_dataset=range(20), path="prompts.jsonl")
    with pytest.raises(UserError, match=r"batch_size=9: not a multiple of the 2 processes of --trainer.devices"):
        check_batch(ObjectiveOptions(minibatches=3), data)


def test_a_prompt_that_fills_the_context(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    long = write_rows(tmp_path / "long.jsonl", [{"prompt": "the cat " * 170}, *[{"prompt": f"{i}"} for i in range(8)]])
    data = {"path": str(long), "max_prompt_length": 600}
    message = refused(tmp_path, files, tiny_model, {}, data)
    assert message.startswith("--data.path: its longest prompt has 5")
    assert "--model.sampling.max_new_tokens=6 is more than the 512 tokens" in message
    message = refused(tmp_path, files, tiny_model, {"sampling": SamplingOptions(max_new_tokens=506)}, data)
    assert "--data.max_prompt_length=6 with --data.on_long=drop" in message


def test_no_prompt_is_left_after_hygiene(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    personal = write_rows(
        tmp_path / "personal.jsonl", [{"prompt": f"Write to anna.smith{i}@gmail.com"} for i in range(6)]
    )
    message = refused(tmp_path, files, tiny_model, {}, {"path": str(personal)})
    assert "no row is left to train on (6 read, 6 personal information" in message
    assert message.endswith("; loosen --data.hygiene.personal_information")
    options = {"path": str(personal), "hygiene": HygieneOptions(unique_prefix=1, personal_information="keep")}
    message = refused(tmp_path, files, tiny_model, {}, options)
    assert message.startswith("--data.batch_size=8:")
    assert "only 1 prompts to train on, after --data.hygiene" in message


@pytest.fixture
def reward_models(tmp_path: Path, tiny_model: Path) -> Path:
    """Folders with reward models, most of which do not fit."""
    sft = sft_folder(tmp_path / "sft", tiny_model)
    adapter = reward_folder(tmp_path / "narrow", sft)
    weights = load_file(adapter / "adapter_model.safetensors")
    weights["base_model.model.score.weight"] = torch.zeros(1, 48)
    save_file(weights, adapter / "adapter_model.safetensors")
    for name, labels in (("three", 3), ("words", 1)):
        classifier = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=labels)
        classifier.save_pretrained(tmp_path / name)
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        if name == "words":
            tokenizer.add_tokens([f"word{i}" for i in range(30)])
        tokenizer.save_pretrained(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("narrow", "its head has 48 inputs, but its base .* has hidden size 32"),
        ("sft", "this adapter has no reward head"),
        ("three", "a reward model has one output, this one has 3"),
        ("words", r"its tokenizer has \d+ tokens, but its base .* has only \d+"),
        ("language", "it is a LlamaForCausalLM with no trained reward head"),
    ],
)
def test_a_reward_model_that_does_not_fit(
    tmp_path: Path,
    files: Files,
    tiny_model: Path,
    reward_models: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    message: str,
) -> None:
    if name == "language":
        shutil.copytree(tiny_model, reward_models / name)

    def opened(*_: Any, **__: Any) -> None:
        pytest.fail("a model was loaded")

    monkeypatch.setattr(loading, "AutoModelForCausalLM", SimpleNamespace(from_pretrained=opened))
    monkeypatch.setattr(loading, "AutoModelForSequenceClassification", SimpleNamespace(from_pretrained=opened))
    folder = str(reward_models / name)
    main = {"reward": RewardOptions(folder)}
    with pytest.raises(UserError, match=message):
        train(tmp_path, files, tiny_model, main)
    further = {"reward": RewardOptions(None, LETTERS, [FurtherReward("other", model=folder)])}
    with pytest.raises(UserError, match=f"--model.reward.further: 'other', model={folder}.*|.*no reward head"):
        train(tmp_path, files, tiny_model, further)
