"""Rewards of ranked responses, in passes as large as the memory allows and with each prompt encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from itertools import groupby
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lit_instruct.batches import RankedBatch
from lit_instruct.errors import UserError
from lit_instruct.fast.packing import Packing, Row, Sharing
from lit_instruct.fast.prefix_attention import attention_mask, choose_attention
from lit_instruct.fast.shared_prefix import PackedRows, pack, packed_length
from lit_instruct.models.sharding import inside, is_sharded, most_of_all
from lit_instruct.progress import track

FLOAT_TOLERANCE, HALF_TOLERANCE = 2e-3, 5e-2
"""Largest relative difference between hidden states of shared and separate rows: in float32 (TF32 included), and in
bfloat16 or quantised."""
GRADIENT_SHARE = 4
"""Gradients may differ by this many times as much: rounding adds up on their way down."""
IDLE: list[Row] = [[[0, 0]]]
"""The row of a forward that a rank runs only because another rank has one more; it has no sequences in the batch."""


class RewardForward:
    """Computes the rewards of a batch with a sequence-classification model.

    Batches stay on the host, where their tokens are grouped and packed; only packed rows go to the model's device. No
    token is read back from it, which would wait for all work queued there.

    Args:
        network: the model, with or without PEFT's wrapper.
        sharing: whether the responses to a prompt share one row and its prefix: "auto" if that is cheaper
            (`packing.worth_sharing`) and the model supports it, "on" always, "off" never.
        max_tokens: most tokens, padding included, whose activations exist at the same time.
        longest: tokens of the longest sequence to come; the model's support for sharing is tested up to this length.
    """

    def __init__(self, network: nn.Module, sharing: Sharing = "off", max_tokens: int = 8192, longest: int = 64) -> None:
        self.network = network
        self.sharing = sharing
        self.max_tokens = max_tokens
        self.longest = longest

    def split(self, batch: RankedBatch) -> list[RankedBatch]:
        """Returns the batch in groups of whole prompts whose activations fit into `max_tokens`.

        The groups' losses and gradients add up to those of the batch. Under FSDP2, where every forward is a collective,
        ranks with fewer groups get empty ones.
        """
        groups = [_select(batch, group) for group in self.packing.groups(_prompts(batch))]
        most = most_of_all(self.network, len(groups))[0]
        return groups + [RankedBatch(*(part[:0] for part in batch))] * (most - len(groups))

    def rewards(self, batch: RankedBatch) -> Tensor:
        """Returns the reward of every response, on the device of the model: (N,) float32.

        With gradients and more than `max_tokens` in the batch, each forward is recomputed in the backward pass. Under
        FSDP2 all ranks run equally many forwards, and in the same way.
        """
        return self.rewards_of(_prompts(batch))

    def rewards_of(self, prompts: Sequence[Row], progress: str | None = None) -> Tensor:
        """Returns what `rewards` does, in the order of the sequences.

        Args:
            prompts: of each prompt, the token ids of its sequences.
            progress: description of a progress bar; None shows no bar.
        """
        rows = [row for sequences in prompts for row in self.packing.rows(sequences)]
        widths = [packed_length(row) for row in rows]
        forwards = self.packing.forwards(widths)
        device = next(self.network.parameters()).device
        starts = [0]
        for row in rows:
            starts.append(starts[-1] + len(row))
        large = torch.is_grad_enabled() and len(forwards) > 1 and self.packing.tokens(widths) > self.max_tokens
        most, recompute = most_of_all(self.network, len(forwards), large)
        idle: list[list[int]] = [[]] * (most - len(forwards))
        found, order = [], []
        for forward in track(forwards + idle, progress):
            packed = pack([rows[number] for number in forward] or IDLE).to(device)
            found.append(self._recomputed(packed) if recompute else self._run(packed))
            order += [at for number in forward for at in range(starts[number], starts[number + 1])]
        return torch.cat(found)[torch.tensor(order).argsort().to(device, non_blocking=True)]

    def worth_sharing(self, prompts: Sequence[Row]) -> bool:
        """Tells whether any prompt would share a row, if the model supports that."""
        packing = self._wanted
        return any(len(row) > 1 for sequences in prompts for row in packing.rows(sequences))

    @property
    def _wanted(self) -> Packing:
        """How batches would be packed if the model supports sharing."""
        hidden_size = classifier_of(self.network).config.get_text_config().hidden_size
        return Packing(self.sharing, self.max_tokens, hidden_size, next(self.network.parameters()).device.type)

    @cached_property
    def packing(self) -> Packing:
        """How batches are packed; the first access tests on the model's device whether the model supports sharing.

        Raises:
            UserError: sharing is "on" and the model does not support it.
        """
        model = classifier_of(self.network)
        device = next(self.network.parameters()).device
        packing = self._wanted
        if self.sharing == "off":
            return packing
        before = model.config._attn_implementation
        choose_attention(model, device, 2 * self.longest)
        reason = self._why_not(device)
        if reason is None:
            return packing
        model.set_attn_implementation(before)
        if self.sharing == "on":
            raise UserError(f"--model.shared_prompt=on: this model cannot share prompts ({reason}); use auto or off")
        rank_zero_info(
            f"each response is encoded with its own copy of the prompt: the model cannot share it ({reason})"
        )
        return packing.without_sharing()

    def _run(self, packed: PackedRows) -> Tensor:
        """Returns the rewards of the sequences of packed rows: (N,) float32."""
        model = classifier_of(self.network)
        return inside(model, lambda: model.score(self._last_hidden(packed)).squeeze(-1).float())

    def _recomputed(self, packed: PackedRows) -> Tensor:
        """Returns the same as `_run`, whose forward is recomputed in the backward pass."""
        if not is_sharded(self.network):
            return checkpoint(self._run, packed, use_reentrant=False)
        # FSDP2's hooks need the backward pass right after the second forward, which only the reentrant kind does; it
        # computes gradients only if an input requires them.
        required = torch.ones((), device=packed.input_ids.device, requires_grad=True)
        return checkpoint(lambda _, packed: self._run(packed), required, packed, use_reentrant=True)

    def _last_hidden(self, packed: PackedRows) -> Tensor:
        """Returns the final hidden state of each sequence's last token: (N, H)."""
        model = classifier_of(self.network)
        decoder = getattr(model, model.base_model_prefix)
        inputs = {}  # right padding needs no mask: causal attention never looks at it
        if packed.shares_prefix:
            mask = attention_mask(packed, model.config._attn_implementation, model.dtype)
            inputs = {"attention_mask": mask, "position_ids": packed.position_ids}
        hidden = decoder(input_ids=packed.input_ids, use_cache=False, **inputs).last_hidden_state
        return hidden.flatten(0, 1)[packed.last]

    @torch.inference_mode(False)  # Lightning validates first, under inference mode
    def _why_not(self, device: torch.device) -> str | None:
        """Returns why hidden states or gradients change when sequences share a row, or None if they stay the same.

        The test takes random tokens, in sequences as long as the longest to come, so that an attention window shows.
        Gradients are compared if any weight is trained: an attention may have a forward pass and no backward pass.
        """
        config = classifier_of(self.network).config.get_text_config()
        draw = torch.Generator().manual_seed(0)
        long = max(self.longest // 2, 2)
        shared = max(self.longest - long, 2)
        ids = torch.randint(1, config.vocab_size, (shared + long + 4,), generator=draw).tolist()
        # The short ones stand far from the prefix in the row, but close to it in their own sequence.
        sequences = [ids[:shared] + ids[start:end] for start, end in ((shared, -4), (-4, -2), (-2, len(ids)))]
        training = self.network.training
        self.network.eval()
        try:
            forms = [pack([[sequence] for sequence in sequences]), pack([sequences])]
            found = [self._hidden_and_gradient(form.to(device)) for form in forms]
            tolerance = inside(classifier_of(self.network), self._tolerance)
        except Exception as error:  # a model may fail in any way on a mask that it does not know
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        finally:
            self.network.train(training)
        limits = (("hidden states", tolerance), ("gradients", GRADIENT_SHARE * tolerance))
        for (what, limit), apart, together in zip(
            limits, *found, strict=False
        ):  # gradients only if weights are trained
            difference = float((together - apart).norm() / apart.norm())
            if not difference <= limit:
                return f"its {what} differ by {difference:.1%}"
        return None

    def _hidden_and_gradient(self, packed: PackedRows) -> list[Tensor]:
        """Returns the final hidden states, (N, H), and if any weight is trained, their gradient by token.

        (V, H): the gradient of a weighted sum of them in the embeddings, added up over equal tokens.
        """
        model = classifier_of(self.network)
        trained = any(parameter.requires_grad for parameter in self.network.parameters())
        caught: list[Tensor] = []

        def catch(_: nn.Module, __: Any, embedded: Tensor) -> Tensor:
            caught.append(embedded.detach().requires_grad_())
            return caught[0]

        if not trained:
            with torch.no_grad():
                return [inside(model, partial(self._last_hidden, packed)).float()]
        hook = model.get_input_embeddings().register_forward_hook(catch)
        try:
            with torch.enable_grad():
                hidden = inside(model, partial(self._last_hidden, packed)).float()
                direction = torch.arange(
                    hidden.shape[1], device=hidden.device
                ).cos()  # norms keep simpler sums constant
                (gradient,) = torch.autograd.grad((hidden * direction).sum(), caught)
        finally:
            hook.remove()
        tokens = packed.input_ids.flatten()
        by_token = gradient.new_zeros(model.config.get_text_config().vocab_size, gradient.shape[-1])
        return [hidden.detach(), by_token.index_add_(0, tokens, gradient.flatten(0, 1)).float()]

    def _tolerance(self) -> float:
        model = classifier_of(self.network)
        rounded = getattr(model, "is_quantized", False) or torch.is_autocast_enabled(model.device.type)
        exact = model.dtype == torch.float32 and not rounded
        return FLOAT_TOLERANCE if exact else HALF_TOLERANCE


def classifier_of(network: nn.Module) -> nn.Module:
    """Returns transformers' model, without PEFT's wrapper."""
    return network.get_base_model() if isinstance(network, PeftModel) else network


def _prompts(batch: RankedBatch) -> list[Row]:
    """Returns the token ids of the sequences of each prompt."""
    lengths = batch.attention_mask.sum(dim=1).tolist()
    sequences = [ids[:length] for ids, length in zip(batch.input_ids.tolist(), lengths, strict=True)]
    owners = zip(batch.prompt_index.tolist(), sequences, strict=True)
    return [[sequence for _, sequence in owned] for _, owned in groupby(owners, key=lambda pair: pair[0])]


def _select(batch: RankedBatch, prompts: list[int]) -> RankedBatch:
    """Returns the given prompts of a batch, in the given order."""
    rows = torch.cat([(batch.prompt_index == prompt).nonzero().squeeze(1) for prompt in prompts])
    mask = batch.attention_mask[rows]
    width = int(mask.sum(dim=1).max())
    counts = torch.stack([(batch.prompt_index == prompt).sum() for prompt in prompts])
    chosen = torch.tensor(prompts, device=rows.device)
    return RankedBatch(
        input_ids=batch.input_ids[rows, :width],
        attention_mask=mask[:, :width],
        ranks=batch.ranks[rows],
        prompt_index=torch.arange(len(prompts), device=rows.device).repeat_interleave(counts),
        row_number=batch.row_number[chosen],
        margin=batch.margin[rows],
    )
