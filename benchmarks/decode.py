"""Sampling responses: our loop against transformers' `generate` and its options, and against a bare decode step.

`python -m benchmarks.decode` writes benchmarks/results/decode.json: the demo's prompts on the embedded base, LoRA on
every layer; no response ends before the limit. All ways take turns, so that a machine that slows down slows all of
them.
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from benchmarks.harness import Command, Found, say
from benchmarks.precisions import not_run
from benchmarks.training import DTYPES, demo_prompts, now
from lit_instruct.batches import left_pad
from lit_instruct.fast.llama_decode import LlamaDecoding
from lit_instruct.handover import prompter_of
from lit_instruct.models.assemble import ppo_roles
from lit_instruct.models.embedded import NAME
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.roles import Roles
from lit_instruct.rollouts.decode import ModelDecoding
from lit_instruct.rollouts.generate import SamplingOptions, generate
from lit_instruct.rollouts.stopping import StopRule

GOALS = {"share_of_bare_step": 0.85, "times_generate_merged": 1.5, "times_generate_adapter": 4.0}
"""The project's own targets, set before measuring."""
WAYS = {
    "ours": "our loop, the adapter merged for the rollout and taken out again, both within the time",
    "ours_one_token": "the same for a single token: reads the prompts",
    "bare_step": "our decode step alone over the same cache lengths, without sampling: seconds of the steps",
    "model_step": "transformers' forward as a decode step in the same way",
    "generate_merged": "transformers' generate on merged weights",
    "generate_merged_static_cache": "the same with its static cache",
    "generate_merged_compiled": "the same with a static cache and a compiled forward",
    "generate_merged_continuous_batching": "transformers' generate_batch on merged weights",
    "generate_adapter": "transformers' generate through the unmerged adapter, as TRL's PPOTrainer did",
    "ours_uneven": "our loop, row i ends after (i + 1) / B of the limit: finished rows are dropped",
    "generate_merged_uneven": "transformers' generate on merged weights, rows end in the same way",
}
COMPILED, CONTINUOUS = "generate_merged_compiled", "generate_merged_continuous_batching"
SLOW = (COMPILED, CONTINUOUS)
"""Ways that `--quick` leaves out; compiling takes over a minute, continuous batching ten times as long as the rest."""


