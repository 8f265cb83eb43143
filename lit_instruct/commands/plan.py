"""`lit-instruct plan`: memory, disk and time of a stage, before anything loads."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from lit_instruct.checkout import advice_on_config
from lit_instruct.errors import UserError
from lit_instruct.files import json_text, write_text
from lit_instruct.machine import this_device
from lit_instruct.planning.options import base_of, flat, with_run_filled
from lit_instruct.planning.plan import Plan, make_plan
from lit_instruct.planning.rates import Rate, given_rate, measured_rate
from lit_instruct.planning.table import as_dict, as_text
from lit_instruct.planning.work import StageName, check_gpu_size
from lit_instruct.running.config_files import check_groups, expand_homes
from lit_instruct.running.stage_cli import STAGES, StageCLI, mistake_behind, parser_settings
from lit_instruct.stages.frozen_dtype import with_recorded_dtype
from lit_instruct.stages.renamed import refuse_old_names
from lit_instruct.terminal import printable

CARD = re.compile(r"^# Hardware:.*GPUs? of (\d+) GB", re.MULTILINE)
"""The line of a recipe that names its hardware."""
STDOUT = "-"
"""Name that stands for standard output."""


@dataclass(frozen=True)
class Asked:
    """Arguments of `lit-instruct plan`."""

    stage: StageName
    config: Path | None
    gpu: str | None
    json: str | None
    """File for the plan as JSON; STDOUT prints it instead of the text."""
    rows: int | None
    tokens_per_second: float | None
    words: list[str]
    """Options of the stage."""


class OptionsOnly(StageCLI):
    """The parser of a stage, without running the stage."""

    stage = "sft"  # any stage: it names a folder that is never written

    def before_instantiate_classes(self) -> None:
        """Leaves the options as they were parsed."""

    def instantiate_classes(self) -> None:
        """Builds nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs nothing."""


def plan(arguments: list[str]) -> int:
    """Prints the plan of a stage for the arguments after the word plan; returns 0 if it fits or may fit, 1 if not.

    Raises:
        UserError: a mistake in the arguments.
    """
    asked = read_arguments(arguments)
    found = plan_of(asked)
    figures = json_text(as_dict(found))
    if asked.json not in (None, STDOUT):
        write_text(Path(asked.json), figures, "--json")
    print(figures if asked.json == STDOUT else printable(as_text(found)), end="" if asked.json == STDOUT else "\n")
    return 0 if found.fits is not False else 1


def read_arguments(arguments: list[str]) -> Asked:
    """Parses the arguments after the word plan.

    Raises:
        UserError: the recipe does not exist, or the stage is unknown.
    """
    parser = plan_parser()
    own, words = parser.parse_known_args(arguments)
    stage = own.stage or (own.config.stem if own.config is not None else None)
    if stage not in STAGES:
        raise UserError("plan: which stage? give --config=recipes/<name>/{sft,rm,ppo}.yaml, or --stage=ppo")
    if own.config is not None and not own.config.is_file():
        raise UserError(f"--config={own.config}: no such file; {advice_on_config(own.config)}")
    return Asked(stage, own.config, own.gpu, own.json, own.rows, own.tokens_per_second, words)


def plan_parser() -> argparse.ArgumentParser:
    """Returns the parser of the plan's own options; all others are the stage's."""
    parser = argparse.ArgumentParser(
        prog="lit-instruct plan",
        description="Prints memory by part, disk and time of a stage before anything loads, and whether it fits.",
        epilog="Further options are the stage's own: --model.quantize=4bit, --data.batch_size=4, --trainer.devices=2.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, help="recipe of the stage, such as recipes/gpu-24gb/ppo.yaml")
    parser.add_argument("--stage", choices=tuple(STAGES), help="for a recipe whose file is not named after its stage")
    parser.add_argument(
        "--gpu", help="memory of the GPU, such as 24GB; default: the recipe's hardware, else this machine"
    )
    parser.add_argument(
        "--json", nargs="?", const=STDOUT, help="file for the plan as JSON; without one, print JSON and nothing else"
    )
    parser.add_argument("--rows", type=int, help="rows of the training data, if it is not a local file")
    parser.add_argument(
        "--tokens-per-second", "--tokens_per_second", type=float, help="training speed, to estimate the time"
    )
    return parser


def plan_of(asked: Asked) -> Plan:
    """Returns the plan.

    Raises:
        UserError: an option or model is unknown.
    """
    words = [*(["--config", str(asked.config)] if asked.config else []), *asked.words]
    if not any(word.startswith("--data.path") for word in words) and asked.config is None:
        words.append("--data.path=unknown")
    options = with_run_filled(stage_options(asked.stage, words))
    base = base_of(options, asked.config.parent if asked.config is not None else None)
    device, limit = this_device(options.get("trainer.accelerator"))
    if (size := card_of(asked)) is not None:
        device, limit = "cuda", size
    return make_plan(
        asked.stage, with_recorded_dtype(options, device, base), base, device, limit, _rate(asked), asked.rows
    )


def stage_options(stage: str, words: list[str]) -> dict[str, Any]:
    """Parses the words after `<stage> fit` and returns the options by dotted name.

    Raises:
        UserError: an option refuses its value.
    """
    refuse_old_names(stage, words)
    try:
        parser = stage_parser(stage)
        config = parser.parse_args(["fit", *words])["fit"]
        check_groups(config, parser, "fit")
        expand_homes(config)
        return flat(config)
    except (ValueError, TypeError) as error:
        raise mistake_behind(error) from error


@cache
def stage_parser(stage: str, seed: int | bool = False) -> LightningArgumentParser:
    """Returns the parser of a stage, cached: building one takes longer than parsing.

    Args:
        stage: sft, rm or ppo.
        seed: default of --seed_everything; False seeds nothing.
    """
    module, data = STAGES[stage]
    return OptionsOnly(
        module,
        data,
        save_config_callback=None,
        seed_everything_default=seed,
        args=["fit", "--data.path=unknown"],
        **parser_settings(stage),
    ).parser


def card_of(asked: Asked) -> float | None:
    """Returns the memory of the GPU in bytes: as given, else as the recipe says; None if neither does."""
    if asked.gpu is not None:
        return check_gpu_size(asked.gpu)
    found = CARD.search(asked.config.read_text(encoding="utf-8")) if asked.config is not None else None
    return check_gpu_size(found[1]) if found is not None else None


def _rate(asked: Asked) -> Rate | None:
    if asked.tokens_per_second is not None:
        return given_rate(asked.tokens_per_second)
    return measured_rate(asked.config, asked.stage) if asked.config is not None else None
