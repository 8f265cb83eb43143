"""What quantising a base changes: adapters trained on one precision of it, measured on the others.

`python -m benchmarks.bits` writes benchmarks/results/bits.json: the base and each adapter on a base in 16 bits (32
if the CPU does not compute in bfloat16), 8 and 4 bits: loss on the demo's held-out demonstrations, and KL from the
base that the adapter was trained on, in nats per token.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import DEMO, Command, Found, say, scratch_folder
from benchmarks.training import dtype, fit_ours
from data_modules import PromptResponseDataModule
from lit_instruct.batches import IGNORED
from lit_instruct.handover import prompter_of
from lit_instruct.models.assemble import merged_language_model
from lit_instruct.models.loading import Source, find_source
from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.quantised import Quantize, quantisation
from lit_instruct.stages.options import OptimizerOptions
from lit_instruct.stages.sft import SFTModule

KINDS: tuple[Quantize, ...] = ("none", "8bit", "4bit")
CPU = torch.device("cpu")
HOW = (
    "supervised fine-tuning on the demo's demonstrations, LoRA r=16 on every linear layer, AdamW, 1e-3 falling to a "
    "tenth; loss and KL(the adapter on the base it was trained on || the same adapter on another base) are means over "
    "the tokens of the held-out responses; the base without an adapter is compared with itself in 16 bits"
)


def _losses_and_kl(base: str, steps: int, rows: int) -> dict[str, Any]:
    """Loss and KL, on every precision, of the base and of an adapter trained on it in each of them."""
    held_out = _held_out(base, rows)
    found = {"no adapter": _on_every_base(find_source(base), held_out, compared_with="none")}
    with scratch_folder() as folder:
        for kind in KINDS:
            say(f"training on a base in {name_of(kind)}")
            stage = Path(folder) / kind
            _train(base, kind, steps, stage)
            found[f"trained on {name_of(kind)}"] = _on_every_base(find_source(str(stage)), held_out, compared_with=kind)
    return found


def _train(base: str, kind: Quantize, steps: int, folder: Path) -> None:
    module = SFTModule(base, LoraOptions(), OptimizerOptions(learning_rate=1e-3), quantize=kind)
    data = PromptResponseDataModule(str(DEMO / "demonstrations_train.jsonl"), validation_share=0.0, batch_size=8)
    fit_ours(module, data, [], steps=steps)
    module.save(folder, {})


def _held_out(base: str, rows: int) -> list[dict[str, Tensor]]:
    """Ids and labels of one sequence each."""
    data = PromptResponseDataModule(
        str(DEMO / "demonstrations_train.jsonl"), validation_path=str(DEMO / "demonstrations_validation.jsonl")
    )
    data.prompter = prompter_of(find_source(base))
    data.setup("fit")
    chosen = data.validation_dataset.select(range(rows))
    return [{name: torch.tensor(row[name])[None] for name in ("input_ids", "labels")} for row in chosen]


def _on_every_base(
    source: Source, held_out: list[dict[str, Tensor]], compared_with: Quantize
) -> dict[str, dict[str, float]]:
    """Base -> loss, and KL from the base that it is compared with."""
    log_probs = {}
    for kind in (compared_with, *(kind for kind in KINDS if kind != compared_with)):
        model = merged_language_model(source, dtype(), quantisation(kind, CPU))
        log_probs[kind] = [_log_probs(model, row) for row in held_out]
        del model
    targets = torch.cat([row["labels"][0, 1:][row["labels"][0, 1:] != IGNORED] for row in held_out])
    found = {}
    for kind in KINDS:
        own, theirs = torch.cat(log_probs[compared_with]), torch.cat(log_probs[kind])
        kl = (own.exp() * (own - theirs)).sum(dim=-1).mean()
        loss = -theirs.gather(1, targets[:, None]).mean()
        found[name_of(kind)] = {"loss": round(float(loss), 4), "kl": round(float(kl), 5)}
    return found


@torch.no_grad()
def _log_probs(model: nn.Module, row: dict[str, Tensor]) -> Tensor:
    """(n, V) float32, of the distributions from which the trained tokens would be drawn."""
    wanted = row["labels"][0, 1:] != IGNORED
    return model(input_ids=row["input_ids"]).logits[0, :-1][wanted].float().log_softmax(dim=-1)


def name_of(kind: Quantize) -> str:
    """Returns the name of a base of this precision in the results."""
    return str(dtype()).removeprefix("torch.") if kind == "none" else kind


def measure(options: Namespace) -> Found:
    """Trains and measures."""
    found = _losses_and_kl(options.base, options.steps, options.rows)
    given = {"base": options.base, "steps": options.steps, "rows": options.rows, "how": HOW}
    return Found(given | {"found": found}, "bits.json", ("bits",))


OPTIONS = {
    "--steps": {"type": int, "default": 40, "help": "training steps, with 8 demonstrations each"},
    "--rows": {"type": int, "default": 40, "help": "held-out demonstrations"},
}
main = Command("benchmarks.bits", __doc__, measure, OPTIONS, base=True)

if __name__ == "__main__":
    raise SystemExit(main())
