"""The learning curves: how runs become curves, what is asked of them, and which runs are repeated."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from benchmarks import learning_curves, learning_curves_sides
from benchmarks.fill_tables import TABLES
from benchmarks.learning_curves_sides import cut_after, merge, prompt_ids
from benchmarks.learning_curves_work import Run, Settings, compared, curve_of, reaches, run_of, settings_of, smoothed
from benchmarks.ppo_sides import write_adapter
from benchmarks.training import PROMPTS
from data_modules.batching.sampling import EpochBatchSampler
from lit_instruct.handover import prompter_of
from lit_instruct.models.assemble import policy_network, reward_network, scoring_network
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import LoraOptions


def run(side: str, labeler: list[float], kl: list[float], seconds: float, seed: int = 0) -> Run:
    rest = {"seconds": seconds, "reward": 0.0, "response_length": 5.0, "eos_share": 1.0}
    iterations = [{"labeler": score, "kl": nats, **rest} for score, nats in zip(labeler, kl, strict=True)]
    return run_of(side, seed, iterations, peak_memory_gb=1.0)


def test_time_adds_up() -> None:
    found = run("ours", [0.0, 0.1, 0.2], [0.0, 1.0, 2.0], seconds=2.5)
    assert [iteration["elapsed"] for iteration in found["iterations"]] == [2.5, 5.0, 7.5]
    assert found["peak_memory_gb"] == 1.0


def test_a_point_is_the_mean_of_the_last_three() -> None:
    assert smoothed([3.0, 6.0, 9.0, 0.0]) == [3.0, 4.5, 6.0, 5.0]


def test_a_curve_is_the_mean_over_seeds_and_its_band_their_range() -> None:
    found = curve_of([run("ours", [0.0, 0.4], [0.0, 2.0], 1.0), run("ours", [0.2, 0.2], [2.0, 4.0], 3.0, seed=1)])
    assert found["labeler"] == [0.1, 0.2]
    assert found["kl"] == [1.0, 2.0]
    assert found["elapsed"] == [2.0, 4.0]
    assert (found["lowest"], found["highest"]) == ([0.0, 0.2], [0.2, 0.2])


def test_when_a_score_is_reached() -> None:
    curve = curve_of([run("ours", [0.0, 0.6, 0.6], [0.0, 1.0, 2.0], 1.0)])
    assert curve["labeler"] == [0.0, 0.3, 0.4]
    assert reaches(curve, 0.3) == 1 and reaches(curve, 0.5) is None


@pytest.mark.parametrize(("seconds", "share"), [(4.0, 0.2), (12.0, 0.6)])
def test_goals(seconds: float, share: float) -> None:
    """TRL ends at 0.3 with KL 3 after three steps of 20 s; ours has that after three steps, at KL 2."""
    trl = curve_of([run("trl", [0.3, 0.2, 0.4], [3.0, 3.0, 3.0], 20.0)])
    trl["labeler"] = [0.1, 0.2, 0.3]
    ours = curve_of([run("ours", [0.3, 0.3, 0.4], [2.0, 2.0, 2.0], seconds)])
    ours["labeler"] = [0.1, 0.2, 0.35]
    found = compared({"trl": trl, "ours": ours})
    assert found["trl_final_score"] == 0.3 and found["reached"]["ours"]["iteration"] == 3
    goals = found["goals"]["ours"]
    assert goals["time_share"] == {"goal": 0.333, "found": share, "reached": share < 0.3}
    assert goals["kl"] == {"goal": 3.0, "found": 2.0, "reached": True}


def test_a_score_that_is_never_reached_reaches_no_goal() -> None:
    trl, ours = (curve_of([run(side, [score] * 2, [1.0, 1.0], 1.0)]) for side, score in (("trl", 0.5), ("ours", 0.1)))
    found = compared({"trl": trl, "ours": ours})
    assert found["reached"]["ours"] is None
    assert [goal["reached"] for goal in found["goals"]["ours"].values()] == [False, False]
    assert compared({"ours": ours}) == {}


def test_a_run_with_the_same_settings_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "ours-0.json"
    assert learning_curves.earlier(path, Settings()) is None
    path.write_text(json.dumps({"settings": asdict(Settings()), "seed": 0}))
    assert learning_curves.earlier(path, Settings()) == {"settings": asdict(Settings()), "seed": 0}
    assert learning_curves.earlier(path, replace(Settings(), iterations=5)) is None


def test_ours_is_trained_for_as_long_as_the_goals_give() -> None:
    assert settings_of("trl", Settings()) == Settings()
    assert settings_of("ours", Settings()).iterations > Settings().iterations


def test_summary_and_chart(tmp_path: Path) -> None:
    runs = [run("ours", [0.0, 0.4], [0.0, 2.0], 1.0), run("trl", [0.0, 0.2], [0.0, 2.0], 9.0)]
    runs[1]["versions"] = {"trl": "1.12.0"}
    found = learning_curves.summary(Settings(), runs).results
    assert found["seeds"] == {"ours": [0], "trl": [0]}
    assert found["final"]["ours"]["labeler"] == 0.2
    assert len(TABLES["learning-curves"][1](found)) == 1 + 2
    learning_curves.draw(found["curves"], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_runs_and_curves_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def train(module: str, side: str, work: dict[str, object]) -> Run:
        made.append(str(work["side"]))
        return run(str(work["side"]), [0.0, 0.4], [0.0, 2.0], 1.0) | {"versions": {"trl": "1.12.0"}}

    monkeypatch.setattr(learning_curves, "run_side", train)
    words = ["--out", str(tmp_path / "curves.json"), "--folder", str(tmp_path / "runs"), "--seeds", "0"]
    assert learning_curves.main([*words, "--sides", "ours"]) == 0
    assert learning_curves.main([*words, "--sides", "ours", "trl"]) == 0
    assert made == ["ours", "trl"]  # ours is there already
    assert json.loads((tmp_path / "curves.json").read_text())["seeds"] == {"ours": [0], "trl": [0]}
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"ours-0.json", "trl-0.json"}
    assert (tmp_path / "curves.png").is_file()


def test_a_response_ends_with_its_first_stop() -> None:
    assert cut_after([5, 2, 7, 2], [2, 9]) == [5, 2]
    assert cut_after([5, 6], [2]) == [5, 6]


def test_trl_gets_the_prompts_in_the_order_of_our_loader(tiny_model: Path) -> None:
    prompter = prompter_of(find_source(str(tiny_model)))
    settings = Settings(iterations=3, batch_size=4)
    rows, prompts = prompt_ids(settings, 1, prompter)
    assert len(rows) == len(prompts) == 12
    count = sum(1 for _ in PROMPTS.open(encoding="utf-8"))
    batches = EpochBatchSampler(count, 4, seed=1, drop_last=True).batches(0)[:3]
    assert rows == [row for batch in batches for row in batch]
    assert all(prompts) and prompt_ids(settings, 2, prompter)[0] != rows


@pytest.fixture
def stages(tmp_path: Path, tiny_model: Path) -> Path:
    """A run folder with an SFT and a reward model whose adapters do something."""
    source = find_source(str(tiny_model))
    prompter, lora = prompter_of(source), LoraOptions(r=4)
    networks = {
        "sft": policy_network(source, lora, torch.float32),
        "rm": reward_network(source, lora, torch.float32, prompter.pad_id),
    }
    torch.manual_seed(0)
    for stage, network in networks.items():
        for name, weight in network.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.1)
        write_adapter(network, prompter, tmp_path / "run" / stage)
    return tmp_path / "run"


@torch.no_grad()
def test_trl_starts_from_the_same_models(stages: Path, tiny_model: Path, tmp_path: Path) -> None:
    assert merge(str(stages), tmp_path) == 0.0  # no stage.json, no bias
    ids = torch.arange(3, 15)[None]
    sft, reward = find_source(str(stages / "sft")), find_source(str(stages / "rm"))
    adapted = policy_network(sft, LoraOptions(r=4), torch.float32).eval()(ids).logits
    assert (AutoModelForCausalLM.from_pretrained(tmp_path / "policy")(ids).logits - adapted).abs().max() < 1e-4
    assert (AutoModelForCausalLM.from_pretrained(tiny_model)(ids).logits - adapted).abs().max() > 1e-2
    score = scoring_network(reward, torch.float32, 0)(ids).logits
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward", num_labels=1)
    assert merged(ids).logits == pytest.approx(score, abs=1e-4)


def test_what_trl_sampled_is_judged_here(stages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prompts: one response ends, one is cut; TRL's mean score of -0.5 has lost half a penalty of 1."""
    prompter = prompter_of(find_source(str(stages / "sft")))
    good = prompter.tokenizer("happy", add_special_tokens=False)["input_ids"]
    stop = prompter.stop_ids[0]

    def run_trl(script: str, options: dict[str, object], steps: int) -> dict[str, object]:
        folder = Path(str(options["folder"]))
        assert script == "curve.py" and steps == 4 and len(json.loads((folder / "prompts.json").read_text())) == 2
        (folder / "responses.json").write_text(json.dumps([[[*good, stop, stop], [*good, *good]]]))
        return {"iterations": [{"seconds": 2.0, "kl": 1.0, "reward": -0.5}], "peak_memory_gb": 6.0} | {"versions": {}}

    monkeypatch.setattr(learning_curves_sides, "run_trl", run_trl)
    found = learning_curves_sides.trl(0, str(stages), Settings(iterations=1, batch_size=2), "fp32")
    (iteration,) = found["iterations"]
    assert iteration["reward"] == 0.0 and iteration["eos_share"] == 0.5
    assert iteration["response_length"] == (len(good) + 1 + 2 * len(good)) / 2
    assert found["side"] == "trl" and len(found["first_rows"]) == 1
