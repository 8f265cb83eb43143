"""The only file that imports TRL.

SFT: data preparation, packing, collation and loss are TRL's. Reward model: set-up of model and tokenizer is TRL's, the
ranking loss and the data are ours. Optimizer, precision, processes, checkpoints and the loop are Lightning's in both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any, Literal
from warnings import catch_warnings

import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.integrations import activate_neftune

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from trl.models import get_act_offloading_ctx_manager
from trl.trainer.utils import FusedCausalLMOutput

from lit_instruct.batches import IGNORED, RankedBatch
from lit_instruct.errors import UserError
from lit_instruct.losses.ranking import ranking_loss
from lit_instruct.models.heads import token_log_probs
from lit_instruct.models.logits import output_head
from lit_instruct.models.rewards import RewardForward


@dataclass
class SFTLossOptions:
    """Options of TRL's SFTTrainer.

    Args:
        loss_type: "nll" is the paper's next-token loss, "dft" weights it by the token's own probability.
        label_smoothing: moves this share of the target's probability to all other tokens.
        neftune_noise_alpha: scale of uniform noise on the embeddings during training; None adds none.
        packing: fills sequences of `data.max_length` tokens with several examples that do not see each other.
        packing_strategy: "bfd" truncates longer examples, "bfd_split" splits them, "wrapped" splits any example.
        padding_free: concatenates the examples of a batch instead of padding them.
    """

    loss_type: Literal["nll", "dft"] = "nll"
    label_smoothing: float = 0.0
    neftune_noise_alpha: float | None = None
    packing: bool = False
    packing_strategy: Literal["bfd", "bfd_split", "wrapped"] = "bfd"
    padding_free: bool = False

    def __post_init__(self) -> None:
        """Refuses combinations that TRL would accept and ignore."""
        if self.label_smoothing and self.loss_type == "dft":
            raise UserError("--model.trl.label_smoothing: works with --model.trl.loss_type=nll only; choose one")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"--model.trl.label_smoothing={self.label_smoothing}: must be at least 0 and below 1")


@dataclass
class RewardLossOptions:
    """Options of TRL's RewardTrainer.

    Args:
        center_rewards_coefficient: weight of the mean (r_w + r_l)^2 of the pairs in the loss; None leaves it out.
    """

    center_rewards_coefficient: float | None = None


@dataclass
class Prepared:
    """TRL's SFTTrainer, whose `train()` is never called, and the data that it prepared."""

    trainer: SFTTrainer
    train_dataset: Dataset
    validation_dataset: Dataset | None


UNREAD_PAIR = {"chosen_ids": [[0]], "rejected_ids": [[0]]}
"""One pair in the layout of TRL's RewardTrainer, whose constructor demands a dataset. Nothing reads it."""


