"""A stage's result from Python: saved as a run hands it over, and opened again from its folder or a checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from peft import PeftModel

from lit_instruct import lightning_private
from lit_instruct.errors import UserError
from lit_instruct.files import cannot_write
from lit_instruct.handover import (
    Stage,
    prompter_of,
    read_stage,
    read_trained_prompts,
    replacing_stage,
    tell_ends,
    write_stage,
)
from lit_instruct.models.assemble import policy_network, set_head
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import save_adapter
from lit_instruct.models.quantised import quantisation
from lit_instruct.stages.bits import device_without_trainer
from lit_instruct.stages.checkpoint import read_checkpoint
from lit_instruct.stages.given import trained_prompts
from lit_instruct.stages.non_finite import check_trained
from lit_instruct.stages.resume import check_stage, check_weights

FUNCTIONS = ("function", "labeler")
"""Options that may name Python code."""


def save_stage(module: Any, folder: Path, metrics: dict[str, float]) -> None:
    """Writes model, tokenizer and stage.json; an earlier result is replaced only when all of it is written.

    Args:
        module: of a stage; every process calls this.
        folder: such as runs/demo/sft.
        metrics: final figures.

    Raises:
        UserError: there is no model yet, it has NaN or inf, or the folder cannot be written.
    """
    if not hasattr(module, "roles") and not hasattr(module, "network"):
        name = type(module).__name__
        raise UserError(f"{name}.save: there is no model yet; train the module first, or open one with {name}.load")
    if module.stage == "rm" and module.data is not None and module.loaded is None:
        module.set_bias()
    module.gather_weights()
    trainer = lightning_private.trainer_of(module)
    if trainer is None or trainer.is_global_zero:
        try:
            with replacing_stage(folder) as scratch:
                module.save_model(scratch)
                module.prompter.tokenizer.save_pretrained(str(scratch))
                prompts = module.loaded_prompts if module.loaded is not None else trained_prompts(module.data)
                write_stage(scratch, module.loaded or module.record(metrics), prompts)
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise cannot_write(folder, error, "--run, or save(folder)") from error
    if trainer is not None:
        trainer.strategy.barrier("save")


def write_model(module: Any, folder: Path) -> None:
    """Writes a module's adapter with its head, or the whole model, into an existing folder; refuses NaN and inf."""
    network = module.result()
    check_trained(module.stage, network, module.whole_weights)
    if isinstance(network, PeftModel):
        save_adapter(network, module.adapter, folder)
    else:
        tell_ends(network, module.prompter)
        network.save_pretrained(str(folder), state_dict=module.whole_weights)


def load_stage(kind: type[Any], folder: str | Path, options: Mapping[str, Any]) -> Any:
    """Returns a module with the result that a stage left in a folder.

    Args:
        kind: class of the module.
        folder: with stage.json.
        options: arguments of the class that replace the recorded ones.

    Raises:
        UserError: the folder has no result of this stage, or one that cannot be opened.
    """
    place = Path(folder).expanduser()
    stage = read_stage(place)
    if stage is None:
        raise UserError(f"{folder}: no stage.json in it, so no stage made it; give it as base={str(folder)!r}")
    if stage.stage != kind.stage:
        raise UserError(f"{folder}: the result of {stage.stage}, not of {kind.stage}; load it with its own module")
    recorded = (stage.options or {}).get("model") or {}
    start = {} if stage.stage == "ppo" else {"base": str(place)}  # PPO's reference stays the SFT model
    module = kind(**_arguments(kind, recorded, start | dict(options), f"{folder}/stage.json"))
    _open(module, place, stage)
    module.loaded, module.made_with = stage, stage.options
    module.loaded_prompts = read_trained_prompts(place, stage)
    return module.eval()


def _open(module: Any, folder: Path, stage: Stage) -> None:
    """Opens the networks of a result."""
    if stage.stage == "ppo":
        source, device = find_source(str(folder)), device_without_trainer()
        bits = quantisation(module.quantize, device, "--model.quantize")
        module.network = policy_network(source, module.lora, module.dtype_choice.choose(source, device).dtype, bits)
        module.prompter = prompter_of(source)
        return
    module.build()
    if stage.stage == "rm":
        set_head(module.network, module.source, module.prompter.pad_id)
        module.parents = stage.parents
        module.bias.fill_(stage.reward_bias or 0.0)


def load_checkpoint(kind: type[Any], path: str | Path, options: Mapping[str, Any]) -> Any:
    """Returns a module with the trained weights of a checkpoint.

    Args:
        kind: class of the module.
        path: of the checkpoint.
        options: arguments of the class that replace the recorded ones.

    Raises:
        UserError: it is damaged, of another stage or does not fit.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint file; check the path")
    saved = read_checkpoint(path, "cpu")
    check_stage(saved, kind.stage)
    recorded = (saved.get("made_with") or {}).get("model")
    if recorded is None:
        raise UserError(f"{path}: it does not say with which options it was made; resume it with ckpt_path={path}")
    module = kind(**_arguments(kind, recorded, options, str(path)))
    module.build()
    check_weights(saved["state_dict"], module)
    module.load_state_dict(saved["state_dict"], strict=False)
    if kind.stage == "ppo":
        module.average.start(module.roles.parameters_of("policy"))
        module.average.restore(saved["ppo"]["average"])
    module.made_with = saved["made_with"]
    return module.eval()


class NotImported:
    """Stands for a function that only a record names: code that a record names is never imported.

    Args:
        name: its import path.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.__module__, _, self.__qualname__ = name.rpartition(".")

    def __call__(self, pairs: Any) -> Any:
        """Refuses."""
        raise UserError(
            f"{self.name}: only a record names this function, and nothing is imported from a record; give it again, as "
            "in reward=RewardOptions(function=...) or selection=SelectionOptions(labeler=...)"
        )


def _arguments(kind: type[Any], recorded: Mapping[str, Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns constructor arguments: those that were given, else as recorded."""
    known = inspect.signature(kind.__init__).parameters
    hints = get_type_hints(kind.__init__)
    try:
        found = {name: _value(hints[name], value) for name, value in recorded.items() if name in known}
    except (TypeError, KeyError) as error:
        raise UserError(f"{where}: made by a version with other options ({error}); give them as arguments") from error
    return found | dict(given)


def _value(hint: Any, value: Any) -> Any:
    """Returns a recorded value as its type: options are dicts in the record."""
    inner = [hint, *get_args(hint)]
    if isinstance(value, list):
        return [_value(inner[-1], item) for item in value]
    options: Any = next((one for one in inner if is_dataclass(one)), None)
    if options is None or not isinstance(value, dict):
        return value
    hints = get_type_hints(options)
    made: Any = options(**{name: _value(hints[name], item) for name, item in value.items()})
    for name in FUNCTIONS:
        if isinstance(getattr(made, name, None), str):
            setattr(made, name, NotImported(getattr(made, name)))
    return made
