"""What a stage hands over to the next one: a model folder with `stage.json` in it, written atomically."""

from __future__ import annotations

import datetime
import json
import logging
import math
from contextlib import AbstractContextManager
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np
import torch

from lit_instruct import machine
from lit_instruct.errors import UserError
from lit_instruct.files import READY, finish_replacing, replacing_files
from lit_instruct.json_types import wrong_values
from lit_instruct.models.checks import check_eos_ids, check_vocabulary
from lit_instruct.models.dtype import DTYPES, ChosenDtype, DtypeName, KnownDtype, choose_dtype, named, place_of
from lit_instruct.models.loading import Source, find_source, load_config, load_eos_ids, load_tokenizer
from lit_instruct.models.places import check_stage_place
from lit_instruct.models.quantised import Quantize
from lit_instruct.prompting import Prompter, Template

log = logging.getLogger(__name__)
STAGE_FILE = "stage.json"
PROMPTS_FILE = "trained_prompts.npy"
"""Hashes of the prompts that the stage trained on: sorted uint64."""
MODEL_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    PROMPTS_FILE,
)
"""Files of an adapter or of whole weights, and the prompts; a new model removes those that it does not have."""
NEEDED = {"base": ["source"], "prompt_format": ["template", "system"]}
"""Fields in fields of a stage.json that every version writes."""
INSIDE: dict[str, dict[str, Any]] = {
    "base": {"source": str, "revision": str | None},
    "prompt_format": {
        "template": Literal["chat", "raw"],
        "system": str | None,
        "chat_template_sha256": str | None,
        "eos_id": int,
        "pad_id": int,
    },
    "options": {"model": dict[str, Any], "data": dict[str, Any] | None, "trainer": dict[str, Any] | None},
    "data": {"sources": dict[str, dict[str, Any]], "train": int, "validation": int, "removed": dict[str, int]},
}
"""Types of fields in fields."""
PACKAGES = (*machine.PACKAGES, "bitsandbytes", "datasets")


@dataclass(frozen=True)
class Stage:
    """The record of a stage's model."""

    stage: str
    """sft, rm or ppo."""
    base: dict[str, Any]
    """`source` as the user named it, and `revision` (commit on the hub, or None)."""
    parents: dict[str, str]
    """Role -> folder that this stage started from."""
    prompt_format: dict[str, Any]
    """How prompts become ids; the next stage must do the same."""
    metrics: dict[str, float]
    """Final figures."""
    seed: int
    seconds: float
    """Wall time of the training without interruptions."""
    peak_memory_gb: float | None = None
    """Peak resident memory of the process, in 10^9 bytes; None where the system does not report it."""
    reward_bias: float | None = None
    """Added to every score of a reward model."""
    data: dict[str, Any] | None = None
    """How many rows there were, and how many were left out for what reason (`data_modules.tables.build.Report`)."""
    options: dict[str, Any] | None = None
    """Options of `model`, `data` and `trainer`."""
    base_precision: str | None = None
    """Precision of the base under an adapter (8bit, 4bit or a dtype), or of the weights where all were trained."""
    trained_prompts: int | None = None
    """Number of distinct prompts among the training rows, whose hashes are in PROMPTS_FILE; None if not known."""
    dtype: dict[str, str] | None = None
    """Dtype of frozen weights: its `name`, `why`, and the `processor` and `flags` that it was chosen on."""
    ending: str | None = None
    """How the training ended, in a sentence, if its length was not all that could end it: PPO's budget of KL."""
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""


