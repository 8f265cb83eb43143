"""Records one update of TRL 1.12's PPOTrainer on tiny models, for tests that replay it through lit-instruct.

Runs in the side environment (`make ppo-oracle`), as tests/oracle/record.sh does.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import trl
from cases import EOS, EPISODES, LORA, NETWORK, PAD, PROMPTS, RESPONSE_LENGTH, Case, cases, networks, tokenizer, trained
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PrinterCallback, TrainingArguments
from trl.experimental.ppo import PPOConfig, PPOTrainer
from watch import Watch

RECORDINGS = Path(__file__).parent / "recordings"


def trainer_of(case: Case, parts: dict[str, Any], seed: int, folder: str) -> PPOTrainer:
    """TRL's trainer for one update, in float32 on the CPU."""
    options = {name: value for name, value in dataclasses.asdict(case).items() if name in _FIELDS}
    config = PPOConfig(
        output_dir=folder,
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        num_sample_generations=0,
        disable_tqdm=True,
        optim="adamw_torch",
        adam_beta2=0.95,
        lr_scheduler_type="constant",
        response_length=RESPONSE_LENGTH,
        local_rollout_forward_batch_size=EPISODES,
        per_device_train_batch_size=EPISODES // case.micro_batches,
        gradient_accumulation_steps=case.micro_batches,
        total_episodes=EPISODES * case.processes,
        stop_token="eos" if case.stops else None,
        seed=seed,
        **options,
    )
    rows = PROMPTS * (case.processes * (1 if case.last_of_pass else 2))
    trainer = PPOTrainer(
        config,
        tokenizer(),
        parts["policy"],
        parts["reference"],
        parts["reward"],
        Dataset.from_dict({"input_ids": rows}),
        parts["value"],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


_FIELDS = {field.name for field in dataclasses.fields(PPOConfig)}


def record(case: Case, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Returns weights before the update, tensors of the update, and its figures."""
    parts = networks(case)
    before = trained(parts["policy"], parts["value"])
    frozen = {f"reward.{name}": tensor.clone() for name, tensor in parts["reward"].state_dict().items()}
    if parts["reference"] is not None:
        frozen |= {f"reference.{name}": tensor.clone() for name, tensor in parts["reference"].state_dict().items()}
    else:
        frozen |= {
            f"reference.{name.removeprefix('base_model.model.').replace('.base_layer', '')}": tensor.clone()
            for name, tensor in parts["policy"].state_dict().items()
            if "lora_" not in name
        }
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(trainer_of(case, parts, seed, folder))
        np.random.seed(seed)  # TRL seeds torch alone
        watch.train()
    watch.tensors |= {f"after.{name}": tensor for name, tensor in trained(parts["policy"], parts["value"]).items()}
    figures = {
        **dataclasses.asdict(case),
        "seed": seed,
        "pad_id": PAD,
        "eos_id": EOS,
        "losses": watch.losses,
        "gradient_norms": watch.gradient_norms,
        "metrics": {name: value for name, value in watch.metrics.items() if name != "eps"},
    }
    return before | frozen, watch.tensors, figures


def fits(case: Case, tensors: dict[str, Tensor]) -> bool:
    """Whether the responses are as various as the recording is for."""
    responses = tensors["responses"]
    ended, lengths = (responses == EOS).any(dim=1), (responses != PAD).sum(dim=1)
    if not (lengths[~ended] == RESPONSE_LENGTH).all():
        return False  # padding was sampled
    if not case.stops:
        return bool((lengths == RESPONSE_LENGTH).all())
    return len(lengths[ended].unique()) >= 3 and int((~ended).sum()) >= 2


def find(case: Case, first_seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Records with the first seed whose responses fit."""
    for seed in range(first_seed, first_seed + 200):
        made = record(case, seed)
        if fits(case, made[1]):
            return made
    raise SystemExit(f"{case.name}: none of 200 seeds samples responses of different lengths")


def names_of_trl(metrics: dict[str, float]) -> dict[str, Any]:
    """Names of TRL's options and metrics, for the page that maps them."""
    inherited = {field.name for field in dataclasses.fields(TrainingArguments)}
    fields = [field.name for field in dataclasses.fields(PPOConfig)]
    return {
        "own_fields": sorted(name for name in fields if name not in inherited),
        "inherited_fields": sorted(name for name in fields if name in inherited),
        "metrics": sorted(metrics),
    }


def write_json(path: Path, content: Any) -> None:
    """Writes readable JSON."""
    path.write_text(json.dumps(content, indent=1) + "\n")


def save(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes tensors, whatever views they are."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def record_alone(folder: Path) -> dict[str, Any]:
    """Records every case of one process, and returns their figures."""
    figures: dict[str, Any] = {}
    weights: dict[str, dict[str, Tensor]] = {}
    for number, case in enumerate(case for case in cases() if case.processes == 1):
        before, tensors, figures[case.name] = find(case, 10 * number)
        known = weights.setdefault("lora" if case.lora else "full", before)
        assert all(torch.equal(known[name], before[name]) for name in known)
        save(folder / f"{case.name}.safetensors", tensors)
    for name, before in weights.items():
        save(folder / f"weights-{name}.safetensors", before)
    return figures


def record_together(case: Case, folder: Path) -> dict[str, Any]:
    """Records a case with several processes; each tensor's name then begins with its rank."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={case.processes}", __file__]
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([*command, case.name, scratch], check=True)
        tensors = {
            f"rank{rank}.{name}": tensor
            for rank in range(case.processes)
            for name, tensor in load_file(Path(scratch) / f"{rank}.safetensors").items()
        }
        save(folder / f"{case.name}.safetensors", tensors)
        return json.loads((Path(scratch) / "0.json").read_text())


def record_one_rank(name: str, folder: Path) -> None:
    """What each process of `record_together` does."""
    [case] = [case for case in cases() if case.name == name]
    rank = int(os.environ["RANK"])
    _, tensors, figures = record(case, seed=0)
    save(folder / f"{rank}.safetensors", {name: t for name, t in tensors.items() if not name.startswith("after.")})
    write_json(folder / f"{rank}.json", figures)


def main() -> None:
    """Records every case, and puts the new recordings in place of the old ones when all are there."""
    with tempfile.TemporaryDirectory(dir=RECORDINGS.parent) as scratch:
        fresh = Path(scratch) / RECORDINGS.name
        fresh.mkdir()
        figures = record_alone(fresh)
        figures |= {case.name: record_together(case, fresh) for case in cases() if case.processes > 1}
        versions = {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
        about = {"versions": versions, "network": NETWORK, "lora": LORA, "cases": figures}
        write_json(fresh / "cases.json", about)
        write_json(fresh / "names.json", names_of_trl(figures["k1-1"]["metrics"] | {"eps": 0.0}))
        shutil.rmtree(RECORDINGS, ignore_errors=True)
        fresh.rename(RECORDINGS)
    print(f"{len(figures)} recordings in {RECORDINGS}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) == 3:
        record_one_rank(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
