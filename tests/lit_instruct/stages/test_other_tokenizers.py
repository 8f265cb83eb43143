"""The three stages on bases whose tokenizers mark their special tokens in other ways."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerBase

from lit_instruct.exporting.export import export
from lit_instruct.exporting.options import ExportOptions
from lit_instruct.handover import prompter_of, read_stage
from lit_instruct.models.loading import find_source
from lit_instruct.rollouts.text import TextGenerator
from tests.lit_instruct.prompting.tokenizers import llama3, only_end
from tests.lit_instruct.stages.helpers import Files, fit
from tests.tiny import tiny_llama


def base(folder: Path, tokenizer: PreTrainedTokenizerBase, ends: list[int]) -> Path:
    """A tiny model with this tokenizer, whose generation config names these ends."""
    tiny_llama(folder, vocab_size=len(tokenizer))
    (folder / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(folder)
    GenerationConfig(eos_token_id=ends, pad_token_id=None).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("lora", ["--model.lora=null", "--model.lora.top_layers=2"])
def test_every_end_survives_training_and_export(tmp_path: Path, files: Files, lora: str) -> None:
    folder, run = base(tmp_path / "base", llama3(), [401, 404, 1]), tmp_path / "run"
    assert fit("sft", run, files, f"--model.base={folder}", lora=lora) == 0
    prompter = prompter_of(find_source(str(run / "sft")))
    assert prompter.stop_ids == [404, 401, 1]
    stage = read_stage(run / "sft")
    assert stage is not None and stage.prompt_format == prompter.describe()
    if lora == "--model.lora=null":
        assert AutoModelForCausalLM.from_pretrained(run / "sft").generation_config.eos_token_id == [401, 404, 1]
    export(ExportOptions(run=str(run / "sft"), to=str(tmp_path / "out"), merge=True))
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == [404, 401, 1]
    generator = TextGenerator.from_source(str(tmp_path / "out"))
    assert generator.prompter.stop_ids == [404, 401, 1]
    for row in generator.respond(["the sea"], k=16, max_new_tokens=40):
        for response in row:
            assert not set(response.ids[:-1]) & {404, 401, 1}


@pytest.mark.slow
@pytest.mark.parametrize("lora", ["--model.lora=null", "--model.lora.top_layers=2"])
def test_a_tokenizer_that_can_only_pad_with_its_end(tmp_path: Path, files: Files, lora: str) -> None:
    folder, run = base(tmp_path / "base", only_end(), [2]), tmp_path / "run"
    assert fit("sft", run, files, f"--model.base={folder}", lora=lora) == 0
    assert fit("rm", run, files, lora=lora) == 0
    assert fit("ppo", run, files, lora=lora) == 0
    first = prompter_of(find_source(str(folder)))
    for stage in ("sft", "rm", "ppo"):
        prompter = prompter_of(find_source(str(run / stage)))
        assert prompter.decode(prompter.response_ids("Great! Well done!!")) == "Great! Well done!!"
        assert prompter.fingerprint() == first.fingerprint()
        assert json.loads((run / stage / "stage.json").read_text())["prompt_format"] == first.describe()
    export(ExportOptions(run=str(run / "rm"), to=str(tmp_path / "out")))
    assert AutoConfig.from_pretrained(tmp_path / "out").pad_token_id is None


def test_a_template_that_cannot_be_used_is_left_out_with_raw(tmp_path: Path, tiny_model: Path, files: Files) -> None:
    """As the message of its refusal says."""
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    (base / "chat_template.jinja").write_text("{{ raise_exception('needs tools') }}")
    given = (f"--model.base={base}", "--trainer.max_epochs=1")
    assert fit("sft", tmp_path / "refused", files, *given) == 2
    assert fit("sft", tmp_path / "run", files, *given, "--model.prompt.template=raw") == 0
    assert json.loads((tmp_path / "run/sft/stage.json").read_text())["prompt_format"]["template"] == "raw"
    assert fit("rm", tmp_path / "run", files, "--trainer.max_epochs=1") == 0
