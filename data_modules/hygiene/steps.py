"""Prompt hygiene (Appendix A): which prompts of a dataset are kept, and how many each step removes.

Every step is a pure function from one number per row to the rows that it removes. `clean` applies them in order: shared
prefixes, the limit per user, the validation split, personal information in the training split, the mix of use cases.
The length limit (`max_prompt_length`) comes before all of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_modules.hygiene.personal_information import KINDS
from lit_instruct.errors import UserError

Mask = NDArray[np.bool_]

NO_USER = 0
"""The user of a prompt without one."""
OPTION_OF = {
    "shared prefix": "unique_prefix",
    "over the limit of a user": "max_per_user",
    "personal information": "personal_information",
    "use-case mix": "use_case_mix",
}
"""The option behind each reason to remove rows."""
FEW_SHOT_BLOCKS = 3
"""Two examples and a query make a prompt few-shot."""

_LABEL = re.compile(r"(?m)^[ \t]*(?:#+ *)?([^\W\d_][\w ]{0,24}?) ?\d{0,3}: ?")
_SEPARATOR = re.compile(r"(?m)^[ \t]*(?:#{2,}|-{3,}|={3,}|\*{3,})[ \t]*$")


@dataclass(frozen=True)
class HygieneOptions:
    """Which prompts are left out of training, and how validation prompts are set aside.

    Args:
        unique_prefix: Of prompts that share this many tokens at the start (shorter ones: all tokens), keep only the
            first, validation before training; null keeps all. The paper does not state a number.
        exempt_few_shot: Compare few-shot prompts (examples and a query) by all their tokens: two queries after the same
            examples are different prompts.
        max_per_user: Most prompts per user; the first are kept; null keeps all.
        split_by: Set aside whole users for validation ("user"; prompts without a user are split one by one), or single
            prompts ("prompt").
        personal_information: Leave prompts with e-mail, phone, card or account numbers or home addresses out of the
            training split ("drop"), or keep them ("keep").
        use_case_mix: Shares of use cases, such as "generation=0.5,chat=0.5": keeps the most training prompts that have
            exactly these shares, and none of other use cases; null keeps all.
    """

    unique_prefix: int | None = None
    exempt_few_shot: bool = True
    max_per_user: int | None = 200
    split_by: Literal["user", "prompt"] = "user"
    personal_information: Literal["drop", "keep"] = "drop"
    use_case_mix: str | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        for name, value in (("unique_prefix", self.unique_prefix), ("max_per_user", self.max_per_user)):
            if value is not None and value < 1:
                raise UserError(f"--data.hygiene.{name}={value}: must be at least 1, or null")
        if self.use_case_mix is not None:
            parse_mix(self.use_case_mix)


class FactArrays(NamedTuple):
    """What the steps know about each row: one number per row, in order; empty if no step needs it."""

    split: NDArray[np.float64]
    """(rows,) in [0, 1), equal for rows that must be on the same side of the split."""
    prefix: NDArray[np.uint64]
    """(rows,) hash of the prompt's first tokens."""
    user: NDArray[np.uint64]
    """(rows,) hash of the user, NO_USER if there is none."""
    personal: NDArray[np.uint8]
    """(rows,) kinds of personal information found, one bit per kind of KINDS."""
    use_case: NDArray[np.uint16]
    """(rows,) index of the use case; 0 is unknown."""


@dataclass
class Cleaned:
    """The result of hygiene for a dataset."""

    train: Mask
    """(rows,) whether a row is used for training."""
    validation: Mask
    """(rows,) whether it is used for validation."""
    removed: dict[str, int] = field(default_factory=dict)
    """Reason -> rows removed, in the order of the requested steps."""
    use_cases: dict[str, float] = field(default_factory=dict)
    """Share of each use case among the training rows; empty if no row has one."""


def clean(
    facts: FactArrays,
    options: HygieneOptions,
    use_cases: Sequence[str],
    validation_rows: int | None,
    share: float,
    seed: int,
) -> Cleaned:
    """Applies the steps in order; each sees what the earlier ones kept.

    Args:
        facts: of all rows.
        options: which steps to apply.
        use_cases: the name of each index in `facts.use_case`.
        validation_rows: this many rows at the start are a validation file; None splits off `share` of the rows.
        share: in [0, 1).
        seed: selects the rows of a use case that are kept.

    Raises:
        UserError: `use_case_mix` names a use case that no row has.
    """
    keep = np.ones(len(facts.split), dtype=bool)
    removed: dict[str, int] = {}

    def remove(reason: str, marked: Mask) -> None:
        removed[reason] = int(np.count_nonzero(marked & keep))
        np.logical_and(keep, ~marked, out=keep)

    if options.unique_prefix is not None:
        remove("shared prefix", repeated(facts.prefix))
    if options.max_per_user is not None:
        remove("over the limit of a user", _spread(keep, beyond(facts.user[keep], options.max_per_user)))
    if validation_rows is None:
        validation = _spread(keep, split_off(facts.split[keep], share))
    else:
        validation = np.arange(len(keep)) < validation_rows
    if options.personal_information == "drop":
        candidates = keep & ~validation
        kinds = {kind: int(np.count_nonzero(candidates & has_kind(facts.personal, kind))) for kind in KINDS}
        remove("personal information", candidates & (facts.personal > 0))
        removed |= {f"personal information ({kind})": count for kind, count in kinds.items() if count}
    if options.use_case_mix is not None:
        shares = _shares(parse_mix(options.use_case_mix), use_cases)
        remove("use-case mix", off_mix(facts.use_case, keep & ~validation, facts.split, shares, seed))
    train = keep & ~validation
    return Cleaned(train, keep & validation, removed, use_case_shares(facts.use_case[train], use_cases))


