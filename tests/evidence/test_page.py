"""The pages show what the files of results say, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evidence import RESULTS, page
from evidence.page import DOCS, filled, html, interval, shown_findings, write_pages
from evidence.result import write_result
from lit_instruct.errors import UserError
from tests.evidence import made_up

PAGE = "# Evidence\n\n<!-- findings -->\nearlier figures\n<!-- end findings -->\nEnd.\n"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one result of two findings."""
    made_up.finding(monkeypatch, lambda context: made_up.result())
    made_up.finding(monkeypatch, lambda context: made_up.result("made_up_too"), "made_up_too")
    write_result(made_up.result(), tmp_path / "results")
    return tmp_path / "results"


def test_the_html_page(results: Path) -> None:
    text = html(shown_findings(results))
    words = " ".join(re.sub(r"<svg.*?</svg>|<style>.*?</style>|<[^>]*>", " ", text, flags=re.DOTALL).split())
    assert "made_up Does it | rise? holds 13 min made_up_too Does it rise? not reached" in words
    assert "Holds. It rises by a &lt;b&gt;nat&lt;/b&gt;." in words
    assert "figure 1.00 (0.50 to 1.50) nats in the paper It rises (section 4.1). done here Three trainings." in words
    assert "seeds 0, 1, 2 measured 13 min on" in words
    assert "later too neither shown nor excluded 0.10 (\N{MINUS SIGN}0.10 to 0.30)" in words
    assert "more with data does not hold \N{MINUS SIGN}20.0 (\N{MINUS SIGN}30.0 to \N{MINUS SIGN}10.0)" in words
    assert "system score note PPO 0.26 SFT 0.10 a|b" in words
    assert text.count("<svg ") == 2 and text.count('aria-label="Score by size"') == 2
    assert "<script" not in text and "http:" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)


def test_the_markdown_page(results: Path) -> None:
    text = filled(PAGE, shown_findings(results))
    assert text.startswith("# Evidence\n\n<!-- findings -->\n| finding |") and text.endswith("End.\n")
    assert "| [made_up](#made_up) | Does it \\| rise? | holds | 1.00 (0.50 to 1.50) | 13 min |" in text
    assert "| made_up_too | Does it rise? | not reached |  |  |" in text
    assert "\n## made_up\n\n**Does it \\| rise?** Holds. It rises by a \\<b>nat\\</b>.\n" in text
    assert "| SFT | 0.10 | a\\|b |" in text
    assert "![Score by size](../recipes/evidence/results/made_up-2.svg)" in text
    assert "earlier figures" not in text
    assert filled(text, shown_findings(results)) == text


def test_results_of_other_findings_are_shown(results: Path) -> None:
    write_result(made_up.result("rounds"), results)
    assert list(shown_findings(results)) == ["made_up", "made_up_too", "rounds"]


def test_a_damaged_result_ends_without_a_page(results: Path, tmp_path: Path) -> None:
    (results / "made_up.json").write_text("{}")
    with pytest.raises(UserError, match="made_up.json: not the result of a finding"):
        write_pages(results, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_committed_results_are_drawn_beside_their_files_and_fill_the_docs(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = tmp_path / "evidence.md"
    docs.write_text(PAGE)
    (results / "made_up-3.svg").write_text("of an earlier result")
    assert write_pages(results, tmp_path / "runs") == [tmp_path / "runs/evidence.html"]
    assert docs.read_text() == PAGE
    monkeypatch.setattr(page, "RESULTS", results)
    monkeypatch.setattr(page, "DOCS", docs)
    assert write_pages(results, tmp_path / "runs") == [tmp_path / "runs/evidence.html", docs]
    assert sorted(path.name for path in results.glob("*.svg")) == ["made_up-1.svg", "made_up-2.svg"]
    assert "It rises" in docs.read_text()


def test_an_interval_has_fewer_digits_where_it_is_large() -> None:
    assert interval({"figure": 12.345, "ci_low": -1.0, "ci_high": 20.0}) == "12.3 (\N{MINUS SIGN}1.0 to 20.0)"
    assert interval({"figure": None, "ci_low": None, "ci_high": None}) == ""


def test_the_docs_page_is_that_of_the_results() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert filled(text, shown_findings(RESULTS)) == text
