"""rounds.json: what a loop was begun with, and what each round came to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lit_instruct.errors import UserError
from lit_instruct.files import json_text, write_text
from lit_instruct.handover import read_stage
from lit_instruct.iterating.options import IterateOptions
from lit_instruct.machine import provenance
from lit_instruct.rollouts.function_names import function_name
from lit_instruct.running.own_process import named_files, values_of

FILE = "rounds.json"
FREE = ("run", "rounds", "compare")
"""Options that may change between two calls."""
FREE_OF_PEOPLE = ("host", "port", "token", "enough")


class Record:
    """The content of rounds.json, which is written after every step.

    Args:
        options: of the command.

    Raises:
        UserError: the folder was begun with something else, or is damaged.
    """

    def __init__(self, options: IterateOptions) -> None:
        self.path = Path(options.run) / FILE
        made_from = _made_from(options)
        self.content: dict[str, Any] = {"made_from": made_from, "rounds": [], "matrix": [], "seconds": []}
        if self.path.exists():
            self.content = read_record(self.path)
            _check_same(self.path, self.content["made_from"], made_from)
            if (there := len(self.content["rounds"])) > options.rounds:
                raise UserError(f"--rounds={options.rounds}: there are {there} rounds in {self.path.parent} already")
        elif any(self.path.parent.glob("round-*")):
            raise UserError(f"{self.path.parent}: it has rounds but no {FILE}; name another folder with --run")

    def seconds(self, number: int) -> dict[str, float]:
        """Returns step -> seconds of a round so far, to be added to."""
        while len(self.content["seconds"]) <= number:
            self.content["seconds"].append({})
        found: dict[str, float] = self.content["seconds"][number]
        return found

    def set_round(self, number: int, figures: dict[str, Any], matrix: list[list[dict[str, Any] | None]]) -> None:
        """Takes the figures of a round in the place of earlier ones, and the matrix of all rounds so far."""
        self.content["rounds"][number : number + 1] = [figures]
        if len(matrix) >= len(self.content["matrix"]):
            self.content["matrix"] = matrix

    def write(self) -> None:
        """Writes the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.content |= provenance()
        write_text(self.path, json_text(self.content), "--run")


def read_record(path: Path) -> dict[str, Any]:
    """Returns the content of a rounds.json.

    Raises:
        UserError: it is damaged or missing.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not {"made_from", "rounds", "matrix", "seconds"} <= found.keys():
            raise ValueError("no record of rounds")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); name another folder, or remove this one") from error
    return found


def _made_from(options: IterateOptions) -> dict[str, Any]:
    """What must stay the same from call to call: options, config files, and the files that either names."""
    values = asdict(replace(options, labeler=function_name(options.labeler)))
    kept = {name: value for name, value in values.items() if name not in FREE}
    kept["people"] = {name: value for name, value in kept["people"].items() if name not in FREE_OF_PEOPLE}
    stages = options.stages
    configs = [Path(stages.rm), Path(stages.ppo), Path(stages.eval)]
    for config in configs:
        if not config.is_file():
            raise UserError(f"--stages: {config}: no such file; give the config of the stage")
    given = [
        word.partition("=")[2] for more in (stages.rm_options, stages.ppo_options, stages.eval_options) for word in more
    ]
    named = [value for config in configs for value in values_of(config)]
    named.append(function_name(options.labeler).partition(":")[2])  # of reward:RUN and judge:FILE
    files = named_files([*map(str, configs), options.prompts.path, options.sft, *given, *named])
    return {"options": kept, "files": files}


def _check_same(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    if before == json.loads(json.dumps(now)):
        return
    flat_before, flat_now = flat_options(before["options"]), flat_options(json.loads(json.dumps(now["options"])))
    names = [name for name in flat_now if flat_now[name] != flat_before.get(name)]
    files = sorted(name for name, value in now["files"].items() if before["files"].get(name, value) != value)
    missing = sorted(before["files"].keys() - now["files"].keys())
    told = [f"--{name}={flat_before.get(name)} there, {flat_now[name]} here" for name in names]
    told += [f"{name} has changed since" for name in files] + [f"{name} is gone" for name in missing if not names]
    raise UserError(
        f"{path.parent}: these rounds were begun with something else ({'; '.join(told) or 'other files'}); restore it, "
        "or name another folder with --run"
    )


def flat_options(values: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """Returns options by dotted name.

    Args:
        values: options, and groups of options as dicts.
        within: what stands before their names.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat_options(value, f"{within}{name}.") if isinstance(value, dict) else {f"{within}{name}": value}
    return found


def check_sft(options: IterateOptions) -> Path:
    """Returns the stage folder of the SFT model.

    Raises:
        UserError: there is none.
    """
    sft = Path(options.sft)
    stage = read_stage(sft)
    if stage is None or stage.stage != "sft":
        found = "no model" if stage is None else f"a {stage.stage} model"
        raise UserError(
            f"--sft={sft}: there is {found} in this folder; train one first, such as with `lit-instruct sft fit "
            f"--run {sft.parent}`, or name another SFT stage"
        )
    return sft


def checked_folder(options: IterateOptions) -> Path:
    """Returns the folder of the rounds.

    Raises:
        UserError: its name has characters that lists of data files use.
    """
    if any(sign in options.run for sign in ",@"):
        raise UserError(f"--run={options.run}: a comma or @ in it would be read as several files; name another folder")
    return Path(options.run)
