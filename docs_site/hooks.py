"""Hooks of MkDocs: the site's files have the paths of the repository, and so do the links between them.

docs/memory.md links ../recipes/README.md, on a Git host and in an editor. MkDocs knows only what lies in docs/. So
every page gets its path in the repository, and what pages link outside of docs/ becomes a part of the site: Markdown
as pages, a folder as a page with its files, everything else as it is.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from docs_site.links import broken_links  # noqa: E402 (MkDocs runs this file by its path)

DOCS = "docs/"
PAGES = ("recipes/README.md", "benchmarks/README.md", "CHANGELOG.md", "CONTRIBUTING.md")
"""Pages outside of docs/ from which further files are found by their links."""
LINK = re.compile(r"(\]\()([^)#\s]+)")
FENCED = re.compile(r"^```.*?^```$|`[^`\n]+`", re.M | re.S)


def on_files(files: Files, config: Any) -> Files:
    """Gives every file its path in the repository, and adds those that are linked outside of docs/."""
    theme = [file for file in files if file.src_dir != config.docs_dir]
    ours = {
        DOCS + file.src_uri: _file(DOCS + file.src_uri, config) for file in files if file.src_dir == config.docs_dir
    }
    queue = [path for path in (*ours, *PAGES) if path.endswith(".md")]
    while queue:
        path = queue.pop()
        ours.setdefault(path, _file(path, config))
        linked = [target for target in _linked(path, _markdown(path)) if target not in ours]
        ours |= {target: _file(target, config) for target in linked}
        queue += [target for target in linked if target.endswith(".md")]
    return Files([*theme, *ours.values()])


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Points links to folders at their pages."""
    folder = posixpath.dirname(page.file.src_uri)

    def pointed(found: re.Match[str]) -> str:
        target = found[2]
        inside = posixpath.normpath(posixpath.join(folder, target))
        return f"{found[1]}{target.rstrip('/')}/README.md" if (ROOT / inside).is_dir() else found[0]

    return LINK.sub(pointed, markdown)


def on_post_page(output: str, **_: Any) -> str:
    """Names the theme's search dialog, which screen readers announce."""
    return output.replace(
        'data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"'
    )


def on_post_build(config: Any) -> None:
    """Ends the build if a link of a built page leads nowhere, or a page loads something from another host."""
    if broken := broken_links(Path(config.site_dir)):
        raise PluginError("links that lead nowhere:\n" + "\n".join(broken))


def _file(path: str, config: Any) -> File:
    """A file of the site; the page of docs/memory.md is memory/, that of recipes/demo/README.md is recipes/demo/."""
    if path.endswith("/README.md") and not (ROOT / path).exists():
        file = File.generated(config, path, content=_folder_page(ROOT / path.removesuffix("README.md")))
    else:
        file = File(path, str(ROOT), config.site_dir, config.use_directory_urls)
    file.dest_uri = file.dest_uri.removeprefix(DOCS)
    if not path.startswith(DOCS) and path not in PAGES:
        file.inclusion = InclusionLevel.NOT_IN_NAV
    return file


def _markdown(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).exists() else _folder_page((ROOT / path).parent)


def _linked(path: str, text: str) -> Iterator[str]:
    """Files outside of docs/ that a page links; those in docs/ are part of the site anyway."""
    for _, target in LINK.findall(FENCED.sub("", text)):
        if not re.match(r"[a-z]+:", target):
            inside = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            if (ROOT / inside).is_dir():
                inside += "/README.md"
            if not inside.startswith((DOCS, "..")) and ((ROOT / inside).exists() or inside.endswith("/README.md")):
                yield inside


def _folder_page(folder: Path) -> str:
    """A page for a folder without README.md: its YAML files as they are, links to the others."""
    parts = [f"# {folder.name}"]
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if path.suffix == ".yaml":
            parts.append(f"## {path.name}\n\n```yaml\n{path.read_text(encoding='utf-8').strip()}\n```")
        elif path.suffix in (".json", ".png", ".svg"):
            parts.append(f"- [{path.name}]({path.name})")
    return "\n\n".join(parts) + "\n"
