"""The PPO-ptx sweep: its text, its summary and chart, and a tiny run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import ptx_sweep
from benchmarks.fill_tables import TABLES
from benchmarks.ppo_sides import prepare
from benchmarks.ptx_sweep import MEASURES, split_text, summary
from benchmarks.ptx_sweep_side import train


def run_of(coefficient: float, loss: float) -> dict[str, object]:
    before = dict.fromkeys(MEASURES, 1.0)
    after = dict.fromkeys(MEASURES, 2.0) | {"pretraining_loss": loss}
    return {"ptx_coef": coefficient, "before": before, "after": after, "seconds_per_iteration": 1.0}


def test_the_last_fifth_of_the_lines_is_held_out() -> None:
    assert split_text("".join(f"line {number}\n" for number in range(5))) == (
        "line 0\nline 1\nline 2\nline 3\n",
        "line 4\n",
    )


def test_each_run_is_compared_with_its_start_and_with_plain_ppo(tmp_path: Path) -> None:
    found = summary([run_of(0.0, 3.5), run_of(1.0, 3.0)])
    assert found["runs"][1]["change"] == {"pretraining_loss": 2.0, "reward": 1.0, "labeler": 1.0, "kl": 1.0}
    assert found["runs"][1]["beside_plain_ppo"] == {"pretraining_loss": -0.5, "reward": 0.0, "labeler": 0.0, "kl": 0.0}
    assert len(TABLES["ptx-sweep"][1](found)) == 1 + 1 + 2
    ptx_sweep.draw(found["runs"], tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_the_sweep_has_plain_ppo_and_the_papers_weight() -> None:
    assert {0.0, 27.8} < set(ptx_sweep.COEFFICIENTS) and len(ptx_sweep.COEFFICIENTS) in (4, 5)


@pytest.mark.slow
def test_a_tiny_sweep(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptx_sweep, "run_side", lambda module, side, work: train(**work))  # in this process: no imports
    prepare(str(tmp_path), str(tiny_model), {"run": 0}, episodes=1)
    text = tmp_path / "text.txt"
    text.write_text("The capital of France is Paris. The weather is wonderful today.\n" * 40)
    options = ["model.lora.r=16", "model.lora.top_layers=0", "model.sampling.max_new_tokens=4", "data.batch_size=8"]
    options += ["data.limit=16", "data.validation_limit=4", "model.optimizer.learning_rate=0.03"]
    words = ["--run", str(tmp_path / "run"), "--coefficients", "10", "--iterations", "2", "--text", str(text)]
    out = tmp_path / "sweep.json"
    assert ptx_sweep.main([*words, "--out", str(out), *(f"--option=--{option}" for option in options)]) == 0
    plain, mixed = json.loads(out.read_text())["runs"]
    assert plain["before"] == mixed["before"] and plain["ptx_coef"] == 0
    assert mixed["after"]["pretraining_loss"] < plain["after"]["pretraining_loss"]
