"""The penalty for long responses: its formula, among the rewards, and what it is refused with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lit_instruct.errors import UserError
from lit_instruct.ppo.length_penalty import LengthPenalty
from lit_instruct.ppo.options import FurtherReward, RewardOptions
from lit_instruct.rollouts.generate import SamplingOptions
from tests.lit_instruct.stages.helpers import Files
from tests.lit_instruct.stages.test_ppo import LETTERS, train


def test_it_grows_by_a_line_to_the_limit() -> None:
    lengths = torch.tensor([1, 20, 25, 30, 40])
    assert LengthPenalty(2.0, 20, 40)(lengths).tolist() == [0.0, 0.0, -0.5, -1.0, -2.0]
    assert LengthPenalty(1.0, 0, 40)(lengths).tolist() == pytest.approx([-1 / 40, -0.5, -0.625, -0.75, -1.0])


def test_it_is_one_of_the_rewards(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    further = [FurtherReward("half", function=LETTERS, weight=0.5)]
    sampling = SamplingOptions(max_new_tokens=6)
    found = {}
    for most in (0.0, 3.0):
        reward = RewardOptions(None, LETTERS, further, length_penalty=most, length_penalty_from=2 if most else 0)
        more = {"reward": reward, "sampling": sampling, "iterations": 1}
        module, rows = train(tmp_path, files, tiny_model, more, {"validation_path": str(files.ppo_validation)})
        found[most] = rows[0] | {name: float(value) for name, value in module.trainer.callback_metrics.items()}
    free, paid = found[0.0], found[3.0]
    assert "ppo/reward/length_penalty" not in free
    assert -3 <= paid["ppo/reward/length_penalty"] < 0
    assert paid["ppo/reward"] == pytest.approx(free["ppo/reward"] + paid["ppo/reward/length_penalty"])
    assert paid["ppo/reward/main"] == free["ppo/reward/main"]
    assert paid["ppo/kl"] == free["ppo/kl"]
    assert -3 <= paid["val/reward/length_penalty"] < 0


def test_what_it_cannot_do_is_refused(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    with pytest.raises(UserError, match=r"--model.reward.length_penalty=-1.0: must be at least 0"):
        RewardOptions(length_penalty=-1.0)
    with pytest.raises(UserError, match=r"--model.reward.length_penalty_from=9: there is no penalty with"):
        RewardOptions(length_penalty_from=9)
    with pytest.raises(UserError, match="two rewards have one name"):
        RewardOptions(None, LETTERS, [FurtherReward("length_penalty", function=LETTERS)], length_penalty=1.0)
    more = {"reward": RewardOptions(None, LETTERS, length_penalty=1.0, length_penalty_from=6)}
    with pytest.raises(UserError, match=r"length_penalty_from=6: no response is longer than --model.sampling.max_new_"):
        train(tmp_path, files, tiny_model, more | {"sampling": SamplingOptions(max_new_tokens=6)})
