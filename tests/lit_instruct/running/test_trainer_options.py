"""What a stage cannot honour is refused before anything is loaded, with the option that does it."""

from __future__ import annotations

from pathlib import Path

import pytest

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
]
PPO = [
    ("--trainer.gradient_clip_val=1", "give --model.optimizer.max_grad_norm"),
    ("--trainer.gradient_clip_algorithm=value", "give --model.optimizer.max_grad_norm"),
    ("--trainer.accumulate_grad_batches=4", "give --model.objective.minibatches"),
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


def test_lightning_s_defaults_of_ppo_s_own_options_are_no_mistake(tmp_path: Path, trained: Path, files: Files) -> None:
    base = [f"--model.base={trained / 'sft'}", f"--model.reward.model={trained / 'rm'}"]
    words = ["--trainer.accumulate_grad_batches=1", "--trainer.gradient_clip_val=null", "--trainer.fast_dev_run=1"]
    assert fit("ppo", tmp_path, files, *base, *words) == 0
