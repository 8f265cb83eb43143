"""Decodes token by token: with our own step if it fits the model, otherwise with transformers' forward."""

from __future__ import annotations

import logging
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lit_instruct.batches import position_ids
from lit_instruct.errors import UserError
from lit_instruct.fast.llama_decode import LlamaDecoding
from lit_instruct.models.packed_weights import packed_head
from lit_instruct.models.sharding import is_sharded

log = logging.getLogger(__name__)

_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}

FORGOTTEN = 0.3
"""Difference relative to the spread of logits, of a model that does not read its cache: rounding is far below."""

_known: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


class Decoding(Protocol):
    """Sequences that grow by one token at a time."""

    def start(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Reads the prompts: (B, P) long and (B, P) bool, padded on the left -> (B, V) logits of the next token."""

    def step(self, tokens: Tensor) -> Tensor:
        """Appends a token to every row: (B,) long -> (B, V) logits of the next one."""

    def keep(self, rows: Tensor) -> None:
        """Keeps only some rows, in this order: (b,) long, on the CPU."""


def decoding(model: nn.Module, new_tokens: int) -> Decoding:
    """Returns the fastest decoding for a causal language model in evaluation mode, for at most `new_tokens` tokens."""
    if not fits_llama_decoding(model):
        return ModelDecoding(model)
    return LlamaDecoding(model, new_tokens, packed_head(model.get_output_embeddings()))


def fits_llama_decoding(model: nn.Module) -> bool:
    """Tells whether our own step computes what the model computes; checked once per model.

    The modules must be named as in Llama, attention must be full, and on a few tokens the logits must equal those of
    the model's own forward, up to the rounding by which the model's own steps differ from it.

    Raises:
        UserError: the model's own steps are not its forward either, so it cannot be sampled from.
    """
    if model not in _known:
        reason = _misfit(model)
        _known[model] = reason is None
        if reason is not None:
            log.warning("sampling with transformers' forward, which is slower than our decode loop: %s", reason)
            if not is_sharded(model):
                _check_steps(model)
    return _known[model]


def _misfit(model: nn.Module) -> str | None:
    """Returns why our own step does not fit a model; None if it does."""
    if is_sharded(model):
        return "FSDP2 gathers weights in hooks that our loop would bypass"
    decoder = getattr(model, model.base_model_prefix)
    if not all(_looks_like_llama(layer) for layer in getattr(decoder, "layers", None) or [decoder]):
        return f"{type(model).__name__} does not have Llama's layers"
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=model.config).layers):
        return f"{type(model).__name__} does not use full attention in every layer"
    try:  # an unknown model may fail in any way
        same = _same_logits(model)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        return f"{type(model).__name__} fails in our step ({error})"
    return None if same else f"{type(model).__name__} does not compute what Llama's layers compute"


def _looks_like_llama(layer: nn.Module) -> bool:
    if {name for name, _ in layer.named_children()} != _LAYER:
        return False
    return {name for name, _ in layer.self_attn.named_children()} - _HEAD_NORMS == _ATTENTION


@torch.no_grad()
def _same_logits(model: nn.Module) -> bool:
    """Compares three steps with one forward over all tokens."""
    ids, mask, whole = _whole(model)
    own, models = (_logits_by_steps(way, ids, mask) for way in (LlamaDecoding(model, 3), ModelDecoding(model)))
    rounding = (models - whole.float()).norm()
    tolerated = (1e-4 if whole.dtype == torch.float32 else 0.04) * whole.float().norm()
    return bool((own - whole.float()).norm() <= 3 * rounding + tolerated)


@torch.no_grad()
def _check_steps(model: nn.Module) -> None:
    """Refuses a model that does not read the cache, such as one with a kind of its own."""
    try:  # an unknown model may fail in any way
        ids, mask, whole = _whole(model)
        steps = _logits_by_steps(ModelDecoding(model), ids, mask)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise _cannot_sample(model, str(error).strip().splitlines()[0] if str(error).strip() else "") from error
    centred = whole.float() - whole.float().mean(dim=-1, keepdim=True)
    if not (steps - whole.float()).norm() <= FORGOTTEN * centred.norm():
        raise _cannot_sample(model, "token by token its logits are others than over all tokens")


def _cannot_sample(model: nn.Module, reason: str) -> UserError:
    name = getattr(model, "name_or_path", "")
    return UserError(f"{name}: {type(model).__name__} cannot be sampled from here ({reason}); give another model")


def _whole(model: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Two rows, one of them padded, and the logits of their last tokens by one forward."""
    weight = model.get_output_embeddings().weight
    ids = torch.arange(3, 29, device=weight.device).view(2, 13) % model.config.get_text_config().vocab_size
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, :4] = False
    whole = model(ids, attention_mask=mask.long(), position_ids=position_ids(mask), use_cache=False).logits[:, 9:]
    return ids, mask, whole


def _logits_by_steps(way: Decoding, ids: Tensor, mask: Tensor) -> Tensor:
    logits = [way.start(ids[:, :10], mask[:, :10])]
    logits += [way.step(tokens) for tokens in ids[:, 10:].unbind(dim=1)]
    return torch.stack(logits, dim=1).float()


class ModelDecoding:
    """Decoding with transformers' forward over its growing cache, for models that `LlamaDecoding` does not fit."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def start(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Reads the prompts."""
        self.cache = DynamicCache(config=self.model.config)
        self.mask = mask.long()
        return self._forward(ids, position_ids(mask))

    def step(self, tokens: Tensor) -> Tensor:
        """Appends a token to every row."""
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        return self._forward(tokens[:, None], self.mask.sum(dim=1, keepdim=True) - 1)

    def keep(self, rows: Tensor) -> None:
        """Keeps only some rows."""
        rows = rows.to(self.mask.device)
        self.mask = self.mask[rows]
        self.cache.batch_select_indices(rows)

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        # The whole model rather than decoder and head apart: FSDP2 gathers both in the root's forward.
        return self.model(
            ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
