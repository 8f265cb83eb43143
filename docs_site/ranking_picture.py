"""Makes docs/ranking.png, the labelers' page with a task of the demo's comparisons, in Chromium.

python -m docs_site.ranking_picture     (needs the extras rank and test, and Chromium)
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

from lit_instruct.cli import main as lit_instruct
from lit_instruct.commands.rank import PageOptions
from lit_instruct.labeling.answers import Rules
from lit_instruct.labeling.serving import server
from lit_instruct.labeling.store import Store
from lit_instruct.page_server.address import Address, listening

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs/ranking.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def photograph(url: str, path: Path, browser: str) -> None:
    """Opens the page as a labeler, ranks two of the responses and takes a picture."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": 1280, "height": 760})
        page.goto(url)
        page.fill("#name", "Ada")
        page.press("#name", "Enter")
        page.wait_for_selector(".response")
        for key in ("2", "ArrowRight", "1", "ArrowRight"):
            page.keyboard.press(key)
        page.screenshot(path=path)
        opened.close()


def main() -> None:
    """Serves a store for as long as the picture takes."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("the picture needs Chromium; install it (Debian: apt install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        path, data = Path(folder) / "rankings.db", ROOT / "recipes/demo/data/ranked_validation.jsonl"
        words = ["rank", f"--store={path}", f"--data.path={data}", "--data.limit=8", "--serve=false"]
        if code := lit_instruct(words):
            sys.exit(code)
        with contextlib.closing(Store(path)) as store, listening("127.0.0.1", 0) as listener:
            address = Address("127.0.0.1", listener.getsockname()[1], "token-of-the-picture")
            run = server(store, Rules(flags=tuple(PageOptions().flags)), address, 10)
            thread = threading.Thread(target=run.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                photograph(address.url(), PICTURE, browser)
            finally:
                run.should_exit = True
                thread.join()


if __name__ == "__main__":
    main()
