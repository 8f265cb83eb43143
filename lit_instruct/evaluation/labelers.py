"""Automatic labelers: scoring functions that stand in for the people of the paper (section 3.4).

A labeler is a function in one of the forms of docs/rewards.md, higher is better. Those here read only the response, are
deterministic, need no model and no network, and score about a thousand responses per second; prompt_aware.py and
references.py have labelers that see more.

They do not judge quality. **None can see** whether the response answers the prompt; whether a statement is true;
grammar, logic and order; languages other than English. A policy trained on `tone` learns a cheerful tone, complete
sentences and no loops, and nothing more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from afinn import Afinn
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

EMPTY_SCORE = -1.5
"""`tone` of a response without words: below finished text of the worst tone."""
UNFINISHED_PENALTY = 0.5
BIGRAM_TOLERANCE = 0.1
SENTENCE_WEIGHT = 0.5
MAX_REPETITION_PENALTY = 1.0

WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
"""A word, possibly with apostrophes inside."""
# \u3002 \uff01 \uff1f end sentences in Chinese; \u2018 to \u201d are curly quotes, \u2026 is the ellipsis.
_END = r"[.!?\u3002\uff01\uff1f]"
_SENTENCE_END = re.compile(_END + r"+[\"'\u2018-\u201d)\]]*\s+|\n+")
# Final punctuation, then only closing marks (quotes, brackets, asterisks, emoji) on the same line.
_FINISHED = re.compile(_END + r"[^\w\n,;:\-\u2013\u2014\u2022(\[{\u2026]*$")
_ELLIPSIS = re.compile(r"(?:\.\.|\u2026)[^\w\n]*$")
_BARE_LIST_NUMBER = re.compile(r"(?:^|\n)\W*\w{1,3}[.)]$")


def words(text: str) -> list[str]:
    """Returns lower-case words without punctuation: ``"It's 5 p.m." -> ["it's", "5", "p", "m"]``."""
    return WORD.findall(text.lower())


def is_finished(text: str) -> bool:
    """Returns whether a text ends in sentence-final punctuation, possibly followed by quotes, brackets or emoji.

    An ellipsis or a bare list number ("3.") counts as unfinished.
    """
    stripped = text.strip()
    if _ELLIPSIS.search(stripped) or _BARE_LIST_NUMBER.search(stripped):
        return False
    return _FINISHED.search(stripped) is not None


def repeated_share(items: Sequence[object]) -> float:
    """Returns the share of items that occurred before: ``1 - distinct / all``, 0 for an empty sequence."""
    return 1.0 - len(set(items)) / len(items) if items else 0.0


def repetition_penalty(text: str) -> float:
    """Returns the penalty for repetition, ``min(1, max(0, b - 0.1) + 0.5 s)``.

    b is the share of word bigrams and s the share of sentences (or lines) that occurred earlier in the text. The
    tolerance of 0.1 lets ordinary prose repeat "of the".
    """
    tokens = words(text)
    bigrams = list(pairwise(tokens))
    sentences = [tuple(words(part)) for part in _SENTENCE_END.split(text)]
    excess = max(0.0, repeated_share(bigrams) - BIGRAM_TOLERANCE)
    said_again = SENTENCE_WEIGHT * repeated_share([sentence for sentence in sentences if sentence])
    return min(MAX_REPETITION_PENALTY, excess + said_again)


def tone(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Returns positive tone by VADER, minus points for unfinished or repetitive text.

    ``score = compound - 0.5 [unfinished] - repetition``, in [-2.5, 1]; -1.5 for a response without words.

    - *compound*: VADER's compound sentiment of the whole response, in [-1, 1] (Hutto & Gilbert 2014; the package
      vaderSentiment). It sums signed word scores with rules for negation, degree words, capitals and "!", and squashes
      the sum: several positive words beat one, and long positive text saturates near 1.
    - *unfinished*: see `is_finished`. *repetition*: see `repetition_penalty`.

    Beyond the module's list it cannot see sarcasm, or that a sad or neutral text was asked for. Praise, exclamation
    marks and capitals are known ways to game it.

    Args:
        pairs: (prompt, response) texts; the prompt is ignored.
    """
    return [_tone(response) for _, response in pairs]


def _tone(response: str) -> float:
    if not words(response):
        return EMPTY_SCORE
    unfinished = 0.0 if is_finished(response) else UNFINISHED_PENALTY
    return compound(response) - unfinished - repetition_penalty(response)


def compound(text: str) -> float:
    """Returns VADER's compound sentiment of a text, in [-1, 1]; 0 is neutral."""
    return float(_vader().polarity_scores(text)["compound"])


def form(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Returns points off for unfinished or repetitive text, whatever it says: `tone` without the tone, in [-1.5, 0].

    Args:
        pairs: (prompt, response) texts; the prompt is ignored.
    """
    return [_form(response) if words(response) else EMPTY_SCORE for _, response in pairs]


def _form(response: str) -> float:
    return -(0.0 if is_finished(response) else UNFINISHED_PENALTY) - repetition_penalty(response)


def second_opinion(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Returns the mean valence of words by AFINN: a labeler that no training used, to see whether a gain carries over.

    ``score = v / sqrt(v^2 + 1/4)``, in [-1, 1], with ``v = sum of word valences / max(words, 10)`` and valences from -5
    to 5 from the AFINN list (Nielsen 2011, arXiv 1103.2903; the package afinn); 0 for text without a listed word.

    It shares neither lexicon, raters nor rules with `tone`: "!" and capitals give no bonus, and because it is a mean,
    neither does more of the same. It still measures only sentiment: agreement shows that a gain is not an artefact of
    VADER's word list, not that responses are better. Beyond the module's list it cannot see negation ("not happy"
    counts as "happy", except for a few listed phrases), degree words, sarcasm, unfinished and repeated text.

    Args:
        pairs: (prompt, response) texts; the prompt is ignored.
    """
    lexicon = _afinn()
    return [_second_opinion(response, lexicon) for _, response in pairs]


def _second_opinion(response: str, lexicon: Afinn) -> float:
    # At least 10 words, so that "Great!" alone is not the most positive text possible.
    valence = float(lexicon.score(response)) / max(len(words(response)), 10)
    return valence / (valence**2 + 0.25) ** 0.5


@lru_cache(maxsize=1)
def _vader() -> SentimentIntensityAnalyzer:
    # imported on first use: reading the lexicon takes a tenth of a second
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


@lru_cache(maxsize=1)
def _afinn() -> Afinn:
    from afinn import Afinn

    return Afinn(language="en")
