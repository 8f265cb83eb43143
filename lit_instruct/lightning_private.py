"""Private attributes of Lightning, as read in version 2.6.6.

Only this module touches them, except for methods that our subclasses override or call on themselves.

`tests/lit_instruct/test_private.py` says what breaks when one of them changes.
"""

from __future__ import annotations

from collections.abc import Iterable
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


def forget_last_step(trainer: lightning.Trainer) -> None:
    """Makes the next row of the log leave out what only earlier training steps logged."""
    results = trainer._results
    if results is not None:
        results.reset(fx="training_step")


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


def loader_sources(trainer: lightning.Trainer) -> dict[str, Any]:
    """Returns where the Trainer takes the loaders of its present task from, by the name of their hook.

    A source has `instance` (a module, a DataModule or loaders), `is_defined()` and `dataloader()`.
    """
    loops = {
        "fit": [trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop],
        "validate": [trainer.validate_loop],
        "test": [trainer.test_loop],
    }
    sources = [loop._data_source for loop in loops.get(trainer.state.fn.value if trainer.state.fn else "", [])]
    return {source.name: source for source in sources}


def take_loaders(trainer: lightning.Trainer, module: Any, data: Any, names: Iterable[str]) -> None:
    """Makes the Trainer take loaders and the transfer of batches from a DataModule, which is not attached to it.

    Args:
        trainer: the Trainer.
        module: its LightningModule.
        data: the DataModule.
        names: of the hooks that return the loaders.
    """
    sources = loader_sources(trainer)
    for name in names:
        sources[name].instance = getattr(data, name)()
    module.transfer_batch_to_device = data.transfer_batch_to_device
    connector = trainer._data_connector
    connector._datahook_selector = type(connector._datahook_selector)(module, None)


def set_distributed_sampler(trainer: lightning.Trainer, wanted: bool) -> bool:
    """Sets whether Lightning replaces the sampler of each loader if there are several processes; returns the former."""
    connector = trainer._accelerator_connector
    before, connector.use_distributed_sampler = connector.use_distributed_sampler, wanted
    return bool(before)


def start_method(strategy: Strategy) -> str:
    """Returns how a strategy starts other processes; popen if it starts none."""
    return getattr(strategy, "_start_method", "popen")
