"""Charts of training: no single dots, no batches that were not full, PPO first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lit_instruct.evaluation.training_charts import (
    read_curves,
    steps_with_partial_end,
    training_charts,
    whole_batches,
)
from lit_instruct.handover import Stage


def stage(
    kind: str = "sft", rows: int = 44, batch: int = 16, world: int = 1, accumulated: int = 1, **trl: Any
) -> Stage:
    return Stage(
        stage=kind,
        base={"source": "base"},
        parents={},
        prompt_format={},
        metrics={},
        seed=0,
        seconds=1.0,
        data={"train": rows},
        options={
            "model": {"trl": trl},
            "data": {"batch_size": batch},
            "trainer": {"world_size": world, "accumulate_grad_batches": accumulated},
        },
    )


@pytest.mark.parametrize(
    ("record", "steps"),
    [
        (stage(rows=44), 3),  # 16, 16, 12
        (stage(rows=48), None),
        (stage(rows=44, batch=4, world=2), 6),
        (stage(rows=44, batch=8, accumulated=4), 2),  # six batches, the last of four rows
        (stage(rows=44, packing=True), None),  # batches are not rows then
        (stage("rm", rows=7, batch=2), 4),
        (stage("ppo"), None),
        (Stage("sft", {}, {}, {}, {}, 0, 1.0), None),
    ],
)
def test_the_steps_of_an_epoch_whose_last_batch_is_not_full(record: Stage, steps: int | None) -> None:
    assert steps_with_partial_end(record) == steps


def test_the_last_step_of_each_epoch_is_left_out() -> None:
    curve = ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [5.0, 5.0, 9.0, 4.0, 4.0, 9.0, 3.0])
    assert whole_batches(curve, 3) == ([0.0, 1.0, 3.0, 4.0, 6.0], [5.0, 5.0, 4.0, 4.0, 3.0])
    assert whole_batches(([0.0], [5.0]), 1) == ([0.0], [5.0])


def write_log(folder: Path, text: str) -> Path:
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "metrics.csv").write_text(text)
    return folder


def test_validation_keeps_its_last_step(tmp_path: Path) -> None:
    log = "step,train/loss,val/loss\n0,2.0,\n1,1.5,\n2,9.0,\n2,,1.75\n"
    curves = read_curves(write_log(tmp_path / "sft", log), stage())
    assert curves["train/loss"] == ([0.0, 1.0], [2.0, 1.5])
    assert curves["val/loss"] == ([2.0], [1.75])


def test_a_single_value_is_text_and_ppo_comes_first(tmp_path: Path) -> None:
    sft = write_log(tmp_path / "sft", "step,train/loss,val/loss,val/token_accuracy\n0,2,,\n1,1,,\n1,,1.75,0.5\n")
    ppo = write_log(tmp_path / "ppo", "step,ppo/iteration,ppo/reward,val/reward\n1,1,0.5,\n2,2,0.75,\n2,2,,0.25\n")
    groups = training_charts({"sft": (sft, stage(rows=48)), "ppo": (ppo, stage("ppo"))})
    assert [group["name"] for group in groups] == ["PPO", "SFT"]
    assert [chart["title"] for chart in groups[0]["charts"]] == ["reward"]
    assert [chart["title"] for chart in groups[1]["charts"]] == ["loss"]
    assert groups[1]["values"] == ["token accuracy, validation: 0.500"]
    named = training_charts({"a": (ppo, stage("ppo")), "b": (ppo, stage("ppo"))})
    assert [group["name"] for group in named] == ["a: PPO", "b: PPO"]


def test_a_stage_without_log_has_no_chart(tmp_path: Path) -> None:
    assert training_charts({"rm": (tmp_path, stage("rm"))}) == [{"name": "Reward model", "charts": [], "values": []}]