def read_stage(folder: Path) -> Stage | None:
    """Returns the record of a stage folder, or None for any other folder.

    Raises:
        UserError: the file is damaged, or of a version with other fields; or the result is just being replaced.
    """
    path = folder / STAGE_FILE
    if (folder / READY).is_dir():
        raise UserError(
            f"{folder}: a run is replacing this result, or was killed while it did; if none is running, resume that "
            "stage with --ckpt_path=last, which completes it"
        )
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        by = dict(record.get("versions") or {}).get("lit-instruct", "of another version")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); run that stage again") from error
    unknown = sorted(record.keys() - {one.name for one in fields(Stage)})
    required = {one.name for one in fields(Stage) if one.default is one.default_factory is MISSING}
    missing = sorted(required - record.keys())
    if unknown or missing:
        found = [f"with unknown fields {', '.join(unknown)}"] if unknown else []
        found += [f"without {', '.join(missing)}"] if missing else []
        raise UserError(
            f"{path}: written by lit-instruct {by} {' and '.join(found)}; use that version, or run the stage again"
        )
    if wrong := _wrong_values(record):
        raise UserError(f"{path}: damaged ({wrong[0]}); run that stage again")
    return Stage(**record)


def _wrong_values(record: dict[str, Any]) -> list[str]:
    """Returns what is wrong with the values in a stage.json."""
    wrong = wrong_values(record, get_type_hints(Stage))
    wrong = wrong or [f"{name} without {key}" for name in NEEDED for key in NEEDED[name] if key not in record[name]]
    inside = ((name, record.get(name) or {}) for name in INSIDE)
    return wrong or [text for name, value in inside for text in wrong_values(value, INSIDE[name], f"{name}: ")]


