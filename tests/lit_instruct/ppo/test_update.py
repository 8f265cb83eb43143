"""An iteration of PPO without a Trainer: collect, targets, update, validate."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from lit_instruct.models.roles import Roles
from lit_instruct.ppo.figures import rollout_figures
from lit_instruct.ppo.objective import ObjectiveOptions, ValueOptions
from lit_instruct.ppo.options import RewardOptions
from lit_instruct.ppo.targets import Targets
from lit_instruct.ppo.update import Updater
from lit_instruct.ppo.validation import Validation
from lit_instruct.prompting import Prompter
from tests.lit_instruct.ppo.parts import SAMPLING, batch_of, collector_of

OBJECTIVE = ObjectiveOptions(inner_epochs=2, minibatches=2)


def letters(prompts: Any, responses: Any, rows: Any) -> list[float]:
    """The length of each response in letters."""
    return [float(len(response)) for response in responses]


def test_an_iteration(roles: Roles, prompter: Prompter) -> None:
    collector = collector_of(roles, prompter, letters)
    guard, ranks = collector.guard, collector.ranks
    find_targets = Targets(RewardOptions(normalize=True), OBJECTIVE, "k1", ranks)
    updater = Updater(roles, OBJECTIVE, ValueOptions(), 1.0, 1.0, None, guard, ranks, nullcontext())
    groups = [{"params": roles.parameters_of(role)} for role in ("policy", "value")]
    optimizer, key = torch.optim.AdamW(groups, lr=1e-2), (0, 0)
    kept = {name: weights.clone() for name, weights in roles.state_dict().items()}

    guard.begin(1, "iteration-1")
    rollouts = collector.collect(batch_of(prompter), key)
    targets, spread = find_targets(rollouts.parts, 0.1)
    update = updater.run(rollouts, targets, optimizer, key)

    assert update.first_ratio_error == 0.0
    assert update.skipped_steps == 0
    assert spread > 0
    assert all(torch.tensor(loss).isfinite() for loss in update.losses.values())
    trained = {id(p) for role in ("policy", "value") for p in roles.parameters_of(role)}
    for name, parameter in roles.named_parameters(remove_duplicate=False):
        assert torch.equal(parameter, kept[name]) == (id(parameter) not in trained), name
    figures = rollout_figures(rollouts.parts, targets, ["main"], ranks)
    lengths = letters([], [collector.stop.text(ids) for ids in rollouts.responses], [])
    assert figures["ppo/reward"] == pytest.approx(sum(lengths) / 4)


def test_a_validation(roles: Roles, prompter: Prompter) -> None:
    collector = collector_of(roles, prompter, letters)
    validation = Validation(collector, lambda *_: [1.0, 2.0, 3.0, 6.0], 0, collector.ranks)
    validation.start([])
    collector.guard.begin(1, "after-0")
    validation.step(batch_of(prompter), nullcontext())
    figures = validation.figures()
    assert figures["val/labeler"] == pytest.approx(3.0)
    assert figures["val/reward"] == pytest.approx(sum(sample["reward"] for sample in validation.samples.values()) / 4)
    assert SAMPLING.max_new_tokens >= figures["val/response_length"]
