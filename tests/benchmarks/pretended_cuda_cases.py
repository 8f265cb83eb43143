"""The pretended CUDA device: it refuses what CUDA refuses, counts waits and copies, and trains.

Importing it changes PyTorch for the whole process, so `test_cuda_sim` runs these tests in a process of their own.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from benchmarks import RESULTS
from benchmarks.cuda_sim import beyond, run_case, write_data
from benchmarks.cuda_sim_patches import pretend
from benchmarks.pretended_cuda import CudaTensor, RefusedError


def test_numbers_are_right_and_say_that_they_are_on_the_device() -> None:
    with pretend() as device:
        weight = torch.nn.Linear(4, 2).to("cuda").weight
        found = (torch.ones(3, 4, device="cuda") @ weight.T).square().sum()
        found.backward()
        assert isinstance(weight, torch.nn.Parameter) and isinstance(weight.data, CudaTensor)
        assert str(weight.device) == str(weight.grad.device) == "cuda:0"
        assert float(found) == pytest.approx(3 * float(weight.cpu().sum(dim=1).square().sum()))
        assert not device.refused


def test_operands_on_two_devices_are_refused() -> None:
    with pretend() as device:
        values = torch.ones(3, 4, device="cuda")
        assert (values + torch.tensor(1.0)).sum().item() == 24
        assert values[torch.tensor([0, 2])].shape == (2, 4)
        for wrong in (lambda: values + torch.ones(3, 4), lambda: torch.ones(3)[torch.tensor([1], device="cuda")]):
            with pytest.raises(RefusedError, match="same device"):
                wrong()
        with pytest.raises(RefusedError):
            values[0] = torch.ones(4)[torch.tensor([0, 1, 2, 3])] @ torch.ones(4, 4, device="cuda")
        assert len(device.refused) == 3


@pytest.mark.parametrize(
    ("work", "kind"),
    [
        (lambda x: x.sum().item(), "item"),
        (lambda x: bool((x > 0).all()), "item"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: x.cpu(), "to host"),
        (lambda x: x[x > 0], "boolean index"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x.unique(dim=0), "unique"),
        (lambda x: torch.equal(x, x), "equal"),
        (lambda x: x[torch.tensor([0], device="cuda")] * 2 + x.amax(), ""),
    ],
)
def test_waits_are_counted(work: Any, kind: str) -> None:
    with pretend() as device:
        values = torch.ones(3, device="cuda")
        device.waits.clear()
        work(values)
        assert [name.split(" libraries")[0] for name, count in device.waits.items() if count] == (
            [kind] if kind else []
        )


def test_autocast_gives_what_it_gives_on_a_gpu() -> None:
    with pretend() as device, torch.autocast("cuda", torch.bfloat16):
        assert torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.bfloat16
        one = torch.ones(2, 2, device="cuda")
        assert (one @ one).dtype == torch.bfloat16 and one.softmax(dim=0).dtype == torch.float32
        assert sum(device.wide.values()) == 0
        with torch.autocast("cuda", enabled=False):
            assert (one @ one).dtype == torch.float32


@pytest.mark.parametrize("name", ["sft, LoRA", "rm, LoRA", "ppo, LoRA"])
def test_stages_train_on_it_with_no_more_waits_than_committed(name: str, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.getbasetemp() / "cuda-sim"
    if not folder.exists():
        folder.mkdir()
        write_data(folder)
    committed = json.loads((RESULTS / "cuda-sim.json").read_text(encoding="utf-8"))["cases"]
    assert beyond(run_case(name, folder), committed[name]) == []
