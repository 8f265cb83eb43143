"""Sentiment: PPO against a reward model of people's labels makes a model say what people call fresh.

Critics' sentences about films stand in for the reviews of Ziegler et al. 2019. A judge of another kind, which learnt
from the labels of other films, reads the answers to prompts about films that no model has seen. With `--source=hub` it
is GPT-2 that continues IMDB's reviews.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evidence import imdb, judge, review_models, reviews
from evidence.asked import Asked
from evidence.cached import kept_json
from evidence.claims import above
from evidence.context import Context
from evidence.perplexity import Likelihood, likelihoods
from evidence.resampling import Figures, over_seeds_and_prompts
from evidence.result import Result
from evidence.samples import rows_of
from lit_instruct.evaluation.compare import evaluate
from lit_instruct.evaluation.measures import Interval, distinct_n
from lit_instruct.evaluation.options import EvalOptions

NAME = "sentiment"
SOURCES = ("packages", "hub")
QUESTION = "Does PPO against a reward model of people's labels steer a model's sentiment, and what does it cost?"
PAPER = (
    "Ziegler et al. 2019: 5,000 comparisons by people suffice to steer GPT-2's sentiment by PPO, with a KL penalty "
    "that keeps its text natural. RL4LMs (Ramamurthy et al. 2022), IMDB with GPT-2: sentiment 0.489 -> 0.605 at "
    "perplexity 32.2 -> 33.5"
)
COMPARISONS = 200
SENTENCES = 200
"""Of people, about films of the test part, for the perplexity."""
SYSTEMS = {"kl": "PPO", "no-kl": "PPO without KL penalty"}


class Measured(NamedTuple):
    """What the finding is computed from; N prompts."""

    judged: dict[str, np.ndarray]
    """sft: (N,), others: (seeds, N) probability of being fresh by the judge."""
    texts: dict[str, list[list[str]]]
    """System -> answers by seed; sft has one list."""
    kl: dict[str, list[float]]
    """System -> KL to SFT in nats per response by seed."""
    tokens: dict[str, list[float]]
    """System -> mean length by seed."""
    likelihood: dict[str, Likelihood]
    """SFT and <system>-<seed> -> log-probabilities of people's sentences."""
    accuracy: list[float]
    """Held-out pair accuracy of the reward models by seed; empty with the hub, whose reward is a classifier."""
    auc: float
    """Of the judge."""
    second: dict[str, float] | None = None
    """SFT and <system>-<seed> -> mean score of the second labeler, which with the hub is the reward."""


def measure(context: Context) -> Result:
    """Trains what is missing and returns the finding."""
    models, accuracy = {"sft": _start(context)}, []
    for seed in context.seeds:
        if context.source == "hub":
            own = {name: imdb.policy(context, seed, penalty=name == "kl") for name in SYSTEMS}
        else:
            reward = review_models.reward_model(context, seed, 8 if context.quick else COMPARISONS)
            accuracy.append(_metrics(reward)["val/pair_accuracy"])
            own = {name: review_models.policy(context, seed, reward, penalty=name == "kl") for name in SYSTEMS}
        models |= {f"{name}-{seed}": str(path) for name, path in own.items()}
    asked = imdb.asked(context) if context.source == "hub" else _asked(context)
    return result(context, measured(context, asked, models, accuracy))


def _start(context: Context) -> str:
    return imdb.base(context) if context.source == "hub" else str(review_models.sft(context))


def _asked(context: Context) -> Asked:
    """Prompts about films that no model has seen, and the judge of critics' sentences."""
    data = review_models.data(context)
    return Asked(
        folder=context.runs / NAME,
        prompts=data / "prompts_test.jsonl",
        limit=4 if context.quick else None,
        tokens=12 if context.quick else 40,
        sentences=rows_of(data / "demonstrations_test.jsonl")[: 4 if context.quick else SENTENCES],
        judge=judge.fresh,
        auc=lambda: judge.auc(reviews.packaged()["test"]),
    )


