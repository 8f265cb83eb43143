"""The judge of another kind, with a tiny model in place of the packaged one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from evidence import judge, reviews
from evidence.reviews import Review
from lit_instruct.rollouts.reward_functions import function_scorer
from tests.evidence.conftest import PLACES
from tests.tiny import tiny_tokenizer

GOOD = [f"The weather is wonderful in {place}." for place in PLACES]
BAD = [f"The cat sat on {place}." for place in PLACES]
LABELLED = [Review("A film", sentence in GOOD, sentence) for sentence in GOOD + BAD]


@pytest.fixture
def model(sentence_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sentence model, with the labels above for the judge."""
    monkeypatch.setattr(reviews, "packaged", lambda: {"judge": LABELLED})
    return sentence_model


def test_an_embedding_is_the_mean_over_the_tokens_whatever_the_batch(model: Path) -> None:
    network, tokenizer = AutoModel.from_pretrained(model, dtype=torch.float32).eval(), tiny_tokenizer()
    texts = ["a", "The capital of France is Paris.", "The cat sat on the mat. " * 40]
    for tokens in (1, 4096):
        for text, found in zip(texts, judge.embeddings(texts, tokens), strict=True):
            ids = torch.tensor([tokenizer(text)["input_ids"][: judge.MOST_TOKENS]])
            with torch.no_grad():
                mean = network(ids).last_hidden_state[0].mean(dim=0)
            assert found == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)


def test_it_learns_the_labels_and_is_a_labeler(model: Path) -> None:
    assert judge.auc(LABELLED) == 1.0
    scores = function_scorer("evidence.judge.fresh", option="--labeler")(
        ["Review the film A."] * 2, [GOOD[0], BAD[0]], [{}, {}]
    )
    assert scores == pytest.approx(judge.probabilities(judge.judge(), [GOOD[0], BAD[0]]))
    assert 0 <= scores[1] < 0.5 < scores[0] <= 1


def test_both_labels_weigh_the_same(model: Path) -> None:
    uneven = judge.fitted(LABELLED[:5] * 3 + LABELLED[5:])
    known = judge.probabilities(uneven, GOOD + BAD)
    assert min(known[:4]) > 0.5 > max(known[5:])
