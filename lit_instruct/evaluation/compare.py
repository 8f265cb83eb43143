"""`lit-instruct eval`: base, SFT, best-of-n and PPO on held-out prompts, into report.json and report.html."""

from __future__ import annotations

import gc
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lit_instruct.errors import UserError
from lit_instruct.evaluation import measures
from lit_instruct.evaluation.measures import Interval

if TYPE_CHECKING:
    from data_modules.rows import PromptRow
    from lit_instruct.handover import Stage
    from lit_instruct.prompting import Prompt, Prompter
    from lit_instruct.rollouts.score import TextReward
    from lit_instruct.rollouts.text import Response, TextGenerator

Labeler = Callable[[list[tuple[str, str]]], list[float]]
STAGES = {"sft": "SFT", "rm": "reward model", "ppo": "PPO"}
SHOWN_SAMPLES = 9


@dataclass
class EvalOptions:
    """What `lit-instruct eval` compares and how."""

    run: str = "runs/demo"
    """Run folder with the stages sft, rm and ppo; the report goes to its folder eval."""
    prompts: str = "recipes/demo/data/prompts_validation.jsonl"
    """Held-out prompts, one JSON object a line: prompt, use_case (optional)."""
    limit: int | None = None
    """Most prompts to use, spread evenly over the file; none = all."""
    best_of: int = 8
    """n of best-of-n: samples from the SFT model, of which the reward model picks one."""
    max_new_tokens: int = 48
    """Longest response in tokens; take what PPO trained with."""
    temperature: float = 1.0
    """Sampling temperature of all systems; the KL is exact at 1 only, where the model itself is sampled."""
    seed: int = 0
    """Seed of sampling and of the bootstrap."""
    labeler: str = "lit_instruct.evaluation.labelers.tone"
    """Import path of the labeler whose scores the report leads with."""
    second_labeler: str = "lit_instruct.evaluation.labelers.second_opinion"
    """Import path of a labeler that no training used."""
    batch_size: int = 64
    """Responses generated at once."""

    def __post_init__(self) -> None:
        for name in ("best_of", "max_new_tokens", "batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name}: {value} is below 1; give a positive number")
        if not self.temperature > 0:
            raise UserError(f"--temperature: {self.temperature} is not above 0; give a positive number")


@dataclass
class System:
    """One system's responses to the held-out prompts, and what was measured on each (one number a prompt)."""

    name: str
    responses: list[Response]
    kl: list[float]
    reward: list[float]
    labeler: list[float]
    second_labeler: list[float]

    def per_prompt(self) -> dict[str, list[float]]:
        """Measure -> one value a prompt; length counts tokens with the EOS, eos_share is 1 where it came."""
        return {
            "labeler": self.labeler,
            "second_labeler": self.second_labeler,
            "reward": self.reward,
            "kl": self.kl,
            "length": [float(len(response.ids)) for response in self.responses],
            "eos_share": [float(response.ended) for response in self.responses],
        }


class Loaders(NamedTuple):
    """What opens the models of a run; tests put in their own."""

    generator: Callable[..., TextGenerator]
    """(source, prompter=None) -> language model."""
    prompter: Callable[[str], Prompter]
    """source -> the prompt format it was trained with, without its weights."""
    reward: Callable[[str], TextReward]
    """source -> reward model."""


