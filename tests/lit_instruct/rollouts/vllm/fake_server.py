"""A small real HTTP server that answers as vLLM 0.32 does, with a transformers model behind it."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

Body = dict[str, Any]


class FakeVLLM:
    """What a server knows, with switches for its faults.

    Args:
        base: folder of the model.
        max_model_len: tokens that it reads.
    """

    def __init__(self, base: Path, max_model_len: int = 512) -> None:
        self.base, self.max_model_len = base, max_model_len
        self.tokenizer, model = _loaded(base)
        self.model = PeftModel(copy.deepcopy(model), LoraConfig(r=1, target_modules=["q_proj"])).eval()
        self.adapters: dict[str, str] = {}
        self.asked: list[tuple[str, Body]] = []
        """Path and body of every request."""
        self.processed = True
        self.takes_adapters = True
        self.uses_adapters = True
        self.scale = 1.0
        """Multiplies logits, as another model would."""
        self.status: int | None = None
        """Answered to completions instead of a completion."""
        self.answers_left: int | None = None
        """Completions until the server dies; None for no end."""
        self.lock = threading.Lock()
        self.port = 0
        self.http: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it without adapters, as after a crash, on the port that it had before."""
        self.adapters, self.answers_left = {}, None
        self.http = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        self.http.daemon_threads = True
        self.port = self.http.server_port
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        if self.http is not None:
            self.http.shutdown()
            self.http.server_close()
            self.http = None

    def asked_for(self, path: str) -> list[Body]:
        return [body for asked, body in self.asked if asked == path]

    def answer(self, path: str, body: Body) -> tuple[int, Any]:
        """Status, and JSON or text."""
        with self.lock:
            self.asked.append((path, body))
            ways = {
                "/v1/models": self._models,
                "/v1/load_lora_adapter": self._load,
                "/v1/unload_lora_adapter": self._unload,
                "/v1/completions": self._complete,
                "/tokenize": self._tokenize,
                "/detokenize": lambda asked: (200, {"prompt": self.tokenizer.decode(asked["tokens"])}),
            }
            return ways[path](body) if path in ways else (404, {"detail": "Not Found"})

    def _models(self, body: Body) -> tuple[int, Any]:
        base = {"id": "base", "root": str(self.base), "parent": None, "max_model_len": self.max_model_len}
        others = [
            {"id": name, "root": path, "parent": "base", "max_model_len": None} for name, path in self.adapters.items()
        ]
        return 200, {"data": [base, *others]}

    def _load(self, body: Body) -> tuple[int, Any]:
        if not self.takes_adapters:
            return 404, {"detail": "Not Found"}
        name, path = body["lora_name"], body["lora_path"]
        if name in self.adapters:
            return 400, {"error": {"message": f"The lora adapter '{name}' has already been loaded."}}
        if name in self.model.peft_config:
            self.model.delete_adapter(name)
        self.model.load_adapter(path, name)
        self.adapters[name] = path
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def _unload(self, body: Body) -> tuple[int, Any]:
        self.adapters.pop(body["lora_name"])
        return 200, "Success"

    def _tokenize(self, body: Body) -> tuple[int, Any]:
        if "messages" in body:
            found = self.tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, return_dict=False)
        else:
            found = self.tokenizer.encode(body["prompt"], add_special_tokens=False)
        return 200, {"tokens": found}

    @torch.no_grad()
    def _complete(self, body: Body) -> tuple[int, Any]:
        if self.status is not None:
            return self.status, {"error": {"message": "as the test wants it"}}
        name = body["model"]
        if name != "base" and name not in self.adapters:
            return 404, {"error": {"message": f"The model `{name}` does not exist."}}
        if self.answers_left is not None:
            if self.answers_left == 0:
                threading.Thread(target=self.stop).start()
                return 500, {"error": {"message": "EngineCore died"}}
            self.answers_left -= 1
        if name != "base" and self.uses_adapters:
            self.model.set_adapter(name)
            ids, log_probs = self._sample(body)
        else:
            with self.model.disable_adapter():
                ids, log_probs = self._sample(body)
        return 200, {"choices": [{"token_ids": ids, "logprobs": {"token_logprobs": log_probs}}]}

    def _sample(self, body: Body) -> tuple[list[int], list[float]]:
        ids: list[int] = []
        log_probs: list[float] = []
        generator = torch.Generator().manual_seed(body.get("seed", 0))
        most = min(body["max_tokens"], self.max_model_len - len(body["prompt"]))
        while len(ids) < most and not set(ids[-1:]) & set(body.get("stop_token_ids", [])):
            logits = self.model(input_ids=torch.tensor([body["prompt"] + ids])).logits[0, -1] * self.scale
            raw = logits.log_softmax(-1)
            shaped = (logits / body["temperature"]).log_softmax(-1) if body["temperature"] else raw
            if body["temperature"] == 0 or body.get("top_k") == 1:
                token = int(logits.argmax())
                shaped = torch.full_like(shaped, -torch.inf).index_fill(0, torch.tensor(token), 0.0)
            else:
                token = int(shaped.exp().multinomial(1, generator=generator))
            ids.append(token)
            log_probs.append(float((shaped if self.processed and body["temperature"] else raw)[token]))
        return ids, log_probs


@cache
def _loaded(base: Path) -> tuple[Any, Any]:
    return AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base).eval()


def _handler(fake: FakeVLLM) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: Body) -> None:
            status, found = fake.answer(self.path, body)
            content = (found if isinstance(found, str) else json.dumps(found)).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:  # the client has given up
                pass

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@contextmanager
def fake_vllm(base: Path, **options: Any) -> Iterator[FakeVLLM]:
    """Serves while the block runs."""
    server = FakeVLLM(base, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
