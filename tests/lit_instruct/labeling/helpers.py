"""A small store, and its page served in a thread."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lit_instruct.labeling.answers import Answer, Rules, record
from lit_instruct.labeling.labelers import labeler_of
from lit_instruct.labeling.leases import lease_next
from lit_instruct.labeling.serving import server
from lit_instruct.labeling.store import Store, new_store
from lit_instruct.labeling.tasks import Shares, Task, Written, add_tasks, shown_order
from lit_instruct.page_server.address import Address, listening

TOKEN = "a-token-for-the-tests"
FLAGS = ("hallucination", "harmful advice")
ALONE = Shares(share=0, repeated=0)


def tasks(count: int, k: int = 4) -> list[Task]:
    """Tasks whose responses are told apart by their texts."""
    return [
        Task(f"Prompt {n}", [Written(f"Response {n}.{i}", "runs/x/sft", "abc") for i in range(k)], {"user": f"u{n}"})
        for n in range(1, count + 1)
    ]


def make_store(path: Path, found: Sequence[Task], shares: Shares = ALONE, seed: int = 0) -> Path:
    """Writes a store."""
    with new_store(path, {"run": None, "data": None, "seed": seed, "k": None}) as connection:
        add_tasks(connection, found, shares, seed)
    return path


@contextlib.contextmanager
def serving(
    path: Path,
    rules: Rules | None = None,
    pairwise_from: int = 10,
    most_pages: int | None = None,
    port: int = 0,
) -> Iterator[Address]:
    """Serves a store in a thread; `most_pages` of SQLite stand for a disk that is full then."""
    with contextlib.closing(Store(path)) as store, listening("127.0.0.1", port) as listener:
        if most_pages is not None:
            with store.reading() as connection:
                connection.execute(f"PRAGMA max_page_count = {most_pages}")
        address = Address("127.0.0.1", listener.getsockname()[1], TOKEN)
        run = server(store, rules or Rules(flags=FLAGS), address, pairwise_from)
        thread = threading.Thread(target=run.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield address
        finally:
            run.should_exit = True
            thread.join()


class Client:
    """A labeler without a browser."""

    def __init__(self, address: Address, name: str | None = None) -> None:
        self.address = address
        self.host = urlsplit(address.url()).netloc
        self.cookies: dict[str, str] = {}
        self.send("GET", f"/?token={address.token}")
        if name is not None:
            assert self.post("join", {"name": name})[0] == 200

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Returns status and content; cookies are kept."""
        connection = http.client.HTTPConnection(self.host, timeout=20)
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        given = {"Cookie": cookies} | {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, {name: value for name, value in given.items() if value})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        for cookie in answer.headers.get_all("Set-Cookie", []):
            name, value = re.match(r"([^=]+)=([^;]*)", cookie).groups()  # type: ignore[union-attr]
            self.cookies[name] = value
        return answer.status, content

    def post(self, route: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        """Sends JSON as the page does."""
        own = {"Origin": f"http://{self.host}", "Content_Type": "application/json"}
        status, content = self.send("POST", f"/api/{route}", json.dumps(body).encode(), **(own | headers))
        return status, json.loads(content)

    def rank(self, task: dict[str, Any], key: str, ranks: Sequence[int] | None = None, **more: Any) -> Any:
        """Saves a ranking of the task shown."""
        given = list(range(1, len(task["responses"]) + 1)) if ranks is None else list(ranks)
        body = {"slot": task["slot"], "key": key, "kind": "ranking", "seconds": 3.5, "ranks": given}
        return self.post("answer", body | more)


def rank_all(store: Store, name: str, ranks: Any, limit: int = 10**9, now: float = 0.0) -> int:
    """Lets a labeler rank what is open for them, by `ranks(task number, K)` in the order of the store."""
    with store.writing() as connection:
        labeler = labeler_of(connection, name)
        rules = Rules(seed=store.meta["seed"], flags=FLAGS)
        for done in range(limit):
            slot = lease_next(connection, labeler, now, 60)
            if slot is None:
                return done
            k = connection.execute("SELECT count(*) FROM responses WHERE task = ?", (slot.task,)).fetchone()[0]
            given = ranks(slot.task, k)
            shown = [given[number] for number in shown_order(rules.seed, labeler, slot.id, k)]
            record(connection, labeler, Answer(slot.id, f"{name}-{slot.id}-{now}", "ranking", 2.0, shown), rules, now)
    return limit
