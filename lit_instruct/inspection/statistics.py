"""Counts over the rows of a dataset: one pass, a few bytes per row."""

from __future__ import annotations

import json
import math
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

from data_modules.hygiene.facts import hash_64
from data_modules.reading.bad_rows import BadRows
from data_modules.rows import Demonstration, PromptRow, RankedComparison, Row
from lit_instruct.errors import RunawayTemplateError, UserError
from lit_instruct.prompting import Prompter

BINS = 12
MOST_NAMES = 1000
"""A field with more distinct values does not hold use cases; further ones count as "other"."""
UNNAMED = "unnamed"
CUT_WORDS = 8
"""A response of fewer words, such as a name, need not be a sentence."""
_INSIDE_A_SENTENCE = re.compile(r"[\w,;(-]$")


@dataclass
class RowStatistics:
    """Token lengths, K, ties, duplicates and use cases of rows."""

    prompter: Prompter
    limit: int
    """Most tokens of a row in training."""
    bad_rows: BadRows
    """Collects rows that the chat template refuses."""
    rows: int = 0

    def __post_init__(self) -> None:
        self.prompt_tokens: Counter[int] = Counter()
        self.response_tokens: Counter[int] = Counter()
        self.row_tokens: Counter[int] = Counter()
        self.turns: Counter[int] = Counter()
        self.k: Counter[int] = Counter()
        self.cut_off = 0
        self.ties = Ties()
        self.use_cases: Counter[str] = Counter()
        self.prompt_hashes, self.row_hashes, self.users = array("Q"), array("Q"), array("Q")

    def add(self, rows: Sequence[Row]) -> list[Row]:
        """Counts rows and returns those within the length limit."""
        within = []
        for row, prompt, lengths in self._tokenised(rows):
            self.rows += 1
            responses = responses_of(row)
            self.prompt_tokens[prompt] += 1
            self.response_tokens.update(lengths)
            self.cut_off += sum(map(seems_cut_off, responses))
            longest = prompt + max(lengths, default=0)
            self.row_tokens[longest] += 1
            if longest <= self.limit:
                within.append(row)
            self.turns[1 if isinstance(row.prompt, str) else sum(m["role"] == "user" for m in row.prompt)] += 1
            self.prompt_hashes.append(_hash(row.prompt))
            self.row_hashes.append(_hash([row.prompt, sorted(responses)]))
            if isinstance(row, RankedComparison):
                self.k[len(responses)] += 1
                self.ties.add(row)
            self._count_names(row)
        return within

    def summary(self) -> dict[str, Any]:
        """Returns all figures, JSON-able."""
        counts = {"prompt": self.prompt_tokens}
        if self.response_tokens:
            counts |= {"response": self.response_tokens, "longest sequence": self.row_tokens}
        over = sum(count for length, count in self.row_tokens.items() if length > self.limit)
        distinct_prompts, distinct_rows = len(set(self.prompt_hashes)), len(set(self.row_hashes))
        found: dict[str, Any] = {
            "rows": self.rows,
            "tokens": {what: describe_lengths(lengths) for what, lengths in counts.items()},
            "length_limit": {"tokens": self.limit, "rows_over": over},
            "user_turns": _counted(self.turns),
            "duplicates": {"prompts": self.rows - distinct_prompts, "rows": self.rows - distinct_rows},
            "cut_off": {"responses": self.cut_off, "of": self.response_tokens.total()},
            "use_cases": self._use_case_shares(),
            "users": len(set(self.users)),
        }
        if self.k:
            found |= {"k": _counted(self.k), "ties": asdict(self.ties)}
        return found

    def _tokenised(self, rows: Sequence[Row]) -> list[tuple[Row, int, list[int]]]:
        """Returns each row with the number of tokens of its prompt and of each response."""
        try:
            prompts = self.prompter.prompts_ids([row.prompt for row in rows])
        except RunawayTemplateError:
            raise
        except UserError as error:  # such as a template that refuses some of these messages
            if len(rows) == 1:
                self.bad_rows.add(rows[0].where, str(error), None)
                return []
            return [found for row in rows for found in self._tokenised([row])]
        texts = [responses_of(row) for row in rows]
        ids = iter(self.prompter.responses_ids([text for one in texts for text in one]))
        found = zip(rows, prompts, texts, strict=True)
        return [(row, len(prompt), [len(next(ids)) for _ in one]) for row, prompt, one in found]

    def _count_names(self, row: Row) -> None:
        fields = vars(row) if isinstance(row, PromptRow) else row.extra
        use_case, user = fields.get("use_case"), fields.get("user")
        name = use_case if isinstance(use_case, str) else UNNAMED
        known = name in self.use_cases or len(self.use_cases) < MOST_NAMES
        self.use_cases[name if known else "other"] += 1
        if isinstance(user, str):
            self.users.append(_hash(user))

    def _use_case_shares(self) -> dict[str, float]:
        """Returns the share of each use case, most frequent first; empty if no row has one."""
        if set(self.use_cases) <= {UNNAMED}:
            return {}
        return {name: round(count / self.rows, 4) for name, count in self.use_cases.most_common()}


