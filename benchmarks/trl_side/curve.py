"""The TRL 1.12 side of `python -m benchmarks.learning_curves`: a training by its PPOTrainer, as JSON.

Runs in the side environment of environment.sh, which knows nothing of lit-instruct: `python curve.py OPTIONS`, where
OPTIONS are those of `benchmarks.learning_curves_sides.trl` as JSON. Their `folder` holds

    policy/        the merged SFT model, with its tokenizer
    reward/        the merged reward model
    prompts.json   a list of lists of token ids, in the order of the iterations

and gets responses.json: iteration -> prompt -> token ids as they were sampled. The last line of the output has the
seconds of each iteration and what TRL logged of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ppo  # first: it sets the environment's variables
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer


class Recorder(ppo.Clock):
    """Keeps what was sampled and what TRL logged, beside the times."""

    def __init__(self) -> None:
        super().__init__()
        self.responses: list[list[list[int]]] = []
        self.logged: list[dict[str, float]] = []

    def after_sampling(self, generation: Any) -> Any:
        """Wraps `batch_generation`."""
        timed = super().after_sampling(generation)

        def recorded(model: nn.Module, queries: Tensor, *more: Any) -> Any:
            ids, logits = timed(model, queries, *more)
            self.responses.append(ids[:, queries.shape[1] :].tolist())
            return ids, logits

        return recorded

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        """Takes KL (the sum over each response, the mean over responses) and score of an iteration."""
        self.logged.append({"kl": logs["objective/kl"], "reward": logs["objective/scores"]})


class FloatHead(nn.Linear):
    """A scalar head with a bias that computes in float32, whatever the decoder computes in."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns (..., 1)."""
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.float())


def scalar_model(folder: Path, dtype: torch.dtype, pad_id: int, bias: float | None) -> nn.Module:
    """The reward model with its bias in the head; without a bias the value model, whose head starts at zero."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, pad_token_id=pad_id, dtype=dtype)
    head = FloatHead(model.score.in_features, 1)
    with torch.no_grad():
        head.weight.copy_(model.score.weight) if bias is not None else head.weight.zero_()
        head.bias.fill_(bias or 0.0)
    model.score = head
    return model


def optimizer_of(policy: nn.Module, value: nn.Module, settings: dict[str, Any]) -> tuple[Any, Any]:
    """AdamW with learning rates for the policy's adapter, the value head and the value model's decoder; the warmup."""
    head = list(value.score.parameters())
    decoder = [weight for weight in value.parameters() if all(weight is not other for other in head)]
    groups = [
        {"params": [weight for weight in policy.parameters() if weight.requires_grad], "lr": settings["learning_rate"]},
        {"params": head, "lr": settings["value_learning_rate"]},
        {"params": decoder, "lr": settings["value_trunk_learning_rate"]},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)
    warmup = settings["warmup_iterations"]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(1.0, 0.1 + 0.9 * done / max(1, warmup)))
    return optimizer, schedule


def trainer_of(given: SimpleNamespace, recorder: Recorder) -> PPOTrainer:
    """TRL's trainer on the run's models and prompts."""
    folder, settings, dtype = Path(given.folder), given.settings, ppo.DTYPES[given.dtype]
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(given.pad_id)
    torch.manual_seed(given.seed)
    base = AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=dtype)
    lora = LoraConfig(r=settings["lora_r"], lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    policy = get_peft_model(base, lora)
    reward = scalar_model(folder / "reward", dtype, given.pad_id, given.reward_bias)
    value = scalar_model(folder / "reward", torch.float32, given.pad_id, None)  # whose small steps bfloat16 would lose
    size, micro = settings["batch_size"], settings["micro_batch_size"]
    prompts = json.loads((folder / "prompts.json").read_text())
    config = PPOConfig(
        **ppo.shared_settings(given, str(folder / "scratch"), size, micro),
        logging_steps=1,
        response_length=settings["response_tokens"],
        stop_token="eos",
        missing_eos_penalty=settings["missing_eos_penalty"],
        kl_coef=settings["kl_coef"],
        vf_coef=1.0,
        num_mini_batches=settings["minibatches"],
        num_ppo_epochs=settings["inner_epochs"],
        total_episodes=len(prompts),
    )
    optimizers = optimizer_of(policy, value, settings)
    models = (policy, reward, value)
    trainer = ppo.ordered_trainer(config, tokenizer, models, prompts, recorder, optimizers=optimizers)
    # TRL's num_mini_batches alone does not change the number of optimizer steps; this makes it do so.
    trainer.accelerator.gradient_accumulation_steps = size // micro // settings["minibatches"]
    return trainer


def main() -> None:
    """Trains, and prints JSON as the last line."""
    given = SimpleNamespace(**json.loads(sys.argv[1]))
    recorder = Recorder()
    found = ppo.train(trainer_of(given, recorder), recorder, given.device)
    (Path(given.folder) / "responses.json").write_text(json.dumps(recorder.responses))
    iterations = [times | logged for times, logged in zip(recorder.iterations, recorder.logged, strict=True)]
    print(json.dumps({"iterations": iterations, **found}))


if __name__ == "__main__":
    main()
