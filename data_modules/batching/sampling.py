"""Which rows form which batch: the same for any number of processes, and exact when a run resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Sampler

from lit_instruct.errors import UserError


@dataclass(eq=False)
class EpochBatchSampler(Sampler[list[int]]):
    """Splits a dataset into batches whose order is a pure function of (seed, epoch).

    Each global batch of `batch_size * world_size` rows is sharded into one consecutive slice per process, so two
    processes with batch size b together see, batch for batch, the rows that one process sees with 2b. Every process
    gets the same number of batches, and none is empty. If the last global batch has fewer rows than processes,
    training (`shuffle`) leaves it out, since another epoch brings those rows; validation merges it into the batch
    before, so that every row counts exactly once.

    Raises:
        UserError: too few rows for one batch.
    """

    length: int
    """Number of rows."""
    batch_size: int
    """Rows per batch and process."""
    seed: int = 0
    """Determines the order, together with the epoch."""
    rank: int = 0
    world_size: int = 1
    shuffle: bool = True
    """True for training; False keeps the dataset's order."""
    drop_last: bool = False
    """Leave out the last global batch unless it is full."""
    epoch: int = field(default=0, init=False)
    start: int = field(default=0, init=False)
    """Batches that the next iteration skips; set when a loader resumes."""

    def __post_init__(self) -> None:
        self.global_batch_size = self.batch_size * self.world_size
        needed = self.global_batch_size if self.drop_last else self.world_size
        if self.length < needed:
            raise UserError(
                f"{self.length} rows are too few for a batch, which needs {needed}; add rows or lower --data.batch_size"
            )
        rest = self.length % self.global_batch_size
        if rest and self.shuffle and (self.drop_last or rest < self.world_size):
            used, size = self.length - rest, self.global_batch_size
            rank_zero_info(
                f"each epoch trains on {used} of {self.length} rows, in full batches of {size}; every epoch leaves out "
                f"{rest} others, by chance"
            )

    @property
    def sampler(self) -> EpochBatchSampler:
        """Returns itself: Lightning calls `set_epoch` on `dataloader.batch_sampler.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Selects the order of the next iteration."""
        self.epoch = epoch

    def batches(self, epoch: int) -> list[list[int]]:
        """Row indices of all global batches of an epoch, in order."""
        order = self._order(epoch)
        batches = [order[i : i + self.global_batch_size] for i in range(0, self.length, self.global_batch_size)]
        if self.drop_last and len(batches[-1]) < self.global_batch_size:
            batches.pop()
        elif len(batches[-1]) < self.world_size:
            short = batches.pop()
            if not self.shuffle:
                batches[-1].extend(short)
        return batches

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self.batches(self.epoch)[self.start :]:
            first, end = (len(rows) * rank // self.world_size for rank in (self.rank, self.rank + 1))
            yield rows[first:end]

    def __len__(self) -> int:
        full, rest = divmod(self.length, self.global_batch_size)
        return full + (rest >= self.world_size and not self.drop_last)

    def _order(self, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(self.length))
        # Not seed + epoch, which would repeat the orders of the next seed.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(self.length, generator=generator).tolist()


class StatefulLoader(DataLoader[Any]):
    """A DataLoader that counts the batches it has returned, so that Lightning resumes at the next one.

    Lightning saves `state_dict()` in the middle of an epoch, loads it before it requests the iterator, and only then
    sets the epoch. So the position is read when the first batch is requested, and applies only to the epoch in which
    it was saved. `len()` remains that of the whole epoch: Lightning adds the finished batches to its counter.

    Args:
        dataset: anything with `__getitem__`.
        sampler: splits it into batches.
        collate: list of items -> batch.
    """

    batch_sampler: EpochBatchSampler

    def __init__(self, dataset: Any, sampler: EpochBatchSampler, collate: Callable[[list[Any]], Any]) -> None:
        # Its own generator: DataLoader draws a worker seed at each start, and the global random state must not depend
        # on how often a run was resumed.
        super().__init__(dataset, batch_sampler=sampler, collate_fn=collate, generator=torch.Generator())
        self._position = 0
        self._resume: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._position = self.batch_sampler.start = self._first_position()
        for batch in super().__iter__():
            self._position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, how many of its batches were returned, and what must not change before resuming."""
        sampler = self.batch_sampler
        return {"epoch": sampler.epoch, "position": self._position, "batches": len(sampler), **_identity(sampler)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Makes the next iteration start where the saved one stopped.

        Raises:
            UserError: the checkpoint is from the middle of an epoch over other data or with other batches.
        """
        now = _identity(self.batch_sampler)
        saved = {name: state_dict[name] for name in now}
        epoch, position = state_dict["epoch"], state_dict["position"]
        if saved != now and 0 < position < state_dict["batches"]:
            raise UserError(
                f"--ckpt_path: the checkpoint is from batch {position} of an epoch with {_words(saved)}, "
                f"now there are {_words(now)}; resume with the same data and batch size"
            )
        self.batch_sampler.set_epoch(epoch)
        self._position = position
        self._resume = (epoch, position)

    def _first_position(self) -> int:
        resume, self._resume = self._resume, None
        if resume is None or resume[0] != self.batch_sampler.epoch:
            return 0
        return resume[1]


class ResumeInsideEpoch(Callback):
    """Makes a run that stopped inside an epoch resume inside it.

    Lightning counts an epoch as finished when `max_steps` or `trainer.should_stop` ends it early. A checkpoint written
    after that would resume at the next epoch and skip the remaining batches.
    """

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Removes an unfinished epoch from the counters of `checkpoint`."""
        batches_done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if not 0 < batches_done < trainer.num_training_batches:
            return
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        for counter in (progress["total"], progress["current"]):
            counter["processed"] = counter["completed"] = counter["started"] - 1


def _identity(sampler: EpochBatchSampler) -> dict[str, int]:
    return {"rows": sampler.length, "global_batch_size": sampler.global_batch_size, "seed": sampler.seed}


def _words(identity: dict[str, int]) -> str:
    return f"{identity['rows']} rows in batches of {identity['global_batch_size']} (seed {identity['seed']})"
