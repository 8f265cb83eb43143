"""Trains every stage on a pretended CUDA device, on a machine without a GPU: benchmarks/results/cuda-sim.json.

It fails if a stage mixes devices, gives NCCL a host tensor, or in a training step waits for the device, copies to it or
multiplies in float32 under autocast more often than the committed file says. --record writes that file.

`benchmarks/pretended_cuda.py` says what is pretended. The counts are those of a tiny model; waits and copies do not
depend on the model's size. Nothing here says how fast anything is.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import RESULTS
from benchmarks.harness import write_results
from benchmarks.random_models import llama, write_model

LORA, FULL, MIXED = "--model.lora.top_layers=2", "--model.lora=null", "--trainer.precision=bf16-mixed"
PTX = ("--data.pretraining_path={folder}/text.txt", "--model.pretraining.ptx_coef=0.5")
CASES: dict[str, tuple[str, int, list[str]]] = {
    "sft, all weights, bf16-mixed": ("sft", 1, [FULL, MIXED]),
    "rm, all weights, bf16-mixed": ("rm", 1, [FULL, MIXED]),
    "ppo, all weights, pretraining mix": ("ppo", 1, [FULL, *PTX]),
    "sft, LoRA": ("sft", 1, [LORA]),
    "rm, LoRA": ("rm", 1, [LORA]),
    "ppo, LoRA": ("ppo", 1, [LORA]),
    "ppo, LoRA, bf16-mixed": ("ppo", 1, [LORA, MIXED]),
    "ppo, two reward models": ("ppo", 1, [LORA, "--model.reward.model={folder}/run/rm,{folder}/second/rm"]),
    "sft, two processes": ("sft", 2, [LORA]),
    "rm, two processes": ("rm", 2, [LORA]),
    "ppo, two processes": ("ppo", 2, [LORA]),
}
"""Name -> stage, processes and options; `{folder}` has the data. Later cases start from earlier ones' results."""
COUNTED = ("waits", "copies", "float32 products")
SECONDS = 300
"""Limit of one case: a process that waits for another forever is a fault too."""


def write_data(folder: Path) -> None:
    """Writes a tiny model and rows of unequal lengths for every stage."""
    write_model(folder / "base", llama(32, 64, 4, 4, vocab_size=258, max_position_embeddings=512))
    draw = random.Random(0)

    def text() -> str:
        return "".join(draw.choices("abcdef ", k=draw.randint(4, 30)))

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")

    write("sft", [{"prompt": f"{row} {text()}", "response": text()} for row in range(24)])
    sizes = [2, 3, 4, 5] * 6
    ranked = [[f"{answer} {text()}" for answer in range(size)] for size in sizes]
    ranks = [list(range(1, size + 1)) for size in sizes]
    write("rm", [{"prompt": text(), "responses": ranked[row], "ranks": ranks[row]} for row in range(len(sizes))])
    write("ppo", [{"prompt": f"{row} {text()}"} for row in range(32)])
    (folder / "text.txt").write_text(" ".join(text() for _ in range(200)), encoding="utf-8")


def run_case(name: str, folder: Path) -> dict[str, Any]:
    """Trains a case in processes of its own; returns what rank 0 counted, or its error."""
    stage, processes, options = CASES[name]
    more = [option.format(folder=folder) for option in options]
    more += [f"--model.base={folder / 'base'}"] if stage == "sft" else []
    more += [f"--trainer.devices={processes}", "--trainer.strategy=ddp"] if processes > 1 else []
    work = json.dumps([stage, str(folder), more])
    launch = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"] if processes > 1 else []
    command = [sys.executable, *launch, "-m", "benchmarks.cuda_sim", "--work", work]
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=SECONDS, env=os.environ | offline
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"exit_code"')]
    if done.returncode or not found or found[0]["exit_code"]:
        return {"error": done.stderr[-3000:], **(found[0] if found else {})}
    return found[0]


def work(given: str) -> None:
    """Trains in this process and prints what was counted, from rank 0."""
    from benchmarks.cuda_sim_work import train

    stage, folder, options = json.loads(given)
    found = train(stage, Path(folder), options)
    if os.environ.get("RANK", "0") == "0":
        print("\n" + json.dumps(found))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(found["exit_code"])  # the threads of the process group would keep the process


def beyond(found: Mapping[str, Any], committed: Mapping[str, Any]) -> list[str]:
    """Returns in a sentence each what a case did that it must not, compared with the committed counts."""
    wrong = [f"refused: {what}" for what in found.get("refused", {})]
    if "error" in found:
        return [*wrong, f"it failed: {found['error']}"]
    for kind in COUNTED:
        for where, count in found[kind].items():
            allowed = committed.get(kind, {}).get(where, 0)
            if count > allowed:
                wrong.append(f"{kind} per step in {where}: {count} instead of at most {allowed}")
    return wrong


def main() -> int:
    """Runs the cases; returns 1 if one did what it must not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this one; can be repeated")
    parser.add_argument("--record", action="store_true", help="write the counts instead of comparing with them")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
    file = RESULTS / "cuda-sim.json"
    committed = json.loads(file.read_text(encoding="utf-8"))["cases"] if file.is_file() else {}
    found, wrong = {}, 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_data(folder)
        for name in options.case or CASES:
            if "second" in str(CASES[name]):
                shutil.copytree(folder / "run" / "rm", folder / "second" / "rm")
            found[name] = run_case(name, folder)
            said = beyond(found[name], found[name] if options.record else committed.get(name, {}))
            wrong += len(said)
            totals = {kind: round(sum(found[name].get(kind, {}).values()), 1) for kind in COUNTED}
            print(f"{name}: {totals}", *said, sep="\n  ", flush=True)
            if options.record and not said:
                committed[name] = found[name]
                known = {one: committed[one] for one in CASES if one in committed}
                write_results("cuda-sim.json", {"cases": known})
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
