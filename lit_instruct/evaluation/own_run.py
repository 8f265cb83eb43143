"""What `lit-instruct eval` takes from the run itself where no option says otherwise."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lit_instruct.errors import UserError
from lit_instruct.evaluation.options import REWARD, EvalOptions

if TYPE_CHECKING:
    from data_modules.rows import PromptRow
    from lit_instruct.handover import Stage
    from lit_instruct.prompting import Prompter

LABELERS = "lit_instruct.evaluation.labelers"
REFERENCES = "lit_instruct.evaluation.references"
DEFAULT_TOKENS = 48
"""Most tokens per response if no stage recorded them."""


def held_out_prompts(options: EvalOptions, ppo: Stage, prompter: Callable[[], Prompter]) -> list[PromptRow]:
    """Returns the prompts to answer: those of --prompts, or else the validation prompts of the run's PPO stage.

    Prompts that PPO's own options would drop as too long are dropped here too. A limit takes rows spread evenly,
    because files are often sorted.

    Args:
        options: of the evaluation.
        ppo: record of the stage.
        prompter: returns its prompt format.

    Raises:
        UserError: the prompts cannot be read, or the run has none.
    """
    from data_modules.rows import PromptRow, read_rows

    if options.prompts is None:
        rows = _validation_rows(ppo, prompter)
    else:
        rows = read_rows(options.prompts, PromptRow, split=None)
        data = _options(ppo, "data")
        if data.get("on_long") == "drop" and data.get("max_prompt_length"):
            lengths = map(len, prompter().prompts_ids([row.prompt for row in rows]))
            rows = [row for row, n in zip(rows, lengths, strict=True) if n <= data["max_prompt_length"]]
    if not rows:
        raise UserError("--prompts: no prompt is left that is as short as those of PPO's training; name other prompts")
    if options.limit is None or options.limit >= len(rows):
        return rows
    return [rows[i * len(rows) // options.limit] for i in range(options.limit)]


def completed(options: EvalOptions, ppo: Stage, rows: list[PromptRow]) -> EvalOptions:
    """Returns the options with those that were not given filled in from the run.

    Args:
        options: of the evaluation.
        ppo: record of the stage: its limit of tokens and its reward function count.
        rows: the prompts; with a reference response in each, responses are also compared with those.
    """
    from lit_instruct.evaluation.references import reference_of

    model = _options(ppo, "model")
    tokens = (model.get("sampling") or {}).get("max_new_tokens")
    reward = model.get("reward")  # in 0.1.0 the name of the reward model
    function = reward.get("function") if isinstance(reward, dict) else model.get("reward_function")
    known = all(reference_of(row.prompt, row.columns()) is not None for row in rows)
    second = f"{REFERENCES}.overlap" if known else f"{LABELERS}.form"
    return replace(
        options,
        prompts=options.prompts or _validation_path(ppo),
        max_new_tokens=options.max_new_tokens or tokens or DEFAULT_TOKENS,
        labeler=options.labeler or function or REWARD,
        second_labeler=options.second_labeler or second,
    )


def told(given: EvalOptions, used: EvalOptions, count: int) -> str:
    """Returns a sentence that says which options come from the run; "" if all of them were given."""
    names = ("prompts", "max_new_tokens", "labeler", "second_labeler")
    taken = {name: getattr(used, name) for name in names if getattr(given, name) is None}
    if "prompts" in taken:
        taken["prompts"] = f"{taken['prompts']} (the {count} validation prompts of PPO)"
    return "from the run: " + ", ".join(f"--{name}={value}" for name, value in taken.items()) if taken else ""


def warnings_on(options: EvalOptions) -> list[str]:
    """Returns a warning if the judge is the reward model that PPO was trained to please."""
    if options.labeler != REWARD:
        return []
    return [
        "the labeler is the run's own reward model, which PPO was trained to please: a gain shows that training "
        "worked, not that people would prefer the responses. Name a judge of your own with --labeler"
    ]


def _validation_rows(ppo: Stage, prompter: Callable[[], Prompter]) -> list[PromptRow]:
    from data_modules import PromptDataModule
    from data_modules.hygiene.steps import HygieneOptions

    data = _options(ppo, "data")
    held_out = data.get("validation_path") or data.get("validation_share")
    if not data.get("path") or not held_out:
        raise UserError(f"{ppo.stage}: this stage held out no prompts; name some with --prompts")
    known = inspect.signature(PromptDataModule).parameters
    given = {name: value for name, value in data.items() if name in known and name != "pretraining_path"}
    module = PromptDataModule(**given | {"hygiene": HygieneOptions(**data.get("hygiene") or {})})
    module.prompter = prompter()
    try:
        module.setup()
    except UserError as error:
        raise UserError(f"{error} (the prompts of the run's PPO stage; name others with --prompts)") from error
    return list(module.validation_rows)


def _validation_path(ppo: Stage) -> str | None:
    data = _options(ppo, "data")
    return data.get("validation_path") or data.get("path")


def _options(stage: Stage, part: str) -> dict[str, Any]:
    return (stage.options or {}).get(part) or {}
