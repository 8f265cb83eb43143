"""Loaders and DataModules of a user's own train what the same rows in a file train, or are refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from data_modules import PromptDataModule, PromptResponseDataModule, RankedComparisonDataModule
from data_modules.hygiene.steps import HygieneOptions
from lit_instruct import PPOModule, RewardModule, SFTModule
from lit_instruct.batches import PromptBatch, left_pad
from lit_instruct.errors import UserError
from lit_instruct.models.lora import LoraOptions
from lit_instruct.ppo.options import ObjectiveOptions, RewardOptions, SelectionOptions
from lit_instruct.rollouts.generate import SamplingOptions
from tests.lit_instruct.stages.helpers import (
    Files,
    assert_equal,
    comparisons,
    demonstrations,
    plain_trainer,
    prompts,
    write_rows,
)

LORA = LoraOptions(top_layers=1)
NO_HYGIENE = HygieneOptions(max_per_user=None, personal_information="keep")
ROWS = {"sft": demonstrations(11), "rm": comparisons(9), "ppo": prompts(9)}
HELD_OUT = {"sft": demonstrations(5, 1), "rm": comparisons(5, 1), "ppo": prompts(5, 1)}


def module_of(stage: str, base: Path) -> Any:
    if stage == "ppo":
        return PPOModule(
            base=str(base),
            lora=LORA,
            iterations=3,
            reward=RewardOptions(function="tests.lit_instruct.stages.rewards.length"),
            objective=ObjectiveOptions(minibatches=2),
            sampling=SamplingOptions(max_new_tokens=4),
        )
    return {"sft": SFTModule, "rm": RewardModule}[stage](base=str(base), lora=LORA)


def trained(module: Any) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in module.named_parameters() if value.requires_grad}


class Rows(lightning.LightningDataModule):
    """A user's DataModule."""

    def __init__(self, rows: list[Any], held_out: list[Any], **options: Any) -> None:
        super().__init__()
        self.rows, self.held_out, self.options = rows, held_out, options
        self.called: list[str] = []

    def setup(self, stage: str) -> None:
        self.called.append("setup")

    def teardown(self, stage: str) -> None:
        self.called.append("teardown")

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.rows, batch_size=4, shuffle=True, **self.options)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.held_out, batch_size=2, **self.options)


@pytest.fixture(scope="module")
def by_file(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Any]:
    """Each stage trained on files, with its final metrics."""
    folder, found = tmp_path_factory.mktemp("files"), {}
    kinds = {
        "sft": PromptResponseDataModule,
        "rm": RankedComparisonDataModule,
        "ppo": lambda *paths, **more: PromptDataModule(*paths, hygiene=NO_HYGIENE, **more),
    }
    for stage, kind in kinds.items():
        paths = [write_rows(folder / f"{stage}-{n}.jsonl", rows[stage]) for n, rows in enumerate((ROWS, HELD_OUT))]
        module, trainer = module_of(stage, tiny_model), plain_trainer(folder, max_epochs=2)
        trainer.fit(module, kind(*map(str, paths), batch_size=4))
        found[stage] = (trained(module), dict(trainer.callback_metrics))
    return found


