"""`lit-instruct eval`: the stages of a run, or models by name, on held-out prompts, as report.json and report.html."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from lit_instruct.evaluation.compared import Compared, compared_models
from lit_instruct.evaluation.figures import figures_of, ranked_samples, samples_of
from lit_instruct.evaluation.options import EvalOptions, options_record
from lit_instruct.evaluation.own_run import completed, judge_of, limited, prompts_of, told, warnings_on
from lit_instruct.evaluation.seen import find_seen, told_of_seen, without_seen
from lit_instruct.evaluation.systems import Loaders, default_loaders, measure_systems
from lit_instruct.evaluation.tasks.asked import given_tasks
from lit_instruct.machine import peak_memory_gb, provenance
from lit_instruct.terminal import printable

if TYPE_CHECKING:
    from lit_instruct.handover import Stage


def evaluate(options: EvalOptions, loaders: Loaders | None = None) -> dict[str, Any]:
    """Compares models on held-out prompts, writes report.{json,html} and {samples,tasks}.jsonl, and returns the report.

    Systems of a run: `base` (the model SFT started from, in SFT's prompt format), `sft`, `best_of_<n>` (the one of n
    SFT samples with the highest reward) and `ppo`, as far as the run has them; or the models of --systems. Each answers
    every prompt once, with the same seed; SFT's answer is the first of its n. All intervals are 95 % bootstrap
    intervals over prompts.

    - kl: nats per response to the SFT model, mean over prompts of sum_t log pi(y_t) - log pi_sft(y_t) with y ~ pi, the
      divergence in eq. 2's penalty; for best-of-n the analytic log n - (n - 1) / n.
    - reward: the reward model's score of the response's text, with the EOS.
    - distinct_2: distinct word bigrams over all bigrams of a system's responses (one per prompt, so the sets have equal
      size).
    - win_rate.ppo_vs_sft: share of prompts on which the labeler prefers PPO; ties count half.
    - tasks: accuracy and log-probability of the right answer on the tasks of --tasks, with intervals over questions.

    Args:
        options: what to compare.
        loaders: functions that open the models; by default from folders and the hub.

    Raises:
        UserError: there is nothing to compare, stages do not fit each other, the prompts cannot be read, a labeler
            fails, or the report cannot be written.
    """
    from lit_instruct.evaluation.summary import print_summary

    started = time.monotonic()
    compared = compared_models(options)
    loaders = loaders or default_loaders(options)
    tasks = given_tasks(options, compared, loaders) if options.tasks is not None else None
    leading = compared.leading
    rows = prompts_of(options, leading, lambda: loaders.prompter(list(compared.sources.values())[-1]))
    rows, facts = without_seen(rows, find_seen(rows, compared), options.seen == "leave_out")
    rows = limited(rows, options.limit)
    given, options = options, completed(options, leading, rows, compared.reward is not None)
    if line := told(given, options, len(rows), judge_of(options, leading)):
        print(printable(line))
    cases = [row.use_case or "other" for row in rows]
    systems = measure_systems(options, compared, rows, loaders, tasks.ask if tasks is not None else None)
    samples = samples_of(systems, rows, cases, compared.pairs, find_seen(rows, compared))
    report = figures_of(options, systems, cases, compared.pairs) | described(compared, options, facts)
    report |= tasks.figures(compared, options.seed) if tasks is not None else {"tasks": None}
    report["seconds"]["eval"] = round(time.monotonic() - started, 1)
    _write(compared, report, samples, tasks.rows() if tasks is not None else None)
    print_summary(report, compared.folder)
    return report


def described(compared: Compared, options: EvalOptions, facts: dict[str, Any]) -> dict[str, Any]:
    """Returns what the report says of the models, the prompts and the machine.

    Args:
        compared: the models.
        options: of the evaluation, completed.
        facts: on the prompts, of `without_seen`.
    """
    stages = {name: stage for name, (_, stage) in compared.stages.items()}
    reward = next((stage for stage in stages.values() if stage.stage == "rm"), None)
    first = next(iter(stages.values()), None)
    names = {source: name for name, source in compared.sources.items()}
    return {
        "systems": compared.labels(options.best_of),
        "models": compared.sources | {"reference": compared.reference, "reward_model": compared.reward},
        "pairs": [list(pair) for pair in compared.pairs],
        "reference": names.get(str(compared.reference)),
        "seen": facts,
        "left_out": compared.left_out,
        "reward_model": {"pair_accuracy": reward.metrics.get("val/pair_accuracy") if reward is not None else None},
        "metrics": {name: validation_figures(stage) for name, stage in stages.items()},
        "seconds": {name: stage.seconds for name, stage in stages.items()},
        "peak_memory_gb": {name: stage.peak_memory_gb for name, stage in stages.items()} | {"eval": peak_memory_gb()},
        "base": first.base if first is not None else None,
        "judge": judge_of(options, compared.leading),
        "options": options_record(options),
        "seeds": {name: stage.seed for name, stage in stages.items()},
    } | provenance()


def validation_figures(stage: Stage) -> dict[str, float]:
    """Returns the figures of a stage's last validation by name, such as val/loss, without those by use case."""
    return {name: value for name, value in stage.metrics.items() if name.startswith("val/") and name.count("/") == 1}


def _write(
    compared: Compared, report: dict[str, Any], samples: list[dict[str, Any]], questions: list[dict[str, Any]] | None
) -> None:
    """Adds warnings and the samples of the page to the report, and writes the files."""
    from lit_instruct.evaluation.report import build_page
    from lit_instruct.evaluation.verdict import warned_of_collapse
    from lit_instruct.files import json_text, replacing_files

    judged = warnings_on(EvalOptions(**report["options"]))
    report["warnings"] = [*compared.warnings, *told_of_seen(report["seen"]), *judged, *warned_of_collapse(report)]
    ranked = ranked_samples(samples, compared.pairs[-1])
    report["samples"] = [ranked.samples[i] for i in sorted(ranked.shown)]
    page = build_page(compared, report, ranked)
    with replacing_files(compared.folder) as folder:
        files = {"samples.jsonl": _lines(samples), "report.html": page, "report.json": json_text(report)}
        for name, text in (files | ({"tasks.jsonl": _lines(questions)} if questions is not None else {})).items():
            (folder / name).write_text(text, encoding="utf-8", errors="replace")  # for lone surrogates


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
