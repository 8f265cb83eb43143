"""The benchmark of bits: a tiny run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import bits
from benchmarks.fill_tables import filled


def test_a_table_is_put_in_its_place(tmp_path: Path) -> None:
    measured = {base: {"loss": 1.5, "kl": kl} for base, kl in (("bfloat16", 0.0), ("8bit", 0.01), ("4bit", 0.02))}
    machine = {"processor": "a CPU", "cores": 2, "memory_gb": 8.0}
    where = {"machine": machine, "versions": {"torch": "2"}, "date": "2026-01-02"}
    (tmp_path / "bits.json").write_text(json.dumps({"found": {"no adapter": measured}, "environment": where}))
    page = filled("a\n<!-- table bits -->\nold\n<!-- end table -->\nb", tmp_path)
    assert page.startswith("a\n<!-- table bits -->\n| adapter | loss on bfloat16 | KL on bfloat16 | loss on 8bit |")
    assert "| no adapter | 1.500 | 0.0000 | 1.500 | 0.0100 | 1.500 | 0.0200 |" in page
    assert page.endswith("2026-01-02.\n<!-- end table -->\nb")


@pytest.mark.slow
def test_a_tiny_run(tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "bits.json"
    assert bits.main(["--base", str(tiny_model), "--steps=2", "--rows=3", "--out", str(out)]) == 0
    found = json.loads(out.read_text())["found"]
    plain = bits.name_of("none")
    assert list(found) == ["no adapter", f"trained on {plain}", "trained on 8bit", "trained on 4bit"]
    for adapter, own in zip(found, (plain, plain, "8bit", "4bit"), strict=True):
        assert set(found[adapter]) == {plain, "8bit", "4bit"}
        assert found[adapter][own]["kl"] == 0
        assert all(0 < measured["loss"] < 20 for measured in found[adapter].values())
