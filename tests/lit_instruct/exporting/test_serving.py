"""An export behind transformers' own server and vLLM: chat completions answer, and end where the turn ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from tests.lit_instruct.stages.helpers import Files, fit, run, write_rows
from tests.tiny import tiny_llama

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
"""Environment of the servers."""
PROMPT, RESPONSE = "Say what the cat does.", "The cat sings in the rain."
TRAINING = ["--trainer.max_epochs=40", "--model.optimizer.learning_rate=0.003", "--data.validation_share=0"]


@pytest.fixture(scope="module", params=["<|im_end|>", "<|pad|>"])
def export(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, files: Files) -> Path:
    """A model that knows one answer by heart, merged; its tokenizer's EOS is the end of a turn, or another token."""
    folder = tmp_path_factory.mktemp("serving")
    base = tiny_llama(folder / "base", hidden_size=128)  # heads of 32: vLLM has no kernel for smaller ones
    for name in ("tokenizer_config.json", "generation_config.json", "config.json"):
        path = base / name
        content = json.loads(path.read_text())
        if request.param == "<|pad|>":
            content |= {"eos_token": "<|pad|>"} if name == "tokenizer_config.json" else {"eos_token_id": 0}
        path.write_text(json.dumps(content))
    rows = write_rows(folder / "rows.jsonl", [{"prompt": PROMPT, "response": RESPONSE}] * 16)
    options = [f"--model.base={base}", f"--data.path={rows}", "--data.validation_path=null", *TRAINING]
    assert fit("sft", folder / "run", files, *options, lora="--model.lora=null") == 0
    assert run("export", "--run", folder / "run" / "sft", "--to", folder / "exported", "--merge") == 0
    return folder / "exported"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _transformers(folder: Path, port: int) -> list[str]:
    pytest.importorskip("openai", reason="transformers' server needs its extra: pip install 'transformers[serving]'")
    words = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder)]
    return [*words, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]


def _vllm(folder: Path, port: int) -> list[str]:
    python = Path(os.environ.get("LIT_INSTRUCT_VLLM_PYTHON", ROOT / ".venv-vllm/bin/python"))
    if not python.exists():
        pytest.skip("this test needs vLLM in an environment of its own: make vllm-env")
    words = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--enforce-eager"]
    return [*words, "--dtype", "float32", "--max-model-len", "256", "--host", "127.0.0.1", "--port", str(port)]


@pytest.fixture(scope="module", params=[_transformers, _vllm])
def address(request: pytest.FixtureRequest, export: Path) -> Iterator[str]:
    port = _free_port()
    words = request.param(export, port)
    log = export.parent / f"{request.param.__name__}.log"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" or request.param is _transformers}
    with (
        log.open("w") as output,
        subprocess.Popen(words, stdout=output, stderr=output, env=kept | SETTINGS) as server,
    ):
        try:
            for _ in range(600):
                if server.poll() is not None or _is_up(f"http://127.0.0.1:{port}"):
                    break
                time.sleep(0.5)
            assert server.poll() is None, log.read_text()[-5000:]
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def completion(address: str, model: Path, **more: Any) -> dict[str, Any]:
    body = {"model": str(model), "messages": [{"role": "user", "content": PROMPT}], "temperature": 0, "stream": False}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions",
        json.dumps(body | {"max_tokens": 60} | more).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def test_a_chat_completion_ends_where_the_turn_ends(address: str, export: Path) -> None:
    (choice,) = completion(address, export)["choices"]
    assert choice["message"]["content"] == RESPONSE
    assert choice["finish_reason"] == "stop"
    assert 2 in GenerationConfig.from_pretrained(export).eos_token_id  # <|im_end|>


def test_the_length_limit_and_a_stop_string(address: str, export: Path) -> None:
    (choice,) = completion(address, export, max_tokens=3)["choices"]
    assert choice["finish_reason"] == "length" and RESPONSE.startswith(choice["message"]["content"].strip())
    (choice,) = completion(address, export, stop=["sings"])["choices"]
    assert choice["message"]["content"].startswith("The cat")  # with the stop string or without it
    assert "rain" not in choice["message"]["content"] and choice["finish_reason"] == "stop"
