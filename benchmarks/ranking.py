"""The labelers' page under load: rankings by several labelers at once while its server is killed, and response times.

`python -m benchmarks.ranking` writes benchmarks/results/ranking.json. Simulated labelers send what the page sends, over
HTTP, to the server as `lit-instruct rank` runs it (`labeling.serving.serve`). It is killed (SIGKILL) at random and
started again, and labelers who get no answer send the same saving again, as the page does. Then the store is compared
with what they sent.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.harness import Command, Found, say, scratch_folder
from lit_instruct.labeling.answers import Answer, Rules, record
from lit_instruct.labeling.labelers import labeler_of
from lit_instruct.labeling.leases import lease_next
from lit_instruct.labeling.rankings import Ranked, rankings
from lit_instruct.labeling.store import Store, new_store
from lit_instruct.labeling.tasks import Shares, Task, Written, add_tasks
from lit_instruct.machine import package_versions

TOKEN = "a-token-of-the-benchmark"
SERVE = """
import sys
from pathlib import Path
from lit_instruct.labeling.serving import serve
serve(Path(sys.argv[1]), "127.0.0.1", int(sys.argv[2]), sys.argv[3], {}, 10)
"""
K = 4
MILLISECONDS = 50
"""The project's own target for the 95th percentile of a request."""
PATIENCE = 120.0
"""Seconds that a server may take to start."""


def make_store(path: Path, tasks: int) -> None:
    """Writes a store of made-up tasks; every tenth is ranked by three labelers, and every twentieth twice by one."""
    with new_store(path, {"run": None, "data": None, "seed": 0, "k": K}) as connection:
        made = (Task(f"Prompt {n}", [Written(f"Response {n}.{i}") for i in range(K)], {}) for n in range(tasks))
        add_tasks(connection, made, Shares(), 0)


def ranks_by(name: str, texts: Sequence[str]) -> list[int]:
    """Returns the ranks that a simulated labeler gives: they follow from the name and the texts alone."""
    points = [hashlib.sha256(f"{name}:{text}".encode()).digest()[0] % K for text in texts]
    return [1 + sorted(set(points)).index(point) for point in points]


