"""`lit-instruct export`: writes a stage's model as a folder that plain transformers and PEFT load."""

from __future__ import annotations

import gc
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lit_instruct.errors import UserError
from lit_instruct.exporting.base_name import PublicBase, public_base
from lit_instruct.exporting.card import CardFacts, public_stage, write_card
from lit_instruct.exporting.difference import mean_kl, next_token_log_probs, rewards, sampled_texts, written_texts
from lit_instruct.exporting.hub import push
from lit_instruct.exporting.networks import DTYPES, merged_network, trained_network, weights_dtype
from lit_instruct.exporting.older import add_older_names
from lit_instruct.exporting.options import ExportOptions
from lit_instruct.exporting.prompts import exported_prompter, generation_config
from lit_instruct.exporting.target import check_target, replacing_folder, write_record
from lit_instruct.handover import STAGE_FILE, Stage, prompter_of, read_stage, tell_ends
from lit_instruct.models.loading import Source, find_source
from lit_instruct.progress import Progress
from lit_instruct.prompting import Prompter
from lit_instruct.terminal import printable

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


def export(options: ExportOptions) -> Path:
    """Exports a stage's model, prints how far it is from the trained one, and returns its folder.

    Raises:
        UserError: `run` is not a stage folder, the target holds other files, the model cannot be opened, or the merged
            model differs from the trained one by more than `max_kl`.
    """
    folder, target = Path(options.run).expanduser(), Path(options.to).expanduser()
    stage = read_stage(folder)
    if stage is None:
        raise UserError(
            f"--run={options.run}: not a stage folder (no {STAGE_FILE} in it); give one such as runs/demo/ppo"
        )
    check_target(target, folder)
    source = find_source(str(folder))
    prompter = prompter_of(source)
    exported = exported_prompter(prompter, for_scores=stage.stage == "rm")
    base = public_base(source.base, options.base) if source.adapter is not None else _base_of_whole(stage, options)
    whole = options.merge or stage.stage == "rm" or source.adapter is None
    with replacing_folder(target) as scratch, Progress("export", 4, keep=False) as progress:
        measured = (
            _write_whole(scratch, source, stage, prompter, options, exported, progress)
            if whole
            else _write_adapter(scratch, source, stage, base, options)
        )
        exported.tokenizer.save_pretrained(str(scratch))
        if stage.stage != "rm":
            generation_config(exported, _sampling(stage)).save_pretrained(str(scratch))
        facts = CardFacts(source.base, base, merged=whole, measured=measured, prompter=exported)
        record = {
            **measured,
            "stage": stage.stage,
            "base": base.name,
            "trained_on": stage.base_precision,
            "remark": None if whole else base.remark,
        }
        add_older_names(scratch)
        (scratch / STAGE_FILE).write_text(json.dumps(public_stage(stage, base, exported), indent=2) + "\n")
        write_card(scratch, folder, target.name, stage, facts)
        write_record(scratch, record)
    _print_record(target, record)
    if options.push_to_hub:
        push(target, options.push_to_hub)
    return target


def _base_of_whole(stage: Stage, options: ExportOptions) -> PublicBase:
    """The base that all weights were trained from, without a remark, because nobody has to load it."""
    return replace(public_base(str(stage.base["source"]), options.base), remark=None)


def _sampling(stage: Stage) -> dict[str, Any] | None:
    return ((stage.options or {}).get("model") or {}).get("sampling")


def _write_adapter(
    scratch: Path, source: Source, stage: Stage, base: PublicBase, options: ExportOptions
) -> dict[str, Any]:
    """Copies the adapter and names a base that others can load."""
    assert source.adapter is not None
    dtype = DTYPES.get(options.dtype)
    if dtype is None:
        shutil.copyfile(source.adapter / ADAPTER, scratch / ADAPTER)
    else:
        weights = {name: value.to(dtype) for name, value in load_file(source.adapter / ADAPTER).items()}
        save_file(weights, scratch / ADAPTER, metadata={"format": "pt"})
    config = json.loads((source.adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base.name
    name, _, commit = source.base.partition("@")
    config["revision"] = commit or stage.base.get("revision") if base.on_hub and base.name == name else None
    (scratch / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return {"form": "adapter", "dtype": _name(dtype or torch.float32)}


def _write_whole(
    scratch: Path,
    source: Source,
    stage: Stage,
    prompter: Prompter,
    options: ExportOptions,
    exported: Prompter,
    progress: Progress,
) -> dict[str, Any]:
    """Writes all weights and returns how far they are from the trained model, with one model in memory at a time."""
    is_reward = stage.stage == "rm"
    dtype = weights_dtype(options.dtype, source, stage)
    progress.update(0, "opening the trained model")
    trained = trained_network(source, stage, prompter.pad_id)
    progress.update(1, "measuring it")
    texts = written_texts(prompter) if is_reward else sampled_texts(trained, prompter)
    measure = rewards if is_reward else next_token_log_probs
    before = measure(trained, texts)
    device = next(trained.parameters()).device
    del trained
    gc.collect()
    progress.update(2, "merging")
    merged = merged_network(source, stage, prompter.pad_id, dtype).to(device)
    progress.update(3, "measuring the merged model")
    after = measure(merged, texts)
    config: Any = merged.config
    config.pad_token_id = exported.tokenizer.pad_token_id
    tell_ends(merged, exported)
    measured: dict[str, Any]
    if is_reward:
        config.reward_bias = stage.reward_bias or 0.0
        change = float((before - after).abs().max())
        measured = {"largest_reward_change": change, "measured_texts": len(texts.sequences)}
    else:
        measured = {"kl_to_trained": mean_kl(before, after), "measured_tokens": len(before)}
        _check_kl(measured["kl_to_trained"], options.max_kl, stage)
    progress.update(3, "writing")
    merged.save_pretrained(str(scratch))
    form = "merged" if source.adapter is not None else "whole"
    return {"form": form, "dtype": _name(dtype), **measured}


def _check_kl(kl: float, most: float, stage: Stage) -> None:
    if kl > most:
        way_out = "8-bit bases round activations too, so" if stage.base_precision == "8bit" else "take --dtype=fp32,"
        raise UserError(
            f"--merge: the merged model is {kl:.4f} nats per token from the trained one, over --max-kl={most:g}, and "
            f"was not written; {way_out} export it as an adapter, or raise --max-kl"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _print_record(target: Path, record: dict[str, Any]) -> None:
    print(printable(f"{target}: {record['stage']} as {record['form']}, {record['dtype']}, base {record['base']}"))
    if "kl_to_trained" in record:
        tokens = record["measured_tokens"]
        print(f"KL to the trained model: {record['kl_to_trained']:.2g} nats per token ({tokens} sampled tokens)")
    if "largest_reward_change" in record:
        print(f"largest reward change: {record['largest_reward_change']:.2g} ({record['measured_texts']} texts)")
        print("its head has no bias: add model.config.reward_bias to its scores to compare them with `rm score`")
    if record["remark"]:
        print(printable(record["remark"]))
