"""What GPUs send each other, by hand on small numbers; docs/scaling.md shows what the functions say."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_instruct.planning.communication import (
    MODELS,
    Cluster,
    Model,
    all_gather,
    model_of,
    scaling_table,
    sent_bytes,
    state_bytes,
    step,
)

SMALL = Model("small", parameters=1000.0, adapters=10.0, base_nf4=600.0)


@pytest.mark.parametrize(("gpus", "sent"), [(1, 0.0), (2, 50.0), (4, 75.0)])
def test_a_ring_sends_all_but_its_own_piece(gpus: int, sent: float) -> None:
    assert all_gather(100.0, gpus) == sent


@pytest.mark.parametrize(
    ("strategy", "sent", "held"),
    [
        ("ddp-lora", 40.0, 2000.0 + 160.0),  # 2 x 1/2 x 4 x 10; 2 x 1000 + 16 x 10
        ("ddp-lora-nf4", 40.0, 600.0 + 160.0),
        ("ddp", 4000.0, 16000.0),
        ("zero2", 3000.0, 2000.0 + 8000.0),  # 1/2 x (4 + 2) x 1000
        ("fsdp2", 12000.0, 8000.0),  # 3 micro-batches x 1/2 x 8 x 1000
    ],
)
def test_bytes_of_two_gpus(strategy: str, sent: float, held: float) -> None:
    assert sent_bytes(SMALL, strategy, 2, micro_batches=3) == pytest.approx(sent)  # type: ignore[arg-type]
    assert state_bytes(SMALL, strategy, 2) == pytest.approx(held)  # type: ignore[arg-type]


def test_seconds() -> None:
    cluster = Cluster(per_node=2, flops=1000.0, inside=400.0, between=100.0)
    found = step(SMALL, "fsdp2", 4, cluster, tokens=2, micro_batches=1)
    assert found.computing == 2 * 8 * 1000 / 1000
    assert found.sending == 0.75 * 8 * 1000 / 100  # between nodes: more than two GPUs
    assert found.decoding == 0.75 * 2 * 1000 / 100
    assert (found.shortest, found.longest) == (60.0, 76.0)
    assert step(SMALL, "ddp-lora", 2, cluster, tokens=2).computing == 2 * 6 * 1000 / 1000
    assert step(SMALL, "ddp-lora", 2, cluster, tokens=2).sending == 40 / 400


@pytest.fixture(scope="module")
def llamas() -> list[Model]:
    return [model_of(name) for name in MODELS]


def test_published_sizes(llamas: list[Model]) -> None:
    """Llama 3 has 8.03 and 70.55 thousand million parameters; PEFT counts 41.9 million of LoRA at rank 16."""
    assert [round(model.parameters / 1e9, 2) for model in llamas] == [8.03, 70.55]
    assert llamas[0].adapters == 41_943_040


def test_the_page_shows_the_table(llamas: list[Model]) -> None:
    page = (Path(__file__).parents[3] / "docs/scaling.md").read_text(encoding="utf-8")
    assert f"<!-- table -->\n{scaling_table(llamas)}\n<!-- /table -->" in page
