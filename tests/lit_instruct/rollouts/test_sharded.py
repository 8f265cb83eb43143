"""Two processes that shard a model (FSDP2) decode together, although one of them could stop at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM

from lit_instruct.rollouts.decode import ModelDecoding, decoding
from lit_instruct.rollouts.generate import SamplingOptions, generate
from lit_instruct.rollouts.stopping import StopRule

OPTIONS = SamplingOptions(max_new_tokens=5)


def _sample(model: torch.nn.Module, rank: int, stops: list[int]) -> list[int]:
    ids = torch.tensor([[5 + rank, 6, 7]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    responses = generate(model, ids, mask, OPTIONS, StopRule(stops, [], str), [(0, rank)], 0)
    return responses.ids[0][responses.mask[0]].tolist()


def _work(rank: int, folder: str, base: str, stop: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        model = AutoModelForCausalLM.from_pretrained(base).eval()
        mesh = init_device_mesh("cpu", (2,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        assert isinstance(decoding(model, 5), ModelDecoding)
        torch.save(_sample(model, rank, [stop] if rank == 0 else []), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_that_end_at_different_times(tmp_path: Path, tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(str(tiny_model)).eval()
    free = [_sample(model, rank, []) for rank in (0, 1)]
    mp.start_processes(_work, (str(tmp_path), str(tiny_model), free[0][0]), nprocs=2, start_method="spawn")
    assert torch.load(tmp_path / "0.pt") == free[0][:1]
    assert torch.load(tmp_path / "1.pt") == free[1]
