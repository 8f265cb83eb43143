"""The PPO benchmark: its arithmetic, its goals, and a tiny run of our sides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import ppo
from benchmarks.ppo_sides import RANDOM_MODELS, layer_weights, matmul_peak, shape_of
from benchmarks.ppo_work import WORKLOADS, Operations, Shape, Workload, goals, operations, shares_of_peak
from lit_instruct.models.assemble import ppo_roles
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import LoraOptions

SHAPE = Shape(layers=6, adapted=2, layer_weights=10, head_weights=100)


def test_the_workloads_and_goals_that_were_agreed_on() -> None:
    assert list(WORKLOADS) == ["32x24x2", "32x128x1"]
    assert [work.speed_goals for work in WORKLOADS.values()] == [
        {"ours": 2.5, "ours_top_third": 4.5},
        {"ours": 3.5, "ours_top_third": 4.5},
    ]
    assert WORKLOADS["32x24x2"].smaller().name == "8x6x2"


def test_operations_of_an_iteration() -> None:
    """A layer takes 2 x 10 x 7 = 140 for 7 tokens, the head 2 x 100 x 3 = 600 for 3 of the response."""
    found = operations(SHAPE, tokens=7, response_tokens=3, inner_epochs=2, own_value=True)
    assert found.rollout == 6 * 140 + 600
    assert found.scoring == 4 * 140 + 4 * 2 * 140 + 2 * 600  # the trunk once, the upper layers for four roles
    assert found.update == 2 * (2 * (2 * 140) * 2 + 2 * 600)  # epochs x (roles x layers x both ways, head both ways)
    assert found.total == found.rollout + found.scoring + found.update


def test_a_value_head_on_the_policy_saves_a_role() -> None:
    own, shared = (operations(SHAPE, 7, 3, 1, own_value) for own_value in (True, False))
    assert own.scoring - shared.scoring == 2 * 140
    assert own.update - shared.update == 2 * 140 * 2
    assert own.rollout == shared.rollout


def test_without_a_trunk_every_role_takes_all_layers() -> None:
    whole = Shape(layers=6, adapted=6, layer_weights=10, head_weights=100)
    assert whole.trunk == 0
    assert operations(whole, 7, 3, 1, True).scoring == 4 * 6 * 140 + 2 * 600


def test_shares_of_the_peak() -> None:
    seconds = {"scoring": 2.0, "update": 4.0, "seconds": 10.0}
    found = shares_of_peak(Operations(rollout=100, scoring=100, update=300), seconds, peak=100.0)
    assert found == {"scoring": 0.5, "update": 0.75, "iteration": 0.5}


@pytest.mark.parametrize(
    ("ratio", "memory", "update", "scoring", "reached"),
    [(2.5, 1 / 3, 0.5, 0.7, [True] * 4), (2.49, 0.334, 0.499, 0.699, [False] * 4)],
)
def test_goals_of_the_first_workload(
    ratio: float, memory: float, update: float, scoring: float, reached: list[bool]
) -> None:
    of_peak = {"update": update, "scoring": scoring, "iteration": 0.1}
    found = goals(WORKLOADS["32x24x2"], "ours", ratio, memory, of_peak)
    assert list(found) == ["ratio", "memory_ratio", "update", "scoring"]
    assert [goal["reached"] for goal in found.values()] == reached


def test_the_trunk_cache_is_asked_for_speed_and_memory() -> None:
    found = goals(WORKLOADS["32x128x1"], "ours_top_third", 4.4, 0.2, {"update": 0.1, "scoring": 0.1})
    assert {name: goal["reached"] for name, goal in found.items()} == {"ratio": False, "memory_ratio": True}


def run_of(seconds: float, peak: float, dtype: str = "bf16") -> dict[str, object]:
    parts = {f"{part}_seconds": seconds / 4 for part in ppo.PARTS}
    return {"seconds": seconds, "peak_memory_gb": peak, "dtype": dtype, "micro_batch_size": 8, **parts}


def ours_of(seconds: float, peak: float) -> dict[str, object]:
    more = {"gigaflop": {}, "adapted_layers": 30, "tokens_per_second": 9.0, "matmul_peak_gflops": 1.0}
    return run_of(seconds, peak) | more | {"of_peak": {"scoring": 0.8, "update": 0.4, "iteration": 0.3}}


def test_medians_are_compared_with_trl() -> None:
    work = Workload(32, 24, 2, {"ours": 2.5})
    runs = {
        "trl": [run_of(seconds, 6.0) for seconds in (30.0, 20.0, 99.0)],
        "ours": [ours_of(seconds, 3.0) for seconds in (10.0, 8.0, 99.0)],
    }
    tries = {side: {"bf16": 1.0, "fp32": 2.0} for side in runs}
    found = ppo.compare(work, tries, runs)
    assert found["compared"]["ours"]["ratio"] == 3.0
    assert found["compared"]["ours"]["memory_ratio"] == 0.5
    reached = {name: goal["reached"] for name, goal in found["compared"]["ours"]["goals"].items()}
    assert reached == {"ratio": True, "memory_ratio": False, "update": False, "scoring": True}
    assert ppo.missed({"32x24x2": found}) == [
        "missed: 32x24x2, ours: memory_ratio, goal 0.333",
        "missed: 32x24x2, ours: update, goal 0.5",
    ]
    assert found["sides"]["trl"]["episodes_per_second"] == pytest.approx(32 / 30, abs=1e-3)
    assert found["sides"]["ours"]["precision"] == "bf16"
    assert ppo.compare(work, tries, {"ours": runs["ours"]})["compared"] == {}


def test_each_side_runs_in_its_faster_precision() -> None:
    work, tries = ppo.in_best_precision(
        "ours", {"a": 1}, lambda side, work: {"seconds": {"bf16": 3.0, "fp32": 2.0}[work["dtype"]]}
    )
    assert work == {"a": 1, "dtype": "fp32"} and tries == {"bf16": 3.0, "fp32": 2.0}
    assert ppo.in_best_precision("ours", {"a": 1}, pytest.fail, "bf16") == ({"a": 1, "dtype": "bf16"}, {})
    work, tries = ppo.in_best_precision("trl", {}, lambda side, work: {"seconds": 2.0}, left_out=["bf16"])
    assert work == {"dtype": "fp32"} and tries == {"fp32": 2.0}


def test_shape_and_weights_of_a_model(tiny_model: Path) -> None:
    roles = ppo_roles(find_source(str(tiny_model)), [], LoraOptions(r=4, top_layers=1), torch.float32)
    weights = layer_weights(roles)
    assert len(weights) == 4 * 7 and not any(weight.requires_grad for weight in weights)
    attention, mlp = 32 * 32 * 2 + 32 * 16 * 2, 3 * 32 * 64
    head = roles.output_weight("policy").numel()
    assert shape_of(roles) == Shape(layers=4, adapted=1, layer_weights=attention + mlp, head_weights=head)
    assert matmul_peak(roles, [8, 16]) > 0


def test_random_models_have_the_size_of_their_names() -> None:
    for name, shape in RANDOM_MODELS.items():
        width, head = shape["hidden_size"], shape["hidden_size"] // shape["num_attention_heads"]
        layer = 2 * width * width + 2 * width * 2 * head + 3 * width * shape["intermediate_size"]
        size = shape["num_hidden_layers"] * layer + shape["vocab_size"] * width
        named = float(name[:-1]) * {"M": 1e6, "B": 1e9}[name[-1]]
        assert size == pytest.approx(named, rel=0.1)
        assert shape["num_attention_heads"] % shape["num_key_value_heads"] == 0


@pytest.mark.slow
def test_a_quick_run_of_our_sides(tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "ppo.json"
    common = ["--quick", "--base", str(tiny_model), "--out", str(out), "--sides", "ours", "ours_top_third"]
    assert ppo.main([*common, "--workloads", "32x24x2"]) == 0
    (model,) = json.loads(out.read_text())["models"].values()
    sides = model["32x24x2"]["sides"]
    assert [sides[side]["adapted_layers"] for side in ("ours", "ours_top_third")] == [4, 1]
    for side in sides.values():
        assert sum(side["parts"].values()) == pytest.approx(side["seconds"], abs=0.01)
        assert side["seconds_in"].keys() == {"bf16", "fp32"} - model["32x24x2"]["not_run"].keys()
    (run,) = model["32x24x2"]["runs"]["ours"]
    assert run["response_tokens"] == 8 * 6  # nothing ended a response
