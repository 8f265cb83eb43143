"""Checks built pages: their links lead to files and ids that are there, and nothing is loaded from other hosts."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script", "img", "iframe", "source", "video", "audio"}


class Page(HTMLParser):
    """The ids, the links and the loaded resources of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes what a tag names and links."""
        found = dict(attrs)
        self.ids |= {name for name in (found.get("id"), found.get("name")) if name}
        link = found.get("href") or found.get("src")
        if link and tag != "base":
            kind = found.get("rel") or ""
            loads = tag in LOADED or (tag == "link" and ("stylesheet" in kind or "icon" in kind))
            (self.loaded if loads else self.links).append(link)


def broken_links(site: Path) -> list[str]:
    """Returns a line for each link of the site's pages that leads nowhere, and for each resource of another host."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    broken = []
    for path, page in pages.items():
        if path.name == "404.html":  # its links are those of the server's root
            continue
        name = path.relative_to(site.resolve())
        broken += [f"{name}: loads {link}" for link in page.loaded if urlsplit(link).netloc]
        broken += [f"{name}: {link}" for link in (*page.links, *page.loaded) if _leads_nowhere(link, path, pages)]
    return broken


def _leads_nowhere(link: str, path: Path, pages: dict[Path, Page]) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return False
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    target = target / "index.html" if target.is_dir() else target
    if not target.is_file():
        return True
    named = unquote(parts.fragment)
    return bool(named) and target in pages and not named.startswith("__") and named not in pages[target].ids


if __name__ == "__main__":
    sys.exit("\n".join(broken_links(Path(sys.argv[1]))))
