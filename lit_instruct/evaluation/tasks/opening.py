"""Opens tasks of lm_eval (EleutherAI's language model evaluation harness) and checks that their answers are known."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval.api.task
import lm_eval.utils
from datasets import Dataset
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment
from lm_eval.api.registry import metric_registry
from lm_eval.tasks import TaskManager
from tqdm import tqdm

from lit_instruct.errors import UserError
from lit_instruct.evaluation.tasks.answers import choices_of, gold_of
from lit_instruct.evaluation.tasks.files import ROWS, is_file, question_rows, task_file
from lit_instruct.hub import offline_without_network


def open_tasks(names: Sequence[str]) -> dict[str, Any]:
    """Returns task -> lm_eval's task.

    Args:
        names: of tasks, groups or tags of lm_eval; task files (.yaml); or rows of questions (.jsonl).

    Raises:
        UserError: a task is unknown, cannot be read or names code.
    """
    _keep_quiet()
    specs = {name: _of_file(Path(name)) if is_file(name) else name for name in names}
    known = [name for name in names if not is_file(name)]
    manager = TaskManager(include_defaults=bool(known))  # without them it need not read 14,000 files
    for name in known:
        if name not in manager.task_index:
            near = get_close_matches(name, manager.all_tasks, 3)
            advice = f"did you mean {' or '.join(near)}?" if near else "`lm_eval ls tasks` lists them"
            raise UserError(f"--tasks: lm_eval knows no task {name!r}, and it is no .yaml or .jsonl file; {advice}")
    if known:
        offline_without_network()
    found: dict[str, Any] = {}
    for name, spec in specs.items():
        for task, opened in _load(manager, name, spec).items():
            if task in found:
                raise UserError(f"--tasks: {task} is named twice; name it once, or give a file another name")
            found[task] = opened
    return found


def _of_file(path: Path) -> str | dict[str, Any]:
    """What lm_eval's TaskManager takes for a file: a path, or the config of a task."""
    if path.suffix not in ROWS:
        _check_metrics(path, task_file(path).get("metric_list") or [])
        return str(path)
    rows = question_rows(path)
    shared = {"task": path.stem, "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)}, "test_split": "test"}
    if "text" in rows[0]:
        measures = [{"metric": "bits_per_byte"}]
        return shared | {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "text",
            "metric_list": measures,
        }
    measures = [{"metric": "acc"}, {"metric": "acc_norm"}]
    fields = {"doc_to_text": "query", "doc_to_choice": "choices", "doc_to_target": "gold", "metric_list": measures}
    return shared | fields | {"output_type": "multiple_choice"}


def _check_metrics(path: Path, metrics: Sequence[Any]) -> None:
    """Refuses metrics that are not in lm_eval: it would download their code from the hub and run it."""
    for one in metrics:
        name = one.get("metric") if isinstance(one, dict) else one
        if not isinstance(one, dict) or name not in metric_registry or one.get("hf_evaluate"):
            raise UserError(f"{path}: metric_list: {name} is no metric of lm_eval; take one such as acc or exact_match")


def _load(manager: TaskManager, name: str, spec: str | dict[str, Any]) -> dict[str, Any]:
    try:
        return dict(manager.load([spec])["tasks"])
    except ConnectionError as error:
        raise UserError(
            f"--tasks={name}: the hub cannot be reached and the data of this task is not in its cache; run it once "
            "with a network, or give the questions as a .jsonl file"
        ) from error
    except Exception as error:  # a task file and its data may fail in any way
        raise UserError(f"--tasks={name}: lm_eval cannot open it ({_said(error)}); correct the task") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _keep_quiet() -> None:
    """Keeps lm_eval's notes and bars away, and its templates in jinja's sandbox: a task file may come from others."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = partial(tqdm, disable=True)
    sandbox = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    sandbox.filters |= lm_eval.utils.env.filters
    lm_eval.utils.env = sandbox


def _asked(task: Any, questions: list[int] | None) -> Iterator[tuple[int, Any]]:
    docs = task.eval_docs
    return ((i, docs[i]) for i in (range(len(docs)) if questions is None else questions))


def check_answers(name: str, task: Any, questions: list[int] | None) -> None:
    """Refuses questions whose right answer nobody knows, such as those of a hub task's test split."""
    for number, doc in _asked(task, questions):
        try:
            gold, choices = gold_of(task, doc), choices_of(task, doc)
        except Exception as error:  # the templates of a task may fail in any way
            raise UserError(f"--tasks: question {number} of {name}: {_said(error)}; correct the task") from error
        right = gold if isinstance(gold, list) else [gold]
        if choices is not None:
            known = bool(right) and all(0 <= i < len(choices) if isinstance(i, int) else i in choices for i in right)
        else:
            known = any(one is not None and str(one).strip() for one in right)
        if not known:
            raise UserError(
                f"--tasks: question {number} of {name} has no right answer ({gold!r}); take a split with answers"
            )
