"""Exports open in plain transformers and PEFT and compute what the stage trained."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig

from lit_instruct.errors import UserError
from lit_instruct.exporting import export as exporting
from lit_instruct.exporting.export import export
from lit_instruct.exporting.options import ExportOptions
from lit_instruct.handover import prompter_of
from lit_instruct.models.loading import find_source
from lit_instruct.rollouts.text_reward import TextReward
from tests.lit_instruct.stages.helpers import Files, fit, run, snapshot

PROMPT, RESPONSE = "the cat sings", "good good rain"


def write(source: Path, to: Path, **more: Any) -> dict[str, Any]:
    """Exports, and returns what export.json says."""
    export(ExportOptions(run=str(source), to=str(to), **more))
    return json.loads((to / "export.json").read_text())


def logits(model: Any, ids: list[int]) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([ids])).logits


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, files: Files) -> Path:
    """A run whose SFT stage trained all weights."""
    folder = tmp_path_factory.mktemp("full") / "run"
    assert fit("sft", folder, files, f"--model.base={tiny_model}", lora="--model.lora=null") == 0
    return folder


def ids_of(folder: Path) -> list[int]:
    prompter = prompter_of(find_source(str(folder)))
    return prompter.prompt_ids(PROMPT) + prompter.response_ids(RESPONSE)


def test_an_adapter_opens_in_plain_peft(tmp_path: Path, trained: Path, tiny_model: Path) -> None:
    record = write(trained / "ppo", tmp_path / "out", base=str(tiny_model))
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ours = AutoPeftModelForCausalLM.from_pretrained(trained / "ppo", dtype=torch.float32)
    ids = ids_of(trained / "ppo")
    assert torch.equal(logits(theirs, ids), logits(ours, ids))
    assert record["form"] == "adapter"


def test_an_adapter_in_half_precision(tmp_path: Path, trained: Path, tiny_model: Path) -> None:
    write(trained / "sft", tmp_path / "out", dtype="bf16", base=str(tiny_model))
    size = [(folder / "adapter_model.safetensors").stat().st_size for folder in (trained / "sft", tmp_path / "out")]
    assert size[1] < 0.6 * size[0]
    AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize(("dtype", "tolerance"), [("auto", 1e-5), ("bf16", 0.02)])
def test_a_merged_model_opens_in_plain_transformers(
    tmp_path: Path, trained: Path, dtype: str, tolerance: float, capsys: pytest.CaptureFixture[str]
) -> None:
    record = write(trained / "ppo", tmp_path / "out", merge=True, dtype=dtype)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ours = AutoPeftModelForCausalLM.from_pretrained(trained / "ppo", dtype=torch.float32)
    ids = ids_of(trained / "ppo")
    torch.testing.assert_close(logits(merged, ids).float(), logits(ours, ids), rtol=0, atol=tolerance)
    assert merged.dtype == (torch.bfloat16 if dtype == "bf16" else torch.float32)
    assert 0 <= record["kl_to_trained"] < 0.01
    assert "nats per token" in capsys.readouterr().out


def test_a_model_without_adapter_is_copied(tmp_path: Path, full: Path) -> None:
    record = write(full / "sft", tmp_path / "out")
    ids = ids_of(full / "sft")
    left, right = (logits(AutoModelForCausalLM.from_pretrained(f), ids) for f in (full / "sft", tmp_path / "out"))
    assert torch.equal(left, right)
    assert record["form"] == "whole"
    assert record["kl_to_trained"] == 0


def test_the_reward_model_has_its_bias_in_the_config(tmp_path: Path, trained: Path) -> None:
    record = write(trained / "rm", tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    bias = json.loads((trained / "rm/stage.json").read_text())["reward_bias"]
    assert model.config.reward_bias == bias != 0
    ours = TextReward.from_source(str(trained / "rm"), "float32").score([PROMPT], [RESPONSE])[0]
    theirs = float(logits(model, ids_of(trained / "rm"))) + model.config.reward_bias
    assert theirs == pytest.approx(ours, abs=1e-5)
    assert record["largest_reward_change"] < 1e-5
    # and lit-instruct reads its own export as it reads the stage
    again = TextReward.from_source(str(tmp_path / "out"), "float32").score([PROMPT], [RESPONSE])[0]
    assert again == pytest.approx(ours, abs=1e-5)


@pytest.mark.parametrize("system", [None, 'Say "yes" \\ "n\u00f6" {% x %}\nand stop.'])
def test_the_chat_template_gives_the_ids_of_the_training(
    tmp_path: Path, trained: Path, tiny_model: Path, system: str | None
) -> None:
    source = Path(shutil.copytree(trained / "sft", tmp_path / "sft"))
    stage = json.loads((source / "stage.json").read_text())
    stage["prompt_format"]["system"] = system
    (source / "stage.json").write_text(json.dumps(stage))
    write(source, tmp_path / "out", base=str(tiny_model))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    turns = [{"role": "user", "content": PROMPT}]
    trained_with = prompter_of(find_source(str(source)))
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == trained_with.prompt_ids(PROMPT)
    own = [{"role": "system", "content": "x"}, *turns]
    assert (
        tokenizer.apply_chat_template(own, add_generation_prompt=True, return_dict=True)["input_ids"]
        == trained_with.prompt_ids(own)  # type: ignore[arg-type]
    )
    exported = prompter_of(find_source(str(tmp_path / "out")))
    assert exported.prompt_ids(PROMPT) == trained_with.prompt_ids(PROMPT)


def test_generation_config_samples_as_ppo_did(tmp_path: Path, trained: Path) -> None:
    write(trained / "ppo", tmp_path / "out")
    config = GenerationConfig.from_pretrained(tmp_path / "out")
    prompter = prompter_of(find_source(str(trained / "ppo")))
    assert (config.do_sample, config.temperature, config.top_p, config.max_new_tokens) == (True, 1.0, 1.0, 6)
    assert config.eos_token_id == prompter.stop_ids
    assert config.pad_token_id == prompter.pad_id


def test_nothing_names_a_folder_of_this_machine(tmp_path: Path, trained: Path, tiny_model: Path) -> None:
    source = Path(shutil.copytree(trained / "ppo", tmp_path / "ppo"))
    stage = json.loads((source / "stage.json").read_text())
    several = f"a.jsonl@3, {tmp_path}/b.jsonl@2,~/c.jsonl@1,org/name:train@1,../d.jsonl@1"
    stage["options"]["data"] |= {"path": several, "fields": {"prompt": f"{tmp_path}/f"}}
    stage["options"]["model"]["prompt"] = {"system": "/no_think, please"}
    (source / "stage.json").write_text(json.dumps(stage))
    write(source, tmp_path / "adapter")
    write(trained / "rm", tmp_path / "merged")
    for path in [*(tmp_path / "adapter").iterdir(), *(tmp_path / "merged").iterdir()]:
        if path.suffix != ".safetensors":
            assert str(tiny_model.parents[1]) not in path.read_text(), path
    published = json.loads((tmp_path / "adapter/stage.json").read_text())
    assert published["options"]["data"]["path"] == "a.jsonl@3,b.jsonl@2,c.jsonl@1,org/name:train@1,d.jsonl@1"
    assert published["options"]["data"]["fields"] == {"prompt": "f"}
    assert published["options"]["model"]["prompt"]["system"] == "/no_think, please"
    assert published["base"]["source"] == "./model"
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == "./model"
    assert "| ppo | path | b.jsonl |" in (tmp_path / "adapter/README.md").read_text()


def test_texts_of_users_are_only_texts_in_the_card(tmp_path: Path, trained: Path) -> None:
    odd = "<img src=x> ![i](http://x.y) [l](www.x.y) `c` a|b\n# *title*"
    source = Path(shutil.copytree(trained / "sft", tmp_path / "sft"))
    stage = json.loads((source / "stage.json").read_text())
    stage["metrics"][f"val/loss/{odd}"] = 1.0
    stage["options"]["model"]["prompt"] = {"system": odd}
    stage["options"]["data"] |= {"path": f"{odd}.jsonl", "fields": {odd: odd}}
    (source / "stage.json").write_text(json.dumps(stage))
    write(source, tmp_path / 'a "<b>` name', merge=True)
    card = (tmp_path / 'a "<b>` name/README.md').read_text()
    text, code = re.sub("```.*?```", "", card, flags=re.DOTALL), re.findall("```python\n(.*?)```", card, re.DOTALL)
    outside = re.sub(r"`[^`\n]*`", "", text.replace("\\`", ""))
    tables = outside.partition("## What it is")[2].partition("## Citation")[0]
    assert not re.search(r"<[a-z]|(?<!\\)[\[*]|://|www\.", tables)
    assert '# a "&lt;b&gt;\\` name\n' in card
    escaped = r"&lt;img src=x&gt; !\[i\](http&#58;//x.y) \[l\](www&#46;x.y) \`c\` a\|b \# \*title\*"
    assert f"| val/loss/{escaped} | 1 |" in card
    assert f"| sft | path | {escaped}.jsonl |" in card
    assert f"| `model.prompt.system` | {escaped} |" in card
    assert r"| `data.fields.<img src=x> ![i](http://x.y) [l](www.x.y) 'c' a\|b # *title*` |" in card
    assert r'from_pretrained("a \"<b>` name")' in code[0]
    compile(code[0], "card", "exec")


def test_sigterm_leaves_nothing_behind(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def killed(*_: Any) -> None:
        assert any(path.name.startswith(".out.writing-") for path in tmp_path.iterdir())
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(exporting, "write_card", killed)
    assert run("export", "--run", trained / "sft", "--to", tmp_path / "out") == 130
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_card_says_what_was_trained_on_what(tmp_path: Path, trained: Path, files: Files) -> None:
    write(trained / "ppo", tmp_path / "out", base="org/base")
    card = (tmp_path / "out/README.md").read_text()
    for said in [
        "base_model: org/base",
        "library_name: peft",
        f"| sft | path | {files.sft.name} | 20 of 20 | not stated |",
        f"| rm | path | {files.rm.name} |",
        f"| rm | demonstrations_path | {files.sft.name} |",
        f"| ppo | path | {files.ppo.name} |",
        "| ppo | `model.kl.coef` | 0.02 |",
        "| ppo | `data.batch_size` | 8 |",
        "| ppo | `trainer.world_size` | 1 |",
        "| ppo/kl |",
        "2203.02155",
    ]:
        assert said in card, said


def test_the_licence_of_the_base_is_that_of_its_card(tmp_path: Path, tiny_model: Path, files: Files) -> None:
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    assert fit("sft", tmp_path / "run", files, f"--model.base={base}", "--trainer.max_epochs=1") == 0
    write(tmp_path / "run/sft", tmp_path / "out")
    assert "\nlicense: mit\n" in (tmp_path / "out/README.md").read_text()


def test_an_earlier_export_is_replaced_and_a_foreign_file_is_not(tmp_path: Path, trained: Path) -> None:
    to = tmp_path / "out"
    write(trained / "sft", to, merge=True)
    write(trained / "sft", to)
    assert not (to / "model.safetensors").exists()
    assert (to / "adapter_model.safetensors").is_file()
    (to / "mine.txt").write_text("mine")
    before = snapshot(to)
    with pytest.raises(UserError, match=r"mine\.txt"):
        write(trained / "sft", to)
    assert snapshot(to) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_the_earlier_export(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to = tmp_path / "out"
    write(trained / "sft", to)
    before = snapshot(to)

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "write_record", full_disk)
    with pytest.raises(UserError, match="no space left"):
        write(trained / "sft", to, merge=True)
    assert snapshot(to) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_merged_model_too_far_from_the_trained_one_is_not_written(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = exporting.merged_network

    def spoilt(*words: Any) -> Any:
        network = honest(*words)
        torch.nn.init.constant_(network.model.norm.weight, 20.0)
        return network

    monkeypatch.setattr(exporting, "merged_network", spoilt)
    with pytest.raises(UserError, match=r"over --max-kl=0\.01"):
        write(trained / "sft", tmp_path / "out", merge=True)
    assert not (tmp_path / "out").exists()
    assert run("export", "--run", trained / "sft", "--to", tmp_path / "out", "--merge", "--max-kl=100") == 0


def test_the_embedded_base_is_named_as_on_the_hub(tmp_path: Path, trained: Path) -> None:
    source = Path(shutil.copytree(trained / "sft", tmp_path / "sft"))
    cache = Path(shutil.copytree(_base(source), tmp_path / "cache/smollm2-135m-instruct-1"))
    config = json.loads((source / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(cache)
    (source / "adapter_config.json").write_text(json.dumps(config))
    record = write(source, tmp_path / "out")
    named = json.loads((tmp_path / "out/adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == record["base"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "Q4_1" in record["remark"]
    assert "Q4_1" in (tmp_path / "out/README.md").read_text()
    assert "license: apache-2.0" in (tmp_path / "out/README.md").read_text()


def _base(source: Path) -> str:
    return str(json.loads((source / "adapter_config.json").read_text())["base_model_name_or_path"])


@pytest.mark.parametrize(("to", "named"), [("sft", "the exported folder itself"), ("file", "this is a file")])
def test_impossible_targets(tmp_path: Path, run_folder: Path, to: str, named: str) -> None:
    (run_folder / "file").write_text("")
    before = snapshot(run_folder)
    with pytest.raises(UserError, match=named):
        write(run_folder / "sft", run_folder / to)
    assert snapshot(run_folder) == before


def test_a_folder_that_is_no_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", "--run", tmp_path, "--to", tmp_path / "out") == 2
    assert "stage.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("stage", "merge"), [("ppo", False), ("ppo", True), ("rm", True)], ids=str)
def test_the_code_on_the_card_runs(
    tmp_path: Path, trained: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, stage: str, merge: bool
) -> None:
    monkeypatch.chdir(tiny_model.parent)  # where the base's name without its place is found
    write(trained / stage, tmp_path / "out", merge=merge)
    card = (tmp_path / "out/README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0].replace('"out"', repr(str(tmp_path / "out")))
    found: dict[str, Any] = {}
    exec(code, found)
    if stage == "rm":
        ours = TextReward.from_source(str(trained / "rm"), "float32")
        assert found["reward"] == pytest.approx(ours.score(["What is the capital of France?"], ["Paris."])[0], abs=1e-4)
    else:
        assert 1 <= len(found["answer"]) <= 64
