"""How a language model turns hidden states into logits: found once per model and compared with its own forward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedConfig

from lit_instruct.errors import UserError
from lit_instruct.models.heads import OutputHead, token_log_probs
from lit_instruct.models.packed_weights import packed_output

SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
"""Fields of configurations for a factor of the logits; some models multiply by theirs and others divide."""
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Fields of configurations for a bound of the logits."""
POSITIONS, TOKENS = 8, 16
"""Size of the comparison: this many positions, and tokens whose log-probabilities are compared at each."""
TOLERATED, TOLERATED_IN_16_BITS = 1e-3, 0.04
"""Largest difference relative to the spread of log-probabilities, in float32 and in bfloat16; rounding is added."""


class Transform(NamedTuple):
    """What a model does to W h + b."""

    scale: float
    cap: float | None


_known: WeakKeyDictionary[nn.Module, Transform] = WeakKeyDictionary()


def output_head(model: nn.Module) -> OutputHead:
    """Returns the output embedding of a transformers language model, and what the model does to its logits.

    The first call compares log-probabilities computed with it to those of the model's own forward, on a few tokens. A
    model's weights must be whole then.

    Raises:
        UserError: they differ by more than rounding.
    """
    if model not in _known:
        _known[model] = _find_transform(model)
    return _head(model, _known[model])


def _head(model: nn.Module, transform: Transform) -> OutputHead:
    embedding = model.get_output_embeddings()
    packed = None if isinstance(model, FSDPModule) else packed_output(embedding.weight)  # FSDP2's are short-lived
    return OutputHead(embedding.weight, getattr(embedding, "bias", None), *transform, packed)


def _find_transform(model: nn.Module) -> Transform:
    """Returns the first transform with which our log-probabilities are those of the model."""
    training = model.training
    model.eval()
    try:  # an unknown model may fail in any way
        found = _first_that_fits(model)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise _refusal(model, f"its hidden states cannot be read: {type(error).__name__} {reason}") from error
    finally:
        model.train(training)
    if found is None:
        raise _refusal(model, "its log-probabilities are not those of its output embedding")
    return found


def _refusal(model: nn.Module, reason: str) -> UserError:
    name = getattr(model, "name_or_path", "")
    return UserError(
        f"{name}: {type(model).__name__} computes its logits in a way that is not known here ({reason}); give another "
        "model"
    )


@torch.no_grad()
def _first_that_fits(model: nn.Module) -> Transform | None:
    device = model.get_output_embeddings().weight.device
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.arange(3, 3 + POSITIONS, device=device)[None] % vocabulary
    tokens = torch.arange(POSITIONS * TOKENS, device=device) * 7919 % vocabulary  # spread over the vocabulary
    logits = model(ids, use_cache=False).logits[0].float()
    theirs = logits.log_softmax(dim=-1).gather(1, tokens.view(POSITIONS, TOKENS))
    if theirs.isnan().any():
        raise UserError(f"{model.name_or_path}: its logits are NaN; copy or download its weights again")
    hidden = getattr(model, model.base_model_prefix)(ids, use_cache=False).last_hidden_state[0]
    repeated = hidden.repeat_interleave(TOKENS, dim=0)
    spread = (theirs - theirs.mean(dim=1, keepdim=True)).norm()
    share = TOLERATED if model.dtype == torch.float32 else TOLERATED_IN_16_BITS
    tolerated = share * spread + torch.finfo(model.dtype).eps * logits.abs().max() * theirs.numel() ** 0.5
    for transform in _candidates(model.config.get_text_config()):
        ours = token_log_probs(repeated, _head(model, transform), tokens).log_probs.view_as(theirs)
        if (ours - theirs).norm() <= tolerated:
            return transform
    return None


def _candidates(config: PreTrainedConfig) -> Iterator[Transform]:
    """Yields what a configuration may mean, what it names first: on small logits a cap hardly shows."""
    named = [float(value) for field in SCALES if (value := getattr(config, field, None))]
    scales = [*named, *(1 / value for value in named), 1.0]
    caps = [float(value) for field in CAPS if (value := getattr(config, field, None))]
    yield from (Transform(scale, cap) for cap in (*caps, None) for scale in dict.fromkeys(scales))
