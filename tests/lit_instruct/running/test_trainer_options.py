"""What a stage cannot honour is refused before anything is loaded, with the option that does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lit_instruct.errors import UserError
from lit_instruct.running.trainer_options import check_trainer_options
from tests.lit_instruct.stages.helpers import Files, fit

SFT = [
    ("--trainer.callbacks=LearningRateFinder", "give --model.optimizer.learning_rate"),
    ("--trainer.callbacks+=BatchSizeFinder", "give --data.batch_size"),
    ("--trainer.callbacks=StochasticWeightAveraging --trainer.callbacks.swa_lrs=0.1", "is not handed over"),
    ("--trainer.callbacks=BackboneFinetuning", "--model.lora.top_layers"),
    ("--trainer.accumulate_grad_batches=0", "--trainer.accumulate_grad_batches=0: must be at least 1"),
    ("--trainer.check_val_every_n_epoch=0", "--trainer.check_val_every_n_epoch=0: must be at least 1"),
    ("--trainer.barebones=true", "--trainer.barebones: "),
    ("--trainer.devices=many", "--trainer.devices: must be an int > 0 on CPU"),
    ("--trainer.devices=0", "--trainer.devices='0': no number of devices"),
    ("--trainer.accelerator=nope", "--trainer: You selected an invalid accelerator name"),
    ("--trainer.val_check_interval=100", "--trainer.val_check_interval=100: an epoch has only 5 batches"),
    ("--trainer.callbacks=EarlyStopping --trainer.callbacks.monitor=val_loss", "choose one of `train/loss`"),
    ("--trainer.default_root_dir=elsewhere", "all files of a stage are in --run; give --run=elsewhere"),
    ("--seed_everything=true", "--seed_everything=true: every run has a seed, which its result records; give a number"),
    ("--seed_everything=false", "--seed_everything=false: every run has a seed"),
    ("--trainer.max_epochs=0", "sft: nothing would be trained; raise --trainer.max_epochs"),
    (
        "--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val/loss "
        "--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val/loss",
        "there are two EarlyStopping callbacks with the same settings",
    ),
    (
        "--data.validation_path=null --data.validation_share=0 --model.selection_reward=org/reward",
        "--model.selection_reward: there are no validation rows",
    ),
]
PPO = [
    ("--trainer.gradient_clip_val=1", "give --model.optimizer.max_grad_norm"),
    ("--trainer.gradient_clip_algorithm=value", "give --model.optimizer.max_grad_norm"),
    ("--trainer.accumulate_grad_batches=4", "give --model.objective.minibatches"),
    (
        "--data.validation_path=null --data.validation_share=0 "
        "--model.selection.labeler=lit_instruct.evaluation.labelers.tone",
        "--model.selection.labeler: there are no validation prompts that it could score; give --data.validation_path",
    ),
]


@pytest.mark.parametrize(
    ("stage", "words", "said"),
    [("sft", *case) for case in SFT] + [("ppo", *case) for case in PPO],
    ids=[words.split()[0] for words, _ in SFT + PPO],
)
def test_one_sentence(
    tmp_path: Path,
    trained: Path,
    files: Files,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    words: str,
    said: str,
) -> None:
    base = [f"--model.base={tiny_model if stage == 'sft' else trained / 'sft'}"]
    base += [f"--model.reward.model={trained / 'rm'}"] if stage == "ppo" else []
    capsys.readouterr()
    assert fit(stage, tmp_path / "run", files, *base, *words.split()) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert [line for line in error.splitlines() if "error:" in line and said in line]
    assert "Seed set" not in error
    assert not (tmp_path / "run" / stage / "stage.json").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"enable_checkpointing": False}, "--trainer.enable_checkpointing=false: a stage hands over its best"),
        ({"gradient_clip_val": -0.5}, "--trainer.gradient_clip_val=-0.5: must be at least 0"),
        ({"strategy": "fsdp2", "precision": "bf16-mixed"}, "--trainer.precision=bf16-mixed: fsdp2 casts weights"),
        ({"strategy": "fsdp2", "precision": "16"}, "--trainer.precision=16: fsdp2 casts weights"),
    ],
)
def test_values_that_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        check_trainer_options("sft", options)


def test_values_that_are_taken() -> None:
    for options in ({"enable_checkpointing": True}, {"gradient_clip_val": 0.5}, {"strategy": "ddp", "precision": "16"}):
        check_trainer_options("sft", options)
    for precision in (None, 32, "32", "32-true"):
        check_trainer_options("sft", {"strategy": "fsdp2", "precision": precision})


def test_lightning_s_defaults_of_ppo_s_own_options_are_no_mistake(tmp_path: Path, trained: Path, files: Files) -> None:
    base = [f"--model.base={trained / 'sft'}", f"--model.reward.model={trained / 'rm'}"]
    words = ["--trainer.accumulate_grad_batches=1", "--trainer.gradient_clip_val=null", "--trainer.fast_dev_run=1"]
    assert fit("ppo", tmp_path, files, *base, *words) == 0
