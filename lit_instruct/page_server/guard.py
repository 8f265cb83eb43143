"""What stands before every route: the token, the origin and the size of a request; and headers on every answer.

It is plain ASGI, so that a body is counted as it comes in and never held beyond the limit.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

LARGEST_BODY = 256 * 1024
"""Bytes of a request."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src {styles}; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Guard:
    """Passes requests on that have the token, come from the page itself and are small; answers all others.

    Args:
        app: ASGI application behind it.
        token: that the address `/?token=...` or the cookie must hold.
        cookie: name of the cookie.
        command: that serves the page, such as rank; it printed the address.
        inline_styles: whether the page has styles in its HTML, as charts have, beside those of its own files.
    """

    def __init__(self, app: App, token: str, cookie: str, command: str, inline_styles: bool = False) -> None:
        self.app = app
        self.token = token
        self.cookie = cookie
        self.advice = f"open the address that `lit-instruct {command}` printed."
        policy = POLICY.format(styles="'unsafe-inline'" if inline_styles else "'self'")
        self.headers = {"content-security-policy": policy} | HEADERS

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        sending = _with_headers(send, self.headers)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(sending, *refusal)
        elif scope["path"] == "/" and "token" in _query(scope):
            await _redirect(sending, f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict")
        else:
            body = await _read(receive)
            if body is None:
                await _answer(sending, *_too_large())
            else:
                await self.app(scope, _once(body, receive), sending)

    def _refusal(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> tuple[int, str] | None:
        if not self._has_token(scope, headers):
            return 403, f"This address lacks the token; {self.advice}"
        if not _from_the_page(scope["method"], headers):
            return 403, f"This request comes from another page; {self.advice}"
        if scope["method"] == "POST":
            if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                return 415, "A request must be JSON."
            length = headers.get("content-length", "0")
            if not length.isdecimal() or int(length) > LARGEST_BODY:
                return _too_large()
        return None

    def _has_token(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> bool:
        given = _query(scope).get("token", [None])[-1] if scope["path"] == "/" else None
        given = given if given is not None else cookies_of(headers.get("cookie", "")).get(self.cookie)
        return given is not None and hmac.compare_digest(given.encode(), self.token.encode())


def cookies_of(header: str) -> dict[str, str]:
    """Returns the cookies of a header; none if it cannot be read."""
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(header).items()}
    except CookieError:
        return {}


def _from_the_page(method: str, headers: dict[str, str]) -> bool:
    """Whether a request comes from our own page, by the headers that a browser sets and no page can change.

    A link from elsewhere, such as in a message, may open the page; everything that changes something must be ours.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        return False
    if method == "GET":
        return site in ("same-origin", "none") or headers.get("sec-fetch-mode") == "navigate"
    return origin is not None and site == "same-origin"


def _query(scope: MutableMapping[str, Any]) -> dict[str, list[str]]:
    return parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)


async def _read(receive: Receive) -> bytes | None:
    """The body of a request; None if it is too large, or its sender has gone."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request" or len(body) > LARGEST_BODY:
            return None
        if not message.get("more_body"):
            return body


def _once(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already, and then what else the server has to say."""
    given = False

    async def once() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [(name.encode(), value.encode()) for name, value in headers.items()]
            message["headers"] = [*message.get("headers", []), *own]
        await send(message)

    return sending


def _too_large() -> tuple[int, str]:
    return 413, f"A request may have {LARGEST_BODY // 1024} KB at most."


async def _answer(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"error": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))  # what is left of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _redirect(send: Send, cookie: str) -> None:
    headers = [(b"location", b"/"), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
