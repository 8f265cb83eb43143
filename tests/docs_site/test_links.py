"""The check of the built pages' links."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs_site.links import broken_links


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Two pages that link each other, a picture, and a page of the server's root."""
    (tmp_path / "other").mkdir()
    (tmp_path / "picture one.png").touch()
    text = '<a href="other/#part">x</a><img src="picture%20one.png"><a href="#top" id="top">y</a><a href="https://e.org">z</a>'
    (tmp_path / "index.html").write_text(text)
    (tmp_path / "other/index.html").write_text('<h2 id="part">Part</h2><a href="..">up</a><a href="">here</a>')
    (tmp_path / "404.html").write_text('<a href="/nowhere/">root</a>')
    return tmp_path


def test_links_that_lead_somewhere(site: Path) -> None:
    assert broken_links(site) == []


@pytest.mark.parametrize("link", ["missing/", "other/#nothing", "picture.png", "#none", "../outside.html"])
def test_a_link_that_leads_nowhere_is_named(site: Path, link: str) -> None:
    (site / "index.html").write_text(f'<a href="{link}">x</a>')
    assert broken_links(site) == [f"index.html: {link}"]


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/x.css">',
        '<img src="https://badge.example/x.svg">',
    ],
)
def test_what_is_loaded_from_another_host_is_named(site: Path, tag: str) -> None:
    (site / "other/index.html").write_text(f'<p id="part"></p>{tag}')
    (found,) = broken_links(site)
    assert found.startswith("other/index.html: loads ")
