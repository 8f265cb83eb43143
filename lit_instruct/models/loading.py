"""Opens base models, tokenizers and stage folders."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from lit_instruct.errors import UserError
from lit_instruct.fast.host_memory import keep_few_products
from lit_instruct.fast.short_attention import choose_short_attention
from lit_instruct.hub import offline_without_network
from lit_instruct.models.base_names import base_of_adapter
from lit_instruct.models.checks import check_score, check_tokenizer, check_weights, has_tokenizer
from lit_instruct.models.damaged import damaged_file
from lit_instruct.models.embedded import resolve, unpacked
from lit_instruct.models.heads import ScoreHead
from lit_instruct.models.logits import output_head
from lit_instruct.models.places import check_place
from lit_instruct.models.quantised import Quantisation, keep_differentiable, leave_file

LOADING = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
"""Arguments of `from_pretrained`; with the last one, the report has the tensors of a wrong shape."""
OPENING = (OSError, ValueError, ImportError, SafetensorError)
"""What transformers raises where files are missing, damaged or of another kind."""
TRUST = "LIT_INSTRUCT_TRUST_REMOTE_CODE"
"""Environment variable that allows code in a model's folder; the command line's --trust_remote_code sets it."""


@dataclass(frozen=True)
class Source:
    """Where a model comes from: a base and, if a stage trained LoRA, an adapter on it."""

    name: str
    """As the user gave it: embedded name, hub id or folder."""
    base: str
    """Hub id (org/name or org/name@revision) or folder of the base, without the adapter."""
    adapter: Path | None
    """Folder of a PEFT adapter on that base, or None."""

    @property
    def place(self) -> str:
        """Where the model itself is: the adapter, or else the base."""
        return str(self.adapter) if self.adapter is not None else self.base

    @property
    def tokenizer(self) -> str:
        """Where the tokenizer is: a stage folder has its own, an adapter made elsewhere may take that of its base."""
        return self.place if self.adapter is not None and has_tokenizer(self.adapter) else self.base


def model_name(model: str | os.PathLike[str], option: str) -> str:
    """Returns the name of a model as text.

    Args:
        model: a name or a path.
        option: that names the model, for the message.

    Raises:
        UserError: it is a model itself.
    """
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    raise UserError(
        f"{option}: give a hub id or a folder, not a {type(model).__name__}; save the model and its tokenizer with "
        "save_pretrained(folder), and give that folder"
    )


def find_source(name: str) -> Source:
    """Returns where a model is.

    Args:
        name: the embedded model's name, a hub id (org/name or org/name@revision), or a model's or adapter's folder.

    Raises:
        UserError: the folder does not exist or holds no model.
    """
    folder = Path(name).expanduser()
    if (folder / "adapter_config.json").is_file():
        return Source(name, resolve(base_of_adapter(folder / "adapter_config.json")), folder)
    if (folder / "config.json").is_file():
        return Source(name, str(folder), None)
    check_place(name)
    return Source(name, resolve(name), None)


def adapted_base(name: str) -> str | None:
    """Returns the base of an adapter's folder, as `find_source` does but without fetching it; None for other names.

    Raises:
        UserError: the adapter is damaged.
    """
    config = Path(name).expanduser() / "adapter_config.json"
    return unpacked(base_of_adapter(config)) if config.is_file() else None


def pinned(base: str) -> dict[str, Any]:
    """Returns the arguments of `from_pretrained` for a base; org/name@revision is a commit, tag or branch of it.

    Code in the model's folder runs only if the user said so; without an argument transformers would ask.
    """
    if not Path(base).exists():
        offline_without_network()
    name, at, revision = base.partition("@")
    trusted = {"trust_remote_code": os.environ.get(TRUST) == "true"}
    if not at or Path(base).exists():
        return {"pretrained_model_name_or_path": base} | trusted
    return {"pretrained_model_name_or_path": name, "revision": revision} | trusted


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """Opens the tokenizer of a model.

    Raises:
        UserError: there is none.
    """
    folder = Path(source.tokenizer)
    if folder.is_dir() and not has_tokenizer(folder):
        raise UserError(
            f"{source.name}: no tokenizer in {'this folder' if source.adapter is None else f'its base {folder}'}; copy "
            "tokenizer.json and tokenizer_config.json of the model into it"
        )
    with opening(source, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(**pinned(source.tokenizer))
    check_tokenizer(source.name, tokenizer)
    return tokenizer


def load_eos_ids(source: Source) -> list[int]:
    """Returns the ids that end a response according to the generation config of a model's base; none without one."""
    where = pinned(source.base)
    try:
        config = GenerationConfig.from_pretrained(where.pop("pretrained_model_name_or_path"), **where)
    except (OSError, ValueError):
        return []
    ids = config.eos_token_id
    return list(ids) if isinstance(ids, list) else [] if ids is None else [int(ids)]


