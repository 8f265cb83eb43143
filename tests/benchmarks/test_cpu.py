"""The benchmark of choices for CPUs, on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import cpu
from lit_instruct.models import heads


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    """Small sizes, and the tiny model in place of the embedded base."""
    sizes: dict[str, Any] = {
        "TOKENS": 8,
        "HIDDEN": 4,
        "VOCABULARY": 16,
        "SHAPES": ((2, 5),),
        "LENGTHS": range(2, 4),
        "NAME": str(tiny_model),
    }
    for name, value in sizes.items():
        monkeypatch.setattr(cpu, name, value)


@pytest.mark.usefixtures("small")
def test_log_probs_by_block() -> None:
    before = heads.CACHED_TOKENS
    found = cpu.log_probs(2)
    assert tuple(found) == cpu.BLOCKS and before == heads.CACHED_TOKENS
    assert all(times.keys() == {"forward", "both"} for times in found.values())


@pytest.mark.usefixtures("small")
def test_passes_of_a_process() -> None:
    found = cpu.passes("freed", 1)
    assert found.keys() == {"2x5"} and found["2x5"].keys() == {"forward", "both", "page_faults"}


@pytest.mark.usefixtures("small")
def test_products_of_a_process() -> None:
    assert cpu.products("many").keys() == {"first_ms", "again_ms", "grown_mb"}


def test_shares_are_of_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    def side(_: str, name: str, work: dict[str, int]) -> dict[str, dict[str, float]]:
        assert work == {"repetitions": 3}
        seconds = {"kept": 2.0, "freed": 4.0}[name]
        return {f"{rows}x{length}": {"forward": seconds, "both": 8.0, "page_faults": 1} for rows, length in cpu.SHAPES}

    monkeypatch.setattr(cpu, "run_side", side)
    found = cpu.freed_memory(2, 3)
    assert [case["kept / freed"] for case in found.values()] == [{"forward": 0.5, "both": 1.0}] * len(cpu.SHAPES)


def test_products_are_medians_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = {"few": [1.0, 9.0, 2.0], "many": [30.0, 10.0, 20.0]}
    monkeypatch.setattr(cpu, "run_side", lambda _, side, work: {"grown_mb": grown[side].pop()})
    assert cpu.compiled_products(3) == {"few": {"grown_mb": 2.0}, "many": {"grown_mb": 20.0}}
