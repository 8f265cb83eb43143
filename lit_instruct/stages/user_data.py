"""The data of a stage: its own DataModule, or one made from the loaders or the DataModule that a user wrote."""

from __future__ import annotations

from typing import Any, TypeVar

from lightning.pytorch.core.hooks import DataHooks
from torch import distributed

from data_modules.base import RowDataModule
from data_modules.hygiene.steps import HygieneOptions
from data_modules.loaders import IDS, LoaderRows, rows_of_loader
from data_modules.prompts import PromptDataModule
from data_modules.reading.given import GivenRows
from lit_instruct import lightning_private
from lit_instruct.collectives import gather_objects
from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompter

DataT = TypeVar("DataT", bound=RowDataModule[Any])
HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
NO_LIMIT = 2**31 - 1
"""Of tokens; the stage compares the longest row with the model's context."""


def take_data(module: Any, kind: type[DataT]) -> DataT:
    """Returns the data of the Trainer's present task as a DataModule of a stage.

    Rows from a user's loaders or DataModule are tokenised, checked and batched as those of a file. The Trainer then
    takes its loaders, which are sharded over the processes and resume exactly.

    Args:
        module: of the stage, attached to a Trainer.
        kind: the stage's DataModule.

    Raises:
        UserError: the data are missing, of another stage or wrong, or something in them cannot be followed.
    """
    trainer = module.trainer
    given = trainer.datamodule
    if isinstance(given, kind):
        module.__dict__.pop("transfer_batch_to_device", None)  # of an earlier task
        return given
    if isinstance(given, RowDataModule):
        name = type(module).__name__
        raise UserError(f"{name} trains on a {kind.__name__}, not on a {type(given).__name__}; give one of those")
    _check_user_data(module)
    prompter = module.prompter  # refuses a missing model before its data
    found: dict[str, LoaderRows] = {}
    for name, source in lightning_private.loader_sources(trainer).items():
        loader = source.dataloader() if source.is_defined() else None
        if loader is not None and loader != []:
            found[name] = rows_of_loader(loader, name)
    data = _made(module, kind, found, prompter)
    lightning_private.take_loaders(trainer, module, data, found)
    return data


def _check_user_data(module: Any) -> None:
    """Refuses what would be ignored."""
    trainer = module.trainer
    for owner in (module, trainer.datamodule):
        for hook in HOOKS:
            if owner is not None and getattr(type(owner), hook) is not getattr(DataHooks, hook):
                raise UserError(
                    f"{type(owner).__name__}.{hook} would not be called, since rows are tokenised before they form "
                    "batches; change the rows in the dataset or in collate_fn"
                )
    if trainer.reload_dataloaders_every_n_epochs:
        raise UserError(
            "Trainer(reload_dataloaders_every_n_epochs=...): loaders of your own are read once, before the training; "
            "leave it out"
        )


def _made(module: Any, kind: type[DataT], found: dict[str, LoaderRows], prompter: Prompter) -> DataT:
    """Returns a DataModule of the rows of loaders, which are named by their hooks."""
    trainer = module.trainer
    if trainer.training and "train_dataloader" not in found:
        raise UserError(
            f"{type(module).__name__}: there is nothing to train on; give trainer.fit(module, DataLoader(rows, "
            f"batch_size=8)) or trainer.fit(module, {kind.__name__}(path))"
        )
    if not found:
        raise UserError(f"{type(module).__name__}: there are no rows; give the Trainer a DataLoader")
    _check_same_rows([loaded.rows for loaded in found.values()], trainer)
    train = found.get("train_dataloader")
    held_out = next((loaded for name, loaded in found.items() if name != "train_dataloader"), None)
    first = train or held_out
    assert first is not None
    if any(loaded.tokenised != first.tokenised for loaded in found.values()):
        raise UserError(f"{' and '.join(found)}: one has PromptBatches and the other rows; give both in one form")
    processes = trainer.world_size if kind is PromptDataModule else 1  # its batch size is that of all processes
    options: dict[str, Any] = {kind.limit_option: NO_LIMIT}
    if kind is PromptDataModule:
        options["hygiene"] = HygieneOptions(max_per_user=None, personal_information="keep")  # every row is wanted
    data = kind(
        first.rows,
        held_out.rows if held_out is not None else None,
        validation_share=0.0,
        batch_size=first.batch_size * processes,
        seed=module.seed,
        **options,
    )
    data.shuffle, data.drop_last = first.shuffle, first.drop_last or data.drop_last
    data.validation_batch_size = held_out.batch_size if held_out is not None else None
    if isinstance(data, PromptDataModule) and first.tokenised:
        data.ids_column = IDS
    data.prompter, data.trainer = prompter, trainer
    data.setup()
    return data


def _check_same_rows(rows: list[GivenRows], trainer: Any) -> None:
    """Refuses rows that differ between processes: each would take its share of other rows."""
    if trainer.world_size == 1 or not distributed.is_initialized():
        return
    everywhere = gather_objects([(str(one), one.digest()) for one in rows], trainer.world_size)
    if any(one != everywhere[0] for one in everywhere):
        raise UserError(
            f"{', '.join(map(str, rows))}: the rows differ between the processes; give every process all rows in the "
            "same order, since each takes its share of every batch"
        )
