"""Rewards of ranked responses, in passes as large as the memory allows and with each prompt encoded once."""

from __future__ import annotations

from functools import cached_property, partial
from itertools import groupby

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

FLOAT_TOLERANCE, HALF_TOLERANCE = 2e-3, 5e-2
"""How far, relative to their size, hidden states of shared and separate rows may be apart: float32 (TF32 included), and
bfloat16 or quantised."""
NOTHING: list[Row] = [[[0, 0]]]
"""A row that a process runs where others have one more forward than it has, and whose reward nobody asks for."""


class RewardForward:
    """Computes the rewards of a batch with a sequence-classification model.

    Batches stay on the host, where their tokens are grouped and packed; only packed rows go to the model's device. No
    token is read back from it, which would wait for all work queued there.

    Args:
        network: the model, PEFT's wrapper and all.
        sharing: whether the responses to a prompt share one row and its prefix: "auto" where that is cheaper
            (`micro_batches.worth_sharing`) and the model can do it, "on" wherever a prompt has two responses, "off"
            never.
        max_tokens: most tokens, padding included, whose activations exist at one time.
        longest: tokens of the longest sequence to come, which is as far as the model's sharing is tried out.
    """

    def __init__(self, network: nn.Module, sharing: Sharing = "off", max_tokens: int = 8192, longest: int = 64) -> None:
        self.network = network
        self.sharing = sharing
        self.max_tokens = max_tokens
        self.longest = longest

    def split(self, batch: RankedBatch) -> list[RankedBatch]:
        """Returns the batch in groups of whole prompts whose activations fit into `max_tokens`.

        The sum of the groups' losses is the batch's loss, and that of their gradients its gradient. Under FSDP2, where
        each group is one of all processes, those with fewer get empty ones.
        """
        groups = [_select(batch, group) for group in self.micro_batches.groups(_prompts(batch))]
        most = most_of_all(self.network, len(groups))[0]
        return groups + [RankedBatch(*(part[:0] for part in batch))] * (most - len(groups))

    def rewards(self, batch: RankedBatch) -> Tensor:
        """Returns the reward of every response, on the device of the model: (N,) float32.

        Where gradients are wanted and the batch has more than `max_tokens`, each forward is computed again in the
        backward pass. Under FSDP2 all processes run as many forwards, and in the same way.
        """
        rows = [row for sequences in _prompts(batch) for row in self.micro_batches.rows(sequences)]
        widths = [packed_length(row) for row in rows]
        forwards = self.micro_batches.forwards(widths)
        device = next(self.network.parameters()).device
        starts = [0]
        for row in rows:
            starts.append(starts[-1] + len(row))
        again = torch.is_grad_enabled() and len(forwards) > 1 and self.micro_batches.tokens(widths) > self.max_tokens
        most, again_somewhere = most_of_all(self.network, len(forwards), again)
        idle: list[list[int]] = [[]] * (most - len(forwards))
        found, order = [], []
        for forward in forwards + idle:
            packed = pack([rows[number] for number in forward] or NOTHING).to(device)
            found.append(self._run_again(packed) if again_somewhere else self._run(packed))
            order += [at for number in forward for at in range(starts[number], starts[number + 1])]
        return torch.cat(found)[torch.tensor(order).argsort().to(device)]

    @cached_property
    def micro_batches(self) -> Packing:
        """The rules by which batches are cut, once the model has been tried out where it will run.

        Raises:
            UserError: sharing is "on" and the model cannot do it.
        """
        model = _classifier(self.network)
        device = next(self.network.parameters()).device
        hidden_size = model.config.get_text_config().hidden_size
        rules = Packing(self.sharing, self.max_tokens, hidden_size, device.type)
        if self.sharing == "off":
            return rules
        before = model.config._attn_implementation
        choose_attention(model, device, 2 * self.longest)
        reason = self._why_not(device)
        if reason is None:
            return rules
        model.set_attn_implementation(before)
        if self.sharing == "on":
            raise UserError(f"--model.shared_prompt=on: this model cannot share prompts ({reason}); use auto or off")
        rank_zero_info(f"each response is encoded with a prompt of its own: this model cannot share it ({reason})")
        return rules.without_sharing()

    def _run(self, packed: PackedRows) -> Tensor:
        """(N,) float32 rewards of the sequences of packed rows."""
        return inside(_classifier(self.network), partial(self._scores, packed))

    def _run_again(self, packed: PackedRows) -> Tensor:
        """The same, computed once more in the backward pass."""
        if not is_sharded(self.network):
            return checkpoint(self._run, packed, use_reentrant=False)
        # FSDP2's hooks want the second forward and its backward pass to be one whole, which this kind makes of them;
        # it takes part in a backward pass only for an input that does.
        asks = torch.ones((), device=packed.input_ids.device, requires_grad=True)
        return checkpoint(lambda _, packed: self._run(packed), asks, packed, use_reentrant=True)

    def _scores(self, packed: PackedRows) -> Tensor:
        return _classifier(self.network).score(self._last_hidden(packed)).squeeze(-1).float()

    def _last_hidden(self, packed: PackedRows) -> Tensor:
        """(N, H) final hidden state of each sequence's last token."""
        model = _classifier(self.network)
        decoder = getattr(model, model.base_model_prefix)
        inputs = {}  # what is padded on the right alone needs no mask
        if packed.shares_prefix:
            mask = attention_mask(packed, model.config._attn_implementation, model.dtype)
            inputs = {"attention_mask": mask, "position_ids": packed.position_ids}
        hidden = decoder(input_ids=packed.input_ids, use_cache=False, **inputs).last_hidden_state
        return hidden.flatten(0, 1)[packed.last]

    @torch.no_grad()
    def _why_not(self, device: torch.device) -> str | None:
        """Why the model's hidden states are others when sequences share a row; None where they are the same.

        Tried with random tokens, and sequences of the longest length to come: beyond any window that could matter.
        """
        config = _classifier(self.network).config.get_text_config()
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
            model = _classifier(self.network)
            apart, together = (inside(model, partial(self._last_hidden, form.to(device))).float() for form in forms)
            tolerance = inside(model, self._tolerance)
        except Exception as error:  # whatever a model makes of a mask it does not know
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        finally:
            self.network.train(training)
        difference = float((together - apart).norm() / apart.norm())
        return None if difference <= tolerance else f"its hidden states differ by {difference:.1%}"

    def _tolerance(self) -> float:
        model = _classifier(self.network)
        rounded = getattr(model, "is_quantized", False) or torch.is_autocast_enabled(model.device.type)
        exact = model.dtype == torch.float32 and not rounded
        return FLOAT_TOLERANCE if exact else HALF_TOLERANCE


def _classifier(network: nn.Module) -> nn.Module:
    return network.get_base_model() if isinstance(network, PeftModel) else network


def _prompts(batch: RankedBatch) -> list[Row]:
    """Token ids of the sequences of each prompt."""
    lengths = batch.attention_mask.sum(dim=1).tolist()
    sequences = [ids[:length] for ids, length in zip(batch.input_ids.tolist(), lengths, strict=True)]
    owners = zip(batch.prompt_index.tolist(), sequences, strict=True)
    return [[sequence for _, sequence in owned] for _, owned in groupby(owners, key=lambda pair: pair[0])]


def _select(batch: RankedBatch, prompts: list[int]) -> RankedBatch:
    """The given prompts of a batch, by their numbers in it, in the given order."""
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
