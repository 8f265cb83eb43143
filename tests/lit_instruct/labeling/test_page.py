"""The labelers' page in a real Chromium, from the keyboard."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lit_instruct.labeling.answers import Rules
from lit_instruct.labeling.rankings import Ranked, rankings
from lit_instruct.labeling.store import Store
from lit_instruct.labeling.tasks import Task, Written
from tests.lit_instruct.labeling.browser import Tab
from tests.lit_instruct.labeling.helpers import FLAGS, make_store, serving, tasks

pytestmark = pytest.mark.slow
HARMFUL = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\"> **bold**"


def _saved(path: Path) -> list[Ranked]:
    store = Store(path)
    found = rankings(store)
    store.close()
    return found


def _by_text(one: Ranked) -> dict[str, int]:
    return dict(zip(one.texts, one.ranks, strict=True))


@pytest.mark.parametrize(("k", "given", "stored"), [(4, [3, 1, 1, 4], [2, 1, 1, 3]), (9, [*range(9, 0, -1)], None)])
def test_k_responses_are_ranked_by_keyboard(
    browser: Any, tmp_path: Path, k: int, given: list[int], stored: list[int] | None
) -> None:
    path = make_store(tmp_path / "rankings.db", tasks(2, k))
    with serving(path) as address:
        tab = Tab(browser, address, "Ada")
        texts = tab.texts()
        assert len(texts) == k
        tab.keys("Enter")  # nothing is ranked yet
        assert "still need a rank" in tab.page.inner_text("#message")
        tab.rank(*given)
        tab.save()
        (one,) = _saved(path)
        assert _by_text(one) == dict(zip(texts, stored or given, strict=True))
        assert one.seconds is not None and 0 < one.seconds < 600
        assert "1 by you" in tab.page.inner_text("#progress")
        tab.close()


def test_undo_within_a_task_and_of_a_saved_one(browser: Any, tmp_path: Path) -> None:
    path = make_store(tmp_path / "rankings.db", tasks(2))
    with serving(path) as address:
        tab = Tab(browser, address, "Ada")
        first = tab.shown()
        tab.rank(1, 2)
        tab.keys("z")
        assert tab.ranks() == ["rank 1", "no rank yet", "no rank yet", "no rank yet"]
        tab.keys("Home")
        tab.page.locator(".response").first.focus()
        tab.rank(2, 2, 1, 3)
        assert tab.ranks() == ["rank 2, tied", "rank 2, tied", "rank 1", "rank 3"]
        tab.save()
        assert tab.shown() != first
        tab.keys("z")
        tab.page.wait_for_function("first => document.querySelector('#prompt').innerText === first", arg=first)
        assert _saved(path) == []
        assert tab.ranks() == ["rank 2, tied", "rank 2, tied", "rank 1", "rank 3"]
        tab.keys("4")
        tab.save()
        (one,) = _saved(path)
        assert sorted(one.ranks) == [1, 2, 3, 4]
        tab.close()


def test_a_page_that_is_loaded_again_keeps_what_was_ranked(browser: Any, tmp_path: Path) -> None:
    path = make_store(tmp_path / "rankings.db", tasks(2))
    with serving(path) as address:
        tab = Tab(browser, address, "Ada")
        shown, texts = tab.shown(), tab.texts()
        tab.rank(2, 1)
        tab.page.reload()
        tab.page.wait_for_selector(".response")
        assert (tab.shown(), tab.texts()) == (shown, texts)
        assert tab.ranks() == ["rank 2", "rank 1", "no rank yet", "no rank yet"]
        tab.close()


def test_two_labelers_and_two_tabs_at_once(browser: Any, tmp_path: Path) -> None:
    path = make_store(tmp_path / "rankings.db", tasks(3))
    with serving(path) as address:
        ada, ben = Tab(browser, address, "Ada"), Tab(browser, address, "Ben")
        assert ada.shown() != ben.shown()
        second = ada.open()
        second.wait_for_selector(".response")
        assert second.inner_text("#prompt") == ada.shown()
        ada.rank(1, 2, 3, 4)
        ada.save()
        ben.rank(1, 1, 1, 1)
        ben.save()
        for key in ("1", "ArrowRight", "1", "ArrowRight", "2", "ArrowRight", "2", "Enter"):
            second.keyboard.press(key)
        second.wait_for_function("() => document.querySelector('#message').innerText.includes('another tab')")
        assert [one.labeler for one in _saved(path)] == ["Ada", "Ben"]
        ada.close()
        ben.close()


def test_texts_are_never_html(browser: Any, tmp_path: Path) -> None:
    path = make_store(tmp_path / "rankings.db", [Task(HARMFUL, [Written(HARMFUL), Written(f"{HARMFUL} 2")], {})])
    with serving(path) as address:
        tab = Tab(browser, address, "Ada")
        assert tab.shown() == HARMFUL
        assert sorted(tab.texts()) == [HARMFUL, f"{HARMFUL} 2"]
        assert tab.page.title() == "Rank responses"
        assert tab.page.locator("img, main script").count() == 0
        tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_shows_everything(browser: Any, tmp_path: Path, scheme: str) -> None:
    long = "word " * 400 + "x" * 300
    path = make_store(tmp_path / "rankings.db", [Task(long, [Written(f"{n} {long}") for n in range(4)], {})])
    with serving(path) as address:
        tab = Tab(browser, address, "Ada", viewport={"width": 400, "height": 800}, color_scheme=scheme)
        inside = "node => node.scrollHeight <= node.clientHeight + 1 && node.scrollWidth <= node.clientWidth + 1"
        assert all(tab.page.locator(".text").evaluate_all(f"nodes => nodes.map({inside})"))
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 400
        tab.page.locator(".response").nth(1).locator(".ranks button").first.click()  # a finger instead of keys
        assert tab.ranks()[1] == "rank 1"
        tab.page.screenshot(path=tmp_path / "page.png", full_page=True)
        tab.close()


def test_quality_flags_and_labels_for_a_screen_reader(browser: Any, tmp_path: Path) -> None:
    path = make_store(tmp_path / "rankings.db", tasks(1))
    with serving(path) as address:
        tab = Tab(browser, address, "Ada")
        tab.rank(1, 2, 3, 4)
        tab.keys("m", "6", *["Tab"] * 7, "Space", "Escape")
        assert tab.page.get_by_role("article", name=re.compile("Response D, rank 4")).count() == 1
        assert tab.page.get_by_role("group", name="Rank of Response A", exact=True).count() == 1
        tab.save()
        (one,) = _saved(path)
        assert one.quality is not None and one.flags is not None
        last = one.ranks.index(4)
        assert one.quality[last] == 6 and one.flags[last] == [FLAGS[0]]
        assert [quality for number, quality in enumerate(one.quality) if number != last] == [None] * 3
        tab.close()


def test_skip_and_cannot_judge(browser: Any, tmp_path: Path) -> None:
    path = make_store(tmp_path / "rankings.db", tasks(2))
    with serving(path) as address:
        tab = Tab(browser, address, "Ada")
        first = tab.shown()
        tab.keys("s")
        tab.page.wait_for_function("first => document.querySelector('#prompt').innerText !== first", arg=first)
        tab.keys("c")
        tab.page.keyboard.type("not my subject, 1 2 3 z s")
        tab.page.click("#cannot-save")
        tab.page.wait_for_selector("#nothing:not([hidden])")
        assert "Nothing is left" in tab.page.inner_text("#nothing")
        assert _saved(path) == []
        tab.close()


def test_two_at_a_time_gives_the_ranking_of_a_merge(browser: Any, tmp_path: Path) -> None:
    path = make_store(tmp_path / "rankings.db", tasks(1, k=10))
    with serving(path) as address:
        tab = Tab(browser, address, "Ada")
        asked, undone = 0, False
        assert tab.ranks() == ["no rank yet"] * 2
        while tab.page.locator("#pair-buttons:not([hidden])").count():
            one, other = (int(text.rpartition(".")[2]) // 2 for text in tab.texts())  # pairs of equally good ones
            tab.keys("0" if one == other else "1" if one < other else "2")
            if asked == 3 and not undone:
                tab.keys("z")
                undone = True
                continue
            asked += 1
            assert asked <= 25
        assert asked >= 9 and undone
        tab.save()
        (found,) = _saved(path)
        assert found.ranks == [1 + number // 2 for number in range(10)]
        tab.close()


def test_the_merge_sorts_every_order_with_few_comparisons(browser: Any, tmp_path: Path) -> None:
    path = make_store(tmp_path / "rankings.db", tasks(1))
    check = """async () => {
      const { next, most } = await import('/merge.js');
      const wrong = [];
      const orders = (left) => left.length < 2 ? [left]
        : left.flatMap((one, i) => orders(left.toSpliced(i, 1)).map((rest) => [one, ...rest]));
      for (const worth of [...orders([1, 2, 3, 4, 5]), [1, 1, 1, 1], [2, 1, 2, 1], [1], []]) {
        const answers = [];
        let found = next(worth.length, answers);
        while (found.pair) {
          const [i, j] = found.pair;
          answers.push([i, j, Math.sign(worth[i] - worth[j])]);
          found = next(worth.length, answers);
        }
        const right = String(found.ranks) === String(worth) && answers.length <= most(worth.length);
        if (!right) wrong.push([worth, found.ranks]);
      }
      return [wrong, most(2), most(4), most(9), most(10)];
    }"""
    with serving(path) as address:
        tab = Tab(browser, address, "Ada")
        assert tab.page.evaluate(check) == [[], 1, 5, 21, 25]
        tab.close()


def test_a_server_that_is_away_gets_the_ranking_later(browser: Any, tmp_path: Path) -> None:
    path = make_store(tmp_path / "rankings.db", tasks(2))
    with serving(path) as address:
        tab = Tab(browser, address, "Ada")
        first = tab.shown()
        tab.rank(1, 2, 3, 4)
    tab.keys("Enter")
    tab.page.wait_for_function("() => document.querySelector('#message').innerText.includes('does not answer')")
    assert _saved(path) == []
    with serving(path, port=address.port):
        tab.page.wait_for_function("first => document.querySelector('#prompt').innerText !== first", arg=first)
        assert len(_saved(path)) == 1
        tab.close()


def test_without_javascript_the_page_says_so(browser: Any, tmp_path: Path) -> None:
    path = make_store(tmp_path / "rankings.db", tasks(1))
    with serving(path) as address:
        tab = Tab(browser, address, java_script_enabled=False)
        assert "This page needs JavaScript" in tab.page.inner_text("body")
        tab.close()


def test_a_draft_stays_with_its_store_and_flags_that_are_gone_are_dropped(browser: Any, tmp_path: Path) -> None:
    path, other = (make_store(tmp_path / name, tasks(2)) for name in ("one.db", "two.db"))
    with serving(path) as address:
        tab = Tab(browser, address, "Ada")
        tab.rank(1, 2, 3, 4)
        tab.page.keyboard.press("m")
        tab.page.locator(".response").last.locator("[data-flag]").first.check()
    with serving(other, port=address.port):
        tab.page.goto(address.url())
        tab.page.fill("#name", "Ada")
        tab.page.press("#name", "Enter")
        tab.page.wait_for_selector(".response")
        assert tab.ranks() == ["no rank yet"] * 4
    with serving(path, Rules(flags=("other",)), port=address.port):
        tab.page.goto(address.url())
        tab.page.wait_for_selector(".response")
        assert tab.ranks() == ["rank 1", "rank 2", "rank 3", "rank 4"]
        tab.save()
        (one,) = _saved(path)
        assert sorted(one.ranks) == [1, 2, 3, 4] and one.flags is None
        tab.close()


def test_earlier_ranks_do_not_show_while_two_are_compared(browser: Any, tmp_path: Path) -> None:
    path = make_store(tmp_path / "rankings.db", tasks(1))
    with serving(path) as address:
        tab = Tab(browser, address, "Ada")
        tab.rank(1, 2, 3, 4)
        tab.keys("p")
        assert tab.ranks() == ["no rank yet"] * 2
        tab.keys("z")
        assert tab.ranks() == ["rank 1", "rank 2", "rank 3", "rank 4"]
        tab.close()
