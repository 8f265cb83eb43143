"""The best policy by a validation metric, the end of a training that no longer improves, and the average policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_modules import PromptDataModule
from lit_instruct.errors import UserError
from lit_instruct.ppo.options import PPOMemoryOptions, RewardOptions, SelectionOptions
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.stages.ppo import PPOModule
from tests.lit_instruct.stages.helpers import FLOAT, QUICK, SMALL, Files, column, fit, plain_trainer, run, weights
from tests.lit_instruct.stages.test_ppo import LETTERS, train

# An estimate of KL from a few samples goes up and down: its highest value is seldom the last.
BY_KL = ["--model.selection.metric=val/kl", "--model.optimizer.warmup_iterations=0"]
STRAYS = ["--model.optimizer.learning_rate=0.01", "--model.kl.coef=0", "--trainer.val_check_interval=1"]
REWARDS = "tests.lit_instruct.stages.rewards"


def start(trained: Path) -> list[str]:
    """PPO on the trained SFT and reward stages, and rates at which the policy strays from them."""
    return [f"--model.base={trained / 'sft'}", f"--model.reward.model={trained / 'rm'}", *BY_KL, *STRAYS]


def policy_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The policy's adapter in a checkpoint, under the names of an adapter file."""
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    return {
        name.removeprefix("roles.networks.0.").replace(".policy.", "."): value
        for name, value in saved.items()
        if ".policy." in name
    }


@pytest.mark.parametrize("average", [False, True], ids=["", "average"])
def test_the_best_policy_by_a_metric_is_handed_over(
    tmp_path: Path, trained: Path, files: Files, average: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--model.optimizer.ema_decay=0.5"] if average else []
    assert fit("ppo", tmp_path, files, *start(trained), *more) == 0
    folder = tmp_path / "ppo"
    kl = column(folder / "logs/metrics.csv", "val/kl")
    assert kl.index(max(kl)) < 3
    metrics = json.loads((folder / "stage.json").read_text())["metrics"]
    assert metrics["val/kl"] == pytest.approx(max(kl), rel=1e-5)
    assert metrics["ppo/iteration"] == kl.index(max(kl)) + 1
    best = folder / "checkpoints/best.ckpt"
    raw = policy_of(best)
    found = weights(folder)
    assert raw.keys() == found.keys()
    assert all(torch.equal(raw[name], found[name]) for name in found) is not average
    if average:
        averages = torch.load(best, weights_only=True)["ppo"]["average"]
        assert sorted(float(a.sum()) for a in averages) == pytest.approx(sorted(float(f.sum()) for f in found.values()))
    capsys.readouterr()
    small = [word for word in SMALL["ppo"] if not word.startswith(("--trainer.", "--model.iterations"))]
    words = [*files.options("ppo"), *small, "--model.lora.top_layers=2", *FLOAT, *QUICK, *start(trained)[:2], *more]
    assert run("ppo", "validate", "--run", tmp_path, *words) == 0
    assert str(metrics["val/kl"])[:8] in capsys.readouterr().out


def test_a_training_that_no_longer_improves_ends(tmp_path: Path, trained: Path, files: Files) -> None:
    more = ["--model.selection.mode=min", "--model.selection.patience=2", "--model.iterations=9"]
    assert fit("ppo", tmp_path, files, *start(trained), *more) == 0
    kl = column(tmp_path / "ppo/logs/metrics.csv", "val/kl")
    best = kl.index(min(kl))
    assert len(kl) == best + 3 < 9
    assert json.loads((tmp_path / "ppo/stage.json").read_text())["metrics"]["ppo/iteration"] == best + 1


def test_without_a_metric_the_last_policy_is_the_result(trained: Path) -> None:
    assert not (trained / "ppo/checkpoints/best.ckpt").exists()
    last, found = policy_of(trained / "ppo/checkpoints/last.ckpt"), weights(trained / "ppo")
    assert all(torch.equal(last[name], found[name]) for name in found)


@pytest.mark.parametrize(
    ("metric", "data", "message"),
    [
        ("val/rewards", {}, "val/rewards: not measured; choose one of val/reward, val/kl"),
        ("val/labeler", {}, "not measured; it needs --model.selection.labeler"),
        ("val/reward/chat", {}, "not measured"),
        ("val/kl", {"validation_path": None}, "there are no validation prompts; give --data.validation_path"),
    ],
)
def test_a_metric_that_nothing_measures_is_refused(
    tmp_path: Path, files: Files, tiny_model: Path, metric: str, data: dict[str, Any], message: str
) -> None:
    held = {"validation_path": str(files.ppo_validation)} | data
    with pytest.raises(UserError, match=message):
        train(tmp_path, files, tiny_model, {"selection": SelectionOptions(metric)}, held)


@pytest.mark.parametrize("metric", ["val/labeler", "val/reward/main", "val/labeler/chat", "val/eos_share/chat"])
def test_every_figure_can_choose(tmp_path: Path, files: Files, tiny_model: Path, metric: str) -> None:
    held = tmp_path / "held.jsonl"
    held.write_text('{"prompt": "Hello", "use_case": "chat"}\n{"prompt": "Hi"}\n')
    given = {"selection": SelectionOptions(metric, labeler=f"{REWARDS}.length_of_prompt")}
    module, _ = train(tmp_path, files, tiny_model, given, {"validation_path": str(held)})
    assert metric in module.trainer.callback_metrics


def test_patience_needs_a_metric() -> None:
    with pytest.raises(UserError, match=r"--model.selection.patience=3: it needs --model.selection.metric"):
        SelectionOptions(patience=3)
    with pytest.raises(UserError, match=r"--model.selection.patience=0"):
        SelectionOptions("val/reward", patience=0)


def test_the_table_of_samples_is_in_tensorboard(trained: Path) -> None:
    events = EventAccumulator(str(trained / "ppo/logs"))
    events.Reload()
    tables = [event.tensor_proto.string_val[0].decode() for event in events.Tensors("samples/text_summary")]
    assert [event.step for event in events.Tensors("samples/text_summary")] == [2, 4]
    rows = [json.loads(line) for line in (trained / "ppo/logs/samples.jsonl").read_text().splitlines()]
    for table, iteration in zip(tables, (2, 4), strict=True):
        lines = table.splitlines()
        assert lines[0] == "| prompt | response | reward | kl | length |"
        shown = [row for row in rows if row["iteration"] == iteration]
        assert len(lines) == 2 + len(shown)
        assert all(f"| {row['prompt']} |" in line for row, line in zip(shown, lines[2:], strict=True))


def test_samples_show_what_the_labeler_says(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    module = PPOModule(
        str(tiny_model),
        reward=RewardOptions(None, LETTERS),
        selection=SelectionOptions(labeler=f"{REWARDS}.length_of_prompt"),
        memory=PPOMemoryOptions(micro_batch_size=2),
        sampling=SamplingOptions(max_new_tokens=4),
        dtype="float32",
    )
    data = PromptDataModule(str(files.ppo), str(files.ppo_validation))
    plain_trainer(tmp_path).validate(module, data, verbose=False)
    assert len(module.validation.samples) == 5
    assert all(sample["labeler"] == len(sample["prompt"]) / 10 for sample in module.validation.samples.values())