def load_config(source: Source) -> PreTrainedConfig:
    """Opens the configuration of a model's base, without its weights.

    Raises:
        UserError: there is none.
    """
    with opening(source, "model"):
        return AutoConfig.from_pretrained(**pinned(source.base))


def load_causal_lm(source: Source, dtype: torch.dtype, quantised: Quantisation | None = None) -> PreTrainedModel:
    """Opens the base of a language model, without its adapter, in evaluation mode.

    Args:
        source: the model.
        dtype: of all weights that are not quantised.
        quantised: how its linear layers except the output embedding are quantised; None does not quantise.

    Raises:
        UserError: it does not exist or is no causal language model, weights are missing from its files, or it computes
            its logits in an unknown way.
    """
    bits = quantised.load_options(dtype) if quantised is not None else {}
    with opening(source, "language model"):
        model, report = AutoModelForCausalLM.from_pretrained(**pinned(source.base), dtype=dtype, **LOADING, **bits)
    check_weights(source.name, model, report)
    model = _prepared(model, source, quantised)
    if _may_run(quantised):
        output_head(model)
    return model


def load_sequence_classifier(
    source: Source, dtype: torch.dtype, pad_id: int, new_head: bool, quantised: Quantisation | None = None
) -> PreTrainedModel:
    """Opens a model with a scalar `score` head in float32; everything else is in `dtype`.

    Args:
        source: a sequence-classification model, or (with `new_head`) any language model.
        dtype: of the decoder.
        pad_id: id of padding, by which the model finds the last real token.
        new_head: draws a new head from N(0, 1/(H+1)), as in Stiennon et al. 2020, instead of requiring a trained one.
        quantised: how the decoder's linear layers are quantised; None does not quantise.

    Raises:
        UserError: it does not exist, or has no trained scalar head and `new_head` is False.
    """
    bits = quantised.load_options(dtype, kept=["score"]) if quantised is not None else {}
    with opening(source, "sequence-classification model"):
        model, report = AutoModelForSequenceClassification.from_pretrained(
            **pinned(source.base), dtype=dtype, num_labels=1, **LOADING, **bits
        )
    if not isinstance(getattr(model, "score", None), torch.nn.Linear):
        raise UserError(f"{source.name}: a reward model needs a scalar `score` head on a causal decoder; give another")
    if not new_head and any(key.startswith("score") for key in report["missing_keys"]):
        raise UserError(f"{source.name}: no trained reward head (`score`) in it; train one with `lit-instruct rm fit`")
    check_weights(source.name, model, report, new_head)
    model.score = ScoreHead.like(model.score, fresh=new_head).to(model.score.weight.device)
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = pad_id
    model = _prepared(model, source, quantised)
    if _may_run(quantised):
        check_score(source.name, model)
    return model


def _may_run(quantised: Quantisation | None) -> bool:
    """Tells whether a model may run before it gets adapters: the first pass in 8 bits drops scales that they need."""
    return quantised is None or quantised.kind != "8bit"


def _prepared(model: PreTrainedModel, source: Source, quantised: Quantisation | None) -> PreTrainedModel:
    keep_few_products(model.device)  # read at the first product, which is one of the checks that follow
    choose_short_attention(model)
    if quantised is not None:
        leave_file(model)
    keep_differentiable(model)
    model.pinned_revision = pinned(source.base).get("revision")
    return model.eval()


@contextlib.contextmanager
def opening(
    source: Source,
    what: str,
    errors: tuple[type[Exception], ...] = OPENING,
    models: str = "a hub id, a folder or smollm2-135m-instruct",
) -> Iterator[None]:
    """Turns the errors of `from_pretrained` into a UserError.

    Args:
        source: the model.
        what: is opened, for the message.
        errors: exceptions that are translated.
        models: may be given, for the message.
    """
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what its report says of missing weights is checked here
    try:
        yield
    except errors as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{source.name}: this {what} has Python code of its own, which is not run; read it, and if you trust "
                "it, add --trust_remote_code"
            ) from error
        if damage := damaged_file(Path(source.base), source.adapter):
            raise UserError(f"{source.name}: cannot open this {what}: {damage}") from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "couldn't connect" in reason.lower() or "offline" in reason.lower():
            reason = "the hub cannot be reached, and the model is not in its cache"
        if "AutoModelForSequenceClassification" in reason and "Unrecognized configuration class" in reason:
            raise UserError(
                f"{source.name}: transformers has no sequence classifier of this architecture, so it cannot be a "
                "reward model; give another base for the reward model, or score with --model.reward.function"
            ) from error
        raise UserError(f"{source.name}: cannot open this {what} ({reason}); give {models}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
