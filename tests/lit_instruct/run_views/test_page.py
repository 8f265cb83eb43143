"""The page of `lit-instruct watch` in a real Chromium, while the files of a run grow."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lit_instruct.labeling.browser import Tab
from tests.lit_instruct.run_views.runs import ppo_log, progress, sample, training_run, write_stage
from tests.lit_instruct.run_views.test_watch import served

pytestmark = pytest.mark.slow
HARMFUL = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
READ = "text => document.querySelector('#parts').innerText.includes(text)"


def now_training(run: Path, done: int) -> None:
    """The PPO of a run as it is when somebody looks at it now."""
    now = time.time()
    times = {"began": now - 100, "stepped": now - 5, "written": now}
    write_stage(run / "ppo", ppo_log(done), progress("ppo", done, 10, **times), lock=now - 110)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = training_run(tmp_path / "a run")
    now_training(folder, 4)
    return folder


def test_the_page_follows_the_run(browser: Any, run: Path) -> None:
    with served(run) as address:
        tab = Tab(browser, address)
        page = tab.page
        assert page.title() == "a run"
        assert "training: iteration 4 of 10, 24 s each" in page.inner_text("#ppo-head")
        page.evaluate("document.querySelector('#sft-curves').dataset.kept = 'yes'")
        now_training(run, 6)
        page.wait_for_function(READ, arg="iteration 6 of 10")
        assert "3.00" in page.inner_text("#ppo-head .cards")
        assert page.get_attribute("#sft-curves", "data-kept") == "yes"  # what has not changed stays
        write_stage(run / "rm", lock=time.time())
        page.wait_for_function(READ, arg="models and data are being loaded")
        order = page.locator("#parts > section").evaluate_all("all => all.map(one => one.id.split('-')[0])")
        assert order == ["ppo"] * 3 + ["rm"] * 3 + ["sft"] * 3
        assert "read at" in page.inner_text("#updated")
        tab.close()


def test_a_server_that_is_away_is_told_and_back_again(browser: Any, run: Path) -> None:
    with served(run) as address:
        tab = Tab(browser, address)
    tab.page.wait_for_selector("#offline:not([hidden])")
    assert "The server does not answer" in tab.page.inner_text("#offline")
    with served(run, port=address.port):
        tab.page.wait_for_selector("#offline", state="hidden")
        tab.close()


def test_texts_are_never_html(browser: Any, run: Path) -> None:
    lines = [sample(4, HARMFUL, response=HARMFUL), sample(4, [{"role": HARMFUL, "content": HARMFUL}])]
    write_stage(run / "ppo", samples=lines)
    (run / "ppo" / "logs" / "progress.json").write_text(
        json.dumps(progress("ppo", 4, 10, ended=f"UserError: {HARMFUL}"))
    )
    (run / "ppo" / ".lock").unlink()
    with served(run) as address:
        tab = Tab(browser, address)
        assert HARMFUL in tab.page.inner_text("#ppo-samples") and HARMFUL in tab.page.inner_text("#ppo-head")
        write_stage(run / "ppo", samples=[*lines, sample(6, HARMFUL)])
        tab.page.wait_for_function(READ, arg="after iteration 6".upper())
        assert tab.page.title() == "a run" and tab.page.locator("#parts img, #parts script").count() == 0
        tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_screen(browser: Any, run: Path, scheme: str, width: int) -> None:
    write_stage(run / "ppo", samples=[sample(4, "x" * 500, response="word " * 300)])
    with served(run) as address:
        tab = Tab(browser, address, viewport={"width": width, "height": 800}, color_scheme=scheme)
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
        tab.close()


def test_without_javascript_the_page_shows_the_run_and_says_so(browser: Any, run: Path) -> None:
    with served(run) as address:
        tab = Tab(browser, address, java_script_enabled=False)
        assert "iteration 4 of 10" in tab.page.inner_text("#ppo-head")
        assert "does not refresh itself" in tab.page.inner_text("header")
        tab.close()
