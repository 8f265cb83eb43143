"""After training on 8 or 4 bits an adapter is merged into the base it was trained on: the dequantised one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from lit_instruct.exporting.difference import (
    mean_kl,
    next_token_log_probs,
    rewards,
    sampled_texts,
    written_texts,
)
from lit_instruct.exporting.export import export
from lit_instruct.exporting.networks import trained_network
from lit_instruct.exporting.options import ExportOptions
from lit_instruct.handover import prompter_of, read_stage
from lit_instruct.models.assemble import merged_language_model
from lit_instruct.models.loading import find_source
from tests.lit_instruct.stages.helpers import Files, fit

pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize(("bits", "closer"), [("4bit", 100), ("8bit", 1)])
def test_it_is_what_was_trained(tmp_path: Path, tiny_model: Path, files: Files, bits: str, closer: float) -> None:
    rate = "--model.optimizer.learning_rate=1e-2"
    assert fit("sft", tmp_path, files, f"--model.base={tiny_model}", f"--model.quantize={bits}", rate) == 0
    export(ExportOptions(run=str(tmp_path / "sft"), to=str(tmp_path / "adapter")))
    assert f"load_in_{bits}=True" in (tmp_path / "adapter/README.md").read_text()
    export(ExportOptions(run=str(tmp_path / "sft"), to=str(tmp_path / "out"), merge=True))
    record = json.loads((tmp_path / "out/export.json").read_text())
    assert record["kl_to_trained"] < 0.01
    source, stage = find_source(str(tmp_path / "sft")), read_stage(tmp_path / "sft")
    assert stage is not None
    prompter = prompter_of(source)
    trained = trained_network(source, stage, prompter.pad_id)
    texts = sampled_texts(trained, prompter)
    log_probs = next_token_log_probs(trained, texts)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not hasattr(opened.config, "quantization_config")
    merged = mean_kl(log_probs, next_token_log_probs(opened, texts))
    assert merged == pytest.approx(record["kl_to_trained"], rel=1e-3, abs=1e-9)
    into_16_bit = mean_kl(log_probs, next_token_log_probs(merged_language_model(source, torch.float32), texts))
    assert closer * merged < into_16_bit


def test_a_reward_model(tmp_path: Path, trained: Path, files: Files) -> None:
    more = [f"--model.base={trained / 'sft'}", "--model.quantize=4bit", f"--data.demonstrations_path={files.sft}"]
    assert fit("rm", tmp_path, files, *more) == 0
    export(ExportOptions(run=str(tmp_path / "rm"), to=str(tmp_path / "out")))
    assert json.loads((tmp_path / "out/export.json").read_text())["largest_reward_change"] < 1e-4
    source, stage = find_source(str(tmp_path / "rm")), read_stage(tmp_path / "rm")
    assert stage is not None
    prompter = prompter_of(source)
    texts = written_texts(prompter)
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    scores = rewards(trained_network(source, stage, prompter.pad_id), texts)
    torch.testing.assert_close(rewards(opened, texts), scores, rtol=0, atol=1e-4)
    assert opened.config.reward_bias == stage.reward_bias != 0
