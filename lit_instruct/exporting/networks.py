"""The model of a stage: as it was trained, and with its adapter merged."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from lit_instruct.exporting.options import DtypeChoice
from lit_instruct.handover import Stage, bits_of, chosen_dtype
from lit_instruct.models.assemble import merged_language_model, scoring_network
from lit_instruct.models.loading import Source, load_causal_lm, load_config, load_sequence_classifier
from lit_instruct.models.lora import attach_adapter, read_head
from lit_instruct.models.quantised import Quantisation, keep_differentiable, quantisation

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def trained_network(source: Source, stage: Stage, pad_id: int) -> nn.Module:
    """Returns the network as it was trained: the base in the bits of the training, the adapter not merged.

    Raises:
        UserError: it cannot be opened.
    """
    dtype, quantised = _base_form(source, stage)
    if stage.stage == "rm":
        network = scoring_network(source, dtype, pad_id, quantised)
    else:
        network = load_causal_lm(source, dtype, quantised)
        network = attach_adapter(network, source.adapter) if source.adapter is not None else network
    keep_differentiable(network)  # use the training kernels, not bitsandbytes' inference kernels
    return network.eval().to(_device())


def merged_network(source: Source, stage: Stage, pad_id: int, dtype: torch.dtype) -> nn.Module:
    """Returns the network with its adapter merged in float32; only the sum is rounded to `dtype`.

    After 4-bit training it is merged into the dequantised base, because the adapter has learnt to compensate for the
    rounding.

    Raises:
        UserError: it cannot be opened.
    """
    trained_dtype, quantised = _base_form(source, stage)
    if quantised is not None:
        return _merged_into_dequantised(source, stage, pad_id, trained_dtype, quantised).to(dtype)
    if stage.stage != "rm":
        return merged_language_model(source, torch.float32).to(dtype)
    network = scoring_network(source, torch.float32, pad_id)
    return (network.merge_and_unload() if isinstance(network, PeftModel) else network).to(dtype)


def _merged_into_dequantised(
    source: Source, stage: Stage, pad_id: int, dtype: torch.dtype, quantised: Quantisation
) -> nn.Module:
    assert source.adapter is not None
    if stage.stage == "rm":
        plain = Source(source.name, source.base, None)
        base = load_sequence_classifier(plain, dtype, pad_id, new_head=True, quantised=quantised)
    else:
        base = load_causal_lm(source, dtype, quantised)
    whole: PreTrainedModel = base.dequantize().float()
    network = attach_adapter(whole, source.adapter).merge_and_unload().eval()
    if stage.stage == "rm":
        network.score.weight.data.copy_(read_head(source.adapter))
    return network


def _base_form(source: Source, stage: Stage) -> tuple[torch.dtype, Quantisation | None]:
    """The dtype in which training computed with the base, and how the base was quantised."""
    if source.adapter is None:
        return torch.float32, None
    options = (stage.options or {}).get("model") or {}  # versions without `dtype`
    name: Any = (stage.dtype or {}).get("name", options.get("dtype", "auto"))
    if stage.base_precision in ("float32", "bfloat16"):
        name = stage.base_precision
    return chosen_dtype(name, _device(), source).dtype, quantisation(bits_of(source, None), _device(), "--merge")


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def weights_dtype(chosen: DtypeChoice, source: Source, stage: Stage) -> torch.dtype:
    """Returns the dtype of whole weights in the export."""
    if chosen != "auto":
        return DTYPES[chosen]
    if stage.stage == "rm" or source.adapter is None:
        return torch.float32
    own = load_config(source).dtype
    return own if isinstance(own, torch.dtype) else torch.float32
