"""Runs the labelers' page on a port, for one store at a time."""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_instruct.errors import UserError
from lit_instruct.files import locked
from lit_instruct.labeling.answers import Rules
from lit_instruct.labeling.store import Store

LOOPBACK = ("127.0.0.1", "::1", "localhost")
CHECKED_EVERY = 1.0
"""Seconds between two looks whether a store is done."""
TOKEN = re.compile(r"[A-Za-z0-9_-]{16,200}")


@dataclass(frozen=True)
class Address:
    """Where a page is served."""

    host: str
    port: int
    token: str

    def url(self) -> str:
        """Returns the address that labelers open."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/?token={self.token}"


def chosen_token(host: str, given: str | None, own: str) -> str:
    """Returns the token of the address: the given one, or on this machine's own addresses that of the store.

    Raises:
        UserError: other machines can reach the address and no token is given, or the token is short or has characters
            that an address cannot hold.
    """
    if given is None and host not in LOOPBACK:
        raise UserError(
            f"--host={host}: other machines can reach this address; choose a secret for it with --token or "
            "LIT_INSTRUCT_RANK_TOKEN (16 or more letters, digits, - and _)"
        )
    if given is not None and not TOKEN.fullmatch(given):
        raise UserError("--token: must be 16 to 200 letters, digits, - and _; it is the only secret of the page")
    return own if given is None else given


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Gives a socket that listens at an address; port 0 takes a free one.

    Raises:
        UserError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends without delay (TCP_NODELAY) only on sockets that name their protocol: 40 ms on each answer
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, port))
            found.listen(128)
        except (OSError, OverflowError) as error:
            taken = getattr(error, "errno", None) == errno.EADDRINUSE
            reason = "another program uses this port" if taken else str(error)
            raise UserError(f"--host={host} --port={port}: {reason}; choose another with --port") from error
        yield found


def serve(
    store: Path,
    host: str,
    port: int,
    token: str | None,
    rules: dict[str, Any],
    pairwise_from: int,
    done: Callable[[Store], bool] | None = None,
) -> None:
    """Serves the page of a store until Ctrl-C, or until it is done.

    Args:
        store: an existing store.
        host: address to listen at.
        port: number; 0 takes a free one.
        token: of the address; None takes the store's own.
        rules: further fields of `Rules`.
        pairwise_from: number of responses from which two at a time are shown.
        done: tells whether the store needs no further answers; None serves until Ctrl-C.

    Raises:
        UserError: the store or the address cannot be used, another server has the store, or the extra is missing.
    """
    busy = f"--store={store}: another server is serving this store; open its address, or stop it first"
    with locked(store.with_name(f"{store.name}.lock"), busy), contextlib.closing(Store(store)) as opened:
        chosen = chosen_token(host, token, opened.meta["token"])
        with listening(host, port) as listener:
            address = Address(host, listener.getsockname()[1], chosen)
            run = server(opened, Rules(seed=opened.meta["seed"], **rules), address, pairwise_from)
            print(f"labelers open {address.url()}\nCtrl-C stops the server; the same command continues", flush=True)
            with _ended_when(run, opened, done) if done is not None else contextlib.nullcontext():
                run.run(sockets=[listener])


@contextlib.contextmanager
def _ended_when(run: Any, store: Store, done: Callable[[Store], bool]) -> Iterator[None]:
    """Ends a server soon after a store is done; answers that are being saved are completed first."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(CHECKED_EVERY):
            if done(store):
                run.should_exit = True
                return

    thread = threading.Thread(target=watch, name="store is done", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def server(store: Store, rules: Rules, address: Address, pairwise_from: int) -> Any:
    """Returns a uvicorn server of a store's page; its `run(sockets=[...])` serves.

    Raises:
        UserError: the extra is not installed.
    """
    try:
        import uvicorn

        from lit_instruct.labeling.server import application, now
    except ModuleNotFoundError as error:
        raise UserError(f"rank: {error.name} is not installed; run `pip install 'lit-instruct[rank]'`") from error
    app: Any = application(store, rules, address.token, {"pairwise_from": pairwise_from}, now)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    return uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, server_header=False, ws="none"))
