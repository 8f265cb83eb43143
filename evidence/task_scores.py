"""What models make of local tasks, by lm_eval through `lit-instruct eval`'s harness, kept until a model changes."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evidence.cached import kept_json
from lit_instruct.errors import UserError
from lit_instruct.models.checks import context_of
from lit_instruct.rollouts.text import TextGenerator

Scores = dict[str, dict[str, list[float]]]
"""Task -> measure -> one value per question; of texts, `nats` per token."""


def task_scores(source: str | Path, tasks: Mapping[str, Path], limit: int, folder: Path, name: str) -> Scores:
    """Returns a model's scores in float32 on raw text.

    Args:
        source: stage folder, folder or name of a model.
        tasks: name -> file of questions or texts.
        limit: most questions per task.
        folder: where the scores are kept.
        name: of the model, for the file.

    Raises:
        UserError: lm_eval is not installed, or the model cannot read a question.
    """
    parts = [str(source), *([source] if isinstance(source, Path) else []), limit, *tasks.values()]
    return dict(kept_json(folder / f"{name}.json", parts, lambda: _measured(str(source), tasks, limit)))


def _measured(source: str, tasks: Mapping[str, Path], limit: int) -> Scores:
    try:
        from lit_instruct.evaluation.tasks.harness import Harness
    except ImportError as error:
        raise UserError(f"lm_eval is not installed ({error}); run pip install 'lit-instruct[tasks]'") from error
    harness = Harness([str(path) for path in tasks.values()], limit)
    model = TextGenerator.from_source(source, "float32")
    harness.check_context(source, model.prompter, context_of(model.model.config))
    print(f"evidence: {source}: {harness.described()}", flush=True)
    found: dict[str, Any] = harness.answers(model.model, model.prompter)
    scores: Scores = {}
    for name in tasks:
        measures = dict(found[name].measures)
        if "bits_per_byte" in measures:
            texts = [harness.tasks[name].eval_docs[number]["text"] for number in found[name].questions]
            measures["nats"] = _nats(measures.pop("bits_per_byte"), texts, model)
        scores[name] = measures
    del model
    gc.collect()
    return scores


def _nats(bits: list[float], texts: list[str], model: TextGenerator) -> list[float]:
    """Nats per token from bits per byte."""
    counts = [len(ids) for ids in model.prompter.tokenizer(texts)["input_ids"]]
    sizes = [len(text.encode()) for text in texts]
    return [bit * math.log(2) * size / count for bit, size, count in zip(bits, sizes, counts, strict=True)]
