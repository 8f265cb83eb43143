"""A small real HTTP server that plays the endpoint of a judge or a reward server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

TEMPLATES = {
    "pairs": "{{ prompt }}|{{ first }}|{{ second }}",
    "all": "{{ prompt }}|{% for letter, text in responses %}{{ letter }}={{ text }}|{% endfor %}",
    "rate": "{{ prompt }}|{{ response }}|{{ low }} to {{ high }}",
}
"""Easy to take apart."""


@dataclass
class Reply:
    """What the server sends."""

    body: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def said(text: str | None, ending: str = "stop") -> Reply:
    """A chat completion."""
    return Reply(json.dumps({"choices": [{"message": {"content": text}, "finish_reason": ending}]}))


@dataclass
class Endpoint:
    """A running server."""

    url: str
    answer: Callable[[str], str | Reply]
    """What it answers to the text of a question, or to a body that is none."""
    asked: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    at_once: int = 0
    """Requests being answered now."""
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, body: dict[str, Any], key: str | None) -> Reply:
        with self.lock:
            self.bodies.append(body)
            self.keys.add(key)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            asked = body["messages"][-1]["content"] if "messages" in body else json.dumps(body)
            self.asked.append(asked)
        try:
            given = self.answer(asked)
        finally:
            with self.lock:
                self.at_once -= 1
        return said(given) if isinstance(given, str) else given


@contextmanager
def endpoint(answer: Callable[[str], str | Reply]) -> Iterator[Endpoint]:
    """Serves while the block runs."""
    served: list[Endpoint] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = served[0].reply(body, self.headers.get("Authorization"))
            content = reply.body.encode()
            try:
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(content)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except OSError:  # the client has given up
                pass

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    served.append(Endpoint(f"http://127.0.0.1:{server.server_port}/v1", answer))
    try:
        yield served[0]
    finally:
        server.shutdown()
        server.server_close()


def judge_file(folder: Path, url: str, **more: Any) -> Path:
    """Writes a judge's file with a cache of its own."""
    path = folder / "judge.yaml"
    options = {"url": url, "model": "tiny-judge", "templates": TEMPLATES, "cache": str(folder / "answers.db")}
    path.write_text(yaml.safe_dump({**options, "retries": 2, "timeout": 5, **more}))
    return path


def longer(question: str) -> str:
    """A judge without position bias: the longer response wins."""
    _, first, second = question.split("|")
    return "tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B"


def longer_first(question: str) -> str:
    """A judge of all at once: the order by length."""
    texts = dict(part.split("=") for part in question.split("|")[1:-1])
    lengths = sorted({len(text) for text in texts.values()}, reverse=True)
    groups = [[letter for letter, text in texts.items() if len(text) == length] for length in lengths]
    return "I looked at their length.\n\n**Order: " + " > ".join(" = ".join(group) for group in groups) + "**"
