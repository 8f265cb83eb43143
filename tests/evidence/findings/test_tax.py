"""The finding of tax from scores that are known, and the whole of it with --quick."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evidence import questions
from evidence.__main__ import main
from evidence.context import Context
from evidence.findings.tax import DOMAIN, LOG_PROB, MEASURES, PAIRS, Tables, differences, result, tables
from evidence.task_scores import task_scores
from tests.evidence.test_questions import package
from tests.tiny import tiny_llama

CHANGES = {"base": 0.0, "SFT": 0.2, "PPO": 0.8, "PPO-ptx": 0.1}
"""By how much a system is worse than the base, in nats."""


def scores(changes: dict[str, float] = CHANGES) -> Tables:
    draw = np.random.default_rng(0)
    noise = {name: draw.normal(0, 0.1, (3, 40)) for name in CHANGES}
    worse = {name: noise[name] + changes[name] for name in CHANGES}
    better = {name: -table for name, table in worse.items()}
    return {measure: worse if "per token" in measure else better for measure in MEASURES}


def test_differences_by_hand() -> None:
    table = {name: np.array([[0.0, 1.0]]) for name in CHANGES} | {"PPO": np.array([[1.0, 4.0]])}
    found = differences({LOG_PROB: table}, n=10)[LOG_PROB]
    assert set(found) == set(PAIRS)
    assert found["PPO", "base"].mean == 2.0 and found["PPO-ptx", "PPO"].mean == -2.0
    assert found["SFT", "base"] == (0.0, 0.0, 0.0)


def test_a_tax_that_the_mix_repairs(tmp_path: Path) -> None:
    found = result(Context(tmp_path), scores())
    assert found.holds is True
    assert found.figure == pytest.approx(0.7, abs=0.05) and found.ci_low is not None and found.ci_low > 0.5
    claims = {claim["claim"]: claim for claim in found.claims}
    assert claims[f"PPO is worse than the base: {LOG_PROB}"]["figure"] == pytest.approx(-0.8, abs=0.05)
    assert claims[f"PPO is worse than the base: {DOMAIN}"]["figure"] == pytest.approx(0.8, abs=0.05)
    assert all(claim["holds"] for claim in claims.values()) and len(claims) == 16
    json.dumps([found.rows, found.plots, found.claims])


@pytest.mark.parametrize(
    ("changes", "holds"),
    [({"PPO-ptx": 1.2}, False), ({"PPO": -0.5}, False), ({"PPO-ptx": 0.8}, None)],
)
def test_no_repair_or_no_tax(tmp_path: Path, changes: dict[str, float], holds: bool | None) -> None:
    assert result(Context(tmp_path), scores(CHANGES | changes)).holds is holds


def test_tables_join_the_tasks_with_choices() -> None:
    def own(shift: float) -> dict[str, Any]:
        asked = {task: {"acc": [1.0], "log_prob": [shift - n]} for n, task in enumerate(questions.CHOICES)}
        return asked | {questions.DOMAIN: {"nats": [shift, 2.0]}, questions.OTHER: {"nats": [3.0]}}

    found = tables([{"SFT": own(0.0)}, {"SFT": own(0.5)}])
    assert found[LOG_PROB]["SFT"].tolist() == [[0.0, -1.0, -2.0, -3.0, -4.0], [0.5, -0.5, -1.5, -2.5, -3.5]]
    assert found[DOMAIN]["SFT"].tolist() == [[0.0, 2.0], [0.5, 2.0]]


@pytest.mark.slow
def test_nats_per_token_are_those_of_the_model(tiny_model: Path, tmp_path: Path) -> None:
    """lm_eval's bits per byte, turned into nats per token, against the model's own loss after its first token."""
    import torch

    from lit_instruct.rollouts.text import TextGenerator

    text = "The cat sings in the house."
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": text}) + "\n")
    found = task_scores(str(tiny_model), {"texts": tmp_path / "texts.jsonl"}, 2, tmp_path, "tiny")
    opened = TextGenerator.from_source(str(tiny_model), "float32")
    ids = opened.prompter.tokenizer(text)["input_ids"]
    first = opened.prompter.tokenizer.bos_token_id
    with torch.no_grad():
        logits = opened.model(torch.tensor([[first, *ids]])).logits[0, :-1]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(ids)).item()
    assert found["texts"]["nats"] == [pytest.approx(expected, rel=1e-4)] and math.isfinite(expected)


@pytest.mark.slow
def test_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evidence.sources.unpacked", lambda one: package(tmp_path / "package"))
    base = tiny_llama(tmp_path / "base", max_position_embeddings=4096)
    words = ["tax", "--quick", "--runs", str(tmp_path / "runs"), "--base", str(base)]
    assert main(words) == 0
    record = json.loads((tmp_path / "runs/results/tax.json").read_text())
    assert record["seeds"] == [0] and len(record["rows"]) == 16
    files = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "runs").rglob("*")
        if path.suffix not in (".json", ".html")
    }
    assert main(words) == 0  # nothing is trained again
    changed = [
        str(path.relative_to(tmp_path))
        for path, at in files.items()
        if path.is_file() and path.stat().st_mtime_ns != at
    ]
    assert changed == []
