"""Prompt hygiene (Appendix A): which prompts of a dataset are kept, and how many each step removed.

Every step is a pure function from one number per row to the rows it removes. `clean` puts them in order: prompts that
share a long prefix, more than 200 prompts of a user, the split by user, personal information in the training split, the
mix of use cases. The length limit (`max_prompt_length`) comes before all of them.
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
"""Stands for the user of a prompt that names none."""
OPTION_OF = {
    "shared prefix": "unique_prefix",
    "over the limit of a user": "max_per_user",
    "personal information": "personal_information",
    "use-case mix": "use_case_mix",
}
"""The option behind each reason for which a step removes rows."""
FEW_SHOT_BLOCKS = 3
"""Two examples and the query make a prompt few-shot."""

_LABEL = re.compile(r"(?m)^[ \t]*(?:#+ *)?([^\W\d_][\w ]{0,24}?) ?\d{0,3}: ?")
_SEPARATOR = re.compile(r"(?m)^[ \t]*(?:#{2,}|-{3,}|={3,}|\*{3,})[ \t]*$")


@dataclass(frozen=True)
class HygieneOptions:
    """Which prompts are left out of the training, and how validation prompts are set aside.

    Args:
        unique_prefix: Of the prompts with the same first so many tokens (shorter ones: the same tokens), keep only the
            first, those of validation before those of training; null keeps all. The paper names no number.
        exempt_few_shot: Compare prompts that are examples and a query by all their tokens: two queries after the same
            examples are different prompts.
        max_per_user: Most prompts of one user, of which the first are kept; null keeps all.
        split_by: Set whole users aside for validation ("user"; a prompt that names none goes by itself), or prompts.
        personal_information: Leave prompts with e-mail, phone, card or account numbers or people's addresses out of
            the training split ("drop"), or in it ("keep").
        use_case_mix: Shares of use cases, such as "generation=0.5,chat=0.5": keeps as many training prompts as have
            these shares exactly, and none of other use cases; null keeps all.
    """

    unique_prefix: int | None = None
    exempt_few_shot: bool = True
    max_per_user: int | None = 200
    split_by: Literal["user", "prompt"] = "user"
    personal_information: Literal["drop", "keep"] = "drop"
    use_case_mix: str | None = None

    def __post_init__(self) -> None:
        """Refuses values that mean nothing."""
        for name in ("unique_prefix", "max_per_user"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--data.hygiene.{name}={value}: must be at least 1, or null")
        if self.use_case_mix is not None:
            parse_mix(self.use_case_mix)


class FactArrays(NamedTuple):
    """What the steps know of each row: one number, in the order of the rows; empty where no step asks for it."""

    split: NDArray[np.float64]
    """(rows,) in [0, 1), equal for rows that must be on the same side of the split."""
    prefix: NDArray[np.uint64]
    """(rows,) hash of the prompt's first tokens."""
    user: NDArray[np.uint64]
    """(rows,) hash of the user, NO_USER where there is none."""
    personal: NDArray[np.uint8]
    """(rows,) kinds of personal information found, one bit for each of KINDS."""
    use_case: NDArray[np.uint16]
    """(rows,) number of the use case; 0 is unknown."""


@dataclass
class Cleaned:
    """What hygiene makes of a dataset."""

    train: Mask
    """(rows,) whether a row is trained on."""
    validation: Mask
    """(rows,) whether it is validated on."""
    removed: dict[str, int] = field(default_factory=dict)
    """Reason -> rows, in the order of the steps that were asked for."""
    use_cases: dict[str, float] = field(default_factory=dict)
    """Share of each use case of the training rows; empty where no row names one."""


