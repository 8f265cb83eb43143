"""The routes of the page of a run, as a FastAPI application."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from lit_instruct.evaluation.page import render
from lit_instruct.page_server.guard import App, Guard
from lit_instruct.run_views.parts import FOLDER, Page

SCRIPT = "watch.js"


def application(run: Path, token: str, refresh: float) -> App:
    """Returns the ASGI application.

    Args:
        run: folder of the run.
        token: of the address.
        refresh: seconds between two looks at the files.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    page = Page(run, refresh)

    @app.get("/")
    def show() -> HTMLResponse:
        name = run.absolute().name
        return HTMLResponse(render("watch.html.jinja", folder=FOLDER, run=name, refresh=refresh, parts=page.parts()))

    @app.get(f"/{SCRIPT}")
    def script() -> Response:
        return Response((FOLDER / SCRIPT).read_bytes(), media_type="text/javascript")

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    @app.get("/parts")
    def parts() -> list[list[str]]:
        return [[part.id, part.digest] for part in page.parts()]

    @app.get("/parts/{name}")
    def part(name: str) -> Response:
        found = next((part for part in page.parts() if part.id == name), None)
        if found is None:
            return JSONResponse({"error": "This part is gone; load the page again."}, 404)
        return JSONResponse({"id": found.id, "digest": found.digest, "html": found.html})

    @app.exception_handler(HTTPException)
    def unanswered(request: object, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": f"{error.detail}; load the page again."}, error.status_code)

    return Guard(app, token, f"watch-{hashlib.sha256(token.encode()).hexdigest()[:12]}", "watch", inline_styles=True)
