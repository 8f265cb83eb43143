"""The model card of an export, from its stage.json and those of earlier stages."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from data_modules.reading.sources import parse_sources
from lit_instruct.exporting.base_name import PublicBase, base_licence, data_licence, is_hub_id
from lit_instruct.handover import Stage, read_stage
from lit_instruct.planning.options import flat
from lit_instruct.prompting import Prompter

STEPS = {
    "sft": "supervised fine-tuning on demonstrations (step 1 of InstructGPT)",
    "rm": "a reward model trained on ranked comparisons (step 2 of InstructGPT)",
    "ppo": "a policy trained by PPO against a reward model (step 3 of InstructGPT)",
}
DATA_OPTIONS = ("path", "validation_path", "demonstrations_path", "pretraining_path")
NOT_STATED = "not stated"
ABSOLUTE = re.compile(r"\s*(?:[/\\~]|[A-Za-z]:[/\\]|\.\.[/\\])")
"""Beginning of a path that shows folders of this machine."""


@dataclass(frozen=True)
class CardFacts:
    """What is not in stage.json."""

    opened_base: str
    """Hub id or folder that the training opened."""
    base: PublicBase
    merged: bool
    """Whether the folder holds whole weights."""
    measured: dict[str, Any]
    """Form, dtype and distance from the trained model."""
    prompter: Prompter


@dataclass(frozen=True)
class DataRow:
    """A row of the card's table of data."""

    stage: str
    option: str
    source: str
    rows: str
    licence: str


def public_stage(stage: Stage, base: PublicBase, prompter: Prompter) -> dict[str, Any]:
    """Returns the record to publish: names in place of local folders, and the exported prompt format."""
    data = stage.data and {
        **stage.data,
        "sources": {
            name: {key: value for key, value in counts.items() if key != "first_bad"}
            for name, counts in (stage.data.get("sources") or {}).items()
        },
    }
    record = _without_folders(asdict(replace(stage, data=data)))
    return record | {"base": {**stage.base, "source": base.name}, "prompt_format": prompter.describe()}


def write_card(folder: Path, run: Path, name: str, stage: Stage, facts: CardFacts) -> None:
    """Writes README.md.

    Args:
        folder: of the export.
        run: folder of the stage, from which the records of earlier stages are found.
        name: title of the card.
        stage: record of the stage.
        facts: what is not in the records.
    """
    stages = {found.stage: found for found in [*_parents(run, stage), stage]}
    data = [row for found in stages.values() for row in _data_rows(found)]
    licence = base_licence(facts.opened_base, facts.base)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML; texts of users go through `cell`, `span` or `literal`
    )
    environment.filters |= {"cell": _cell, "span": _span, "literal": _literal}
    text = environment.get_template("card.md.jinja").render(
        front_matter=_front_matter(stage, facts, licence, data).to_yaml(),
        name=name,
        step=STEPS[stage.stage],
        stage=stage,
        facts=facts,
        licence=licence,
        data=data,
        options=[
            (name, *pair)
            for name, found in stages.items()
            for pair in flat(_without_folders(found.options or {})).items()
        ],
        not_stated=NOT_STATED,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _front_matter(stage: Stage, facts: CardFacts, licence: str | None, data: list[DataRow]) -> ModelCardData:
    sources = {row.source.partition(":")[0] for row in data}
    return ModelCardData(
        license=licence,
        base_model=facts.base.name if facts.base.on_hub else None,
        base_model_relation=("finetune" if facts.merged else "adapter") if facts.base.on_hub else None,
        library_name="transformers" if facts.merged else "peft",
        pipeline_tag="text-classification" if stage.stage == "rm" else "text-generation",
        datasets=sorted(filter(is_hub_id, sources)) or None,
        tags=["lit-instruct", "instructgpt", "rlhf", {"rm": "reward-model"}.get(stage.stage, stage.stage)],
    )


def _parents(run: Path, stage: Stage) -> Iterator[Stage]:
    """The records of earlier stages whose folders still exist, at the recorded path or next to this one."""
    for folder in dict.fromkeys(stage.parents.values()):
        for path in (Path(folder).expanduser(), run.parent / Path(folder).name):
            found = read_stage(path) if path.resolve() != run.resolve() else None
            if found is not None:
                yield from _parents(path, found)
                yield found
                break


def _data_rows(stage: Stage) -> Iterator[DataRow]:
    given = (stage.options or {}).get("data") or {}
    counted = (stage.data or {}).get("sources") or {}
    for option in DATA_OPTIONS:
        if not given.get(option):
            continue
        counts = counted.get(option)
        rows = f"{counts['kept']} of {counts['read']}" if counts else ""
        for source in parse_sources(given[option]):
            hub = source.path.partition(":")[0]
            named = source.path if is_hub_id(hub) else _without_folders(source.path)
            yield DataRow(stage.stage, option, named, rows, data_licence(hub) or NOT_STATED)


def _without_folders(value: Any) -> Any:
    """Shortens absolute paths to their last part, so that what is published does not show folders of this machine."""
    if isinstance(value, dict):
        return {key: item if key == "system" else _without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(item) for item in value]
    if not isinstance(value, str):
        return value
    return ",".join(
        re.split(r"[/\\]", part.rstrip("/\\"))[-1] if ABSOLUTE.match(part) else part for part in value.split(",")
    )


def _cell(value: Any) -> str:
    """A value as plain text of Markdown, in one line: neither HTML nor a link, an image or a column."""
    text = f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())
    text = html.escape(text, quote=False)
    text = re.sub(r"([\\`*|\[\]#])", r"\\\1", text)
    return text.replace("://", "&#58;//").replace("www.", "www&#46;")  # or a URL would become a link


def _span(value: Any) -> str:
    """A value between backticks, in a cell or not: there nothing but a backtick and a column has a meaning."""
    return " ".join(str(value).split()).replace("`", "'").replace("|", "\\|")


def _literal(value: Any) -> str:
    """A text as a literal of Python in a block of code, which it cannot end."""
    return json.dumps(str(value), ensure_ascii=False).replace("```", "\\u0060\\u0060\\u0060")
