"""Opens base models, tokenizers and stage folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lit_instruct.errors import UserError
from lit_instruct.fast.short_attention import choose_short_attention
from lit_instruct.models.embedded import resolve
from lit_instruct.models.heads import ScoreHead
from lit_instruct.models.quantised import Quantisation, keep_differentiable, leave_file

DtypeName = Literal["auto", "float32", "bfloat16"]
RUN = "{run}"
"""Stands for the run folder in options of the model, such as --model.base={run}/sft."""


@dataclass(frozen=True)
class Source:
    """Where a model comes from: a base and, if a stage trained LoRA, an adapter on it."""

    name: str
    """As the user gave it: embedded name, hub id or folder."""
    base: str
    """Hub id (org/name or org/name@revision) or folder of the base; `pinned` turns it into arguments."""
    adapter: Path | None
    """Folder of a PEFT adapter on that base, or None."""

    @property
    def tokenizer(self) -> str:
        """Where the tokenizer is: a stage folder has its own."""
        return str(self.adapter) if self.adapter is not None else self.base


def find_source(name: str) -> Source:
    """Returns where a model is.

    Args:
        name: the embedded model's name, a hub id (org/name, or org/name@revision for one commit, tag or branch), a
            Hugging Face folder or a folder with a PEFT adapter.

    Raises:
        UserError: the folder does not exist or holds no model.
    """
    folder = Path(name).expanduser()
    if (folder / "adapter_config.json").is_file():
        return Source(name, resolve(_base_of(folder / "adapter_config.json")), folder)
    if (folder / "config.json").is_file():
        return Source(name, str(folder), None)
    if folder.is_dir():
        raise UserError(f"{name}: no model in this folder (no config.json or adapter_config.json); give another")
    if _is_path(name):
        raise UserError(f"{name}: no such folder; check the path, or give a hub id")
    return Source(name, resolve(name), None)


def _is_path(name: str) -> bool:
    """Returns whether a name can only be a path, and no hub id."""
    return name.startswith((".", "/", "~", "runs/")) or name.count("/") > 1


def _base_of(config: Path) -> str:
    try:
        saved = json.loads(config.read_text(encoding="utf-8"))
        base, revision = saved["base_model_name_or_path"], saved.get("revision")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{config}: damaged ({error}); run that stage again, or give another adapter") from error
    if not isinstance(base, str):
        raise UserError(
            f"{config}: it names no base (base_model_name_or_path); write the base's hub id or folder there"
        )
    return f"{base}@{revision}" if revision else base


def fill_run(value: str, run: str) -> str:
    """Returns an option of the model with {run} replaced by the run folder.

    A new run of one word gets ./ before it: {run}/sft would read as a hub id otherwise.
    """
    return value.replace(RUN, run if "/" in run or Path(run).is_dir() else f"./{run}")


def awaits_stage(name: str, stage: str) -> bool:
    """Returns whether a name is the place of a stage in a run, such as {run}/sft, that has left no model there yet."""
    path = Path(name).expanduser()
    if path.name != stage or any((path / file).is_file() for file in ("adapter_config.json", "config.json")):
        return False
    return _is_path(name) or RUN in name or (len(path.parts) > 1 and path.parent.is_dir())


def pinned(base: str) -> dict[str, str]:
    """Returns the arguments of `from_pretrained` for a base; org/name@revision is a commit, tag or branch of it."""
    name, at, revision = base.partition("@")
    if not at or Path(base).exists():
        return {"pretrained_model_name_or_path": base}
    return {"pretrained_model_name_or_path": name, "revision": revision}


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """Opens the tokenizer of a model.

    Raises:
        UserError: there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(**pinned(source.tokenizer))
    except (OSError, ValueError) as error:
        raise _cannot_open(source.name, "tokenizer", error) from error


def load_config(source: Source) -> PreTrainedConfig:
    """Opens the configuration of a model's base, without its weights.

    Raises:
        UserError: there is none.
    """
    try:
        return AutoConfig.from_pretrained(**pinned(source.base))
    except (OSError, ValueError) as error:
        raise _cannot_open(source.name, "model", error) from error


def load_causal_lm(source: Source, dtype: torch.dtype, quantised: Quantisation | None = None) -> PreTrainedModel:
    """Opens the base of a language model, without its adapter, in evaluation mode.

    Args:
        source: the model.
        dtype: of all weights that are not quantised.
        quantised: how its linear layers except the output embedding are quantised; None does not quantise.

    Raises:
        UserError: it does not exist or is no causal language model.
    """
    bits = quantised.load_options(dtype) if quantised is not None else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(**pinned(source.base), dtype=dtype, use_safetensors=True, **bits)
    except (OSError, ValueError) as error:
        raise _cannot_open(source.name, "language model", error) from error
    choose_short_attention(model)
    if quantised is not None:
        leave_file(model)
    keep_differentiable(model)
    model.pinned_revision = pinned(source.base).get("revision")
    return model.eval()


def load_sequence_classifier(
    source: Source, dtype: torch.dtype, pad_id: int, new_head: bool, quantised: Quantisation | None = None
) -> PreTrainedModel:
    """Opens a model with a scalar `score` head in float32; everything else is in `dtype`.

    Args:
        source: a sequence-classification model, or (with `new_head`) any language model.
        dtype: of the decoder.
        pad_id: id of padding, by which the model finds the last real token.
        new_head: starts with a fresh head (weights N(0, 1/(H+1)), as in Stiennon et al. 2020) instead of
            requiring a trained one.
        quantised: how the decoder's linear layers are quantised; None does not quantise.

    Raises:
        UserError: it does not exist, or has no trained scalar head and `new_head` is False.
    """
    bits = quantised.load_options(dtype, kept=["score"]) if quantised is not None else {}
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            **pinned(source.base),
            dtype=dtype,
            num_labels=1,
            use_safetensors=True,
            output_loading_info=True,
            **bits,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _cannot_open(source.name, "sequence-classification model", error) from error
    choose_short_attention(model)
    if not isinstance(getattr(model, "score", None), torch.nn.Linear):
        raise UserError(f"{source.name}: a reward model needs a scalar `score` head on a causal decoder; give another")
    if not new_head and any(key.startswith("score") for key in report["missing_keys"]):
        raise UserError(f"{source.name}: no trained reward head (`score`) in it; train one with `lit-instruct rm fit`")
    model.score = ScoreHead.like(model.score, fresh=new_head).to(model.score.weight.device)
    model.config.pad_token_id = pad_id
    model.pinned_revision = pinned(source.base).get("revision")
    if quantised is not None:
        leave_file(model)
    keep_differentiable(model)
    return model.eval()


def pick_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """Returns the dtype for frozen weights: bfloat16 if the device supports it natively, otherwise float32.

    Args:
        name: "auto" decides by device.
        device: where the model will run.
    """
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if native else torch.float32  # emulated bfloat16 is many times slower
    return torch.float32


def _cannot_open(name: str, what: str, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(f"{name}: cannot open this {what} ({reason}); give a hub id, a folder or smollm2-135m-instruct")
