"""Batches are a function of (seed, epoch), whatever the number of processes, and survive an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from data_modules.batching.sampling import EpochBatchSampler, ResumeInsideEpoch, StatefulLoader
from lit_instruct.errors import UserError


def batches(**arguments: Any) -> list[list[int]]:
    return list(EpochBatchSampler(**arguments))


def test_in_order():
    assert batches(length=7, batch_size=3, shuffle=False) == [[0, 1, 2], [3, 4, 5], [6]]
    assert batches(length=7, batch_size=3, shuffle=False, drop_last=True) == [[0, 1, 2], [3, 4, 5]]


def test_two_processes_split_each_global_batch():
    halves = [batches(length=7, batch_size=2, shuffle=False, rank=rank, world_size=2) for rank in (0, 1)]
    assert halves == [[[0, 1], [4]], [[2, 3], [5, 6]]]


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_together_see_what_one_sees(world_size: int):
    whole = batches(length=31, batch_size=8, seed=3)
    parts = [
        batches(length=31, batch_size=8 // world_size, seed=3, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert [sum(slices, []) for slices in zip(*parts, strict=True)] == whole


def test_order_depends_on_seed_and_epoch_alone():
    sampler = EpochBatchSampler(length=6, batch_size=2, seed=5)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)
    assert list(sampler) == first == sampler.batches(0)
    assert second == sampler.batches(1) != first
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == [0, 1, 2, 3, 4, 5]
    assert EpochBatchSampler(length=6, batch_size=2, seed=6).batches(0) not in (first, second)


def test_a_last_batch_smaller_than_the_processes():
    training = [batches(length=9, batch_size=2, rank=rank, world_size=4) for rank in range(4)]
    assert [len(part) for part in training] == [1, 1, 1, 1]
    assert len(set(sum((sum(part, []) for part in training), []))) == 8
    validation = [batches(length=9, batch_size=2, shuffle=False, rank=rank, world_size=4) for rank in range(4)]
    assert validation == [[[0, 1]], [[2, 3]], [[4, 5]], [[6, 7, 8]]]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_length_is_the_number_of_batches(shuffle: bool, drop_last: bool):
    for length in range(6, 20):
        sampler = EpochBatchSampler(length, 2, world_size=3, shuffle=shuffle, drop_last=drop_last)
        assert len(sampler) == len(list(sampler)) == len(sampler.batches(0))


def test_too_few_rows():
    with pytest.raises(
        UserError, match="^1 rows are too few for a batch, which needs 2; add rows or lower --data.batch_size"
    ):
        EpochBatchSampler(length=1, batch_size=2, world_size=2)


def test_iterating_leaves_the_global_random_stream_alone():
    loader = StatefulLoader(list(range(4)), EpochBatchSampler(4, 2), list)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(loader)
    assert torch.equal(torch.rand(1), expected)


def test_a_checkpoint_of_other_data_is_refused_in_the_middle_of_an_epoch():
    loader = StatefulLoader(list(range(8)), EpochBatchSampler(8, 2), list)
    fresh = loader.state_dict()
    next(iter(loader))
    other = StatefulLoader(list(range(9)), EpochBatchSampler(9, 2), list)
    message = "from batch 1 of an epoch with 8 rows in batches of 2 .*now there are 9 rows.*same data and batch"
    with pytest.raises(UserError, match=message):
        other.load_state_dict(loader.state_dict())
    other.load_state_dict(fresh)
    assert len(list(other)) == 5


class Recorder(lightning.LightningModule):
    """Records the rows of every batch, and learns something that depends on their order."""

    def __init__(self, rows: int = 10) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int]]] = []
        self.rows = rows

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch.tolist()))
        return (self.weight - batch.float().mean()) ** 2

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val/loss", batch.float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)

    def train_dataloader(self) -> StatefulLoader:
        return StatefulLoader(list(range(self.rows)), EpochBatchSampler(self.rows, 2, seed=1), torch.tensor)

    def val_dataloader(self) -> StatefulLoader:
        return StatefulLoader(list(range(4)), EpochBatchSampler(4, 2, shuffle=False), torch.tensor)


class StopAfter(Callback):
    """Stops as Ctrl-C does in the stages: the running batch is finished, then Lightning leaves the loop."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Recorder, *_: Any) -> None:  # type: ignore[override]
        trainer.should_stop = len(module.seen) >= self.batches


