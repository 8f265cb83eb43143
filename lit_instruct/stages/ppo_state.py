"""What a checkpoint of PPO has besides weights: counters, by which random numbers and schedules go, and controllers."""

from __future__ import annotations

from typing import Any

import torch

from lit_instruct.errors import UserError
from lit_instruct.losses.masked import Moments


def saved_state(module: Any) -> dict[str, Any]:
    """Returns the state of a PPOModule; every process has to call it."""
    return {
        "iterations_done": module.iterations_done,
        "episodes_done": module.episodes_done,
        "kl_coef": module.kl.coef,
        "first_kl_coef": module.kl.options.coef,
        "score_moments": [float(moment) for moment in module.targets.score_moments],
        "average": module.average.state(),
        "diagnostics": module.diagnostics.state(),
    }


def progress_figures(module: Any) -> dict[str, float]:
    """Returns how far a PPOModule has come, by names in the log."""
    return {
        "ppo/learning_rate": module.lr_schedulers().get_last_lr()[0],
        "ppo/iteration": float(module.iterations_done),
        "ppo/episodes": float(module.episodes_done),
    }


def restore_state(module: Any, saved: dict[str, Any]) -> None:
    """Restores the state of a PPOModule.

    Raises:
        UserError: more iterations are done than this training has.
    """
    module.iterations_done, module.episodes_done = saved["iterations_done"], saved["episodes_done"]
    if module.trainer.state.fn == "fit":
        if module.iterations_done > module.iterations:
            done, wanted = module.iterations_done, module.iterations
            raise UserError(f"--model.iterations={wanted}: the checkpoint has {done}; give as many or more")
        module.trainer.should_stop = module.trainer.should_stop or module.iterations_done == module.iterations
    module.kl.restore(saved["kl_coef"], saved["first_kl_coef"])
    module.targets.score_moments = Moments(*torch.tensor(saved["score_moments"], dtype=torch.float64))
    module.average.restore(saved["average"])
    module.diagnostics.load(saved["diagnostics"])
