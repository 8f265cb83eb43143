"""Two "nodes" on this machine, started by torchrun, train what one process trains: interrupted, resumed, quantised."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lit_instruct.ppo.collect import Collector
from tests.lit_instruct.stages.helpers import FLOAT, SMALL, Files, assert_equal, fit, rows_of, weights
from tests.lit_instruct.stages.test_two_processes import assert_same

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.slow
FOUR_BITS = "--model.quantize=4bit"
LORA = "--model.lora.top_layers=2"
TORCHRUN = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.num_nodes=2"]
HELPERS = "tests.lit_instruct.stages.helpers"


def interrupted(during: int) -> str:
    """A callback that presses Ctrl-C in both processes during a batch."""
    return f"--trainer.callbacks=[{{class_path: {HELPERS}.PressCtrlC, init_args: {{during: {during}}}}}]"


class Outcome(NamedTuple):
    """What the two processes left."""

    folder: Path
    results: list[list[dict[str, Any]]]
    """Of each rank, for each job: exit code and stderr."""
    output: str
    """What both said on stdout."""
    options: dict[str, list[Any]]
    """Of each run, what the same training in one process is given."""


def stop_ids(trained: Path, folder: Path, files: Files) -> list[int]:
    """The tokens that the second half of the prompts, which the second process gets, are answered with first."""
    first: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        original = Collector.sample

        def spy(self: Collector, *words: Any) -> Any:
            sampled = original(self, *words)
            first[:] = first or [row[0] for row in sampled.responses]
            return sampled

        patch.setattr(Collector, "sample", spy)
        start = [f"--model.base={trained / 'sft'}", f"--model.reward.model={trained / 'rm'}"]
        assert fit("ppo", folder, files, *start, FOUR_BITS, "--model.iterations=1") == 0
    assert not set(first[:4]) & set(first[4:])
    return sorted(set(first[4:]))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, trained: Path, tiny_model: Path, files: Files) -> Outcome:
    folder = tmp_path_factory.mktemp("nodes")
    early = stop_ids(trained, folder / "probe", files)
    start = [f"--model.base={trained / 'sft'}"]
    options: dict[str, list[Any]] = {
        "sft": [f"--model.base={tiny_model}", FOUR_BITS, "--data.limit=19"],
        "rm": [*start, FOUR_BITS, "--data.limit=11", f"--data.demonstrations_path={files.sft}"],
        "ppo": [*start, f"--model.reward.model={trained / 'rm'}", FOUR_BITS, f"--model.sampling.stop_ids={early}"],
        "fsdp2": [f"--model.base={tiny_model}", "--data.limit=19"],
    }
    jobs = []
    for name, more in options.items():
        stage = "sft" if name == "fsdp2" else name
        how = ["--model.lora=null", "--trainer.strategy=fsdp2"] if name == "fsdp2" else [LORA, "--trainer.strategy=ddp"]
        how += [] if stage == "ppo" else ["--data.batch_size=2"]
        words = [stage, "fit", "--run", folder / name, *files.options(stage), *SMALL[stage], *FLOAT, *more, *how]
        words += [*TORCHRUN, "--trainer.enable_progress_bar=false"]
        jobs += [[*words, interrupted(2)], [*words, "--ckpt_path=last"]]
    sft = [*jobs[1][:-1], "--run", folder / "refused"]
    jobs += [[*sft, "--model.lora.r=1{rank}"], [*sft, "--data.limit=1", "--data.validation_share=0"]]
    jobs += [[*sft, "--trainer.callbacks=[{class_path: tests.lit_instruct.stages.worker.Vanish}]"]]
    (folder / "jobs.json").write_text(json.dumps([[str(word) for word in job] for job in jobs]))
    return Outcome(folder, *launch(folder), options)


def launch(folder: Path) -> tuple[list[list[dict[str, Any]]], str]:
    """Starts both nodes as a user does, waits, and returns what they left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = []
    for rank in (0, 1):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={rank}"]
        command += ["--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"]
        command += ["-m", "tests.lit_instruct.stages.worker", str(folder / "jobs.json"), str(folder / "results")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "LIT_INSTRUCT_CACHE": str(folder / "cache")}
        out = (folder / f"out-{rank}").open("w")
        nodes.append(subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment))
    try:
        for node in nodes:
            node.wait(timeout=600)
    finally:
        for node in nodes:
            node.kill()
    output = "".join((folder / f"out-{rank}").read_text() for rank in (0, 1))
    found = [folder / f"results-{rank}.json" for rank in (0, 1)]
    assert all(path.is_file() for path in found), output[-3000:]
    return [json.loads(path.read_text()) for path in found], output


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_quantised_uneven_interrupted_and_resumed(stage: str, outcome: Outcome, tmp_path: Path, files: Files) -> None:
    """The last batches have three rows for two processes; the second process's rollouts all end at once."""
    number = ["sft", "rm", "ppo"].index(stage) * 2
    codes = [[rank[number + half]["code"] for half in (0, 1)] for rank in outcome.results]
    assert codes == [[130, 0], [0, 0]], outcome.results[0][number + 1]["said"][-3000:]
    assert fit(stage, tmp_path, files, *outcome.options[stage]) == 0
    assert_same(tmp_path / stage, outcome.folder / stage / stage)


def test_the_second_process_has_only_short_rollouts(outcome: Outcome) -> None:
    rows = rows_of(outcome.folder / "ppo/ppo/logs/metrics.csv")
    lengths = [float(row["ppo/response_length"]) for row in rows if "ppo/response_length" in row]
    assert 1 < lengths[0] <= (4 * 6 + 4 * 1) / 8


def test_fsdp2_trains_all_weights_of_sft(outcome: Outcome, tmp_path: Path, files: Files) -> None:
    codes = [[rank[6 + half]["code"] for half in (0, 1)] for rank in outcome.results]
    assert codes == [[130, 0], [0, 0]], outcome.results[0][7]["said"][-3000:]
    assert fit("sft", tmp_path, files, *outcome.options["fsdp2"], lora="--model.lora=null") == 0
    assert_equal(weights(tmp_path / "sft"), weights(outcome.folder / "fsdp2/sft"), 1e-5)
    assert_same(tmp_path / "sft", outcome.folder / "fsdp2/sft")


def test_one_rank_logs(outcome: Outcome) -> None:
    assert outcome.output.count("done in") == 4
    for name, stage in (("sft", "sft"), ("rm", "rm"), ("ppo", "ppo"), ("fsdp2", "sft")):
        events = list((outcome.folder / name / stage / "logs").glob("*tfevents*"))
        assert len(events) == 2, name  # one of each sitting


def test_ranks_with_different_options(outcome: Outcome) -> None:
    for rank in (0, 1):
        found = outcome.results[rank][8]
        assert found["code"] == 2
        assert "rank 1 has --model.lora.r=11 where rank 0 has 10" in found["said"]


def test_more_processes_than_rows(outcome: Outcome) -> None:
    assert [rank[9]["code"] for rank in outcome.results] == [2, 2]
    assert "1 rows are too few" in outcome.results[0][9]["said"]


def test_a_process_that_vanishes_ends_the_other(outcome: Outcome) -> None:
    assert len(outcome.results[1]) == 10
    found = outcome.results[0][10]
    assert found["code"] == 2
    assert "lit-instruct: error: rank 0: another process ended" in found["said"]
    assert "Traceback" not in found["said"]
