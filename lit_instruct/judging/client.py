"""JSON over HTTP: retries, time limits, a budget of calls, and a key that is shown and written nowhere."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import httpx2

from lit_instruct.errors import UserError

log = logging.getLogger(__name__)
FIRST_WAIT = 1.0
"""Seconds before the first retry; each further one waits twice as long, give or take a quarter."""
MOST_WAIT = 600.0
"""Most seconds that a server may ask us to wait."""
PASSING = (408, 429, 500, 502, 503, 504, 529)
"""Status codes that may go away by themselves."""
REFUSED = (401, 403)
MOST_BYTES = 32 * 2**20
"""Largest answer that is read."""


LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
"""Callers say how many calls they make at once; by default the hundred and first would wait for a connection."""


class Failure(NamedTuple):
    """Why a call got no answer, if that may pass."""

    what: str
    wait: float | None = None
    """Seconds that the server asks us to wait."""


class Answer(NamedTuple):
    """What a server answered, whether it did what it was asked or not."""

    status: int
    headers: httpx2.Headers
    text: str
    """Without the key."""

    @property
    def said(self) -> str:
        """What it says about an error, in one line after a colon; nothing if it is empty."""
        return _said(self.text)


class StoppedError(Exception):
    """Another thread's call has failed or was interrupted, so that this one was not made."""


class Client:
    """Sends JSON to one address; threads may share it.

    Args:
        url: of the server; it must not contain a name or password.
        name: the option and what it names, for messages.
        key: name of the environment variable with the key; None sends none.
        timeout: seconds that one call may take.
        retries: how often a call that fails is repeated.
        budget: most calls, retries included; None for no limit.

    Raises:
        UserError: the address or the key cannot be used.
    """

    def __init__(
        self, url: str, name: str, key: str | None, timeout: float, retries: int, budget: int | None = None
    ) -> None:
        self.name = name
        self.url = checked_url(url, name)
        self.shown_url = str(self.url.copy_with(query=None))
        """Without the query, in which a secret may stand."""
        self.timeout, self.retries, self.budget = timeout, retries, budget
        self._key = _key_in(key, name)
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        self._http = httpx2.Client(headers=headers, timeout=timeout, limits=LIMITS)
        self._lock = threading.Lock()
        self.stopped = threading.Event()
        """Set to let the calls of all threads end; waiting ones end at once."""
        self.calls = 0

    def post(self, body: Mapping[str, Any]) -> Any:
        """Sends a JSON object and returns the JSON of the answer.

        Raises:
            UserError: the server refuses it, gives no answer also after all retries, or the budget is used up.
            StoppedError: `stopped` was set.
        """
        failure: Failure | None = None
        for attempt in range(1 + self.retries):
            if failure is not None:
                self._pause(failure, attempt)
            self._count()
            found = self._once(body)
            if not isinstance(found, Failure):
                return found[0]
            failure = found
        assert failure is not None
        raise UserError(
            f"{self.name}: {self.shown_url} {failure.what}, also after {self.retries} retries; check that the server "
            "runs and run the same command again"
        )

    def _once(self, body: Mapping[str, Any]) -> Failure | tuple[Any]:
        """Makes one call; the JSON of its answer comes in a tuple."""
        answer = self.attempt("", body)
        if isinstance(answer, Failure):
            return answer
        if not 200 <= answer.status < 300:
            raise UserError(
                f"{self.name}: {self.shown_url} answered {answer.status}{answer.said}; check address and model"
            )
        try:
            return (json.loads(answer.text),)
        except (ValueError, RecursionError):
            return Failure(f"answered with no JSON{answer.said}")

    def attempt(self, path: str, body: Mapping[str, Any] | None = None) -> Answer | Failure:
        """Makes one call without retries, outside of the budget.

        Args:
            path: added to the address.
            body: sent by POST; None asks by GET.

        Raises:
            UserError: the server refuses the key.
        """
        try:
            answer = self._exchange(path, body)
        except httpx2.TimeoutException:
            return Failure(f"gave no answer within {self.timeout:g} s")
        except httpx2.RequestError as error:
            return Failure(f"cannot be reached ({self._hidden(str(error) or type(error).__name__)})")
        if answer.status in PASSING:
            return Failure(f"answered {answer.status}{answer.said}", _wait_of(answer.headers))
        if answer.status in REFUSED:
            raise UserError(
                f"{self.name}: {self.shown_url} refuses the key ({answer.status}{answer.said}); check the environment "
                "variable that holds it"
            )
        return answer

    def _exchange(self, path: str, body: Mapping[str, Any] | None) -> Answer:
        """An answer, of which all must come in time; the key is removed from its text."""
        end = time.monotonic() + self.timeout
        url = self.url.copy_with(path=self.url.path.rstrip("/") + path) if path else self.url
        sent: dict[str, Any] = {}
        if body is not None:
            content = json.dumps(body, default=str).encode()  # escaped: a lone surrogate is no UTF-8
            sent = {"content": content, "headers": {"Content-Type": "application/json"}}
        with self._http.stream("GET" if body is None else "POST", url, **sent) as answer:
            received = b""
            for part in answer.iter_bytes():
                received += part
                if time.monotonic() > end:
                    raise httpx2.ReadTimeout("too slow")
                if len(received) > MOST_BYTES:
                    raise httpx2.RequestError(f"the answer is larger than {MOST_BYTES >> 20} MiB")
            return Answer(answer.status_code, answer.headers, self._hidden(received.decode(errors="replace")))

    def _count(self) -> None:
        with self._lock:
            if self.stopped.is_set():
                raise StoppedError
            if self.budget is not None and self.calls >= self.budget:
                raise UserError(
                    f"{self.name}: the budget of {self.budget} calls is used up; the answers so far are kept, and the "
                    "same command goes on with another budget of calls"
                )
            self.calls += 1

    def _pause(self, failure: Failure, attempt: int) -> None:
        wait = FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
        if failure.wait is not None:
            wait = failure.wait
        if wait > MOST_WAIT:
            raise UserError(
                f"{self.name}: {self.shown_url} {failure.what} and asks to wait {wait:.0f} s; run the same command "
                "again after that"
            )
        if wait >= 10:
            log.warning("%s %s; trying again in %.0f s", self.shown_url, failure.what, wait)
        if self.stopped.wait(wait):
            raise StoppedError

    def _hidden(self, text: str) -> str:
        """The text without the key, also as JSON writes it; an error of a server may quote it."""
        if self._key is None:
            return text
        as_json = json.dumps(self._key)[1:-1]
        for spelled in (self._key, as_json, as_json.replace("/", "\\/")):
            text = text.replace(spelled, "[key]")
        return text