def assert_same(module: Any, trainer: lightning.Trainer, expected: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
    weights, metrics = expected
    assert_equal(trained(module), weights)
    assert trainer.callback_metrics.keys() == metrics.keys()
    for name, value in metrics.items():
        if not name.endswith(("_seconds", "per_second")):
            assert float(trainer.callback_metrics[name]) == pytest.approx(float(value), abs=1e-6), name


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_plain_loaders(stage: str, tmp_path: Path, tiny_model: Path, by_file: dict[str, Any]) -> None:
    module, trainer = module_of(stage, tiny_model), plain_trainer(tmp_path, max_epochs=2)
    rows = [row["prompt"] for row in ROWS[stage]] if stage == "ppo" else ROWS[stage]
    trainer.fit(module, DataLoader(rows, batch_size=4, shuffle=True), DataLoader(HELD_OUT[stage], batch_size=2))
    assert_same(module, trainer, by_file[stage])
    (again,) = trainer.validate(module, DataLoader(HELD_OUT[stage], batch_size=5), verbose=False)
    for name, value in again.items():
        assert value == pytest.approx(float(by_file[stage][1][name]), abs=1e-5), name


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_loader_resumes_inside_an_epoch(
    stage: str, tmp_path: Path, tiny_model: Path, by_file: dict[str, Any]
) -> None:
    class Killed(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "inside.ckpt")
            raise KeyError

    def fit(*callbacks: Callback, resumed: Path | None = None) -> tuple[Any, lightning.Trainer]:
        module, trainer = module_of(stage, tiny_model), plain_trainer(tmp_path, max_epochs=2, callbacks=[*callbacks])
        loaders = (DataLoader(ROWS[stage], batch_size=4, shuffle=True), DataLoader(HELD_OUT[stage], batch_size=2))
        trainer.fit(module, *loaders, ckpt_path=resumed)
        return module, trainer

    with pytest.raises(KeyError):
        fit(Killed())
    assert_same(*fit(resumed=tmp_path / "inside.ckpt"), by_file[stage])


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_a_data_module_of_ones_own(stage: str, tmp_path: Path, tiny_model: Path, by_file: dict[str, Any]) -> None:
    module, trainer = module_of(stage, tiny_model), plain_trainer(tmp_path, max_epochs=2)
    data = Rows(ROWS[stage], HELD_OUT[stage], collate_fn=list)
    trainer.fit(module, datamodule=data)
    assert_same(module, trainer, by_file[stage])
    assert trainer.datamodule is data
    assert data.called == ["setup", "teardown"]


def test_prompt_batches(tmp_path: Path, tiny_model: Path, by_file: dict[str, Any]) -> None:
    module, trainer = module_of("ppo", tiny_model), plain_trainer(tmp_path, max_epochs=2)

    def collate(rows: list[Any]) -> PromptBatch:
        ids, mask = left_pad(module.prompter.prompts_ids([row["prompt"] for row in rows]), module.prompter.pad_id)
        return PromptBatch(ids, mask, torch.arange(len(rows)), rows)

    trainer.fit(module, datamodule=Rows(ROWS["ppo"], HELD_OUT["ppo"], collate_fn=collate))
    assert_same(module, trainer, by_file["ppo"])


def test_given_token_ids_are_used(tmp_path: Path, tiny_model: Path) -> None:
    module, seen = module_of("ppo", tiny_model), []
    ids, mask = left_pad([[5, 6, 7], [8, 9], [10], [11]], 0)
    batch = PromptBatch(ids, mask, torch.arange(4), ["a", "b", "c", "d"])
    trainer = plain_trainer(tmp_path, max_epochs=1)
    module.on_train_batch_end = lambda outputs, batch, number: seen.append(batch)
    trainer.fit(module, [batch])
    assert [row[keep].tolist() for row, keep in zip(seen[0].prompt_ids, seen[0].prompt_mask, strict=True)] == [
        [5, 6, 7],
        [8, 9],
        [10],
        [11],
    ]


def test_two_fits_take_the_data_of_each(tmp_path: Path, tiny_model: Path, files: Files) -> None:
    module = module_of("sft", tiny_model)
    plain_trainer(tmp_path, max_epochs=1).fit(module, DataLoader(ROWS["sft"][:4], batch_size=2))
    trainer = plain_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, DataLoader(ROWS["sft"], batch_size=2))
    assert trainer.global_step == 6
    trainer = plain_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, PromptResponseDataModule(str(files.sft), validation_share=0.0, batch_size=2))
    assert trainer.global_step == 10


class Moved(Rows):
    """Changes batches on their way to the device."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


@pytest.mark.parametrize(
    ("stage", "data", "options", "sentence"),
    [
        ("ppo", [ROWS["sft"][:4]], {"reload_dataloaders_every_n_epochs": 1}, "loaders of your own are read once"),
        ("sft", Moved(ROWS["sft"], []), {}, "Moved.on_after_batch_transfer would not be called"),
        ("sft", DataLoader(["text"]), {}, "train_dataloader:row 1: a row is a dict or a list of messages, not"),
        ("rm", DataLoader(ROWS["sft"]), {}, r"train_dataloader:row 1: .*for `lit-instruct sft`"),
        ("sft", DataLoader([{"prompt": "p", "response": "word " * 600}]), {}, "train_dataloader: its longest row has"),
        ("ppo", DataLoader(["word " * 600] * 8, batch_size=8), {}, "train_dataloader: its longest prompt has"),
        ("ppo", DataLoader(["one"] * 8), {}, r"objective.minibatches=2: more than the 1 prompts of --data.batch_size"),
    ],
)
def test_what_is_refused(
    stage: str, data: Any, options: dict[str, Any], sentence: str, tmp_path: Path, tiny_model: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        plain_trainer(tmp_path, max_epochs=1, **options).fit(module_of(stage, tiny_model), data)


def test_a_data_module_of_another_stage(tmp_path: Path, tiny_model: Path, files: Files) -> None:
    with pytest.raises(UserError, match="SFTModule trains on a PromptResponseDataModule, not on a PromptDataModule"):
        plain_trainer(tmp_path, max_epochs=1).fit(module_of("sft", tiny_model), PromptDataModule(str(files.ppo)))


def test_nothing_to_train_on(tmp_path: Path, tiny_model: Path) -> None:
    sentence = r"there is nothing to train on; give trainer.fit\(module, DataLoader\(rows, batch_size=8\)\)"
    with pytest.raises(UserError, match=sentence):
        plain_trainer(tmp_path, max_epochs=1).fit(module_of("sft", tiny_model))


def test_the_data_are_recorded(tmp_path: Path, tiny_model: Path) -> None:
    module = module_of("ppo", tiny_model)
    module.options = module.options._replace(selection=SelectionOptions(metric="val/reward"))
    trainer = plain_trainer(tmp_path, max_epochs=2)
    trainer.fit(module, DataLoader(ROWS["ppo"], batch_size=4), DataLoader(HELD_OUT["ppo"], batch_size=2))
    record = module.record({})
    assert record.options is not None
    assert record.options["data"]["path"] == "train_dataloader"
    assert record.data is not None
    assert (record.data["train"], record.data["validation"]) == (9, 5)
