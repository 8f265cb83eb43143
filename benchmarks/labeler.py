"""How often a labeler picks the right one of two responses, on pairs of our own writing.

`python -m benchmarks.labeler` scores recipes/demo/labeler_pairs.jsonl with the labeler that sees the prompt
(`prompt_aware.helpful`), the demo's `tone` and the response's length, prints the share of pairs in the right order by
kind, and writes benchmarks/results/labeler.json. Its weights were fitted on the 120 development pairs alone, by
`--fit`; the others were held out.
"""

from __future__ import annotations

import json
import math
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import ROOT
from benchmarks.harness import Command, Found, in_turns, medians, say
from lit_instruct.evaluation.labelers import tone
from lit_instruct.evaluation.prompt_aware import Features, features_by, score_of
from lit_instruct.evaluation.prompt_gain import PromptGain
from lit_instruct.models.dtype import DtypeName
from lit_instruct.rollouts.text_reward import TextReward

PAIRS = ROOT / "recipes" / "demo" / "labeler_pairs.jsonl"
PARTS = {"all": None, "development": "development", "held out": "held_out"}
"""Name of each part of the pairs -> its split; None is all of them."""
DTYPES: tuple[DtypeName, ...] = ("float32", "bfloat16")
REGULARISATION = 0.02
"""Coefficient of the squared weights, for features divided by their standard deviation."""
UNFITTED = {"wrong", "own_samples"}
"""Kinds that the weights are not fitted on: whether a statement is true, or makes sense, no feature tells."""
REPETITIONS = 3
TIMED = 40
"""Pairs whose scoring is timed."""
Pair = dict[str, str]
Judge = Callable[[Sequence[tuple[str, str]]], Sequence[float]]


def read_pairs(path: Path = PAIRS) -> list[Pair]:
    """Returns the pairs: prompt, better, worse, kind and split."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def wins(judge: Judge, pairs: Sequence[Pair]) -> list[float]:
    """Returns 1 for each pair whose better response scores higher, 0.5 for equal scores, else 0."""
    better = judge([(pair["prompt"], pair["better"]) for pair in pairs])
    worse = judge([(pair["prompt"], pair["worse"]) for pair in pairs])
    return [1.0 if one > other else 0.5 if one == other else 0.0 for one, other in zip(better, worse, strict=True)]


def share(won: Sequence[float]) -> dict[str, Any]:
    """Returns the mean with its 95 % interval by Wilson's score, which holds near 1 as well (Wilson 1927)."""
    n, p, z = len(won), sum(won) / len(won), 1.96
    centre, width = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (round(abs(centre + sign * width) / (1 + z * z / n), 3) for sign in (-1, 1))  # never -0.0
    return {"share": round(p, 3), "ci_low": low, "ci_high": high, "pairs": n}


def by_kind(won: Sequence[float], pairs: Sequence[Pair], split: str | None) -> dict[str, Any]:
    """Returns `share` of a split's pairs (None: of all) in kinds that the weights were fitted on, and in each kind."""
    groups: dict[str, list[float]] = {"fitted kinds": []}
    for value, pair in zip(won, pairs, strict=True):
        if split in (None, pair["split"]):
            groups.setdefault(pair["kind"], []).append(value)
            if pair["kind"] not in UNFITTED:
                groups["fitted kinds"].append(value)
    return {kind: share(values) for kind, values in groups.items()}


def table_of(shares: dict[str, dict[str, dict[str, Any]]]) -> list[list[str]]:
    """Returns head and rows: a kind, and each judge's share with its interval on development and held-out pairs."""
    columns = [(judge, part) for judge in shares for part in ("development", "held out")]
    rows = []
    for kind in next(iter(shares.values()))["all"]:
        found = [shares[judge][part][kind] for judge, part in columns]
        texts = [f"{x['share']:.2f} ({x['ci_low']:.2f} to {x['ci_high']:.2f})" for x in found]
        rows.append([kind, f"{found[0]['pairs']} + {found[1]['pairs']}", *texts])
    return [["kind", "pairs", *(f"{judge}: {part}" for judge, part in columns)], *rows]


