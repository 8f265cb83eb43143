"""`lit-instruct eval`: base, SFT, best-of-n and PPO on held-out prompts, into report.json and report.html."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_instruct.checkout import stage_command
from lit_instruct.errors import UserError
from lit_instruct.evaluation.figures import choose_samples, figures_of, sameness, samples_of
from lit_instruct.evaluation.options import EvalOptions
from lit_instruct.evaluation.own_run import completed, held_out_prompts, told, warnings_on
from lit_instruct.evaluation.systems import Loaders, default_loaders, measure_systems
from lit_instruct.machine import peak_memory_gb, provenance

if TYPE_CHECKING:
    from lit_instruct.handover import Stage

STAGES = {"sft": "SFT", "rm": "reward model", "ppo": "PPO"}


def evaluate(options: EvalOptions, loaders: Loaders | None = None) -> dict[str, Any]:
    """Compares the stages of a run on held-out prompts, writes eval/report.{json,html} and returns the report.

    Systems: `base` (the model SFT started from, in SFT's prompt format), `sft`, `best_of_<n>` (the one of n SFT samples
    with the highest reward) and `ppo`. Each answers every prompt once, with the same seed; SFT's answer is the first of
    its n. All intervals are 95 % bootstrap intervals over prompts.

    - kl: nats per response to the SFT model, mean over prompts of sum_t log pi(y_t) - log pi_sft(y_t) with y ~ pi, the
      divergence in eq. 2's penalty; for best-of-n the analytic log n - (n - 1) / n.
    - reward: the reward model's score of the response's text, with the EOS.
    - distinct_2: distinct word bigrams over all bigrams of a system's responses (one per prompt, so the sets have equal
      size).
    - win_rate.ppo_vs_sft: share of prompts on which the labeler prefers PPO; ties count half.

    Args:
        options: what to compare.
        loaders: functions that open the models; by default from the run's stage folders.

    Raises:
        UserError: a stage is missing or does not fit the others, the prompts cannot be read, a labeler fails, or the
            report cannot be written.
    """
    from lit_instruct.evaluation.report import build_page
    from lit_instruct.evaluation.summary import print_summary
    from lit_instruct.files import json_text, replacing_files

    started = time.monotonic()
    run = Path(options.run)
    stages = {name: required_stage(run, name) for name in STAGES}
    warnings = _check_fit(run, stages)
    loaders = loaders or default_loaders(options)
    rows = held_out_prompts(options, stages["ppo"], lambda: loaders.prompter(str(run / "ppo")))
    given, options = options, completed(options, stages["ppo"], rows)
    if line := told(given, options, len(rows)):
        print(line)
    prompts, cases = [row.prompt for row in rows], [row.use_case or "other" for row in rows]
    systems = measure_systems(options, str(stages["sft"].base["source"]), rows, loaders)
    samples = samples_of(systems, prompts, cases)
    report = figures_of(options, systems, cases)
    report["reward_model"] = {"pair_accuracy": stages["rm"].metrics.get("val/pair_accuracy")}
    report["seconds"] = {name: stage.seconds for name, stage in stages.items()}
    report["seconds"]["eval"] = round(time.monotonic() - started, 1)
    report["peak_memory_gb"] = {name: stage.peak_memory_gb for name, stage in stages.items()}
    report["peak_memory_gb"]["eval"] = peak_memory_gb()
    report |= {"base": stages["sft"].base, "options": options.record()}
    report |= {"seeds": {name: stage.seed for name, stage in stages.items()}} | provenance()
    warnings += [*warnings_on(options), *sameness(report["distinct_2"])]
    report |= {"warnings": warnings, "samples": choose_samples(samples)}
    page = build_page(run, report)
    with replacing_files(run / "eval") as folder:
        lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        for name, text in (("samples.jsonl", lines), ("report.html", page), ("report.json", json_text(report))):
            (folder / name).write_text(text, encoding="utf-8", errors="replace")  # for lone surrogates
    print_summary(report, run / "eval")
    return report


def required_stage(run: Path, name: str) -> Stage:
    """Returns the record of a stage of the run; raises UserError if the stage has not run or the record is damaged."""
    from lit_instruct.handover import read_stage

    stage = read_stage(run / name)
    if stage is None:
        command = stage_command(name, run)
        raise UserError(f"{run / name}: the {STAGES[name]} stage of this run is missing; run `{command}` first")
    return stage


def _check_fit(run: Path, stages: dict[str, Stage]) -> list[str]:
    """Refuses a policy whose prompt format is not SFT's; returns warnings about stages newer than the policy."""
    if stages["ppo"].prompt_format != stages["sft"].prompt_format:
        raise UserError(
            f"{run / 'ppo'}: made with another prompt format than {run / 'sft'}; "
            f"run `{stage_command('ppo', run)}` again"
        )
    return [
        f"{name} was made again after ppo, which started from an earlier one: "
        f"run `{stage_command('ppo', run)}` again to get figures that belong together"
        for name in ("sft", "rm")
        if stages[name].created > stages["ppo"].created
    ]
