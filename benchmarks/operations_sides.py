"""The processes of `benchmarks.operations`: work under PyTorch's profiler."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import DEMO
from benchmarks.packed import packing
from benchmarks.ppo_sides import prepare
from benchmarks.training import PROMPTS, SEED, fit_ours
from data_modules.prompts import PromptDataModule
from lit_instruct.evaluation.prompt_aware import helpful
from lit_instruct.models.lora import LoraOptions
from lit_instruct.ppo.objective import ObjectiveOptions
from lit_instruct.ppo.options import RewardOptions
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.text import TextGenerator
from lit_instruct.rollouts.text_reward import TextReward
from lit_instruct.stages.ppo import PPOModule

OTHER = "elementwise, norms and all else"
KINDS: dict[str, list[str]] = {
    "matrix products": ["aten::mm", "aten::addmm", "aten::addmm_", "mkldnn::_linear_pointwise", "aten::mkldnn_linear"],
    "attention": ["aten::bmm", "aten::baddbmm", "aten::_softmax", "aten::_softmax_backward_data"],
    "log-softmax": ["aten::_log_softmax", "aten::_log_softmax_backward_data", "aten::logsumexp"],
    "copies and casts": ["aten::copy_", "aten::cat", "aten::clone", "aten::to_dense"],
    "gather and scatter": ["aten::index", "aten::index_select", "aten::index_put_", "aten::gather", "aten::embedding"],
}
"""Kind -> operators whose own time counts for it; all others are OTHER."""
WARMUP = 1
CHOSEN_OF = 4
"""Samples of which the evaluation takes the best."""


def profiled(case: str, way: str, folder: str, base: str, episodes: int, tokens: int) -> dict[str, float]:
    """Does a case and returns its seconds by kind.

    Args:
        case: ppo or evaluation.
        way: plain packs no frozen weight.
        folder: for models that the case starts from.
        base: model.
        episodes: prompts.
        tokens: longest response.
    """
    prepared = prepare(folder, base, {"start": 3}, episodes)
    with packing(way):
        if case == "ppo":
            return _ppo(Path(folder) / "start", prepared["top_layers"]["start"], episodes, tokens)
        return _evaluation(Path(folder) / "start", base, episodes, tokens)


class OneIteration(Callback):
    """Profiles the iteration after the warm-up."""

    def __init__(self) -> None:
        self.profiler = profile(activities=[ProfilerActivity.CPU])

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begins."""
        if pl_module.iterations_done == WARMUP:
            self.profiler.start()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Ends."""
        if pl_module.iterations_done == WARMUP + 1:
            self.profiler.stop()


def _ppo(start: Path, top_layers: int, episodes: int, tokens: int) -> dict[str, float]:
    module = PPOModule(
        base=str(start / "sft"),
        iterations=WARMUP + 1,
        lora=LoraOptions(top_layers=top_layers),
        objective=ObjectiveOptions(inner_epochs=2, minibatches=1),
        reward=RewardOptions(str(start / "rm")),
        sampling=SamplingOptions(max_new_tokens=tokens),
        seed=SEED,
    )
    data = PromptDataModule(str(PROMPTS), validation_share=0.0, seed=SEED, limit=episodes, batch_size=episodes)
    one = OneIteration()
    fit_ours(module, data, [one], epochs=-1)
    return by_kind(one.profiler)


def _evaluation(start: Path, base: str, episodes: int, tokens: int) -> dict[str, float]:
    lines = (DEMO / "prompts_validation.jsonl").read_text(encoding="utf-8").splitlines()[:episodes]
    prompts = [json.loads(line)["prompt"] for line in lines]
    model, other = TextGenerator.from_source(str(start / "sft")), TextGenerator.from_source(base)
    reward = TextReward.from_source(str(start / "rm"))
    helpful([(prompts[0], "Yes.")])  # it is loaded by its first call
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        many = model.respond(prompts, k=CHOSEN_OF, max_new_tokens=tokens, seed=SEED)
        first = [row[0] for row in many]
        for one in (model, other):
            one.log_probs(prompts, first)
        reward.score([prompt for prompt in prompts for _ in range(CHOSEN_OF)], [r.text for row in many for r in row])
        helpful([*zip(prompts, (response.text for response in first), strict=True)])
    return by_kind(profiler)


def by_kind(profiler: profile) -> dict[str, float]:
    """Returns the seconds of operators' own time by kind."""
    return kinds_of({event.key: event.self_cpu_time_total / 1e6 for event in profiler.key_averages()})


def kinds_of(seconds: Mapping[str, float]) -> dict[str, float]:
    """Returns seconds by kind from seconds by operator."""
    kind_of = {name: kind for kind, names in KINDS.items() for name in names}
    found = dict.fromkeys([*KINDS, OTHER], 0.0)
    for name, own in seconds.items():
        found[kind_of.get(name, OTHER)] += own
    return {kind: round(total, 3) for kind, total in found.items()}
