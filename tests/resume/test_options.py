"""Options that change when a run is resumed are refused, or take effect and are logged."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch.optim.lr_scheduler import LambdaLR

from lit_instruct.errors import UserError
from lit_instruct.running.last_checkpoint import LastCheckpoint
from lit_instruct.stages.resume import BOUND, check_options, configured_groups, honour_groups
from tests.lit_instruct.stages.helpers import column
from tests.resume.helpers import Runs, checkpoint


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, runs: Runs) -> Path:
    """A complete run of two iterations."""
    folder = tmp_path_factory.mktemp("begun")
    assert runs.fit(folder, "--model.iterations=2") == 0
    return folder


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--model.lora.r=3", "--model.lora.r=3: the checkpoint has 16, and the trained tensors are"),
        ("--model.iterations=1", "--model.iterations=1: the checkpoint has 2"),
        ("--data.batch_size=6", "12 rows in batches of 4"),
    ],
)
def test_refused(
    tmp_path: Path, runs: Runs, begun: Path, capsys: pytest.CaptureFixture[str], option: str, words: str
) -> None:
    folder = Path(shutil.copytree(begun, tmp_path / "run"))
    files = [folder / "ppo/logs/metrics.csv", folder / "ppo/checkpoints/last.ckpt"]
    before = [path.read_bytes() for path in files]
    assert runs.resume(folder, option) == 2
    assert words in capsys.readouterr().err
    assert [path.read_bytes() for path in files] == before


def test_honoured(tmp_path: Path, runs: Runs, begun: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(shutil.copytree(begun, tmp_path / "run"))
    with caplog.at_level("INFO"):
        changed = {
            "model.iterations": "3",
            "model.optimizer.learning_rate": "6e-3",
            "model.optimizer.beta2": "0.9",
            "model.optimizer.weight_decay": "0.1",
            "model.kl.coef": "0.5",
        }
        assert runs.resume(folder, *(f"--{name}={value}" for name, value in changed.items())) == 0
    assert all(f"{name} " in caplog.text for name in changed)
    assert "model.optimizer.learning_rate 0.003 -> 0.006" in caplog.text
    log = folder / "ppo/logs/metrics.csv"
    assert column(log, "ppo/kl_coef")[2] == 0.5
    # after iteration n the warmup of four iterations, from a tenth, has reached 0.1 + 0.9 n / 4 of the rate
    shares = [0.1 + 0.9 * n / 4 for n in (1, 2, 3)]
    rates = [3e-3 * shares[0], 3e-3 * shares[1], 6e-3 * shares[2]]
    assert column(log, "ppo/learning_rate") == pytest.approx(rates)
    policy, value = checkpoint(folder)["optimizer_states"][0]["param_groups"]
    assert policy["lr"] == pytest.approx(6e-3 * shares[2])
    assert value["lr"] == pytest.approx(1e-4 * shares[2])
    assert policy["betas"] == (0.9, 0.9)
    assert value["weight_decay"] == 0.1


@pytest.mark.parametrize("bound", BOUND)
def test_what_binds_a_checkpoint(bound: str) -> None:
    with pytest.raises(UserError, match=f"--{bound}=new: the checkpoint has old, and .*start a new training"):
        check_options({bound: "old", "seed": 0}, {bound: "new", "seed": 1})
    assert check_options({bound: "old", "seed": 0}, {bound: "old", "seed": 1}) == ["seed"]
    assert check_options({bound: "old"}, {bound: "old"}) == []


def test_a_part_of_what_binds_and_an_option_that_is_new() -> None:
    with pytest.raises(UserError, match=r"--model.lora.r=null: the checkpoint has 8"):
        check_options({"model.lora.r": 8}, {"model.lora": None})
    assert check_options({}, {"model.fresh": 1}) == ["model.fresh"]


def test_a_rate_keeps_its_place_in_the_schedule_and_what_the_training_did_to_it() -> None:
    def build(rate: float) -> Any:
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=rate, weight_decay=rate)
        config = SimpleNamespace(scheduler=LambdaLR(optimizer, lambda step: 1 / (1 + step)))
        return SimpleNamespace(optimizers=[optimizer], lr_scheduler_configs=[config])

    before, now = build(0.8), build(0.2)
    before.lr_scheduler_configs[0].scheduler.base_lrs[0] /= 2  # as when KL exceeds its bound
    before.optimizers[0].step()
    before.lr_scheduler_configs[0].scheduler.step()
    configured = configured_groups(now)
    now.optimizers[0].load_state_dict(before.optimizers[0].state_dict())
    now.lr_scheduler_configs[0].scheduler.load_state_dict(before.lr_scheduler_configs[0].scheduler.state_dict())
    honour_groups(now, configured)
    group, scheduler = now.optimizers[0].param_groups[0], now.lr_scheduler_configs[0].scheduler
    assert group["lr"] == pytest.approx(0.2 / 2 / 2)
    assert scheduler.get_last_lr() == pytest.approx([0.2 / 2 / 2])
    assert group["weight_decay"] == 0.2
    scheduler.step()
    assert group["lr"] == pytest.approx(0.2 / 2 / 3)


def test_patience_is_as_given_now(tmp_path: Path) -> None:
    early = EarlyStopping("val/loss", patience=5)
    loop = SimpleNamespace(on_advance_end=None, epoch_loop=SimpleNamespace(on_advance_end=None))
    trainer: Any = SimpleNamespace(callbacks=[early], fit_loop=loop)
    callback = LastCheckpoint(tmp_path / "last.ckpt")
    callback.setup(trainer)
    early.load_state_dict(EarlyStopping("val/loss", patience=2).state_dict())
    callback.on_train_start(trainer, trainer)
    assert early.patience == 5
