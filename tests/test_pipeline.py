"""The whole pipeline on a tiny model: what it leaves opens with plain transformers and peft, other starts work too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from lit_instruct.rollouts.text import TextGenerator
from lit_instruct.rollouts.text_reward import TextReward
from tests.lit_instruct.stages.helpers import Files, fit, weights

STAGES = ("sft", "rm", "ppo")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("data"))


def _pipeline(run: Path, base: Path, files: Files, lora: str) -> Path:
    more = [f"--data.demonstrations_path={files.sft}"]
    rate = "--model.optimizer.learning_rate=1e-2"
    assert fit("sft", run, files, f"--model.base={base}", rate, lora=lora) == 0
    assert fit("rm", run, files, *more, rate, lora=lora) == 0
    assert fit("ppo", run, files, rate, lora=lora) == 0
    return run


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, files: Files) -> Path:
    return _pipeline(tmp_path_factory.mktemp("lora") / "run", tiny_model, files, "--model.lora.top_layers=2")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, files: Files) -> Path:
    return _pipeline(tmp_path_factory.mktemp("full") / "run", tiny_model, files, "--model.lora=null")


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits


PROMPT, RESPONSE = "the cat sings", "good good rain"


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_plain_peft_opens_the_adapter(adapters: Path, tiny_model: Path, stage: str) -> None:
    model = AutoPeftModelForCausalLM.from_pretrained(adapters / stage, dtype=torch.float32)
    generator = TextGenerator.from_source(str(adapters / stage))
    ids = torch.tensor([generator.prompter.prompt_ids(PROMPT)])
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    plain = _logits(base, ids)
    ours = _logits(PeftModel.from_pretrained(base, adapters / stage), ids)
    torch.testing.assert_close(_logits(model, ids), ours)
    assert not torch.allclose(plain, ours, atol=1e-4)
    assert AutoTokenizer.from_pretrained(adapters / stage).eos_token == "<|im_end|>"


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_plain_transformers_open_the_whole_model(whole: Path, tiny_model: Path, stage: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(whole / stage)
    ids = torch.arange(3, 20)[None]
    assert not torch.allclose(
        _logits(model, ids), _logits(AutoModelForCausalLM.from_pretrained(tiny_model), ids), atol=1e-4
    )


@pytest.mark.parametrize("kind", ["adapters", "whole"])
def test_the_reward_model_scores_the_same_without_us(
    kind: str, tiny_model: Path, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(kind) / "rm"
    ours = TextReward.from_source(str(folder), "float32")
    prompter = ours.prompter
    ids = torch.tensor([prompter.prompt_ids(PROMPT) + prompter.response_ids(RESPONSE)])
    opened = folder if kind == "whole" else tiny_model
    model = AutoModelForSequenceClassification.from_pretrained(opened, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = prompter.pad_id
    model = model if kind == "whole" else PeftModel.from_pretrained(model, folder)
    bias = json.loads((folder / "stage.json").read_text())["reward_bias"]
    score = ours.score([PROMPT], [RESPONSE])[0]
    assert score == pytest.approx(float(_logits(model.eval(), ids)) + bias, abs=1e-5)


def test_demonstrations_score_zero(adapters: Path, files: Files) -> None:
    rows = [json.loads(line) for line in files.sft.read_text().splitlines()]
    scores = TextReward.from_source(str(adapters / "rm"), "float32").score(
        [row["prompt"] for row in rows], [row["response"] for row in rows]
    )
    assert sum(scores) / len(scores) == pytest.approx(0, abs=1e-5)


def test_ppo_starts_from_a_plain_model_and_an_outside_reward_model(
    tmp_path: Path, tiny_model: Path, whole: Path, files: Files
) -> None:
    more = [f"--model.base={tiny_model}", f"--model.reward.model={whole / 'rm'}"]
    assert fit("ppo", tmp_path, files, *more) == 0
    record = json.loads((tmp_path / "ppo/stage.json").read_text())
    assert record["base"] == {"source": str(tiny_model), "revision": None}
    assert weights(tmp_path / "ppo")


@pytest.mark.parametrize("kind", ["adapters", "whole"])
def test_a_stage_can_start_from_the_other_kind(
    kind: str, tmp_path: Path, files: Files, request: pytest.FixtureRequest
) -> None:
    run: Path = request.getfixturevalue(kind)
    lora = "--model.lora=null" if kind == "adapters" else "--model.lora.top_layers=2"
    assert fit("rm", tmp_path, files, f"--model.base={run / 'sft'}", lora=lora) == 0
    start = [f"--model.base={run / 'sft'}", f"--model.reward.model={tmp_path / 'rm'}"]
    assert fit("ppo", tmp_path, files, *start, lora=lora) == 0


def test_sft_keeps_the_checkpoint_with_the_best_reward(
    tmp_path: Path, tiny_model: Path, adapters: Path, files: Files
) -> None:
    more = [f"--model.selection_reward={adapters / 'rm'}", "--model.selection_sampling.max_new_tokens=6"]
    assert fit("sft", tmp_path, files, f"--model.base={tiny_model}", *more) == 0
    assert "val/reward" in json.loads((tmp_path / "sft/stage.json").read_text())["metrics"]
