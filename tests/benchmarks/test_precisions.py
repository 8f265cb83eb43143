"""A precision that a probe shows to be far slower is not run, and the tables say so."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import decode, ppo, ppo_sides, precisions, scaling
from benchmarks.fill_tables import TABLES
from benchmarks.ppo_work import WORKLOADS
from lit_instruct.models import dtype

EMULATED = {"bf16": "59.0 times as slow as fp32 in a probe of two layers"}


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that emulates bfloat16."""
    monkeypatch.setattr(dtype, "seconds_here", lambda widths: {"float32": 1.0, "bfloat16": 59.0})


@pytest.mark.parametrize(
    ("float32", "bfloat16", "left_out"),
    [(1, 1, set()), (1, 2.9, set()), (1, 3, {"bf16"}), (2.9, 1, set()), (3.1, 1, {"fp32"})],
)
def test_three_times_slower_is_left_out(
    float32: float, bfloat16: float, left_out: set[str], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dtype, "seconds_here", lambda widths: {"float32": float32, "bfloat16": bfloat16})
    assert precisions.not_run(str(tiny_model)).keys() == left_out
    assert precisions.not_run(str(tiny_model), "cuda") == {}
    assert precisions.first_run(str(tiny_model)) == ("fp32" if "bf16" in left_out else "bf16")


def test_no_side_of_ppo_runs_in_it(emulated: None, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, str]] = []

    def run(**work: Any) -> dict[str, Any]:
        ran.append((work["side"], work["dtype"]))
        seconds = {"seconds": 2.0, "rollout_seconds": 1.0, "scoring_seconds": 0.5, "update_seconds": 0.5}
        return seconds | {"peak_memory_gb": 1.0, "versions": {}}

    monkeypatch.setattr(ppo, "run_side", lambda *_: {"base_folder": "base", "top_layers": {}})
    monkeypatch.setattr(ppo_sides, "trl", run)
    options = ppo.main.parse(["--quick", "--base", str(tiny_model), "--sides", "trl"])
    options.workloads = list(WORKLOADS)[:1]
    found = ppo.measure(options)
    assert {dtype for _, dtype in ran} == {"fp32"}
    ((case,),) = (model.values() for model in found.results["models"].values())
    assert case["not_run"] == EMULATED
    assert TABLES["ppo"][1](found.results)[-1][0] == f"not run: bf16, {EMULATED['bf16']}"
    asked_for = ppo.main.parse(["--quick", "--base", str(tiny_model), "--sides", "trl", "--dtype=bf16"])
    asked_for.workloads, ran[:] = options.workloads, []
    ppo.measure(asked_for)
    assert {dtype for _, dtype in ran} == {"bf16"}


@pytest.mark.parametrize("module", [decode, scaling])
def test_a_benchmark_in_one_precision_takes_the_other(
    module: Any, emulated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class MeasuredError(Exception):
        """Carries what would have been measured."""

    def stop(*given: Any) -> None:
        raise MeasuredError(given)

    monkeypatch.setattr(module, "build" if module is decode else "measure_at", stop)
    for words, expected in (([], "fp32"), (["--dtype=bf16"], "bf16")):
        options: Namespace = module.main.parse(words)
        with pytest.raises(MeasuredError):
            module.measure(options)
        assert options.dtype == expected


def test_tables_name_what_was_not_run() -> None:
    for name, found in (
        ("sft", {"variants": {}}),
        ("rm-speed", {"cases": []}),
        ("decode", {"tokens_per_second": {}, "seconds": {}, "workload": {"not_run": EMULATED}}),
    ):
        head, row = TABLES[name][1]({"not_run": EMULATED, **found})
        assert row == (f"not run: bf16, {EMULATED['bf16']}", *[""] * (len(head) - 1))
        found = found | {"workload": {}}
        assert len(TABLES[name][1](found)) == 1
