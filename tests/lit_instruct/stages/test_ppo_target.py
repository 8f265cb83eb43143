"""PPO that holds its KL near a target within two dozen iterations, and what keeps it from doing so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.lit_instruct.stages.helpers import Files, column, fit
from tests.tiny import tiny_llama

LONG = [
    "--model.reward.model=null",
    "--model.reward.function=tests.lit_instruct.stages.rewards.letters",
    "--model.reward.normalize=true",
    "--model.reward.missing_eos_penalty=0",
    "--model.optimizer.learning_rate=0.006",
    "--model.optimizer.warmup_iterations=0",
    "--model.value.start=zero_head",
    "--model.value.learning_rate=0.003",
    "--model.objective.inner_epochs=2",
    "--model.sampling.max_new_tokens=12",
    "--model.iterations=24",
    "--data.batch_size=16",
    "--model.kl.coef=0.3",
    "--model.kl.target=2.0",
    "--model.kl.gain=2",
]
LAST = 8
"""Iterations of which the mean counts: one iteration has sixteen responses."""


@pytest.mark.slow
def test_a_high_gain_holds_the_kl_if_the_first_iterations_do_not_use_the_penalty_up(
    tmp_path: Path, files: Files
) -> None:
    base = tiny_llama(tmp_path / "base", initializer_range=0.3)  # wide logits: its responses can change a lot
    kl, coef = {}, {}
    for name, more in (("held", ["--model.kl.min_coef=0.3"]), ("used up", [])):
        run = tmp_path / name
        assert fit("ppo", run, files, f"--model.base={base}", *LONG, *more) == 0
        kl[name], coef[name] = (column(run / "ppo/logs/metrics.csv", f"ppo/{key}") for key in ("kl", "kl_coef"))
    assert min(coef["held"]) == pytest.approx(0.3) and max(coef["held"]) > 0.6
    assert min(coef["used up"]) < 0.1
    held, used_up = (float(np.mean(kl[name][-LAST:])) for name in ("held", "used up"))
    assert 1.0 < held < 4.0
    assert held < 0.8 * used_up
