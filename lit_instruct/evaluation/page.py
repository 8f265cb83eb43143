"""Self-contained HTML pages: jinja2 templates with numbers written for people.

Every text from models and data passes jinja2's autoescape; a page has no script and loads nothing from elsewhere (its
Content-Security-Policy forbids both).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """Returns a page as HTML.

    Args:
        template: file name beside this module.
        values: what the template names.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "percent": percent, "turns": turns}
    return environment.get_template(template).render(**values)


def number(value: float | None, digits: int = 2) -> str:
    """A number for people: fixed digits, a real minus sign, "n/a" where there is none, never "-0.00"."""
    if value is None:
        return "n/a"
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "\N{MINUS SIGN}")


def signed(value: float | None, digits: int = 2) -> str:
    """Like `number`, with a plus sign before what is above 0."""
    text = number(value, digits)
    return f"+{text}" if value is not None and float(f"{value:.{digits}f}") > 0 else text


def percent(share: float | None) -> str:
    """A share as a whole percentage, "n/a" where there is none."""
    return "n/a" if share is None else f"{number(100 * share, 0)} %"


def turns(prompt: Any) -> list[tuple[str, str]]:
    """(role, text) of a prompt's turns; plain text is one user turn."""
    if isinstance(prompt, str):
        return [("user", prompt)]
    return [(str(message.get("role", "")), str(message.get("content", ""))) for message in prompt]
