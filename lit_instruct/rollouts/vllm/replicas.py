"""Several vLLM servers as one: prompts are dealt evenly, and what one server fails to answer goes to the others."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lit_instruct.errors import UserError
from lit_instruct.judging.client import FIRST_WAIT
from lit_instruct.rollouts.engine_options import URL
from lit_instruct.rollouts.vllm.server import Card, Completion, GoneError, Server

log = logging.getLogger(__name__)
LONGEST_PAUSE = 30.0
"""Most seconds between two looks for a server that came back."""


class Replicas:
    """The servers of a run.

    Args:
        servers: each serves the same base.
        check: refuses a server that serves another base; it is called again when a server has been restarted.
        wait: seconds to wait for a server when none is left.
        at_once: most requests that one server gets at a time.
    """

    def __init__(
        self, servers: Sequence[Server], check: Callable[[Server, Card], None], wait: float, at_once: int
    ) -> None:
        self.servers = list(servers)
        self.check = check
        self.wait = wait
        self.at_once = at_once

    def give(self, name: str, folder: Path) -> None:
        """Gives all servers that are up an adapter, and makes them forget earlier ones from the same place.

        Raises:
            UserError: none is up, also after `wait`; or one is wrong.
        """
        self._patiently(lambda: bool(self._up(name, folder)))

    def complete(
        self, bodies: Sequence[dict[str, Any]], name: str, folder: Path, told: Callable[[int, int], None]
    ) -> list[Completion]:
        """Returns the completions of requests, in their order; a request with a seed has the same one from any server.

        Args:
            bodies: of the requests.
            name: of the adapter, which a server that was restarted gets again.
            folder: of the adapter.
            told: called with how many are answered, and of how many.

        Raises:
            UserError: a server refuses one, or none is up, also after `wait`.
        """
        found: dict[int, Completion] = {}

        def round_of_requests() -> bool:
            servers, open_ones = self._up(name, folder), [n for n in range(len(bodies)) if n not in found]
            if not servers:
                return False
            with ThreadPoolExecutor(min(len(open_ones), self.at_once * len(servers))) as pool:
                dealt = [(number, servers[place % len(servers)]) for place, number in enumerate(open_ones)]
                for number, completion in pool.map(lambda one: (one[0], _answer(one[1], bodies[one[0]])), dealt):
                    if completion is not None:
                        found[number] = completion
                        told(len(found), len(bodies))
            return len(found) > len(bodies) - len(open_ones)

        while len(found) < len(bodies):
            self._patiently(round_of_requests)
        return [found[number] for number in range(len(bodies))]

    def forget(self, folder: Path) -> None:
        """Makes the servers that are up forget every adapter from a folder."""
        for server in self.servers:
            with contextlib.suppress(GoneError):
                _unload(server, server.cards(), None, folder)
            server.adapter = None

    def _up(self, name: str, folder: Path) -> list[Server]:
        """The servers that have the adapter; those that were away are looked at again."""
        for server in self.servers:
            if server.adapter != name:
                self._raise_up(server, name, folder)
        return [server for server in self.servers if server.adapter == name]

    def _raise_up(self, server: Server, name: str, folder: Path) -> None:
        before, server.adapter = server.adapter, None
        try:
            cards = server.cards()
            if cards[0] != server.base or before not in [card.name for card in cards]:  # new, or restarted
                self.check(server, cards[0])
                server.base = cards[0]
            if name not in [card.name for card in cards]:
                server.load(name, folder)
            _unload(server, cards, name, folder.parent)
        except GoneError as error:
            if before is not None:
                log.warning("%s: %s %s; the others go on without it", URL, server.url, error)
            server.gone = str(error)
        else:
            server.adapter = name

    def _patiently(self, work: Callable[[], bool]) -> None:
        """Repeats work until it gets on, with pauses that grow, for at most `wait` seconds."""
        end, pause = time.monotonic() + self.wait, FIRST_WAIT
        while not work():
            reasons = "; ".join(f"{server.url} {server.gone}" for server in self.servers)
            left = end - time.monotonic()
            if left <= 0:
                raise UserError(
                    f"{URL}: {reasons}, also after {self.wait:g} s; start a server again (`lit-instruct serve-rollouts "
                    "--run RUN` prints how) and resume with --ckpt_path=last"
                )
            log.warning("%s: %s; waiting for one, %.0f s at most", URL, reasons, left)
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)


def _answer(server: Server, body: dict[str, Any]) -> Completion | None:
    """A server's completion; None if it is away, and for all that it would have been asked after that."""
    if server.adapter is None:
        return None
    try:
        return server.complete(body)
    except GoneError as error:
        server.adapter, server.gone = None, str(error)
        return None


def _unload(server: Server, cards: Sequence[Card], kept: str | None, folder: Path) -> None:
    """Unloads the adapters of this run: those that a server read from its folder."""
    for card in cards:
        if card.parent is not None and card.name != kept and Path(card.root).parent == folder:
            server.unload(card.name)