def measured(context: Context, asked: Asked, models: dict[str, str], accuracy: list[float]) -> Measured:
    """Returns the judged answers of all models to held-out prompts, and their perplexity of people's sentences."""
    parts = [Path(path) if (Path(path) / "stage.json").is_file() else path for path in models.values()]
    answered = [*parts, asked.prompts, context.quick]
    report = kept_json(asked.folder / "answers.json", answered, lambda: _answers(asked, models))
    nats = kept_json(
        asked.folder / "likelihoods.json", [*parts, asked.sentences], lambda: _likelihoods(models, asked.sentences)
    )
    by_seed = {name: [f"{name}-{seed}" for seed in context.seeds] for name in SYSTEMS}
    judged = {name: np.array(report["judged"][name]) for name in models}
    return Measured(
        {"sft": judged["sft"]} | {name: np.stack([judged[key] for key in keys]) for name, keys in by_seed.items()},
        {name: [report["texts"][key] for key in keys] for name, keys in ({"sft": ["sft"]} | by_seed).items()},
        {name: [report["kl"][key] for key in keys] for name, keys in by_seed.items()},
        {name: [report["tokens"][key] for key in keys] for name, keys in ({"sft": ["sft"]} | by_seed).items()},
        {name: Likelihood(*map(np.array, one)) for name, one in nats.items()},
        accuracy,
        report["auc"],
        report.get("second"),
    )


def _answers(asked: Asked, models: dict[str, str]) -> dict[str, Any]:
    folder = asked.folder / "eval"
    options = EvalOptions(
        systems=models,
        prompts=str(asked.prompts),
        limit=asked.limit,
        max_new_tokens=asked.tokens,
        labeler=asked.judge,
        second_labeler=asked.second,
        reference=models["sft"],
        out=str(folder),
    )
    report = evaluate(options)
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "judged": {name: [row["responses"][name]["labeler"] for row in samples] for name in models},
        "texts": {name: [row["responses"][name]["text"] for row in samples] for name in models},
        "kl": {name: report["kl"][name]["mean"] for name in models},
        "tokens": {name: report["length"][name]["mean"] for name in models},
        "second": {name: report["second_labeler"][name]["mean"] for name in models},
        "auc": asked.auc(),
    }


def _likelihoods(models: dict[str, str], rows: list[dict[str, Any]]) -> dict[str, list[list[float]]]:
    return {name: [one.nats.tolist(), one.tokens.tolist()] for name, one in likelihoods(models, rows).items()}


def _metrics(stage: Path) -> dict[str, float]:
    return json.loads((stage / "stage.json").read_text(encoding="utf-8"))["metrics"]


def result(context: Context, found: Measured) -> Result:
    """Returns the finding from what was measured."""
    seeds = len(context.seeds)
    gains = over_seeds_and_prompts(_gains(found), seeds, len(found.judged["sft"]))
    costs = over_seeds_and_prompts(_costs(found, context.seeds), seeds, len(found.likelihood["sft"].nats))
    gain = gains["kl"]
    return Result(
        finding=NAME,
        question=QUESTION,
        paper=PAPER,
        done=_done(context, found),
        holds=above(gain),
        figure=gain.mean,
        ci_low=gain.ci_low,
        ci_high=gain.ci_high,
        unit="probability of being fresh by the judge, PPO minus SFT",
        seeds=list(context.seeds),
        verdict=_verdict(found, gains, costs),
        rows=_rows(found, gains, costs),
        claims=[
            _claim("without the KL penalty the judge's score rises too", gains["no-kl"]),
            _claim("with the KL penalty, people's sentences lose likelihood (log of perplexity)", costs["kl"]),
            _claim("without the KL penalty they lose more (log of perplexity)", costs["difference"]),
            _claim("answers without the KL penalty score higher than with it", gains["difference"]),
        ],
    )


def _claim(claim: str, interval: Interval) -> dict[str, Any]:
    return {"claim": claim, "holds": above(interval)} | {
        "figure": interval.mean,
        "ci_low": interval.ci_low,
        "ci_high": interval.ci_high,
    }


def _gains(found: Measured) -> Figures:
    """Gains of the judge's score over SFT, from seeds and prompts."""

    def figures(seeds: np.ndarray, prompts: np.ndarray) -> dict[str, float]:
        start = found.judged["sft"][prompts].mean()
        gained = {name: float(found.judged[name][np.ix_(seeds, prompts)].mean() - start) for name in SYSTEMS}
        return gained | {"difference": gained["no-kl"] - gained["kl"]}

    return figures


def _costs(found: Measured, trained: Sequence[int]) -> Figures:
    """Mean over seeds of the log of perplexity minus SFT's, from seeds and people's sentences."""

    def figures(seeds: np.ndarray, sentences: np.ndarray) -> dict[str, float]:
        start = np.log(found.likelihood["sft"].perplexity(sentences))
        lost = {
            name: float(np.mean([_log_perplexity(found, f"{name}-{trained[i]}", sentences) for i in seeds]) - start)
            for name in SYSTEMS
        }
        return lost | {"difference": lost["no-kl"] - lost["kl"]}

    return figures


def _log_perplexity(found: Measured, name: str, sentences: np.ndarray) -> float:
    return float(np.log(found.likelihood[name].perplexity(sentences)))


