"""The tables of benchmarks/README.md: made from the results, and nothing where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fill_tables
from benchmarks.fill_tables import CHARTS, NOTHING, PAGES, TABLES, filled, markdown, origin

ENVIRONMENT = {
    "machine": {"processor": "a CPU", "cores": 2, "memory_gb": 8.0},
    "versions": {"torch": "2", "python": "3"},
    "date": "2026-01-02",
}


def test_markdown() -> None:
    assert markdown([("a", "b"), (1, "x")]) == "| a | b |\n|---|---|\n| 1 | x |"


def test_a_table_is_replaced_and_the_text_around_it_stays(tmp_path: Path) -> None:
    variant: dict[str, Any] = {"seconds_per_step": {"ours": 1.0, "trl": 2.0}, "ratio": 0.5, "goal": 1.02}
    variant |= {"reached": True, "peak_mb": {"ours": 3, "trl": 4}}
    (tmp_path / "sft.json").write_text(json.dumps({"environment": ENVIRONMENT, "variants": {"packed": variant}}))
    text = (
        "before\n<!-- table sft -->\nold\n<!-- end table -->\nbetween\n<!-- table rm-speed -->\nx\n<!-- end table -->\n"
    )
    found = filled(text, tmp_path)
    assert "| packed | 1.0 | 2.0 | 0.5 | <= 1.02 | yes | 3 | 4 |" in found
    assert "a CPU, 2 cores, 8.0 GB; torch 2; 2026-01-02." in found
    assert (
        found.startswith("before\n")
        and "old" not in found
        and f"between\n<!-- table rm-speed -->\n{NOTHING}\n" in found
    )
    assert filled(found, tmp_path) == found


def test_the_pages_have_every_table_once_and_they_are_up_to_date() -> None:
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    names = fill_tables.re.findall(r"<!-- table ([\w-]+) -->", "".join(texts))
    assert sorted(names) == sorted(TABLES)
    for text in texts:
        assert filled(text) == text, "run `python -m benchmarks.fill_tables`"


def test_a_chart_is_shown_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "scaling.json").write_text(json.dumps({"environment": ENVIRONMENT, "curves": {"batch": []}}))
    assert not fill_tables.table("scaling", tmp_path).startswith("![")
    (tmp_path / "scaling.png").touch()
    assert "](results/scaling.png)\n\n| along |" in fill_tables.table("scaling", tmp_path)
    assert set(CHARTS) <= set(TABLES)


def test_both_environments_are_named() -> None:
    assert origin(ENVIRONMENT, {"trl": "1.12.0", "torch": "2"}) == (
        "a CPU, 2 cores, 8.0 GB; torch 2; TRL's side: torch 2, trl 1.12.0; 2026-01-02."
    )


def side(**more: Any) -> dict[str, Any]:
    parts = {"rollout": 1.0, "scoring": 2.0, "update": 3.0}
    return {"precision": "bf16", "micro_batch_size": 8, "seconds": 6.0, "parts": parts, "peak_gb": 1.5, **more}


RESULT_OF: dict[str, Any] = {
    "ppo": {
        "models": {
            "m": {
                "32x24x2": {
                    "sides": {
                        "trl": side(),
                        "ours": side(
                            of_peak={"scoring": 0.7, "update": 0.5, "iteration": 0.4},
                            tokens_per_second=9.0,
                            matmul_peak_gflops=800.0,
                        ),
                    },
                    "compared": {"ours": {"ratio": 3.0, "goals": {"ratio": {"goal": 2.5, "reached": True}}}},
                }
            }
        }
    },
    "learning-curves": {
        "final": {"ours": {"labeler": 0.3, "lowest": 0.2, "highest": 0.4, "kl": 5.0}},
        "compared": {
            "reached": {"ours": {"seconds": 60.0, "iteration": 4, "kl": 4.5}},
            "goals": {"ours": {"time_share": {"found": 0.2, "goal": 0.333, "reached": True}}},
        },
        "seconds": {"ours": 120.0},
        "seeds": {"ours": [0, 1, 2]},
    },
    "ptx-sweep": {
        "measures": ["pretraining_loss"],
        "runs": [
            {"ptx_coef": 0.0, "before": {"pretraining_loss": 3.0}, "after": {"pretraining_loss": 3.5}}
            | {"seconds_per_iteration": 2.0}
        ],
    },
    "scaling": {
        "curves": {"batch": [{"batch": 8, "episodes_per_second": 1.0, "tokens_per_second": 2.0, "peak_gb": 3.0}]}
    },
    "ppo-value": {"cases": {"32x24x2, ours": {"policy_trunk": side()}}},
    "plan": {"cases": {"4bit": {"sft": {"7m": {"planned": 21e6, "measured": 20e6, "planned / measured": 1.05}}}}},
}


@pytest.mark.parametrize(
    ("name", "file", "row"),
    [
        ("ppo", "ppo", "| m, 32x24x2 | ours | bf16, 8 | 6.00 | 1.0, 2.0, 3.0 | 1.5 | 3.0 | 70%, 50% |"),
        ("ppo", "ppo", "| m, 32x24x2 | trl | bf16, 8 | 6.00 | 1.0, 2.0, 3.0 | 1.5 |  |  |"),
        ("ppo-goals", "ppo", "| m, 32x24x2 | ours | x TRL's episodes/s | 3.0 | >= 2.5 | yes |"),
        ("ppo-value", "ppo-value", "| 32x24x2, ours | policy_trunk | 6.00 | 1.0, 2.0, 3.0 | 1.5 |"),
        (
            "learning-curves",
            "learning-curves",
            "| ours | 3 | +0.300 (+0.200 to +0.400) | 5.00 | 2.0 | 1.0 min, iteration 4 | 4.5 |",
        ),
        ("learning-curves-goals", "learning-curves", "| ours | share of TRL's time | 0.2 | <= 0.333 | yes |"),
        ("ptx-sweep", "ptx-sweep", "| 0 | 3.500 | 2.0 |"),
        ("scaling", "scaling", "| batch | 8 | 1.0 | 2.0 | 3.0 |"),
        ("plan", "plan", "| 4bit | sft | 21, 20 (1.05) |"),
    ],
)
def test_rows(tmp_path: Path, name: str, file: str, row: str) -> None:
    (tmp_path / f"{file}.json").write_text(json.dumps({"environment": ENVIRONMENT, **RESULT_OF[file]}))
    assert row in fill_tables.table(name, tmp_path).splitlines()
