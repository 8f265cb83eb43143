"""What `lit-instruct eval` takes from the run itself where no option says otherwise."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lit_instruct.errors import UserError
from lit_instruct.evaluation.options import LABELER, REWARD, REWARD_FUNCTION, EvalOptions, options_record

if TYPE_CHECKING:
    from data_modules.rows import PromptRow
    from lit_instruct.handover import Stage
    from lit_instruct.prompting import Prompter

LABELERS = "lit_instruct.evaluation.labelers"
REFERENCES = "lit_instruct.evaluation.references"
DEFAULT_TOKENS = 48
"""Most tokens per response if no stage recorded them."""


def prompts_of(options: EvalOptions, stage: Stage | None, prompter: Callable[[], Prompter]) -> list[PromptRow]:
    """Returns the prompts to answer: those of --prompts, or else the validation prompts of a stage.

    Prompts that PPO's own options would drop as too long are dropped here too.

    Args:
        options: of the evaluation.
        stage: record of the stage whose options count, usually PPO; None if no stage made the models.
        prompter: returns its prompt format.

    Raises:
        UserError: the prompts cannot be read, or there are none.
    """
    from data_modules.rows import PromptRow, read_rows

    if options.prompts is None:
        rows = _validation_rows(stage, prompter)
    else:
        rows = read_rows(options.prompts, PromptRow, split=None)
        data = _options(stage, "data")
        if data.get("on_long") == "drop" and data.get("max_prompt_length"):
            lengths = map(len, prompter().prompts_ids([row.prompt for row in rows]))
            rows = [row for row, n in zip(rows, lengths, strict=True) if n <= data["max_prompt_length"]]
    if not rows:
        raise UserError("--prompts: no prompt is left that is as short as those of PPO's training; name other prompts")
    return rows


def limited(rows: list[PromptRow], limit: int | None) -> list[PromptRow]:
    """Returns at most `limit` rows, spread evenly, because files are often sorted; None keeps all."""
    if limit is None or limit >= len(rows):
        return rows
    return [rows[i * len(rows) // limit] for i in range(limit)]


def completed(
    options: EvalOptions, stage: Stage | None, rows: list[PromptRow], has_reward_model: bool = True
) -> EvalOptions:
    """Returns the options with those that were not given filled in from the run.

    Args:
        options: of the evaluation.
        stage: record of the stage whose limit of tokens and reward function count; None without one.
        rows: the prompts; with a reference response in each, responses are also compared with those.
        has_reward_model: whether there is one, which then is the labeler where there is no reward function.

    Raises:
        UserError: there is nothing to judge by.
    """
    from lit_instruct.evaluation.references import reference_of

    tokens = (_options(stage, "model").get("sampling") or {}).get("max_new_tokens")
    function = reward_function(stage)
    known = all(reference_of(row.prompt, row.columns()) is not None for row in rows)
    overlap, form = f"{REFERENCES}.overlap", f"{LABELERS}.form"
    labeler = function or (REWARD if has_reward_model else overlap if known else None)
    if options.labeler is None and labeler is None:
        raise UserError(
            "--labeler: there is no reward model, reward function or reference response to judge by; name a labeler, "
            f"such as --labeler={LABELERS}.tone"
        )
    for name in ("labeler", "second_labeler"):
        if getattr(options, name) == REWARD and not has_reward_model:
            raise UserError(f"--{name}={REWARD}: there is no reward model; name one with --reward_model")
    second = overlap if known and (options.labeler or labeler) != overlap else form
    return replace(
        options,
        prompts=options.prompts or _validation_path(stage),
        max_new_tokens=options.max_new_tokens or tokens or DEFAULT_TOKENS,
        labeler=options.labeler or labeler,
        second_labeler=options.second_labeler or second,
    )


def reward_function(stage: Stage | None) -> str | None:
    """Returns the import path of the reward function that a stage was trained with; None if there was none."""
    model = _options(stage, "model")
    reward = model.get("reward")  # in 0.1.0 the name of the reward model
    return reward.get("function") if isinstance(reward, dict) else model.get("reward_function")


def judge_of(options: EvalOptions, stage: Stage | None) -> str:
    """Returns what the main judge is called: `REWARD_FUNCTION` if it is that of the run, else `LABELER`."""
    function = reward_function(stage)
    return REWARD_FUNCTION if function is not None and options_record(options)["labeler"] == function else LABELER


def told(given: EvalOptions, used: EvalOptions, count: int, judge: str) -> str:
    """Returns a sentence that says which options come from the run; "" if all of them were given."""
    names = ("prompts", "max_new_tokens", "labeler", "second_labeler")
    taken = {name: getattr(used, name) for name in names if getattr(given, name) is None}
    if "prompts" in taken:
        taken["prompts"] = f"{taken['prompts']} (the {count} validation prompts of PPO)"
    said = {name: f"--{name}={value}" for name, value in taken.items()}
    if judge == REWARD_FUNCTION and "labeler" in said:
        said["labeler"] = f"its reward function {taken['labeler']}"
    return "from the run: " + ", ".join(said.values()) if said else ""


def warnings_on(options: EvalOptions) -> list[str]:
    """Returns a warning if the judge is the reward model that PPO was trained to please."""
    if options.labeler != REWARD:
        return []
    return [
        "the labeler is the run's own reward model, which PPO was trained to please: a gain shows that training "
        "worked, not that people would prefer the responses. Name a judge of your own with --labeler"
    ]


def _validation_rows(stage: Stage | None, prompter: Callable[[], Prompter]) -> list[PromptRow]:
    from data_modules import PromptDataModule
    from data_modules.hygiene.steps import HygieneOptions

    data = _options(stage, "data")
    if stage is None or stage.stage != "ppo":
        raise UserError("--prompts: without a PPO stage there are no prompts to take; name some, such as a .jsonl file")
    held_out = data.get("validation_path") or data.get("validation_share")
    if not data.get("path") or not held_out:
        raise UserError("ppo: this stage held out no prompts; name some with --prompts")
    known = inspect.signature(PromptDataModule).parameters
    given = {name: value for name, value in data.items() if name in known and name != "pretraining_path"}
    module = PromptDataModule(**given | {"hygiene": HygieneOptions(**data.get("hygiene") or {})})
    module.prompter = prompter()
    try:
        module.setup()
    except UserError as error:
        raise UserError(f"{error} (the prompts of the run's PPO stage; name others with --prompts)") from error
    return list(module.validation_rows)


def _validation_path(stage: Stage | None) -> str | None:
    data = _options(stage, "data")
    return data.get("validation_path") or data.get("path")


def _options(stage: Stage | None, part: str) -> dict[str, Any]:
    return ((stage.options if stage is not None else None) or {}).get(part) or {}