@dataclass
class Workload:
    """Prompts, and the length of the responses to them."""

    ids: Tensor
    mask: Tensor
    pad_id: int
    new_tokens: int

    @property
    def uneven_lengths(self) -> list[int]:
        """Tokens of each response if rows end one after the other."""
        rows = len(self.ids)
        return [max(1, (row + 1) * self.new_tokens // rows) for row in range(rows)]


class EndsAfter(StopRule):
    """Ends row i after a given number of tokens, whatever they are."""

    def __init__(self, lengths: list[int]) -> None:
        super().__init__([], [], str)
        self.lengths = torch.tensor(lengths)

    def ended_rows(self, responses: Tensor) -> Tensor:
        """Ends the last rows: only the number of rows that continue matters here."""
        return torch.arange(len(responses)) >= int((self.lengths > responses.shape[1]).sum())


class EndsAfterCriteria(StoppingCriteria):
    """The same for transformers' generate."""

    def __init__(self, lengths: list[int], prompt: int) -> None:
        self.lengths, self.prompt = torch.tensor(lengths), prompt

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Returns which rows have ended: (B,) bool."""
        return self.lengths.to(input_ids.device) <= input_ids.shape[1] - self.prompt


class Ways:
    """Every way to sample, as a function that returns seconds."""

    def __init__(self, roles: Roles, work: Workload) -> None:
        self.roles, self.work = roles, work
        self.model: Any = roles.language_model("policy")
        self.compiled = torch.compile(self.model.forward, dynamic=False)

    def run(self, way: str) -> float:
        """Runs one of WAYS and returns its seconds."""
        work, uneven = self.work, self.work.uneven_lengths
        static = {"cache_implementation": "static", "disable_compile": True}
        ways: dict[str, Callable[[], float]] = {
            "ours": lambda: self._ours(work.new_tokens, StopRule([], [], str)),
            "ours_one_token": lambda: self._ours(1, StopRule([], [], str)),
            "ours_uneven": lambda: self._ours(work.new_tokens, EndsAfter(uneven)),
            "bare_step": lambda: self._steps(LlamaDecoding(self.model, work.new_tokens)),
            "model_step": lambda: self._steps(ModelDecoding(self.model)),
            "generate_merged": self._generate_merged,
            "generate_merged_static_cache": lambda: self._generate_merged(**static),
            COMPILED: lambda: self._compiled(**static),
            CONTINUOUS: self._continuous,
            "generate_adapter": self._generate_adapter,
            "generate_merged_uneven": lambda: self._generate_merged(
                stopping_criteria=StoppingCriteriaList([EndsAfterCriteria(uneven, work.ids.shape[1])])
            ),
        }
        return ways[way]()

    def _ours(self, new_tokens: int, stop: StopRule) -> float:
        work = self.work
        keys = [(0, row) for row in range(len(work.ids))]
        began = now()
        with self.roles.merged("policy") as model:
            generate(model, work.ids, work.mask, SamplingOptions(new_tokens), stop, keys, work.pad_id)
        return now() - began

    @torch.no_grad()
    def _steps(self, decoding: LlamaDecoding | ModelDecoding) -> float:
        with self.roles.merged("policy"):
            tokens = decoding.start(self.work.ids, self.work.mask).argmax(dim=-1)
            began = now()
            for _ in range(self.work.new_tokens - 1):
                decoding.step(tokens)
            return now() - began

    def _generate_merged(self, **options: Any) -> float:
        with self.roles.merged("policy") as model:
            return self._generate(model, **options)

    def _generate_adapter(self) -> float:
        self.roles.activate("policy")
        return self._generate(self.model)

    def _compiled(self, **options: Any) -> float:
        with patch.object(self.model, "forward", self.compiled):
            return self._generate_merged(**options)

    def _generate(self, model: Any, **options: Any) -> float:
        work = self.work
        began = now()
        model.generate(
            work.ids,
            attention_mask=work.mask.long(),
            do_sample=True,
            top_k=0,
            max_new_tokens=work.new_tokens,
            eos_token_id=None,
            pad_token_id=work.pad_id,
            **options,
        )
        return now() - began

    def _continuous(self) -> float:
        work = self.work
        options = GenerationConfig(
            do_sample=True, top_k=0, max_new_tokens=work.new_tokens, eos_token_id=-1, pad_token_id=work.pad_id
        )
        prompts = [ids[mask].tolist() for ids, mask in zip(work.ids, work.mask, strict=True)]
        with self.roles.merged("policy") as model:
            own = model.config._attn_implementation
            model.set_attn_implementation("sdpa")  # continuous batching knows no other by name
            began = now()
            model.generate_batch(inputs=prompts, generation_config=options, progress_bar=False)
            seconds = now() - began
            model.set_attn_implementation(own)
            return seconds


def build(dtype: torch.dtype, device: torch.device, rows: int, new_tokens: int) -> Ways:
    """Opens the embedded base with a non-zero adapter, and the demo's first prompts."""
    source = find_source(NAME)
    torch.manual_seed(0)
    roles = ppo_roles(source, [], LoraOptions(), dtype).to(device)
    for name, weight in roles.named_parameters():
        if "lora_B.policy" in name:
            nn.init.normal_(weight, std=0.01)
    prompter = prompter_of(source)
    ids, mask = left_pad(demo_prompts(prompter, rows), prompter.pad_id)
    return Ways(roles, Workload(ids.to(device), mask.to(device), prompter.pad_id, new_tokens))


def seconds_of(ways: Ways, names: list[str], repetitions: int) -> dict[str, Any]:
    """Runs all ways in turn and returns the seconds of each; slow ones run once, after one run to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    starts: dict[str, float] = {}
    for name in names:
        starts[name] = ways.run(name)
        say(f"  {name}: first run {starts[name]:.2f} s")
    for repetition in range(repetitions):
        for name in names:
            if name not in SLOW or repetition == 0:
                seconds[name].append(starts[name] if name == CONTINUOUS else ways.run(name))
    return {
        name: {
            "way": WAYS[name],
            "median_s": round(statistics.median(runs), 4),
            "runs_s": [round(run, 4) for run in runs],
            "first_run_s": round(starts[name], 4),
        }
        for name, runs in seconds.items()
    }


def figures(found: dict[str, Any], work: Workload) -> dict[str, Any]:
    """Returns rates, and how they compare with the goals."""
    median = {name: entry["median_s"] for name, entry in found.items()}
    rows, tokens = len(work.ids), work.new_tokens
    uneven = sum(work.uneven_lengths)
    rates = {
        name: round((uneven if name.endswith("uneven") else rows * tokens) / seconds, 1)
        for name, seconds in median.items()
        if name not in ("bare_step", "model_step", "ours_one_token")
    }
    decoding = median["ours"] - median["ours_one_token"]  # as many steps as the bare ones
    compared = {
        "share_of_bare_step": round(median["bare_step"] / decoding, 3),
        "share_of_model_step": round(median["model_step"] / decoding, 3),
        "times_generate_merged": round(median["generate_merged"] / median["ours"], 2),
        "times_generate_adapter": round(median["generate_adapter"] / median["ours"], 2),
        "times_generate_merged_uneven": round(median["generate_merged_uneven"] / median["ours_uneven"], 2),
    }
    return {
        "tokens_per_second": rates,
        "bare_steps_ms": {name: round(1e3 * median[name] / (tokens - 1), 1) for name in ("bare_step", "model_step")},
        "compared": compared,
        "goals": {name: {"goal": goal, "reached": compared[name] >= goal} for name, goal in GOALS.items()},
    }


def measure(options: Namespace) -> Found:
    """Samples in all ways."""
    tokens = 12 if options.quick else options.tokens
    left_out = not_run(NAME, options.device) if options.dtype is None else {}
    options.dtype = options.dtype or next(name for name in DTYPES if name not in left_out)
    ways = build(DTYPES[options.dtype], torch.device(options.device), options.rows, tokens)
    found = seconds_of(ways, [way for way in WAYS if not (options.quick and way in SLOW)], options.repetitions)
    workload = {
        "base": NAME,
        "dtype": options.dtype,
        "not_run": left_out,
        "device": options.device,
        "rows": options.rows,
        "prompt_tokens": int(ways.work.mask.sum()),
        "prompt_width": ways.work.ids.shape[1],
        "new_tokens": tokens,
        "lora": "r=16 on every linear layer",
    }
    results = {"workload": workload, **figures(found, ways.work), "seconds": found}
    return Found(results, "decode.json", ("decode", "decode-goals"))


OPTIONS = {
    "--device": {"default": "cpu"},
    "--dtype": {"choices": DTYPES, "help": "dtype of the frozen weights; default: bf16, unless it is too slow here"},
    "--rows": {"type": int, "default": 32, "help": "prompts in the batch"},
    "--tokens": {"type": int, "default": 40, "help": "tokens per response"},
}
QUICK = "12 tokens, once, without the slow ways"
main = Command("benchmarks.decode", __doc__, measure, OPTIONS, repetitions=5, quick=QUICK)

if __name__ == "__main__":
    raise SystemExit(main())
