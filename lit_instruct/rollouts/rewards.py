"""Rewards that come from outside the shared base: a model of its own, or a Python function."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lit_instruct.models.loading import DtypeName
from lit_instruct.models.quantised import Quantize
from lit_instruct.prompting import prompt_text
from lit_instruct.rollouts.score import TextReward, TextScorer, label, load_labeler

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def model_scorer(
    model: str, dtype: DtypeName, quantize: Quantize, device: torch.device, mesh: DeviceMesh | None = None
) -> TextScorer:
    """Returns a reward model with a tokenizer and base of its own as a scorer of texts.

    Args:
        model: stage folder, Hugging Face folder or hub id of a sequence classifier with one output.
        dtype: of its weights.
        quantize: of its base.
        device: where it runs.
        mesh: processes that its weights are cut up over, and which then score in step; None keeps them whole.

    Raises:
        UserError: it cannot be opened.
    """
    reward = TextReward.from_source(model, dtype, quantize, device)
    if mesh is not None:
        reward.shard(mesh)
    return reward.score


def function_scorer(function: str, finite: bool = True) -> TextScorer:
    """Returns a Python function as a scorer of texts.

    Args:
        function: import path of a function list[(prompt, response)] -> list[float].
        finite: whether NaN and infinity are a mistake at once; the caller looks otherwise.

    Raises:
        UserError: it cannot be imported.
    """
    labeler = load_labeler(function)
    return lambda prompts, texts: label(
        labeler, [(prompt_text(prompt), text) for prompt, text in zip(prompts, texts, strict=True)], function, finite
    )
