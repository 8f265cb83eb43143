"""The real vLLM, its CPU build in the environment that `make vllm-env` makes; skipped without it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lit_instruct.handover import prompter_of
from lit_instruct.models.assemble import ppo_roles
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import LoraOptions
from lit_instruct.rollouts.engine_options import RolloutOptions
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.vllm.engine import vllm_engine
from tests.lit_instruct.ppo.parts import batch_of, collector_of
from tests.lit_instruct.rollouts.stage_folders import sft_folder
from tests.lit_instruct.stages.helpers import Files, column, fit

ROOT = Path(__file__).parents[4]
PYTHON = Path(os.environ.get("LIT_INSTRUCT_VLLM_PYTHON", ROOT / ".venv-vllm/bin/python"))
MODEL = "smollm2-135m-instruct"
LORA = LoraOptions(r=8, alpha=16.0, top_layers=2)
STARTING = 900.0
"""Most seconds that a server may take to start; a minute where nothing else runs."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.is_file(), reason="vLLM's environment is missing; `make vllm-env` builds it"),
]


class Served:
    """A server that can be killed and started again."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self.start()

    def start(self) -> None:
        words = ["serve-rollouts", "--run", MODEL, f"--port={self.port}", "--dtype=float32", "--max-model-len=512"]
        words += ["--device=cpu", "--lora-rank=16", f"--python={PYTHON}", "--start", "--more=--max-num-seqs=16"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with self.log.open("a") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lit_instruct.cli", *words],
                env=environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def wait(self) -> None:
        end = time.monotonic() + STARTING
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if httpx2.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx2.RequestError:
                time.sleep(0.5)
        pytest.fail(f"vLLM did not start:\n{self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(tmp_path_factory.mktemp("vllm") / "log.txt")
    try:
        server.wait()
        RestartInTheMiddle.server = server
        yield server
    finally:
        server.kill()


class RestartInTheMiddle(Callback):
    """Kills the server before the second iteration; the run waits for the one that is started then."""

    server: Served

    def on_train_batch_start(self, trainer: object, module: object, batch: object, number: int) -> None:
        """Counts batches."""
        if number == 1:
            self.server.kill()
            self.server.start()


def test_greedy_tokens_are_ours_and_sampled_ones_those_of_their_seeds(served: Served, tmp_path: Path) -> None:
    sft = find_source(str(sft_folder(tmp_path / "sft", Path(find_source(MODEL).base), LORA)))
    prompter, roles = prompter_of(sft), ppo_roles(sft, [], LORA, torch.float32)
    with torch.no_grad():
        for parameter in roles.parameters_of("policy"):
            parameter.mul_(0.5)  # away from the reference, and from the noise that the test's adapter makes

    def sampled(sampling: SamplingOptions, rows: Sequence[int]) -> list[list[int]]:
        given = (RolloutOptions("vllm", served.url), roles, sampling, prompter, 512, 8, tmp_path / "rollouts", True)
        engine = vllm_engine(*given, lambda work: work())
        return engine.sample(batch_of(prompter, rows), (0, 0), lambda done, total: None).responses

    greedy = SamplingOptions(max_new_tokens=12, top_k=1)
    ours = collector_of(roles, prompter, sampling=greedy).sample(batch_of(prompter), (0, 0)).responses
    assert len(set(map(tuple, ours))) == 4
    assert sampled(greedy, range(4)) == ours
    together = sampled(SamplingOptions(max_new_tokens=12), range(4))
    assert together != ours
    assert [sampled(SamplingOptions(max_new_tokens=12), [row])[0] for row in (3, 1)] == [together[3], together[1]]


def train(folder: Path, files: Files, served: Served, *more: str) -> int:
    """Three iterations of PPO on the embedded model."""
    options = ["--model.iterations=3", "--model.sampling.max_new_tokens=16", "--trainer.val_check_interval=3"]
    options += ["--model.optimizer.learning_rate=0.01", "--model.optimizer.warmup_iterations=0"]
    options += [f"--model.base={MODEL}", "--model.reward.function=tests.lit_instruct.stages.rewards.letters"]
    options += ["--model.rollouts.engine=vllm", f"--model.rollouts.url={served.url}"]
    options += [f"--model.rollouts.wait={STARTING}", "--model.rollouts.mismatch_bound=1e-5"]
    return fit("ppo", folder, files, *options, *more)


def test_three_iterations_agree_though_the_server_is_killed_in_between(
    served: Served, tmp_path: Path, files: Files
) -> None:
    restart = f"--trainer.callbacks+={__name__}.RestartInTheMiddle"
    assert train(tmp_path, files, served, restart) == 0
    log = tmp_path / "ppo/logs/metrics.csv"
    assert len(column(log, "rollout/mismatch_kl")) == 3
    assert all(kl < 1e-6 for kl in column(log, "rollout/mismatch_kl"))
    assert column(log, "rollout/mismatch_far") == column(log, "ppo/first_ratio_error") == [0.0] * 3
    assert column(log, "ppo/kl")[-1] > 0.01  # the policy moved


def test_a_sync_that_is_left_out_stops_the_run(
    served: Served, tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lit_instruct.rollouts.vllm.engine.adapter_name", lambda *_: "lit-instruct-always")
    assert train(tmp_path, files, served) == 2
    assert "nats a token from ours" in capsys.readouterr().err