class RankedRewardTrainer(RewardTrainer):
    """TRL's RewardTrainer for K ranked responses instead of pairs.

    TRL's part is its constructor, which checks that the model has one output, makes model and tokenizer agree on the
    padding token and tags the model as trained by TRL, and its options. The loss is ours, since TRL's knows pairs
    only: eq. 1 averages over the C(K,2) pairs of each prompt. With K = 2 loss and gradients equal those of TRL. Data
    and loop are the DataModule's and Lightning's; TRL's dataset, collator and `train()` are not used.

    Args:
        reward_forward: computes the rewards; its network is a sequence-classification model with one output.
        tokenizer: the tokenizer of the model.
        options: additions to the loss.
        seed: seed that TRL sets; the random state of torch is restored afterwards.
    """

    def __init__(
        self, reward_forward: RewardForward, tokenizer: PreTrainedTokenizerBase, options: RewardLossOptions, seed: int
    ) -> None:
        self.reward_forward = reward_forward
        with _quiet_and_seeded() as folder:
            config = RewardConfig(
                **_common(seed, folder),
                max_length=None,
                disable_dropout=False,
                center_rewards_coefficient=options.center_rewards_coefficient,
                gradient_checkpointing=False,
            )
            super().__init__(
                model=reward_forward.network,
                args=config,
                train_dataset=Dataset.from_dict(UNREAD_PAIR),
                processing_class=tokenizer,
            )
        _trained_in_float32(self.model)

    def compute_loss(
        self, model: nn.Module, inputs: RankedBatch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Returns the mean loss over the prompts, and with `return_outputs` also the `Ranking`.

        Args:
            model: ignored, as `reward_forward` runs its own network, which is this one.
            inputs: the ranked batch.
            return_outputs: whether to return the `Ranking` too.
            num_items_in_batch: number of prompts in the optimizer step, the divisor; None takes those of this batch.
        """
        rewards = self.reward_forward.rewards(inputs)
        ranking = ranking_loss(rewards, inputs.ranks, inputs.prompt_index, inputs.margin.to(rewards.device))
        prompts = ranking.prompts if num_items_in_batch is None else num_items_in_batch
        total = ranking.loss + (self.args.center_rewards_coefficient or 0.0) * ranking.centre
        loss = total / torch.as_tensor(prompts).clamp(min=1)
        return (loss, ranking) if return_outputs else loss


def prepare_sft(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    train_dataset: Dataset,
    validation_dataset: Dataset | None,
    options: SFTLossOptions,
    max_length: int,
    seed: int,
    device: torch.device = torch.device("cpu"),
) -> Prepared:
    """Builds TRL's SFTTrainer around a model and lets it prepare the data.

    Args:
        model: causal language model, adapters included.
        tokenizer: its tokenizer, with a pad token.
        train_dataset: columns input_ids and labels.
        validation_dataset: columns input_ids and labels, or None.
        options: loss, packing and noise.
        max_length: tokens of a packed sequence.
        seed: that TRL sets; the random state of torch is restored afterwards.
        device: that Lightning will train on; TRL moves nothing there. It decides which output head is the faster one.
    """
    with _quiet_and_seeded() as folder:
        config = SFTConfig(
            **_common(seed, folder),
            loss_type=options.loss_type,
            label_smoothing_factor=options.label_smoothing,
            packing=options.packing,
            packing_strategy=options.packing_strategy,
            padding_free=options.padding_free,
            eval_packing=False,
            max_length=max_length if options.packing else None,
            average_tokens_across_devices=False,
            gradient_checkpointing=False,
        )
        trainer = SFTTrainer(model, config, None, train_dataset, validation_dataset, tokenizer)
    network = model.get_base_model() if isinstance(model, PeftModel) else model
    if device.type == "cpu" or not output_head(network).is_plain:
        _lighten_head(trainer.model)
    _trained_in_float32(trainer.model)
    # TRL's metrics, which only validation reads, would take collectives and waits for the device in every micro-batch.
    trainer.accelerator.gather_for_metrics = lambda value: torch.zeros(()) if trainer.model.training else value
    prepared = Prepared(trainer, trainer.train_dataset, trainer.eval_dataset)
    if options.neftune_noise_alpha is not None:
        activate_neftune(trainer.model, options.neftune_noise_alpha, trainer.accelerator)
    return prepared


def sft_loss(
    prepared: Prepared, model: nn.Module, batch: dict[str, Tensor], tokens: int | None, parts: int = 1
) -> Tensor:
    """Returns TRL's SFT loss of a batch; mixture-of-experts models add their own loss for balancing the experts.

    Args:
        prepared: from `prepare_sft`.
        model: the model to run.
        batch: from TRL's collator.
        tokens: number of trained tokens in the optimizer step, the divisor; None takes those of the batch.
        parts: number of batches in the optimizer step on all processes, the divisor of the loss of experts.
    """
    prepared.trainer.current_gradient_accumulation_steps = parts
    prepared.trainer._metrics["train"].clear()
    prepared.trainer._metrics["eval"].clear()
    return prepared.trainer.compute_loss(model, dict(batch), num_items_in_batch=tokens)


def last_token_accuracy(prepared: Prepared) -> float:
    """Returns the share of the last validation batch's tokens that the model predicted as the most probable."""
    return float(prepared.trainer._metrics["eval"]["mean_token_accuracy"][-1])


def _common(seed: int, folder: str) -> dict[str, Any]:
    """Returns settings that leave everything but data and loss to Lightning; `folder` must exist and stays empty."""
    return {
        "output_dir": folder,
        "report_to": [],
        "bf16": False,
        "use_cpu": True,  # else transformers moves the model to cuda:0, whatever device Lightning chose
        "seed": seed,
        "disable_tqdm": True,
        "dataset_num_proc": None,
    }


@contextmanager
def _quiet_and_seeded() -> Iterator[str]:
    """Gives TRL's constructor a private folder, hides its progress bars and undoes its `set_seed`."""
    state, shown = torch.get_rng_state(), is_progress_bar_enabled()
    disable_progress_bar()
    try:
        with TemporaryDirectory(prefix="lit-trl-") as folder, catch_warnings(action="ignore", category=FutureWarning):
            yield folder
    finally:
        if shown:
            enable_progress_bar()
        torch.set_rng_state(state)


def _lighten_head(model: nn.Module) -> None:
    """Replaces TRL's fused output head by ours: the same loss, from the trained tokens only.

    Without a kernel, TRL's own computes logits of prompt and padding too, in float32: most of a training step on a CPU.
    """
    network = model.get_base_model() if isinstance(model, PeftModel) else model
    trls_forward = network.forward

    def forward(*args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return trls_forward(*args, **kwargs)
        labels = kwargs.pop("labels")[:, 1:]
        hidden, aux_loss = _hidden_and_aux_loss(network, trls_forward, *args, **kwargs)
        hidden, mask = hidden[:, :-1], labels != IGNORED
        found = token_log_probs(hidden[mask], output_head(network), labels[mask], describe=True)
        log_probs, entropy, is_top = (part.new_zeros(mask.shape).masked_scatter(mask, part) for part in found)
        loss = -log_probs.sum() / mask.sum().clamp(min=1)
        return FusedCausalLMOutput(
            loss=loss, log_probs=log_probs, entropy=entropy, is_top1=is_top, label_mask=mask, aux_loss=aux_loss
        )

    network.forward = forward


def _hidden_and_aux_loss(
    network: Any, forward: Callable[..., Any], *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Returns a model's last hidden states, and its loss for balancing experts where router logits are asked for."""
    if not kwargs.get("output_router_logits"):
        return network.base_model(*args, **kwargs).last_hidden_state, None
    caught: list[Tensor] = []
    hook = network.base_model.register_forward_hook(lambda *found: caught.append(found[-1].last_hidden_state))
    try:
        output = forward(*args, **kwargs, logits_to_keep=1)
    finally:
        hook.remove()
    return caught[0], output.aux_loss


def activation_offloading(network: nn.Module, wanted: bool) -> AbstractContextManager[Any]:
    """Returns a context for forward passes whose activations wait in host memory for the backward pass.

    It can be entered again after each backward pass. Without an accelerator, or if not wanted, it does nothing.

    Args:
        network: the model to run; its weights stay where they are.
        wanted: --model.memory.activation_offloading.
    """
    if not wanted or torch.accelerator.current_accelerator() is None:
        return nullcontext()
    return get_act_offloading_ctx_manager(network, warn_if_no_head=False)


def _trained_in_float32(model: nn.Module) -> None:
    """Casts trained weights back to float32: TRL's constructor casts adapters on quantised bases to bfloat16."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
