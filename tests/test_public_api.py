"""The classes that users import, driven by a plain Lightning Trainer without the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_modules import PromptDataModule, PromptResponseDataModule, RankedComparisonDataModule
from lit_instruct import PPOModule, RewardModule, SFTModule
from lit_instruct.models.lora import LoraOptions
from lit_instruct.ppo.objective import ObjectiveOptions
from lit_instruct.ppo.options import RewardOptions
from lit_instruct.rollouts.generate import SamplingOptions
from tests.lit_instruct.stages.helpers import Files, plain_trainer

LORA = LoraOptions(top_layers=1)


def test_python_alone_runs_the_pipeline(tmp_path: Path, tiny_model: Path) -> None:
    files = Files(tmp_path)
    sft = SFTModule(base=str(tiny_model), lora=LORA)
    plain_trainer(tmp_path, max_epochs=1).fit(sft, PromptResponseDataModule(str(files.sft)))
    sft.save(tmp_path / "run/sft", {"val/loss": 1.0})
    reward = RewardModule(base=str(tmp_path / "run/sft"), lora=LORA)
    plain_trainer(tmp_path, max_epochs=1).fit(reward, RankedComparisonDataModule(str(files.rm)))
    reward.save(tmp_path / "run/rm", {})
    ppo = PPOModule(
        base=str(tmp_path / "run/sft"),
        reward=RewardOptions(str(tmp_path / "run/rm")),
        lora=LORA,
        iterations=2,
        objective=ObjectiveOptions(minibatches=2),
        sampling=SamplingOptions(max_new_tokens=4),
    )
    plain_trainer(tmp_path, max_epochs=-1).fit(ppo, PromptDataModule(str(files.ppo), batch_size=8))
    ppo.save(tmp_path / "run/ppo", {})
    record = json.loads((tmp_path / "run/ppo/stage.json").read_text())
    assert ppo.iterations_done == 2
    assert record["base"]["source"] == str(tiny_model)
    assert (tmp_path / "run/ppo/adapter_config.json").is_file()


def test_unknown_names_are_attribute_errors() -> None:
    import lit_instruct

    with pytest.raises(AttributeError, match="DPOModule"):
        _ = lit_instruct.DPOModule


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, lit_instruct; print([m for m in ('torch', 'lightning', 'trl') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