def _done(context: Context, found: Measured) -> str:
    if context.source == "hub":
        return _done_with_hub(context, found)
    accuracy, sentences = float(np.mean(found.accuracy)), len(found.likelihood["sft"].nats)
    return (
        f"SFT on critics' sentences about films, half of them fresh. Reward models from {COMPARISONS} comparisons of "
        "fresh and rotten sentences about the same film; on films of the validation part they order "
        f"{accuracy:.2f} of the pairs as the critics did. PPO with the KL penalty until it is 4 nats from SFT, and as "
        "many iterations without a penalty. The judge (sentence embeddings and logistic regression on the labels of "
        f"other films; AUC {found.auc:.2f} on people's sentences about the films of the test part) reads one answer "
        f"about each of {len(found.judged['sft'])} films that no model has seen; perplexity is that of {sentences} "
        "sentences of people about them. Tuned on films of the validation part with another seed. Intervals are over "
        "seeds and prompts"
    )


def _done_with_hub(context: Context, found: Measured) -> str:
    scores = found.second or {}
    means = [np.mean([scores[f"{name}-{seed}"] for seed in context.seeds]) for name in SYSTEMS] if scores else []
    rewards = (
        f" ({scores['sft']:.3f} of GPT-2, {' and '.join(f'{mean:.3f}' for mean in means)} of PPO)" if means else ""
    )
    return (
        f"The recipe imdb: {imdb.base(context)} continues reviews of IMDB, with the set-up of RL4LMs and without a "
        f"penalty. The reward is the probability of POSITIVE by lvwerra/distilbert-imdb{rewards}. The judge (sentence "
        f"embeddings and logistic regression on the labels of other reviews; AUC {found.auc:.2f} on halves of test "
        f"reviews) reads one continuation of each of {len(found.judged['sft'])} test reviews; perplexity is that of "
        f"the second half of {len(found.likelihood['sft'].nats)} of them. Intervals are over seeds and prompts"
    )


def _verdict(found: Measured, gains: Mapping[str, Interval], costs: Mapping[str, Interval]) -> str:
    start, gain = float(found.judged["sft"].mean()), gains["kl"]
    rises = "rises" if above(gain) else "does not clearly rise"
    kept, lost = _variety(found, "kl"), float(np.exp(costs["kl"].mean)) - 1
    return (
        f"The judge's score {rises}, from {start:.2f} to {start + gain.mean:.2f}, at a KL of "
        f"{np.mean(found.kl['kl']):.1f} nats, with {100 * kept:.0f} % of SFT's variety (distinct-2) and a perplexity "
        f"of people's sentences that is {100 * lost:.0f} % higher; without the penalty the score is "
        f"{start + gains['no-kl'].mean:.2f} at {np.mean(found.kl['no-kl']):.1f} nats."
    )


def _variety(found: Measured, name: str) -> float:
    """distinct-2 of a system as a share of SFT's, mean over seeds."""
    return float(np.mean([distinct_n(texts) for texts in found.texts[name]]) / distinct_n(found.texts["sft"][0]))


def _rows(found: Measured, gains: Mapping[str, Interval], costs: Mapping[str, Interval]) -> list[dict[str, Any]]:
    """A row for each system."""
    start = float(found.judged["sft"].mean())
    base = found.likelihood["sft"].perplexity(np.arange(len(found.likelihood["sft"].nats)))
    rows = [_row("SFT", f"{start:.2f}", "", 0.0, found, "sft", base)]
    for name, title in SYSTEMS.items():
        by_seed = ", ".join(f"{score:.2f}" for score in found.judged[name].mean(axis=1))
        gain = gains[name]
        shown = f"{gain.mean:+.2f} ({gain.ci_low:+.2f} to {gain.ci_high:+.2f})"
        perplexity = base * float(np.exp(costs[name].mean))
        rows.append(_row(title, by_seed, shown, float(np.mean(found.kl[name])), found, name, perplexity))
    return rows


def _row(
    title: str, judged: str, gain: str, kl: float, found: Measured, name: str, perplexity: float
) -> dict[str, Any]:
    return {
        "model": title,
        "judge's score (by seed)": judged,
        "minus SFT": gain,
        "KL to SFT (nats)": f"{kl:.1f}",
        "distinct-2": f"{np.mean([distinct_n(texts) for texts in found.texts[name]]):.2f}",
        "tokens": f"{np.mean(found.tokens[name]):.0f}",
        "perplexity of people's sentences": f"{perplexity:.1f}",
        "an answer": found.texts[name][0][0],
    }