def trainer(folder: Path, **arguments: Any) -> lightning.Trainer:
    settings: dict[str, Any] = {
        "max_epochs": 3,
        "val_check_interval": 4,
        "accelerator": "cpu",
        "logger": False,
    }
    settings |= {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }
    settings |= {"enable_checkpointing": False, "num_sanity_val_steps": 0} | arguments
    settings["callbacks"] = [*settings.pop("callbacks", []), ResumeInsideEpoch()]
    return lightning.Trainer(default_root_dir=folder, **settings)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 7])
def test_resume_after_max_steps_goes_on_with_the_next_batch(tmp_path: Path, steps: int, accumulate: int):
    whole = Recorder()
    trainer(tmp_path, accumulate_grad_batches=accumulate).fit(whole)

    first = Recorder()
    interrupted = trainer(tmp_path, accumulate_grad_batches=accumulate, max_steps=steps)
    interrupted.fit(first)
    interrupted.save_checkpoint(tmp_path / "end.ckpt")
    second = Recorder()
    trainer(tmp_path, accumulate_grad_batches=accumulate).fit(second, ckpt_path=tmp_path / "end.ckpt")

    assert first.seen + second.seen == whole.seen
    assert torch.equal(second.weight, whole.weight)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("done", range(1, 15))
def test_resume_after_a_stop_goes_on_with_the_next_batch(tmp_path: Path, done: int):
    whole = Recorder()
    trainer(tmp_path).fit(whole)

    first = Recorder()
    interrupted = trainer(tmp_path, callbacks=[StopAfter(done)])
    interrupted.fit(first)
    interrupted.save_checkpoint(tmp_path / "end.ckpt")
    second = Recorder()
    trainer(tmp_path).fit(second, ckpt_path=tmp_path / "end.ckpt")

    assert first.seen + second.seen == whole.seen
    assert torch.equal(second.weight, whole.weight)


@pytest.mark.filterwarnings("ignore")
def test_a_run_interrupted_again_and_again(tmp_path: Path):
    whole = Recorder()
    uninterrupted = trainer(tmp_path)
    uninterrupted.fit(whole)
    seen, checkpoint = [], None
    for done in (2, 1, 4, 1, 20):
        part = Recorder()
        run = trainer(tmp_path, callbacks=[StopAfter(done)])
        run.fit(part, ckpt_path=checkpoint)
        checkpoint = tmp_path / "again.ckpt"
        run.save_checkpoint(checkpoint)
        seen += part.seen
    assert seen == whole.seen
    assert torch.equal(part.weight, whole.weight)
    assert run.current_epoch == uninterrupted.current_epoch == 3
    assert run.global_step == uninterrupted.global_step == 15


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("when", ["steps", "epochs", "validations"])
def test_every_checkpoint_resumes_exactly(tmp_path: Path, when: str, accumulate: int):
    moments: dict[str, dict[str, Any]] = {
        "steps": {"every_n_train_steps": 1},
        "epochs": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
        "validations": {"monitor": "val/loss", "save_on_train_epoch_end": False},
    }
    saver = ModelCheckpoint(dirpath=tmp_path / "all", filename="{epoch}-{step}", save_top_k=-1, **moments[when])
    whole = Recorder()
    trainer(tmp_path, accumulate_grad_batches=accumulate, enable_checkpointing=True, callbacks=[saver]).fit(whole)
    checkpoints = sorted((tmp_path / "all").iterdir())
    assert len(checkpoints) >= 3
    for checkpoint in checkpoints:
        rest = Recorder()
        trainer(tmp_path, accumulate_grad_batches=accumulate).fit(rest, ckpt_path=checkpoint)
        expected = whole.seen[len(whole.seen) - len(rest.seen) :]
        assert rest.seen == expected, checkpoint.name
        assert torch.equal(rest.weight, whole.weight), checkpoint.name
