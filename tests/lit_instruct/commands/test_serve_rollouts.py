"""`serve-rollouts` prints a command that starts the right server, and can become it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lit_instruct.cli import main
from tests.lit_instruct.rollouts.stage_folders import sft_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    sft_folder(folder / "sft", tiny_model)
    return folder


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[dict[str, str], list[str]]:
    assert main(["serve-rollouts", *words]) == 0
    found = shlex.split(capsys.readouterr().out)
    place = next(n for n, word in enumerate(found) if "=" not in word)
    return dict(word.split("=", 1) for word in found[:place]), found[place:]


def test_the_server_has_the_base_of_the_run_and_takes_its_adapters(
    run: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment, words = printed(capsys, "--run", str(run), "--port=8802", "--dtype=float32")
    assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert words[:4] == ["vllm", "serve", str(tiny_model), "--enable-lora"]
    assert {
        "--host=127.0.0.1",
        "--port=8802",
        "--dtype=float32",
        "--max-model-len=512",  # what the tiny model reads
        "--max-lora-rank=8",  # the SFT stage's is 4, which vLLM does not know
        "--generation-config=vllm",
        "--logprobs-mode=processed_logprobs",
    } <= set(words)
    assert "--enforce-eager" not in words


def test_a_model_on_a_cpu_with_further_arguments(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = "--max-num-seqs=64 --seed=3"
    options = ["--device=cpu", "--python", "env/bin/python", "--max-model-len=64", "--lora-rank=16", f"--more={more}"]
    environment, words = printed(capsys, "--run", str(tiny_model), *options)
    assert environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert words[:5] == ["env/bin/python", "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_model)]
    assert words[-3:] == ["--enforce-eager", "--max-num-seqs=64", "--seed=3"]
    assert {"--max-model-len=64", "--max-lora-rank=16"} <= set(words)


@pytest.mark.slow
def test_start_becomes_the_server(run: Path, tmp_path: Path) -> None:
    said = tmp_path / "said.json"
    program = tmp_path / "python"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"json.dump([sys.argv[1:], dict(os.environ), os.getpid()], open({str(said)!r}, 'w'))\n"
    )
    program.chmod(0o755)
    words = [sys.executable, "-m", "lit_instruct.cli", "serve-rollouts", "--run", str(run), "--start"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen([*words, "--python", str(program)], env=environment, stdout=subprocess.DEVNULL)
    assert process.wait(120) == 0
    arguments, seen, number = json.loads(said.read_text())
    assert arguments[:2] == ["-m", "vllm.entrypoints.openai.api_server"]
    assert number == process.pid
    assert seen["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1" and "PYTHONPATH" not in seen


def test_mistakes_are_sentences(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, sentence in (
        (["--run", str(tmp_path / "none")], "none"),
        (["--run", str(run), "--port=0"], "--port=0: must be at least 1 and at most 65535"),
        (["--run", str(run), "--start", "--python=no/such"], "--start: cannot start no/such (No such file"),
    ):
        assert main(["serve-rollouts", *words]) == 2
        assert sentence in capsys.readouterr().err