def repeated(keys: NDArray[np.uint64], times: int = 1) -> Mask:
    """Marks every row whose key occurs in at least `times` earlier rows.

    Args:
        keys: (rows,) any hash.
        times: at least 1.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    marked = np.zeros(len(keys), dtype=bool)
    marked[order[times:]] = ordered[times:] == ordered[:-times]
    return marked


def beyond(users: NDArray[np.uint64], limit: int) -> Mask:
    """Marks the rows of each user after the first `limit`; rows without a user are never marked.

    Args:
        users: (rows,) hash of each row's user, NO_USER if there is none.
        limit: at least 1.
    """
    return repeated(users, limit) & (users != NO_USER)


def split_off(hashes: NDArray[np.float64], share: float) -> Mask:
    """Marks about `share` of the groups of rows for validation: those with a hash below `share`.

    A group stays on its side when rows are added or reordered. If no hash is below `share`, the group with the lowest
    hash is marked, so that there are validation rows; if all rows are one group, none is marked.

    Args:
        hashes: (rows,) in [0, 1), equal within a group (a prompt, a user).
        share: in [0, 1); 0 marks nothing.
    """
    distinct = np.unique(hashes)
    if share == 0 or len(distinct) < 2:
        return np.zeros(len(hashes), dtype=bool)
    # Neither side may be empty: the lowest hash always validates, the highest always trains.
    return hashes <= min(max(share, distinct[0]), distinct[-2])


def has_kind(personal: NDArray[np.uint8], kind: str) -> Mask:
    """Marks the rows with one kind of personal information.

    Args:
        personal: (rows,) as in FactArrays.
        kind: one of KINDS.
    """
    return (personal >> KINDS.index(kind) & 1).astype(bool)


def off_mix(
    use_cases: NDArray[np.uint16], among: Mask, hashes: NDArray[np.float64], shares: NDArray[np.float64], seed: int
) -> Mask:
    """Marks the rows to remove so that the rest has the given shares and is as large as the scarcest use case allows.

    Args:
        use_cases: (rows,) index of each row's use case.
        among: (rows,) the rows that are considered; no other is marked.
        hashes: (rows,) together with the seed select the rows of a use case that stay, whatever their order.
        shares: (use cases,) non-negative, in proportion; all rows of a use case with share 0 are marked.
        seed: any.
    """
    counts = np.bincount(use_cases[among], minlength=len(shares))
    wanted = np.flatnonzero(shares)
    size = (counts[wanted] / shares[wanted]).min()
    marked = among.copy()
    for case in wanted:
        rows = np.flatnonzero(among & (use_cases == case))
        scrambled = np.modf(hashes[rows] * 2**20 + seed * math.pi)[0]
        marked[rows[np.argsort(scrambled, kind="stable")[: int(shares[case] * size + 1e-6)]]] = False
    return marked


def use_case_shares(use_cases: NDArray[np.uint16], names: Sequence[str]) -> dict[str, float]:
    """Returns the share of each use case, most frequent first; empty if no row has one.

    Args:
        use_cases: (rows,) index of each row's use case.
        names: the name of each index; the first is unknown.
    """
    counts = np.bincount(use_cases, minlength=len(names))
    if not counts[1:].any():
        return {}
    order = np.argsort(-counts, kind="stable")
    return {names[case]: round(float(counts[case] / counts.sum()), 4) for case in order if counts[case]}


def is_few_shot(prompt: str) -> bool:
    """Whether a prompt is examples and a query: one label begins three lines, or separators make three blocks."""
    labels = [match.lower() for match in _LABEL.findall(prompt)]
    most = max(map(labels.count, set(labels)), default=0)
    return most >= FEW_SHOT_BLOCKS or len(_SEPARATOR.findall(prompt)) >= FEW_SHOT_BLOCKS - 1


def parse_mix(text: str) -> dict[str, float]:
    """Parses "generation=0.5,chat=0.5".

    Raises:
        UserError: a share is not a positive number.
    """
    shares = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if not name.strip() or not 0 < share < math.inf:
            raise UserError(
                f"--data.hygiene.use_case_mix={text}: {part.strip()!r} is no share; write use_case=number, such as "
                "generation=0.5,chat=0.5"
            )
        shares[name.strip()] = share
    return shares


def _spread(among: Mask, marked: Mask) -> Mask:
    """Expands marks on the rows of `among` to marks on all rows."""
    spread = np.zeros(len(among), dtype=bool)
    spread[among] = marked
    return spread


def _shares(wanted: dict[str, float], names: Sequence[str]) -> NDArray[Any]:
    missing = [name for name in wanted if name not in names]
    if missing:
        known = f"there are {', '.join(names[1:])}" if len(names) > 1 else "the rows name none"
        raise UserError(f"--data.hygiene.use_case_mix: no prompt has the use case {missing[0]}; {known}")
    return np.array([wanted.get(name, 0.0) for name in names])
