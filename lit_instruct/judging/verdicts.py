"""What a judge's answer says: its last line, whatever it explained before."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Names of the responses, in the order in which the judge sees them."""
_LEAD = r"(?:[^:]{0,40}:\s*)?"
"""What may stand before a verdict: "Verdict: A"."""


def preferred(answer: str) -> list[int] | None:
    """Returns the ranks of two responses in an answer such as `A`, `Verdict: B` or `tie`; None if it says none."""
    found = re.fullmatch(rf"{_LEAD}(?:response\s+)?(A|B|TIE)", _last_line(answer), re.IGNORECASE)
    return None if found is None else {"A": [1, 2], "B": [2, 1], "TIE": [1, 1]}[found[1].upper()]


def order(answer: str, k: int) -> list[int] | None:
    """Returns the ranks in an answer that orders K responses, such as `B > A = C`.

    Returns:
        K ranks in the order shown, 1 is the best, equal ranks are ties; None unless each response occurs once.
    """
    found = re.fullmatch(rf"{_LEAD}([A-Z](?:\s*[>=]\s*[A-Z])*)", _last_line(answer).upper())
    if found is None:
        return None
    ranks: dict[str, int] = {}
    for rank, group in enumerate(found[1].split(">"), start=1):
        for letter in re.findall("[A-Z]", group):
            if letter in ranks:
                return None
            ranks[letter] = rank
    shown = LETTERS[:k]
    return [ranks[letter] for letter in shown] if set(ranks) == set(shown) else None


def rating(answer: str, scale: Sequence[float]) -> float | None:
    """Returns the number in an answer such as `7`, `Rating: 7.5` or `7/10`; None if there is none on the scale.

    Args:
        answer: of the judge.
        scale: lowest and highest number.
    """
    found = re.fullmatch(rf"{_LEAD}(-?\d+(?:\.\d+)?)(?:\s*/\s*(\d+(?:\.\d+)?))?", _last_line(answer))
    if found is None or (found[2] is not None and not math.isclose(float(found[2]), scale[1])):
        return None
    value = float(found[1])
    return value if scale[0] <= value <= scale[1] else None


def _last_line(answer: str) -> str:
    """The last line with text, without Markdown, brackets, quotes and a full stop."""
    lines = [line for line in answer.splitlines() if line.strip()]
    return re.sub(r"""[*_`"'\[\](){}]|\.\s*$""", "", lines[-1]).strip() if lines else ""
