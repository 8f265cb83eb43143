"""Counts of waits and copies on the pretended CUDA device, and its own tests in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import RESULTS
from benchmarks.cuda_sim import CASES, COUNTED, beyond

OWN = Path(__file__).with_name("pretended_cuda_cases.py")


def test_more_than_the_committed_counts_is_a_fault() -> None:
    counts: dict[str, Any] = {kind: {} for kind in COUNTED}
    committed = counts | {"waits": {"item a.py:b": 2}}
    assert beyond(counts | {"waits": {"item a.py:b": 2}}, committed) == []
    assert beyond(counts | {"waits": {"item a.py:b": 3}}, committed) == [
        "waits per step in item a.py:b: 3 instead of at most 2"
    ]
    assert len(beyond(counts | {"waits": {"item c.py:d": 1}, "refused": {"mm": 1}}, committed)) == 2
    assert beyond({"error": "no"}, committed) == ["it failed: no"]


def test_the_committed_counts_are_of_every_case_and_no_wait_is_per_token() -> None:
    cases = json.loads((RESULTS / "cuda-sim.json").read_text(encoding="utf-8"))["cases"]
    assert list(cases) == list(CASES)
    assert all(not case["refused"] for case in cases.values())
    for name, case in cases.items():
        loop = {where: count for where, count in case["waits"].items() if "rollouts/generate.py:generate" in where}
        assert sum(loop.values()) <= 3, name  # 40 tokens, 16 between two looks


@pytest.mark.slow
def test_the_device_and_the_stages_that_train_on_it() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(OWN)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=OWN.parents[2])
    assert ended.returncode == 0, ended.stdout