class Server:
    """The server of `lit-instruct rank` in a process of its own, on a fixed port."""

    def __init__(self, store: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.words = [sys.executable, "-c", SERVE, str(store), str(self.port), TOKEN]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the server and waits until it listens."""
        self.process = subprocess.Popen(self.words, stdout=subprocess.DEVNULL)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"the server did not start: exit code {self.process.poll()}")

    def kill(self) -> None:
        """Kills the server without a word."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Labeler:
    """Sends what the page sends."""

    def __init__(self, port: int, name: str) -> None:
        self.port = port
        self.name = name
        self.cookies: dict[str, str] = {}
        self.connection: http.client.HTTPConnection | None = None
        self.sent: list[tuple[str, list[str], list[int]]] = []
        self.repeated = 0

    def join(self) -> None:
        """Opens the address and says the name."""
        self.request("GET", f"/?token={TOKEN}")
        self.request("POST", "/api/join", {"name": self.name})

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Sends a request until it is answered."""
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        headers |= {"Origin": f"http://127.0.0.1:{self.port}", "Content-Type": "application/json"}
        while True:
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
                self.connection.request(method, path, None if body is None else json.dumps(body), headers)
                answer = self.connection.getresponse()
                content = answer.read()
                break
            except (OSError, http.client.HTTPException):
                self.connection = None
                self.repeated += 1
                time.sleep(0.05)
        for cookie in answer.headers.get_all("Set-Cookie", []):
            if found := re.match(r"([^=]+)=([^;]*)", cookie):
                self.cookies[found[1]] = found[2]
        return answer.status, content

    def post(self, route: str, body: Any) -> tuple[int, dict[str, Any]]:
        """Sends JSON to a route."""
        status, content = self.request("POST", f"/api/{route}", body)
        return status, json.loads(content)

    def rank(self, task: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Saves a ranking; what the server has acknowledged is kept in `sent`."""
        texts = task["responses"]
        key = f"{self.name}-{task['slot']}-{len(self.sent)}"
        ranks = ranks_by(self.name, texts)
        status, found = self.post(
            "answer", {"slot": task["slot"], "key": key, "kind": "ranking", "seconds": 1.0, "ranks": ranks}
        )
        if status == 200:
            self.sent.append((key, texts, ranks))
        return status, found


def crowd(server: Server, labelers: Sequence[Labeler], wanted: int, kills: int, seed: int) -> int:
    """Lets the labelers rank at once while the server is killed and started again; returns the kills.

    Args:
        server: running.
        labelers: joined.
        wanted: rankings in all.
        kills: how often the server is killed, after numbers of rankings that are drawn at random.
        seed: of those numbers.
    """
    draw = random.Random(seed)
    moments = sorted(draw.sample(range(1, wanted), kills))
    left, lock = [wanted], threading.Lock()

    def work(labeler: Labeler) -> None:
        while True:
            with lock:
                if not left[0]:
                    return
                left[0] -= 1
            task = labeler.post("task", {})[1]["task"]
            status, found = labeler.rank(task)
            if status != 200:
                raise RuntimeError(f"{labeler.name}: {status} {found}")

    threads = [threading.Thread(target=work, args=[one]) for one in labelers]
    for thread in threads:
        thread.start()
    done = 0
    for moment in moments:
        while sum(len(one.sent) for one in labelers) < moment and any(thread.is_alive() for thread in threads):
            time.sleep(0.001)
        time.sleep(draw.random() * 0.02)
        server.kill()
        done += 1
        server.start()
    for thread in threads:
        thread.join()
    return done


def compare(found: Sequence[Ranked], labelers: Sequence[Labeler], store: Store) -> dict[str, int]:
    """Returns how many acknowledged rankings the store lost, has twice, or has from somebody else."""
    with store.reading() as connection:
        keys = {row["key"]: row["labeler"] for row in connection.execute("SELECT key, labeler FROM events")}
        slots = Counter(row["slot"] for row in connection.execute("SELECT slot FROM events"))
    sent = {key for one in labelers for key, _, _ in one.sent}
    foreign = sum(one.ranks != ranks_by(one.labeler, one.texts) for one in found)
    return {
        "sent": sum(len(one.sent) for one in labelers),
        "stored": len(found),
        "lost": len(sent - set(keys)),
        "double": sum(count - 1 for count in slots.values()) + len(set(keys) - sent),
        "foreign": foreign,
        "sent_again_without_an_answer": sum(one.repeated for one in labelers),
    }


def timed(labeler: Labeler, requests: int) -> dict[str, dict[str, float]]:
    """Returns milliseconds of the requests that the page makes, from one labeler alone."""
    times: dict[str, list[float]] = {"page": [], "task": [], "answer": []}
    for _ in range(requests):
        times["page"].append(_milliseconds(lambda: labeler.request("GET", "/")))
        times["task"].append(_milliseconds(lambda: labeler.post("task", {})))
        task = labeler.post("task", {})[1]["task"]
        times["answer"].append(_milliseconds(lambda task=task: labeler.rank(task)))  # type: ignore[misc]
    return {
        name: {
            "median": round(median(found), 2),
            "p95": round(quantiles(found, n=20)[-1], 2),
            "max": round(max(found), 2),
        }
        for name, found in times.items()
    }


def _milliseconds(call: Any) -> float:
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


def fill(path: Path, count: int) -> None:
    """Answers tasks of a store without a server, by one more labeler."""
    store = Store(path)
    with store.writing() as connection:
        labeler, rules, now = labeler_of(connection, "filler"), Rules(), time.time()
        for number in range(count):
            slot = lease_next(connection, labeler, now, 60)
            assert slot is not None
            answer = Answer(slot.id, f"filler-{number}", "ranking", 1.0, [1] * K)
            record(connection, labeler, answer, rules, now)
    store.close()


def measure(options: Namespace) -> Found:
    """Measures both; the exit status is 1 if a ranking is lost, double or foreign, or a request takes too long."""
    rounds, tasks, kills, times = (100, 200, 2, 20) if options.quick else (1000, 10_000, 20, 300)
    results: dict[str, Any] = {"labelers": 8, "k": K, "tasks": tasks, "kills": kills}
    with scratch_folder() as scratch:
        path = Path(scratch) / "rankings.db"
        make_store(path, tasks)
        server = Server(path)
        server.start()
        labelers = [Labeler(server.port, f"labeler-{number}") for number in range(8)]
        for one in labelers:
            one.join()
        began = time.perf_counter()
        results["kills"] = crowd(server, labelers, rounds, kills, seed=0)
        results["seconds_with_restarts"] = round(time.perf_counter() - began, 1)
        store = Store(path)
        results["rankings"] = compare(rankings(store), labelers, store)
        store.close()
        say(results["rankings"])
        alone = Labeler(server.port, "alone")
        alone.join()
        results["milliseconds"] = {"few_ranked": timed(alone, times)}
        fill(path, tasks - 2 * rounds - 2 * times if not options.quick else 10)
        results["milliseconds"]["most_ranked"] = timed(alone, times)
        say(results["milliseconds"])
        server.kill()
    slow = [one["p95"] for found in results["milliseconds"].values() for one in found.values()]
    results["limit_milliseconds_p95"] = MILLISECONDS
    results["server"] = package_versions(["fastapi", "starlette", "uvicorn"])
    counts = results["rankings"]
    clean = counts["sent"] == counts["stored"] == rounds and not counts["lost"] + counts["double"] + counts["foreign"]
    results["held"] = clean and max(slow) < MILLISECONDS
    return Found(results, "ranking.json", code=0 if results["held"] else 1)


main = Command("benchmarks.ranking", __doc__, measure, quick="100 rankings, 200 tasks and 2 kills")

if __name__ == "__main__":
    raise SystemExit(main())
