"""`lit-instruct rank auto`: a labeler that is no person ranks the responses of a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_instruct.commands.sample import ranking_columns, write_jsonl
from lit_instruct.commands.self_agreement import write_report
from lit_instruct.errors import UserError
from lit_instruct.judging.comparisons import Noise
from lit_instruct.labeling.rows import answered_prompts, task_of
from lit_instruct.labeling.tasks import Task
from lit_instruct.rollouts.function_names import Function
from lit_instruct.rollouts.labelers import Ranking, labeler_of


@dataclass
class AutoData:
    """What is ranked.

    Args:
        path: rows that have responses, in any layout of ranked comparisons (their ranks are ignored) or as {prompt,
            responses}.
        limit: use only this many, from the start.
        fields: field of the layout -> its name in the file, such as {prompt: question}.
    """

    path: str
    limit: int | None = None
    fields: dict[str, str] | None = None


@dataclass
class AutoOptions:
    """Ranks the responses of a file without people; the same command resumes an interrupted judge.

    Args:
        labeler: judge:FILE.yaml for a model behind an OpenAI-compatible address, reward:RUN for a reward model,
            classifier:NAME#LABEL, or the import path of a Python function (docs/labelers.md).
        data: what is ranked.
        out: file to write, .jsonl; rows {prompt, responses, ranks, labeler} with scores, if the labeler gives any, and
            all other fields. What a judge says about itself goes into a second one, such as ranked.labeler.json.
        noise: makes the labeler disagree with others.
    """

    labeler: Function
    data: AutoData
    out: str
    noise: Noise = field(default_factory=Noise)


def rank_auto(options: AutoOptions) -> Path:
    """Writes the ranked rows and returns the file.

    Raises:
        UserError: rows or labeler cannot be used; the answers of a judge until then are kept in its cache.
    """
    out = Path(options.out)
    if not out.parent.is_dir():
        raise UserError(f"--out={out}: no such folder; make it first")
    labeler = labeler_of(options.labeler, options.noise)
    data = options.data
    rows = [task_of(row) for row in answered_prompts(data.path, data.limit, data.fields)]
    tasks = [task for task in rows if task is not None]
    if not tasks:
        raise UserError(f"{data.path}: no prompt with two different responses is in it to rank; give other rows")
    texts = [[one.text for one in task.responses] for task in tasks]
    rankings = labeler.ranked([task.prompt for task in tasks], texts, [task.columns for task in tasks])
    ranked = [
        _row(task, ranking, labeler.name) for task, ranking in zip(tasks, rankings, strict=True) if ranking is not None
    ]
    if not ranked:
        raise UserError(f"--labeler {labeler.name}: the judge gave no usable answer on any prompt; correct its file")
    write_jsonl(out, ranked)
    notes = [f"{len(rows) - len(tasks)} left out, with fewer than two different responses"] * (len(rows) > len(tasks))
    notes += [f"{len(tasks) - len(ranked)} left out, which the judge could not judge"] * (len(tasks) > len(ranked))
    print("; ".join([f"{out}: {len(ranked)} prompts ranked by {labeler.name}", *notes]))
    write_report(out, labeler)
    return out


def _row(task: Task, ranking: Ranking, labeler: str) -> dict[str, Any]:
    runs, versions = [one.run for one in task.responses], [one.version for one in task.responses]
    written = {name: values for name, values in {"runs": runs, "versions": versions}.items() if any(values)}
    own = {"prompt": task.prompt, "responses": [one.text for one in task.responses]}
    return {**task.columns, **own, **written, **ranking_columns(ranking, labeler)}
