"""Runs the labelers' page on a port, for one store at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lit_instruct.files import locked
from lit_instruct.labeling.answers import Rules
from lit_instruct.labeling.store import Store
from lit_instruct.page_server.address import Address, chosen_token, listening, missing_extra, web_server

CHECKED_EVERY = 1.0
"""Seconds between two looks whether a store is done."""
TOKEN = "LIT_INSTRUCT_RANK_TOKEN"
"""Variable of the environment with the token of the address."""


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
        chosen = chosen_token(host, token, opened.meta["token"], TOKEN)
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
        from lit_instruct.labeling.server import application, now

        return web_server(application(store, rules, address.token, {"pairwise_from": pairwise_from}, now))
    except ModuleNotFoundError as error:
        raise missing_extra("rank", error) from error