def evaluate(options: EvalOptions, loaders: Loaders | None = None) -> dict[str, Any]:
    """Compares the stages of a run on held-out prompts, writes eval/report.{json,html}, returns the report.

    Systems: `base` (the model SFT started from, in SFT's prompt format), `sft`, `best_of_<n>` (n samples of
    SFT, the reward model's favourite), `ppo`. Each answers every prompt once, with the same seed; SFT's
    answer is the first of its n. All intervals are 95 % bootstrap intervals over prompts.

    - kl: nats a response to the SFT model, ``mean over prompts of sum_t log pi(y_t) - log pi_sft(y_t)``, y ~
      pi, the divergence in eq. 2's penalty; for best-of-n the analytic ``log n - (n - 1) / n``.
    - reward: the reward model's score of the response's text, closed by the EOS.
    - distinct_2: distinct word bigrams over all bigrams of a system's responses (one a prompt, so sets are
      equal).
    - win_rate.ppo_vs_sft: share of prompts where the labeler prefers PPO, ties half.

    Args:
        options: what to compare.
        loaders: what opens the models; by default the run's stage folders.

    Raises:
        UserError: a stage is missing or does not fit the others, the prompts cannot be read, a labeler
            misbehaves, the report cannot be written.
    """
    from lit_instruct.evaluation.report import build_page
    from lit_instruct.handover import peak_memory_gb, replacing_files

    started = time.monotonic()
    run = Path(options.run)
    stages = {name: required_stage(run, name) for name in STAGES}
    warnings = _check_fit(run, stages)
    rows = read_prompts(options.prompts, options.limit)
    prompts, cases = [row.prompt for row in rows], [row.use_case or "other" for row in rows]
    systems = _measure(options, str(stages["sft"].base["source"]), prompts, loaders or _default_loaders())
    samples = _samples(systems, prompts, cases)
    report = _figures(options, systems, cases)
    report["reward_model"] = {"pair_accuracy": stages["rm"].metrics.get("val/pair_accuracy")}
    report["seconds"] = {name: stage.seconds for name, stage in stages.items()}
    report["seconds"]["eval"] = round(time.monotonic() - started, 1)
    report["peak_memory_gb"] = {name: stage.peak_memory_gb for name, stage in stages.items()}
    report["peak_memory_gb"]["eval"] = peak_memory_gb()
    report |= _provenance(options, stages) | {"warnings": warnings, "samples": choose_samples(samples)}
    page = build_page(run, report)
    with replacing_files(run / "eval") as folder:
        _write(folder / "samples.jsonl", "".join(json.dumps(s, ensure_ascii=False) + "\n" for s in samples))
        _write(folder / "report.html", page)
        _write(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    _print_summary(report, run / "eval")
    return report


def required_stage(run: Path, name: str) -> Stage:
    """Record of a stage of the run.

    Raises:
        UserError: the stage has not run, or its stage.json is damaged.
    """
    from lit_instruct.handover import read_stage

    stage = read_stage(run / name)
    if stage is None:
        command = f"make {name} RUN={run.name}"
        raise UserError(f"{run / name}: the {STAGES[name]} stage of this run is missing; run `{command}` first")
    return stage


def read_prompts(path: str, limit: int | None) -> list[PromptRow]:
    """Rows of the prompt file; with a limit, that many spread evenly over it (files are often sorted)."""
    from data_modules.rows import PromptRow, read_rows

    rows = read_rows(path, PromptRow)
    if limit is None or limit >= len(rows):
        return rows
    return [rows[i * len(rows) // limit] for i in range(limit)]


def choose_samples(samples: Sequence[dict[str, Any]], n: int = SHOWN_SAMPLES) -> list[dict[str, Any]]:
    """n samples evenly spaced over the ranking by PPO's labeler score minus SFT's, best to worst.

    Nobody picks: gains and losses show up in the proportion in which they occur. Ties keep the prompts'
    order.
    """
    ranked = sorted(samples, key=lambda sample: -sample["ppo_minus_sft"])
    if len(ranked) <= n:
        return ranked
    return [ranked[round(i * (len(ranked) - 1) / (n - 1))] for i in range(n)]


def _default_loaders() -> Loaders:
    from lit_instruct.handover import prompter_of
    from lit_instruct.models.loading import find_source
    from lit_instruct.rollouts.score import TextReward
    from lit_instruct.rollouts.text import TextGenerator

    def open_generator(source: str, prompter: Prompter | None = None) -> TextGenerator:
        return TextGenerator.from_source(source, prompter=prompter)

    return Loaders(open_generator, lambda source: prompter_of(find_source(source)), TextReward.from_source)


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", errors="replace"))  # a lone surrogate in a response must not end it all


def _check_fit(run: Path, stages: dict[str, Stage]) -> list[str]:
    """Refuses a policy with another prompt format than SFT's; warns of stages newer than the policy."""
    if stages["ppo"].prompt_format != stages["sft"].prompt_format:
        raise UserError(
            f"{run / 'ppo'}: made with another prompt format than {run / 'sft'}; run `make ppo RUN={run.name}` again"
        )
    return [
        f"{name} was made again after ppo, which started from an earlier one: "
        f"run `make ppo RUN={run.name}` again for figures that belong together"
        for name in ("sft", "rm")
        if stages[name].created > stages["ppo"].created
    ]


def _measure(options: EvalOptions, base: str, prompts: list[Prompt], loaders: Loaders) -> list[System]:
    """Samples and scores with one model in memory at a time: base, PPO, SFT, reward model."""
    from lit_instruct.rollouts.score import load_labeler

    run, n = Path(options.run), options.best_of
    labelers = {path: load_labeler(path) for path in (options.labeler, options.second_labeler)}
    answers, log_probs = {}, {}
    # The base model answers in SFT's prompt format: what differs is the training, not the prompt.
    for name, source, prompter in (
        ("base", base, loaders.prompter(str(run / "sft"))),
        ("ppo", str(run / "ppo"), None),
    ):
        model = loaders.generator(source, prompter)
        answers[name] = [row[0] for row in _respond(model, options, prompts, name, k=1)]
        log_probs[name] = model.log_probs(prompts, answers[name], progress=f"{name}: log-probabilities")
        del model
        gc.collect()  # all of it goes before the next one comes

    model = loaders.generator(str(run / "sft"), None)
    many = _respond(model, options, prompts, "sft", k=n)
    reference = {
        name: model.log_probs(prompts, answers[name], progress=f"sft: log-probabilities of {name}") for name in answers
    }
    del model
    gc.collect()
    kl = {name: np.subtract(log_probs[name], reference[name]).tolist() for name in answers}
    kl |= {"sft": [0.0] * len(prompts), f"best_of_{n}": [measures.best_of_n_kl(n)] * len(prompts)}

    rewards, best = _rewards(loaders.reward(str(run / "rm")), prompts, many, answers)
    answers["sft"] = [row[0] for row in many]
    answers[f"best_of_{n}"] = [row[i] for row, i in zip(many, best, strict=True)]
    rewards[f"best_of_{n}"] = rewards.pop("best")
    return [
        System(name, answers[name], kl[name], rewards[name], *_labels(labelers, options, prompts, answers[name]))
        for name in ("base", "sft", f"best_of_{n}", "ppo")
    ]


def _respond(
    model: TextGenerator, options: EvalOptions, prompts: list[Prompt], name: str, k: int
) -> list[list[Response]]:
    return model.respond(
        prompts,
        k=k,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        seed=options.seed,
        batch_size=options.batch_size,
        progress=f"{name}: {len(prompts) * k} responses",
    )


def _rewards(
    model: TextReward, prompts: list[Prompt], many: list[list[Response]], answers: dict[str, list[Response]]
) -> tuple[dict[str, list[float]], list[int]]:
    """Scores of each system and of the best of many, and which of the many that is (the first of equals)."""
    rewards = {
        name: model.score(prompts, [answer.text for answer in system], progress=f"rm: scores of {name}")
        for name, system in answers.items()
    }
    n = len(many[0])
    repeated = [prompt for prompt in prompts for _ in range(n)]
    texts = [answer.text for row in many for answer in row]
    scores = np.reshape(model.score(repeated, texts, progress="rm: scores of sft"), (len(prompts), n))
    rewards |= {"sft": scores[:, 0].tolist(), "best": scores.max(axis=1).tolist()}
    return rewards, scores.argmax(axis=1).tolist()


def _labels(
    labelers: dict[str, Labeler], options: EvalOptions, prompts: list[Prompt], answers: list[Response]
) -> tuple[list[float], list[float]]:
    from lit_instruct.prompting import prompt_text
    from lit_instruct.rollouts.score import label

    pairs = [(prompt_text(prompt), answer.text) for prompt, answer in zip(prompts, answers, strict=True)]
    first, second = options.labeler, options.second_labeler
    return label(labelers[first], pairs, first), label(labelers[second], pairs, second)


def _figures(options: EvalOptions, systems: list[System], cases: list[str]) -> dict[str, Any]:
    """Every figure of the report, overall and by use case."""
    everyone = list(range(len(cases)))
    by_case = {case: [i for i in everyone if cases[i] == case] for case in sorted(set(cases))}
    figures = _summary(systems, everyone, options.seed)
    figures["distinct_2"] = _distinct(systems, options.seed)
    within = {s.name: measures.mean_distinct_n([r.text for r in s.responses]) for s in systems}
    figures["distinct_2_within_response"] = within
    figures["by_use_case"] = {case: _summary(systems, index, options.seed) for case, index in by_case.items()}
    return figures


def _summary(systems: list[System], index: list[int], seed: int) -> dict[str, Any]:
    """Measure -> system -> interval over the prompts in `index`, with the paired difference of PPO to SFT."""
    values = {s.name: {m: [v[i] for i in index] for m, v in s.per_prompt().items()} for s in systems}
    summary: dict[str, Any] = {"prompts": len(index)}
    for measure in values["sft"]:
        summary[measure] = {name: _shape(measures.bootstrap(v[measure], seed)) for name, v in values.items()}
        difference = measures.paired_difference(values["ppo"][measure], values["sft"][measure], seed)
        summary[measure]["ppo_minus_sft"] = _shape(difference)
    won = measures.wins(values["ppo"]["labeler"], values["sft"]["labeler"])
    summary["win_rate"] = {"ppo_vs_sft": _shape(measures.bootstrap(won, seed))}
    return summary


def _distinct(systems: list[System], seed: int) -> dict[str, Any]:
    texts = {system.name: [response.text for response in system.responses] for system in systems}
    distinct: dict[str, Any] = {n: _shape(measures.distinct_2_interval(t, seed)) for n, t in texts.items()}
    sft = distinct["sft"]["mean"]
    distinct["ppo_over_sft"] = distinct["ppo"]["mean"] / sft if sft else None
    return distinct


def _shape(interval: Interval) -> dict[str, float]:
    return {name: round(value, 6) for name, value in interval._asdict().items()}


def _samples(systems: list[System], prompts: list[Prompt], cases: list[str]) -> list[dict[str, Any]]:
    """Every prompt with every system's response and its scores; the lines of samples.jsonl."""
    by_name = {system.name: system for system in systems}
    samples = []
    for i, (prompt, case) in enumerate(zip(prompts, cases, strict=True)):
        responses = {
            system.name: {
                "text": system.responses[i].text,
                "ended": bool(system.responses[i].ended),
                "tokens": len(system.responses[i].ids),
                "labeler": round(system.labeler[i], 4),
                "second_labeler": round(system.second_labeler[i], 4),
                "reward": round(system.reward[i], 4),
            }
            for system in systems
        }
        difference = round(by_name["ppo"].labeler[i] - by_name["sft"].labeler[i], 4)
        samples.append({"prompt": prompt, "use_case": case, "ppo_minus_sft": difference, "responses": responses})
    return samples


def _provenance(options: EvalOptions, stages: dict[str, Stage]) -> dict[str, Any]:
    packages = ("lit-instruct", "torch", "lightning", "trl", "transformers", "peft")
    return {
        "base": stages["sft"].base,
        "options": asdict(options),
        "seeds": {name: stage.seed for name, stage in stages.items()},
        "machine": _machine(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _machine() -> dict[str, Any]:
    """What a reader needs to judge the seconds; no host name, no path."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine: dict[str, Any] = {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpu_cores": cores,
    }
    machine["accelerator"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return machine


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _print_summary(report: dict[str, Any], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    rows = {
        "labeler": "labeler score",
        "second_labeler": "second labeler",
        "reward": "reward model",
        "kl": "KL to SFT (nats)",
        "length": "length (tokens)",
        "distinct_2": "distinct-2",
        "eos_share": "EOS share",
    }
    systems = ("base", "sft", f"best_of_{report['options']['best_of']}", "ppo")
    table = Table(title=f"{report['prompts']} held-out prompts: mean ± half the 95 % interval")
    table.add_column("")
    for name in systems:
        table.add_column(name, justify="right")
    for measure, label in rows.items():
        table.add_row(label, *(_cell(report[measure][name]) for name in systems))
    console = Console()
    console.print(table)
    console.print(f"PPO minus SFT, labeler: {_range(report['labeler']['ppo_minus_sft'])}", highlight=False)
    console.print(f"PPO preferred to SFT:   {_range(report['win_rate']['ppo_vs_sft'])}", highlight=False)
    for warning in report["warnings"]:
        console.print(f"warning: {warning}", markup=False, highlight=False)
    console.print(f"report: {folder / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


def _cell(interval: dict[str, float]) -> str:
    return f"{interval['mean']:.2f} ± {(interval['ci_high'] - interval['ci_low']) / 2:.2f}"


def _range(interval: dict[str, float]) -> str:
    return f"{interval['mean']:.2f} ({interval['ci_low']:.2f} to {interval['ci_high']:.2f})"
