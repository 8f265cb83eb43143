"""Where a page is served: its address with the token, the socket, and uvicorn."""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lit_instruct.errors import UserError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
TOKEN = re.compile(r"[A-Za-z0-9_-]{16,200}")


@dataclass(frozen=True)
class Address:
    """Where a page is served."""

    host: str
    port: int
    token: str

    def url(self) -> str:
        """Returns the address to open."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/?token={self.token}"


def chosen_token(host: str, given: str | None, own: str, variable: str) -> str:
    """Returns the token of the address: the given one, or on this machine's own addresses the command's own.

    Args:
        host: address to serve at.
        given: by the user; None for none.
        own: what the command uses where only this machine can reach the address.
        variable: of the environment, which is another way to give one.

    Raises:
        UserError: other machines can reach the address and no token is given, or the token is short or has characters
            that an address cannot hold.
    """
    if given is None and host not in LOOPBACK:
        raise UserError(
            f"--host={host}: other machines can reach this address; choose a secret for it with --token or "
            f"{variable} (16 or more letters, digits, - and _)"
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


def missing_extra(command: str, error: ModuleNotFoundError) -> UserError:
    """Returns the error for the user if a package of the extra `rank`, which serves pages, is not installed."""
    return UserError(f"{command}: {error.name} is not installed; run `pip install 'lit-instruct[rank]'`")


def web_server(app: Any) -> Any:
    """Returns a uvicorn server of an ASGI application; its `run(sockets=[...])` serves until Ctrl-C.

    Raises:
        ModuleNotFoundError: the extra `rank` is not installed.
    """
    import uvicorn

    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    return uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, server_header=False, ws="none"))