def read_trained_prompts(folder: Path, stage: Stage) -> np.ndarray | None:
    """Returns the hashes (`prompting.hashes`) of the prompts that a stage trained on; None if they are not known.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / PROMPTS_FILE
    if stage.trained_prompts is None or not path.is_file():
        return None
    try:
        hashes = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: damaged ({error}); run that stage again, or remove the file") from error
    if hashes.dtype != np.uint64 or hashes.shape != (stage.trained_prompts,):
        raise UserError(f"{path}: damaged (not {stage.trained_prompts} hashes); run that stage again, or remove it")
    return hashes


def read_stage_of(source: Source) -> Stage | None:
    """Returns the record of a model, or None where no stage made it."""
    return read_stage(Path(source.place)) if Path(source.place).is_dir() else None


def prompter_of(source: Source, template: Template = "auto", system: str | None = None) -> Prompter:
    """Returns the prompt format of a model: the one its stage recorded.

    Args:
        source: the model.
        template: how a model that no stage made is prompted.
        system: its system prompt.

    Raises:
        UserError: there is no tokenizer, it is larger than the model's embedding, or an EOS id is none of its tokens.
    """
    stage = read_stage_of(source)
    tokenizer = load_tokenizer(source)
    config, eos_ids = load_config(source), load_eos_ids(source)
    check_vocabulary(source.name, tokenizer, source.base, config)
    check_eos_ids(source.name, eos_ids, config)
    if stage is not None:
        template, system = stage.prompt_format["template"], stage.prompt_format["system"]
    return Prompter(tokenizer, template, system, eos_ids)


def chosen_dtype(name: DtypeName, device: torch.device, source: Source) -> ChosenDtype:
    """Returns `choose_dtype` for a model; "auto" takes the dtype of the stage that made it on the same processor."""
    recorded, stage = recorded_dtype(name, device, source), read_stage_of(source)
    if recorded is not None and stage is not None:
        return named(recorded, f"that of the {stage.stage} stage", device)
    return choose_dtype(name, device, load_config(source))


def recorded_dtype(name: DtypeName, device: torch.device, source: Source) -> KnownDtype | None:
    """Returns the dtype that "auto" takes from the stage that made a model; None if it was made on other processors."""
    stage = read_stage_of(source) if name == "auto" else None
    made = (stage.dtype if stage is not None else None) or {}
    same = (made.get("processor"), made.get("flags")) == place_of(device)
    return next((known for known in DTYPES if same and made.get("name") == known), None)


def bits_of(source: Source, wanted: Quantize | None) -> Quantize:
    """Returns how to quantise a model's base, and warns if that is not the precision it was trained with.

    Args:
        source: the model.
        wanted: None takes that of the model's stage, or "none" where no stage made it.
    """
    stage = read_stage_of(source)
    trained = stage.base_precision if stage is not None else None
    before: Quantize = "8bit" if trained == "8bit" else "4bit" if trained == "4bit" else "none"
    if wanted is None:
        return before
    if trained is not None and wanted != before:
        now = "a base that is not quantised" if wanted == "none" else f"a base in {wanted}"
        effect = "which changes its outputs slightly (measured in docs/memory.md)"
        log.warning("%s: trained on a base in %s and opened on %s, %s", source.name, trained, now, effect)
    return wanted


def stage_or_model(name: str, stage: str, wanted_by: str) -> Source:
    """Returns where a stage's model or any other model is.

    Args:
        name: a stage folder of any name, or what `find_source` takes.
        stage: the stage that makes it by default, for the message.
        wanted_by: the stage that needs it, for the message.

    Raises:
        UserError: that stage has not been run, or there is no such model.
    """
    check_stage_place(name, stage, wanted_by)
    return find_source(name)


def tell_ends(model: Any, prompter: Prompter) -> None:
    """Writes into a whole model's configs which ids end a response, and how a classifier finds the last real token.

    A classifier of a tokenizer that can only pad with its end has no padding: transformers takes the token before the
    first padding for the last one, which would be the token before the end.

    Args:
        model: of transformers, about to be saved.
        prompter: its prompt format.
    """
    if hasattr(model, "score"):
        pad_id = prompter.tokenizer.pad_token_id
        model.config.pad_token_id = None if pad_id in prompter.stop_ids else pad_id
        return
    ids = model.generation_config.eos_token_id
    if set(prompter.stop_ids) != set(ids if isinstance(ids, list) else [ids]):
        model.generation_config.eos_token_id = prompter.stop_ids


def check_same_format(own: Prompter, parent: Stage | None, parent_folder: str, command: str) -> None:
    """Raises a UserError if a parent's prompts are tokenised differently from this stage's.

    Args:
        own: this stage's prompt format.
        parent: the parent's record; None, for a model that no stage made, is accepted.
        parent_folder: for the message.
        command: the command that makes a matching parent, for the message.
    """
    if parent is None or parent.prompt_format == own.describe():
        return
    theirs, ours = parent.prompt_format, own.describe()
    differing = [key for key in ours if ours[key] != theirs.get(key)]
    there, here = [theirs.get(key) for key in differing], [ours[key] for key in differing]
    raise UserError(
        f"{parent_folder}: it was trained with another prompt format "
        f"({', '.join(differing)}: {there} there, {here} here); run `{command}` again"
    )


def finish_stage(folder: Path) -> None:
    """Puts the result in place that a killed run had completed; raises OSError if the folder cannot be written."""
    finish_replacing(folder, last=STAGE_FILE)


def replacing_stage(folder: Path) -> AbstractContextManager[Path]:
    """Returns `replacing_files` for a stage's model, tokenizer and stage.json."""
    return replacing_files(folder, last=STAGE_FILE, exclusive=MODEL_FILES)


def write_stage(folder: Path, stage: Stage, prompts: np.ndarray | None = None) -> None:
    """Writes stage.json into a folder, usually the scratch folder of `replacing_stage`.

    Args:
        folder: exists.
        stage: the record.
        prompts: hashes of the prompts that the stage trained on, (n,) uint64; None if they are not known.
    """
    finite = {name: value for name, value in stage.metrics.items() if math.isfinite(value)}
    record = asdict(stage) | {
        "metrics": finite,  # JSON has no NaN
        "trained_prompts": None if prompts is None else len(prompts),
        "versions": machine.package_versions(PACKAGES),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if prompts is not None:
        np.save(folder / PROMPTS_FILE, prompts, allow_pickle=False)
    (folder / STAGE_FILE).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