def checked_url(url: str, name: str) -> httpx2.URL:
    """Returns an address for HTTP.

    Raises:
        UserError: it is none, or it contains a name or password, which messages and records would show.
    """
    try:
        found = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise UserError(f"{name}: not an address; give one such as http://127.0.0.1:8000/v1") from error
    if found.userinfo:
        raise UserError(f"{name}: leave name and password out of the address; a key comes from the environment")
    if found.scheme not in ("http", "https") or not found.host or "%" in found.host:
        raise UserError(f"{name}: not an address; give one such as http://127.0.0.1:8000/v1")
    return found


def _key_in(variable: str | None, name: str) -> str | None:
    """The key; no message shows the variable's name, because the key itself may have been given instead."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip() if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable) else ""
    if not key:
        raise UserError(
            f"{name}: the environment variable that `key` names is not set; export it with the key as its value, or "
            "leave `key` out for a server that needs none"
        )
    if not key.isascii() or not key.isprintable():
        raise UserError(f"{name}: the key has characters that HTTP cannot send; check the environment variable")
    return key


def _wait_of(headers: Mapping[str, str]) -> float | None:
    """Seconds of Retry-After, which is a number or a date."""
    given = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", given):
        return float(given)
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except (TypeError, ValueError, IndexError):
        return None


def _said(text: str) -> str:
    """What an answer says about an error, in one line after a colon; nothing if it is empty."""
    try:
        record = json.loads(text)
        error = record.get("error", record)
        found = error.get("message", text) if isinstance(error, dict) else error
    except (ValueError, AttributeError, RecursionError):
        found = text
    line = " ".join(str(found).split())
    return f": {line[:200]}" if line else ""
