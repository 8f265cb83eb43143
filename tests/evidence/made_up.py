"""Results, and a finding that is not among those of evidence/findings/."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from evidence import findings
from evidence.context import Context
from evidence.result import Result


def result(name: str = "made_up", **other: Any) -> Result:
    """Returns a result that holds, with a table, two claims and charts of both kinds."""
    chart = {"title": "Score by size", "x": "rows", "y": "score"}
    given: dict[str, Any] = {
        "finding": name,
        "question": "Does it | rise?",
        "paper": "It rises (section 4.1).",
        "done": "Three trainings.",
        "holds": True,
        "figure": 1.0,
        "ci_low": 0.5,
        "ci_high": 1.5,
        "unit": "nats",
        "seeds": (0, 1, 2),
        "verdict": "It rises by a <b>nat</b>.",
        "rows": [{"system": "PPO", "score": 0.256}, {"system": "SFT", "score": 0.1, "note": "a|b"}],
        "claims": [
            {"claim": "later too", "holds": None, "figure": 0.1, "ci_low": -0.1, "ci_high": 0.3},
            {"claim": "more with data", "holds": False, "figure": -20.04, "ci_low": -30, "ci_high": -10},
        ],
        "plots": [
            chart | {"lines": [{"name": "PPO", "points": [[50, 0.2], [100, 0.4]]}]},
            chart | {"bars": [{"name": "judge", "points": [["PPO", 0.2, 0.1, 0.3], ["SFT", 0.1, 0.0, 0.2]]}]},
        ],
        "seconds": 754.0,
        "fingerprint": "0123456789ab",
    }
    return Result(**given | other)


def finding(monkeypatch: pytest.MonkeyPatch, measure: Callable[[Context], Result], name: str = "made_up") -> ModuleType:
    """Adds a module to those of the findings, which are no others then."""
    module = ModuleType(f"evidence.findings.{name}")
    module.__dict__.update(measure=measure, QUESTION="Does it rise?")
    others = [known for known in sys.modules if known.startswith("evidence.findings.made_up")]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(findings, "names", lambda: sorted({*(known.split(".")[-1] for known in others), name}))
    return module