def clean(
    facts: FactArrays,
    options: HygieneOptions,
    use_cases: Sequence[str],
    validation_rows: int | None,
    share: float,
    seed: int,
) -> Cleaned:
    """Applies the steps in order; a later one sees what the earlier ones left.

    Args:
        facts: of all rows.
        options: which steps.
        use_cases: the name of each number in `facts.use_case`.
        validation_rows: the first so many rows are a validation file; None splits off `share` of the rows.
        share: in [0, 1).
        seed: chooses among the rows of a use case.

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


def repeated(keys: NDArray[np.uint64]) -> Mask:
    """Marks every row whose key an earlier row has.

    Args:
        keys: (rows,) any hash.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    marked = np.zeros(len(keys), dtype=bool)
    marked[order[1:]] = ordered[1:] == ordered[:-1]
    return marked


def beyond(users: NDArray[np.uint64], limit: int) -> Mask:
    """Marks the rows of each user after the first `limit`; rows without a user stay unmarked.

    Args:
        users: (rows,) hash of each row's user, NO_USER where there is none.
        limit: at least 1.
    """
    order = np.argsort(users, kind="stable")
    ordered = users[order]
    marked = np.zeros(len(users), dtype=bool)
    # A row is beyond the limit where the row `limit` places before it is the same user's.
    marked[order[limit:]] = (ordered[limit:] == ordered[:-limit]) & (ordered[limit:] != NO_USER)
    return marked


def split_off(hashes: NDArray[np.float64], share: float) -> Mask:
    """Marks about `share` of the groups of rows for validation: those whose hash is below it.

    A group stays on its side when rows are added or reordered. Where the hash picks none, the group with the lowest
    hash is taken, so that there is something to validate on; nothing where all rows are one group.

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
    """Marks the rows in which a kind of personal information was found.

    Args:
        personal: (rows,) as in FactArrays.
        kind: one of KINDS.
    """
    return (personal >> KINDS.index(kind) & 1).astype(bool)


def off_mix(
    use_cases: NDArray[np.uint16], among: Mask, hashes: NDArray[np.float64], shares: NDArray[np.float64], seed: int
) -> Mask:
    """Marks what must go so that the rest has the given shares, and is as large as the scarcest use case allows.

    Args:
        use_cases: (rows,) number of each row's use case.
        among: (rows,) the rows that count and that may be marked.
        hashes: (rows,) with the seed, these choose the rows of a use case that stay, whatever order they are in.
        shares: (use cases,) non-negative; only their proportions count. Rows of a use case with share 0 all go.
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
    """Share of each use case, the most frequent first; empty where no row names one.

    Args:
        use_cases: (rows,) number of each row's use case.
        names: the name of each number; the first stands for unknown.
    """
    counts = np.bincount(use_cases, minlength=len(names))
    if not counts[1:].any():
        return {}
    order = np.argsort(-counts, kind="stable")
    return {names[case]: round(float(counts[case] / counts.sum()), 4) for case in order if counts[case]}


def is_few_shot(prompt: str) -> bool:
    """Whether a prompt is made of examples and a query: a label that begins three lines, or three blocks set apart."""
    labels = [match.lower() for match in _LABEL.findall(prompt)]
    most = max(map(labels.count, set(labels)), default=0)
    return most >= FEW_SHOT_BLOCKS or len(_SEPARATOR.findall(prompt)) >= FEW_SHOT_BLOCKS - 1


def parse_mix(text: str) -> dict[str, float]:
    """Reads "generation=0.5,chat=0.5".

    Raises:
        UserError: a share is no positive number.
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
    """Turns marks on the rows of `among` into marks on all rows."""
    spread = np.zeros(len(among), dtype=bool)
    spread[among] = marked
    return spread


def _shares(wanted: dict[str, float], names: Sequence[str]) -> NDArray[Any]:
    missing = [name for name in wanted if name not in names]
    if missing:
        known = f"there are {', '.join(names[1:])}" if len(names) > 1 else "the rows name none"
        raise UserError(f"--data.hygiene.use_case_mix: no prompt has the use case {missing[0]}; {known}")
    return np.array([wanted.get(name, 0.0) for name in names])