def seems_cut_off(response: str) -> bool:
    """Whether a text stops inside a sentence, as one does that a length limit cut; rows do not say so themselves."""
    text = response.rstrip()
    return len(text.split()) >= CUT_WORDS and bool(_INSIDE_A_SENTENCE.search(text))


@dataclass
class Ties:
    """Ties among the pairs of ranked comparisons; the reward model learns only from pairs that are not tied."""

    pairs: int = 0
    tied_pairs: int = 0
    rows_with_ties: int = 0
    rows_all_tied: int = 0
    identical_responses: int = 0

    def add(self, row: RankedComparison) -> None:
        """Counts one row."""
        tied = sum(math.comb(count, 2) for count in Counter(row.ranks).values())
        pairs = math.comb(len(row.ranks), 2)
        self.pairs += pairs
        self.tied_pairs += tied
        self.rows_with_ties += tied > 0
        self.rows_all_tied += tied == pairs
        self.identical_responses += len(row.responses) - len(set(row.responses))


def responses_of(row: Row) -> list[str]:
    """Returns the responses of a row: none, one or K."""
    if isinstance(row, RankedComparison):
        return row.responses
    return [row.response] if isinstance(row, Demonstration) else []


def histogram(counts: Counter[int], bins: int = BINS) -> list[dict[str, int]]:
    """Counts of lengths in at most `bins` bins of the same round width.

    Args:
        counts: length -> how many have it.
        bins: most bins.

    Returns:
        {from, to, count} for each bin up to the longest; both ends belong to it.
    """
    longest = max(counts, default=0)
    round_widths = (digit * 10**power for power in count() for digit in (1, 2, 5))
    width = next(w for w in round_widths if w * bins > longest)
    found = [{"from": start, "to": start + width - 1, "count": 0} for start in range(0, longest + 1, width)]
    for length, rows in counts.items():
        found[length // width]["count"] += rows
    return found


def describe_lengths(counts: Counter[int]) -> dict[str, Any]:
    """Mean, median, 95th percentile, maximum and histogram of lengths, of which there is at least one."""
    return {
        "mean": round(sum(length * count for length, count in counts.items()) / sum(counts.values()), 1),
        "median": quantile(counts, 0.5),
        "p95": quantile(counts, 0.95),
        "max": max(counts),
        "histogram": histogram(counts),
    }


def quantile(counts: Counter[int], share: float) -> int:
    """Returns the smallest length that at least `share` of all lengths do not exceed.

    Args:
        counts: length -> how many have it.
        share: in (0, 1].
    """
    needed = share * sum(counts.values())
    seen = 0
    for length in sorted(counts):
        seen += counts[length]
        if seen >= needed:
            return length
    raise ValueError("no lengths")


def _counted(counts: Counter[int]) -> dict[str, int]:
    return {str(value): counts[value] for value in sorted(counts)}


def _hash(value: Any) -> int:
    return hash_64(json.dumps(value, sort_keys=True).encode())
