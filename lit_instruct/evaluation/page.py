"""Self-contained HTML pages from jinja2 templates.

Every text from models and data passes jinja2's autoescape. A page loads nothing, and runs no script but the one that
searches its samples: its Content-Security-Policy names the hash of that script and forbids everything else.
"""

from __future__ import annotations

import base64
import hashlib
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

FOLDER = Path(__file__).parent


def render(template: str, /, folder: Path = FOLDER, **values: Any) -> str:
    """Returns a page as HTML, from a template in this folder, or in another one, and the values that it names."""
    environment = Environment(
        loader=FileSystemLoader([folder, FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "percent": percent, "turns": turns}
    return environment.get_template(template).render(**values)


def script(name: str) -> tuple[Markup, str]:
    """Returns a script of this folder for a page, and the source by which a Content-Security-Policy allows it."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"'sha256-{digest}'"


def card(title: str, value: str, note: str, mood: str = "plain") -> dict[str, str]:
    """Returns a figure as cards.html.jinja shows it; mood is good, bad or plain."""
    return {"title": title, "value": value, "note": note, "mood": mood}


def number(value: float | None, digits: int = 2) -> str:
    """Formats a number with fixed digits and a real minus sign; "n/a" for None, never "-0.00"."""
    if value is None:
        return "n/a"
    # float("0.715") is slightly less: rounding its shortest decimal form half up agrees with 71.5 % -> 72 %.
    text = f"{Decimal(repr(round(float(value), 9))).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "\N{MINUS SIGN}")


def signed(value: float | None, digits: int = 2) -> str:
    """Like `number`, with a plus sign if it is above 0."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 and text.strip("0.") else text


def percent(share: float | None) -> str:
    """Formats a share as a whole percentage; "n/a" for None."""
    return "n/a" if share is None else f"{number(100 * share, 0)} %"


def turns(prompt: Any) -> list[tuple[str, str]]:
    """Returns (role, text) of each turn of a prompt; plain text is one user turn."""
    if isinstance(prompt, str):
        return [("user", prompt)]
    return [(str(message.get("role", "")), str(message.get("content", ""))) for message in prompt]
