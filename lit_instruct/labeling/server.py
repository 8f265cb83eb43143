"""The routes of the labelers' page, as a FastAPI application over one store."""

from __future__ import annotations

import hashlib
import hmac
import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt
from starlette.exceptions import HTTPException

from lit_instruct.errors import UserError
from lit_instruct.evaluation.page import render
from lit_instruct.labeling.answers import QUALITY, Answer, RefusedError, Rules, record, renew, take_back
from lit_instruct.labeling.labelers import labeler_name, labeler_of
from lit_instruct.labeling.shown import next_shown
from lit_instruct.labeling.store import Store
from lit_instruct.labeling.tasks import MOST_RESPONSES
from lit_instruct.page_server.guard import App, Guard, cookies_of

log = logging.getLogger(__name__)
FOLDER = Path(__file__).parent / "page"
FILES = {"page.css": "text/css"} | dict.fromkeys(("page.js", "view.js", "merge.js", "server.js"), "text/javascript")
Number = Annotated[StrictInt, Field(ge=1, lt=2**53)]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{8,64}$")]
Places = Annotated[list[Any], Field(max_length=MOST_RESPONSES)]
Flags = Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=50)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Joining(_Body):
    """A labeler says their name."""

    name: Annotated[str, Field(max_length=200)]


class Renewal(_Body):
    """A page says that its task is still being worked on."""

    slot: Number


class Undoing(_Body):
    """A labeler takes the last answer back."""

    key: Key


class Answering(_Body):
    """`lit_instruct.labeling.answers.Answer` as JSON."""

    slot: Number
    key: Key
    kind: Literal["ranking", "cannot_judge", "skip"]
    seconds: Annotated[float, Field(ge=0, le=1e7)]
    ranks: Annotated[list[StrictInt], Field(max_length=MOST_RESPONSES)] = []
    quality: Annotated[list[StrictInt | None], Field(max_length=MOST_RESPONSES)] = []
    flags: Annotated[list[Flags], Field(max_length=MOST_RESPONSES)] = []
    comparisons: Annotated[list[tuple[StrictInt, StrictInt, Literal[-1, 0, 1]]], Field(max_length=10_000)] = []
    reason: Annotated[str, Field(max_length=2000)] = ""


class NotJoinedError(Exception):
    """The request of somebody who has not said their name."""


def application(store: Store, rules: Rules, token: str, settings: dict[str, Any], clock: Callable[[], float]) -> App:
    """Returns the ASGI application.

    Args:
        store: to serve.
        rules: of the store.
        token: of the address.
        settings: that the page reads: pairwise_from, the number of responses from which two at a time are shown.
        clock: seconds since 1970.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    # one token may serve several stores, each with labelers of its own, and a browser shares cookies over ports
    secret = f"{token}:{store.meta['token']}"
    cookie = f"rank-{_short_digest(secret)}"
    settings = {"store": _short_digest(store.meta["token"]), **settings}
    page = render("page.html.jinja", folder=FOLDER, flags=list(rules.flags), qualities=list(QUALITY), settings=settings)
    _add_files(app, page)
    _add_routes(app, store, rules, secret, f"{cookie}-labeler", clock)
    _add_errors(app)
    return Guard(app, token, cookie, "rank")


def _add_files(app: FastAPI, page: str) -> None:

    @app.get("/")
    def show() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/{name}")
    def file(name: str) -> Response:
        if name not in FILES:
            return JSONResponse({"error": "There is no such page."}, 404)
        return Response((FOLDER / name).read_bytes(), media_type=FILES[name])


def _add_routes(app: FastAPI, store: Store, rules: Rules, secret: str, cookie: str, clock: Callable[[], float]) -> None:
    labeler = Depends(_labeler_from(cookie, secret))

    @app.post("/api/join")
    def join(body: Joining) -> JSONResponse:
        name = labeler_name(body.name)
        with store.writing() as connection:
            number = labeler_of(connection, name)
        answer = JSONResponse({"labeler": name})
        value = f"{number}.{_signature(secret, number)}"
        answer.set_cookie(cookie, value, httponly=True, samesite="strict", max_age=400 * 86400)
        return answer

    @app.post("/api/task")
    def task(number: int = labeler) -> dict[str, Any]:
        with store.writing() as connection:
            return next_shown(connection, number, rules, clock())

    @app.post("/api/answer")
    def answer(body: Answering, number: int = labeler) -> dict[str, Any]:
        with store.writing() as connection:
            record(connection, number, Answer(**body.model_dump()), rules, clock())
        with store.writing() as connection:  # what is saved stays saved if this fails
            return next_shown(connection, number, rules, clock())

    @app.post("/api/undo")
    def undo(body: Undoing, number: int = labeler) -> dict[str, Any]:
        with store.writing() as connection:
            take_back(connection, number, body.key, rules, clock())
            return next_shown(connection, number, rules, clock())

    @app.post("/api/renew")
    def extend(body: Renewal, number: int = labeler) -> dict[str, Any]:
        with store.writing() as connection:
            renew(connection, number, body.slot, rules, clock())
        return {}


def _labeler_from(cookie: str, secret: str) -> Callable[[Request], int]:
    def labeler(request: Request) -> int:
        value = cookies_of(request.headers.get("cookie", "")).get(cookie, "")
        number, _, signature = value.partition(".")
        if not number.isdecimal() or not hmac.compare_digest(signature.encode(), _signature(secret, number).encode()):
            raise NotJoinedError
        return int(number)

    return labeler


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _signature(secret: str, number: object) -> str:
    return hmac.new(secret.encode(), f"labeler {number}".encode(), hashlib.sha256).hexdigest()


def _add_errors(app: FastAPI) -> None:
    """Answers every error by one sentence as JSON."""

    @app.exception_handler(RefusedError)
    def refused(request: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 409 if error.conflict else 422)

    @app.exception_handler(NotJoinedError)
    def not_joined(request: Request, error: NotJoinedError) -> JSONResponse:
        return JSONResponse({"error": "Say your name first."}, 401)

    @app.exception_handler(UserError)
    def mistaken(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        place = ".".join(map(str, error.errors()[0]["loc"][1:])) or "the request"
        return JSONResponse({"error": f"{place}: {error.errors()[0]['msg']}; load the page again."}, 422)

    @app.exception_handler(HTTPException)
    def unanswered(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": f"{error.detail}; load the page again."}, error.status_code)

    @app.exception_handler(sqlite3.Error)
    def unwritten(request: Request, error: sqlite3.Error) -> JSONResponse:
        log.error("the store cannot be written: %s", error)
        sentence = (
            f"The server could not save this ({error}). Nothing is lost: keep the page open and save again later."
        )
        return JSONResponse({"error": sentence}, 507)


def now() -> float:
    """Returns the time of the server, in seconds since 1970."""
    return time.time()
