"""Private attributes of Lightning, as read in version 2.6.6.

Only this module touches them, except for methods that our subclasses override or call on themselves.

`tests/lit_instruct/test_private.py` says what breaks when one of them changes.
"""

from __future__ import annotations

from typing import Any

import lightning
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy


def trainer_of(module: lightning.LightningModule) -> lightning.Trainer | None:
    """Returns a module's Trainer, or None, where the public property raises."""
    return module._trainer


def is_compiled(module: lightning.LightningModule) -> bool:
    """Returns whether a module is compiled by torch.compile."""
    return module._compiler_ctx is not None


def logged_steps(trainer: lightning.Trainer) -> int:
    """Returns the step that the next row of the log gets."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def set_logged_steps(trainer: lightning.Trainer, count: int) -> None:
    """Sets the step that the next row of the log gets."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = count


def accumulates(trainer: lightning.Trainer) -> bool:
    """Returns whether the last batch only accumulated gradients, without an optimizer step."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def epoch_is_over(trainer: lightning.Trainer) -> bool:
    """Returns whether the last batch was the last of its epoch."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()


def validates(trainer: lightning.Trainer, fetcher: Any) -> bool:
    """Returns whether a validation follows the last batch."""
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def state_of(trainer: lightning.Trainer) -> dict[str, Any]:
    """Returns the content of a checkpoint, without copies of the tensors."""
    return trainer._checkpoint_connector.dump_checkpoint(weights_only=False)


def saves_shards(strategy: ModelParallelStrategy) -> bool:
    """Returns whether FSDP2 saves a folder of shards rather than one file."""
    return strategy._save_distributed_checkpoint


def tensor_parallel_size(strategy: ModelParallelStrategy) -> int | str:
    """Returns how many processes share each matrix product."""
    return strategy._tensor_parallel_size


def start_method(strategy: Strategy) -> str:
    """Returns how a strategy starts other processes; popen if it starts none."""
    return getattr(strategy, "_start_method", "popen")
