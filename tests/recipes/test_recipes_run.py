"""Every recipe is planned, fits its card, and runs: with a tiny base, a few rows and otherwise its own options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from data_modules.reading.readers import HUB_ID
from lit_instruct.handover import read_stage
from lit_instruct.models.loading import find_source
from lit_instruct.planning.named import NAMED
from tests.lit_instruct.stages.helpers import QUICK, run, write_rows
from tests.recipes.records import MAKERS, records
from tests.scripts import load_script
from tests.tiny import tiny_tokenizer

ROOT = Path(__file__).parents[2]
STAGES = ("sft", "rm", "ppo")
FOLDERS = sorted(path.parent for path in ROOT.glob("recipes/*/sft.yaml"))
PUBLIC = [folder for folder in FOLDERS if folder.name != "demo"]
IDS = {"ids": lambda folder: folder.name}
ROWS = 24
LISTED = {
    "demo",
    "smollm2-135m",
    "gpu-8gb",
    "gpu-12gb",
    "gpu-12gb-8bit",
    "gpu-16gb",
    "gpu-12gb-8b",
    "gpu-24gb",
    "gpu-24gb-8b-bf16",
    "gpu-24gb-bf16",
    "node-8gpu",
    "node-8gpu-lora",
    "multi-node",
    "paper",
}
ONE_PROCESS = ("--trainer.strategy=auto", "--trainer.num_nodes=1", *QUICK, "--trainer.logger=false")
SHORT = {
    "sft": ["--trainer.max_steps=1", "--trainer.accumulate_grad_batches=1"],
    "rm": ["--trainer.max_steps=1"],
    "ppo": ["--model.iterations=1", "--model.sampling.max_new_tokens=8", "--data.batch_size=8"],
}
"""One step, and as many responses as there are rows for: nothing else of a recipe changes."""


def catalogue() -> Any:
    return load_script(ROOT / "recipes" / "fill_catalogue.py")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama that reads 4,096 tokens."""
    folder, tokenizer = tmp_path_factory.mktemp("tiny") / "base", tiny_tokenizer()
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), max_position_embeddings=4096, **sizes)
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_every_listed_recipe_is_there_and_whole() -> None:
    assert {folder.name for folder in FOLDERS} >= LISTED
    for folder in FOLDERS:
        assert all((folder / f"{stage}.yaml").is_file() for stage in (*STAGES, "eval")), folder.name


def options(folder: Path, stage: str) -> dict[str, Any]:
    return yaml.safe_load((folder / f"{stage}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("folder", PUBLIC, **IDS)
def test_bases_and_data_are_pinned(folder: Path) -> None:
    named = options(folder, "sft")["model"].get("base", "smollm2-135m-instruct")
    known = {model for *_, stands_for in NAMED.values() for model in stands_for}
    assert named.partition("@")[0] in known
    assert named == "smollm2-135m-instruct" or re.fullmatch("[0-9a-f]{40}", find_source(named).base.partition("@")[2])
    for stage in STAGES:
        hub = HUB_ID.fullmatch(options(folder, stage)["data"]["path"])
        assert hub is not None and hub["name"] in MAKERS
        assert re.fullmatch("[0-9a-f]{40}|refs/convert/parquet", hub["revision"])


@pytest.mark.slow
def test_every_recipe_fits_its_card_and_the_catalogue_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    module = catalogue()
    plans = module.all_plans()
    for name, stages in plans.items():
        for stage, plan in stages.items():
            assert plan.fits is not False, f"{name}/{stage}"
            size = re.search(r"(\d+)gb", name)
            assert size is None or plan.limit == int(size[1]) * 2**30
    text = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    assert module.filled(text, plans) == text
    assert "not measured yet" in text


@pytest.mark.slow
@pytest.mark.parametrize("folder", PUBLIC, **IDS)
def test_a_recipe_runs_with_all_its_options(
    folder: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    for stage in STAGES:
        hub = HUB_ID.fullmatch(options(folder, stage)["data"]["path"])
        assert hub is not None
        data = write_rows(tmp_path / f"{stage}.jsonl", records(hub["name"], ROWS))
        words = ["--config", folder / f"{stage}.yaml", "--run", tmp_path / "run", f"--data.path={data}"]
        words += [f"--model.base={base}"] if stage == "sft" else []
        code = run(stage, "fit", *words, *SHORT[stage], *ONE_PROCESS)
        assert code == 0, capsys.readouterr().err
        record = read_stage(tmp_path / "run" / stage)
        assert record is not None and record.options is not None
        _same_options(options(folder, stage)["model"], record.options["model"], tuple(SHORT[stage]))


def _same_options(wanted: dict[str, Any], used: dict[str, Any], changed: tuple[str, ...], name: str = "model") -> None:
    for key, value in wanted.items():
        path = f"{name}.{key}"
        if isinstance(value, dict):
            _same_options(value, used[key], changed, path)
        elif path != "model.base" and not any(word.startswith(f"--{path}=") for word in changed):
            read = float(value) if isinstance(used[key], float) else value  # YAML reads 2e-4 as a text
            assert used[key] == read, path
