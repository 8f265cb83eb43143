"""Step 1: supervised fine-tuning on demonstrations (section 3.5, C.1)."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from data_modules.prompt_response import PromptResponseDataModule
from data_modules.reading.given import GivenRows
from lit_instruct.batches import IGNORED, per_step
from lit_instruct.errors import UserError
from lit_instruct.models.activations import MemoryOptions
from lit_instruct.models.assemble import policy_network
from lit_instruct.models.dtype import DtypeName
from lit_instruct.models.loading import model_name
from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.quantised import Quantize
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.text import TextGenerator
from lit_instruct.rollouts.text_reward import TextReward
from lit_instruct.stages.base import StageModule
from lit_instruct.stages.context import check_context
from lit_instruct.stages.non_finite import StepGuard
from lit_instruct.stages.options import OptimizerOptions, PromptOptions
from lit_instruct.trl_bridge import Prepared, SFTLossOptions, last_token_accuracy, prepare_sft, sft_loss


class SFTModule(StageModule):
    """Fine-tunes a language model on demonstrations with TRL's SFT loss.

    Args:
        base: model to start from: smollm2-135m-instruct, a hub id or a folder.
        lora: adapter options; null trains every weight.
        optimizer: learning rate and schedule; the paper's 9.65e-6 is for full fine-tuning.
        trl: loss, packing and noise of TRL's SFTTrainer.
        prompt: prompt format.
        dtype: dtype of frozen weights; auto is bfloat16 on GPUs that compute in it, on a CPU if it is fast.
        quantize: quantisation of frozen bases (the selection reward's too): none, 8bit (LLM.int8) or 4bit (NF4, double
            quantisation).
        memory: how device memory is saved.
        selection_reward: reward model (stage folder or hub id) that scores responses to validation prompts; the
            checkpoint with the best score is kept instead of the one with the lowest loss (C.1).
        selection_sampling: how these responses are sampled.
        selection_prompts: number of validation prompts to answer.
        seed: seed of all random numbers.
    """

    trl: Prepared

    stage = "sft"
    data_type = PromptResponseDataModule

    def __init__(
        self,
        base: str = "smollm2-135m-instruct",
        lora: LoraOptions | None = LoraOptions(),
        optimizer: OptimizerOptions = OptimizerOptions(),
        trl: SFTLossOptions = SFTLossOptions(),
        prompt: PromptOptions = PromptOptions(),
        dtype: DtypeName = "auto",
        quantize: Quantize = "none",
        memory: MemoryOptions = MemoryOptions(),
        selection_reward: str | None = None,
        selection_sampling: SamplingOptions = SamplingOptions(),
        selection_prompts: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(base, lora, dtype, prompt, seed, quantize, memory)
        self.optimizer_options = optimizer
        self.step_guard = StepGuard(optimizer.on_non_finite)
        self.trl_options = trl
        self.selection_reward = selection_reward and model_name(selection_reward, "--model.selection_reward")
        self.selection_sampling = selection_sampling
        self.selection_prompts = selection_prompts

    @property
    def monitor(self) -> tuple[str, str]:
        """The metric that chooses the best checkpoint, and its direction."""
        return ("val/reward", "max") if self.selection_reward else ("val/loss", "min")

    def setup(self, stage: str) -> None:
        """Builds the model, and TRL's trainer around it, which prepares the data."""
        super().setup(stage)
        data = self.data
        check_context(self.source, data)
        if self.trl_options.packing and isinstance(data.path, GivenRows):
            raise UserError("--model.trl.packing: it needs a length; give a PromptResponseDataModule(max_length=...)")
        if self.selection_reward and not data.validation_rows:
            raise UserError("--model.selection_reward: there are no validation rows; give --data.validation_path")
        if hasattr(self, "trl"):
            data.use(data.train_dataset, data.validation_dataset, self.trl.trainer.data_collator)
            return
        self.build()
        self.trl = prepare_sft(
            self.network,
            self.prompter.tokenizer,
            data.train_dataset,
            data.validation_dataset,
            self.trl_options,
            data.max_length,
            self.seed,
            self.trainer.strategy.root_device,
        )
        self.keep_less_memory(self.network)
        data.use(self.trl.train_dataset, self.trl.validation_dataset, self.trl.trainer.data_collator)
        if self.selection_reward:
            self.selector = TextReward.from_source(self.selection_reward, self.dtype_choice.known, self.quantize)

    def build(self) -> None:
        """Builds the model, unless it was loaded."""
        if not hasattr(self, "network"):
            torch.manual_seed(self.seed)  # adapters start from random weights
            self.network = policy_network(self.source, self.lora, self.frozen_dtype, self.quantised())

    def on_train_epoch_start(self) -> None:
        """Counts the trained tokens of every optimizer step of the epoch, over all processes and micro-batches."""
        self.network.train()
        batches = self.data.train_sampler.batches(self.trainer.current_epoch)
        counts = trained_tokens(self.data.train_dataset)
        self.step_tokens = per_step(batches, counts, self.trainer.accumulate_grad_batches)

    on_train_start = on_train_epoch_start  # Lightning skips the latter when it resumes within an epoch

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Returns the mean loss over the trained tokens of the whole optimizer step."""
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.optimizers().zero_grad()  # Lightning would keep the last step's gradients during the forward pass
        parts = self.trainer.world_size * self.trainer.accumulate_grad_batches
        with self.offloading:
            loss = sft_loss(self.trl, self.network, batch, self.step_tokens[batch_idx], parts)
        # DDP averages over processes and Lightning over micro-batches; the loss is divided by the whole step's tokens.
        scaled = loss * parts
        self.step_guard.add(scaled, batch)
        self.log("train/loss", scaled.detach(), prog_bar=True, sync_dist=True)
        self.log("train/learning_rate", self.lr_schedulers().get_last_lr()[0])
        return scaled

    def on_validation_epoch_start(self) -> None:
        """Turns dropout and noise off, and resets the counts."""
        self.network.eval()
        self.counted = torch.zeros(3, device=self.device, dtype=torch.float64)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Adds loss and correct predictions of the trained tokens to the counts."""
        tokens = int((batch["labels"][:, 1:] != IGNORED).sum())
        loss = sft_loss(self.trl, self.network, batch, None)
        accuracy = last_token_accuracy(self.trl)
        self.counted += torch.tensor([float(loss) * tokens, accuracy * tokens, tokens], device=self.device)

    def on_validation_epoch_end(self) -> None:
        """Logs the means over all processes, and the reward of sampled responses if it chooses the checkpoint."""
        # Sums, not sync_dist: Lightning weights processes by truncated batch sizes.
        loss, correct, tokens = self.trainer.strategy.reduce(self.counted, reduce_op="sum")
        self.log("val/loss", (loss / tokens).float(), prog_bar=True)
        self.log("val/token_accuracy", (correct / tokens).float())
        if self.selection_reward:
            self.log("val/reward", self._sampled_reward(), prog_bar=True)
        self.network.train()

    test_step = validation_step
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def _sampled_reward(self) -> float:
        prompts = [row.prompt for row in self.data.validation_rows[: self.selection_prompts]]
        model = self.network.get_base_model() if isinstance(self.network, PeftModel) else self.network
        options = self.selection_sampling
        responses = TextGenerator(model, self.prompter).respond(
            prompts,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            stop_ids=options.stop_ids,
            stop_strings=options.stop_strings,
            seed=self.seed,
        )
        scores = self.selector.score(prompts, [answers[0].text for answers in responses])
        return sum(scores) / len(scores)


def trained_tokens(dataset: Any) -> list[int]:
    """Returns the number of tokens of each row that the loss counts: labelled, and not the first of an example.

    Args:
        dataset: as TRL prepared it; a packed row has the lengths of its examples in `seq_lengths`.
    """
    packed = dataset["seq_lengths"] if "seq_lengths" in dataset.column_names else None
    counts = []
    for row, labels in enumerate(dataset["labels"]):
        lengths = packed[row] if packed is not None else [len(labels)]
        firsts = set(itertools.accumulate(lengths[:-1], initial=0))
        counts.append(sum(label != IGNORED for at, label in enumerate(labels) if at not in firsts))
    return counts
