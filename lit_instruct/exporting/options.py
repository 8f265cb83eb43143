"""Options of `lit-instruct export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_instruct.errors import UserError

DtypeChoice = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass
class ExportOptions:
    """Writes a stage's model as a folder that plain transformers and PEFT load, with a model card.

    Args:
        run: stage folder, such as runs/demo/ppo.
        to: folder to write; new, empty or an earlier export.
        merge: folds the adapter into the weights of its base. A reward model is always merged, because transformers'
            sequence classifiers have no adapter form that keeps its bias.
        dtype: dtype of the weights; auto keeps adapters, reward models and fully trained models in float32, and writes
            a merged language model in its base's dtype.
        max_kl: largest KL of whole weights to the trained model, in nats per token; above it nothing is written. It is
            larger after 8-bit training, because LLM.int8 rounds activations too.
        base: public name of the base, a hub id; by default its own.
        push_to_hub: uploads the folder to a private repository on the Hugging Face hub, with the login of `hf auth
            login`: true names it after the folder, or give organisation/name.
    """

    run: str
    to: str
    merge: bool = False
    dtype: DtypeChoice = "auto"
    max_kl: float = 0.01
    base: str | None = None
    push_to_hub: bool | str = False

    def __post_init__(self) -> None:
        """Checks target and limit."""
        if not self.to.strip():
            raise UserError("--to: give the folder to write")
        if self.max_kl < 0:
            raise UserError(f"--max-kl={self.max_kl}: must be at least 0")
