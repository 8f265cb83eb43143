"""`lit-instruct watch`: a run while it trains, on a page in the browser or in the terminal."""

from __future__ import annotations

import os
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live

from lit_instruct.errors import UserError
from lit_instruct.page_server.address import Address, chosen_token, listening, missing_extra, web_server
from lit_instruct.run_views.parts import SHARE
from lit_instruct.run_views.stage_log import stages_in
from lit_instruct.run_views.text import frame

TOKEN = "LIT_INSTRUCT_WATCH_TOKEN"
"""Variable of the environment with the token of the address."""


@dataclass
class WatchOptions:
    """Shows a run, while it trains and after, from the files that it writes: curves, diagnostics, memory and samples.

    Args:
        run: folder of the run, with a folder for each stage; stages that come later are shown too.
        text: show it in the terminal instead, such as over SSH; without a terminal once.
        refresh: seconds between two looks at the files.
        host: address to serve at; others than this machine's own need --token, and a proxy of yours with TLS.
        port: of the address; 0 takes a free one.
        token: secret of the address; null takes LIT_INSTRUCT_WATCH_TOKEN of the environment, or a new one.
    """

    run: str = "runs/demo"
    text: bool = False
    refresh: float = 2.0
    host: str = "127.0.0.1"
    port: int = 8713
    token: str | None = None

    def __post_init__(self) -> None:
        """Checks the range."""
        if not 0.2 <= self.refresh <= 3600:
            raise UserError(f"--refresh={self.refresh}: must be between 0.2 and 3600 seconds")


def watch(options: WatchOptions) -> None:
    """Shows a run until Ctrl-C; in text without a terminal, once.

    Raises:
        UserError: there is no such run, it has no stage, or the page cannot be served.
    """
    run = Path(options.run)
    stages_in(run)
    if options.text:
        _in_terminal(run, options.refresh)
    else:
        _on_page(run, options)


def _in_terminal(run: Path, refresh: float) -> None:
    console = Console()

    def now() -> RenderableType:
        return frame(run, stages_in(run), time.time(), console.width)

    if not sys.stdout.isatty():
        console.print(now())
        return
    with Live(now(), console=console, auto_refresh=False, screen=True) as live:
        cost = 0.0
        while True:
            time.sleep(max(refresh, SHARE * cost))
            began = time.perf_counter()
            live.update(now(), refresh=True)
            cost = time.perf_counter() - began


def _on_page(run: Path, options: WatchOptions) -> None:
    given = options.token if options.token is not None else os.environ.get(TOKEN)
    token = chosen_token(options.host, given, secrets.token_urlsafe(24), TOKEN)
    try:
        from lit_instruct.run_views.server import application

        server = web_server(application(run, token, options.refresh))
    except ModuleNotFoundError as error:
        raise missing_extra("watch", error) from error
    with listening(options.host, options.port) as listener:
        address = Address(options.host, listener.getsockname()[1], token)
        print(f"open {address.url()}\nCtrl-C ends it; the training goes on", flush=True)
        server.run(sockets=[listener])
