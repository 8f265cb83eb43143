"""A real Chromium with the labelers' page, for tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lit_instruct.page_server.address import Address

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """Opens the browser, or skips the test."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("these tests need Chromium (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


class Tab:
    """A page in a browser of its own, that fails on errors of scripts and on requests to other places."""

    def __init__(self, browser: Any, address: Address | str, name: str | None = None, **more: Any) -> None:
        self.context = browser.new_context(**more)
        self.context.set_default_timeout(60_000)
        self.address = address if isinstance(address, str) else address.url()
        self.wrong: list[str] = []
        self.context.on("request", self._check)
        self.page = self.open()
        if name is not None:
            self.page.fill("#name", name)
            self.page.press("#name", "Enter")
            self.page.wait_for_selector(".response")

    def _check(self, request: Any) -> None:
        if not request.url.startswith((self.address.partition("?")[0], "data:")):
            self.wrong.append(request.url)

    def open(self) -> Any:
        """Another tab of the same labeler."""
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.goto(self.address)
        return page

    def keys(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def rank(self, *ranks: int) -> None:
        """Ranks the responses in order, by keyboard alone."""
        for rank in ranks:
            self.keys(str(rank), "ArrowRight")

    def save(self) -> None:
        """Enter, and waits until the page shows what comes next."""
        before = self.shown()
        self.keys("Enter")
        changed = "document.querySelector('#task').hidden || document.querySelector('#prompt').innerText !== before"
        self.page.wait_for_function(f"before => {changed}", arg=before)

    def shown(self) -> str:
        return self.page.inner_text("#prompt")

    def ranks(self) -> list[str]:
        return self.page.locator(".rank").all_inner_texts()

    def texts(self) -> list[str]:
        return self.page.locator(".response > .text").all_inner_texts()

    def close(self) -> None:
        assert self.wrong == []
        self.context.close()