def helpful_with(model: PromptGain) -> Judge:
    """Returns `prompt_aware.helpful` with the language model that it asks."""

    def judge(pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [score_of(row) for row in features_by(model, pairs)]

    return judge


def fit(better: Tensor, worse: Tensor) -> tuple[list[float], float]:
    """Returns weights and bias of `prompt_aware`: logistic regression on the differences of the pairs.

    Minimises ``mean -log sigmoid(w . (f_better - f_worse)) + 0.02 |s w|^2``, with s the standard deviation of each
    difference. The bias makes the mean of w . f + b over all responses 0.

    Args:
        better: (n, features) of the right responses.
        worse: (n, features) of the others.
    """
    difference = better - worse
    scale = difference.std(dim=0).clamp(min=1e-6)
    weights = torch.zeros(difference.shape[1], dtype=difference.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = -torch.nn.functional.logsigmoid(difference / scale @ weights).mean()
        found = found + REGULARISATION * weights.square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    found = weights.detach() / scale
    return found.tolist(), float(-(torch.cat([better, worse]) @ found).mean())


def fitted(model: PromptGain, pairs: Sequence[Pair]) -> dict[str, float]:
    """Returns the weights and the bias that the development pairs give."""
    chosen = [pair for pair in pairs if pair["split"] == "development" and pair["kind"] not in UNFITTED]
    sides = [features_by(model, [(pair["prompt"], pair[side]) for pair in chosen]) for side in ("better", "worse")]
    weights, bias = fit(*(torch.tensor(side, dtype=torch.float64) for side in sides))
    return {name: round(value, 2) for name, value in zip([*Features._fields, "bias"], [*weights, bias], strict=True)}


def _speed(pairs: Sequence[Pair], reward: str | None) -> dict[str, Any]:
    """Responses per second in the dtype that auto takes, two to each prompt: median of three turns."""
    texts = [(pair["prompt"], pair[side]) for pair in pairs[:: len(pairs) // TIMED] for side in ("better", "worse")]
    prompts, responses = map(list, zip(*texts, strict=True))
    model = PromptGain.from_source()
    ways: dict[str, Callable[[], object]] = {
        "helpful, new prompts": lambda: PromptGain(model.model, model.tokenizer).gains(prompts, responses),
        "helpful, prompts scored before": lambda: model.gains(prompts, responses),
    }
    if reward is not None:
        network = TextReward.from_source(reward)
        ways["reward model"] = lambda: network.score(prompts, responses)
    runs = in_turns({name: partial(_seconds, way) for name, way in ways.items()}, REPETITIONS)
    rates = {name: round(len(texts) / medians(found)["seconds"], 1) for name, found in runs.items()}
    return {"dtype": str(next(model.model.parameters()).dtype), **rates}


def _seconds(way: Callable[[], object]) -> dict[str, Any]:
    start = time.perf_counter()
    way()
    return {"seconds": time.perf_counter() - start}


def measure(options: Namespace) -> Found:
    """Scores the pairs with every judge."""
    pairs = read_pairs()
    models = {dtype: PromptGain.from_source(dtype=dtype) for dtype in ([options.dtype] if options.dtype else DTYPES)}
    if options.fit:
        say(json.dumps({dtype: fitted(model, pairs) for dtype, model in models.items()}, indent=2))
        options.quick = True  # writes no file
        return Found({}, "labeler.json")
    judges: dict[str, Judge] = {f"helpful, {dtype}": helpful_with(model) for dtype, model in models.items()}
    judges["tone"] = tone
    judges["longer"] = lambda texts: [len(response) for _, response in texts]
    won = {}
    for name, judge in judges.items():
        won[name] = wins(judge, pairs)
        say(f"{name}: {sum(won[name]) / len(pairs):.3f}")
    shares = {name: {part: by_kind(found, pairs, PARTS[part]) for part in PARTS} for name, found in won.items()}
    speed = _speed(pairs, options.reward)
    results = {"shares": shares, "responses_per_second": speed, "table": table_of(shares)}
    return Found(results, "labeler.json", ("labeler",))


main = Command(
    "benchmarks.labeler",
    __doc__,
    measure,
    {
        "--fit": {"action": "store_true", "help": "print the weights that the development pairs give, write no file"},
        "--dtype": {"choices": DTYPES, "help": "of the language model; both without it"},
        "--reward": {"help": "reward model whose speed is compared, such as runs/demo/rm"},
    },
)


if __name__ == "__main__":
    raise SystemExit(main())
