"""The sentiment finding with `--source=hub`: GPT-2 continues IMDB's reviews (recipes/imdb), rewarded by a classifier.

The judge of another kind is logistic regression on sentence embeddings, which learnt from the labels of other reviews.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evidence import ROOT, judge
from evidence.asked import Asked
from evidence.context import Context
from evidence.reviews import Review
from evidence.samples import rows_of
from evidence.stages import run_stage
from lit_instruct.models.embedded import NAME as EMBEDDED

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

RECIPE = ROOT / "recipes/imdb/ppo.yaml"
DATA = ROOT / "recipes/imdb/make_data.py"
BASE = "lvwerra/gpt2-imdb"
CLASSIFIER = "classifier:lvwerra/distilbert-imdb#POSITIVE"
REVIEWS = {part: f"stanfordnlp/imdb@e6281661ce1c48d982bc483cf8a173c1bbeb5d31:{part}" for part in ("train", "test")}
NO_PENALTY = ("--model.kl.coef=0", "--model.kl.target=null")
PROMPTS, PEOPLES = 400, 200
"""Held-out prompts, and reviews of people for the perplexity."""
QUICK = (
    "--model.iterations=2",
    "--model.sampling.max_new_tokens=12",
    "--model.objective.minibatches=2",
    "--data.batch_size=4",
    "--data.validation_limit=4",
    "--trainer.val_check_interval=2",
)


def base(context: Context) -> str:
    """Returns the model that PPO starts from: the recipe's, unless --base names another."""
    return BASE if context.base == EMBEDDED else context.base


def data(context: Context) -> Path:
    """Returns the folder of the recipe's prompts, which are written if they are missing.

    Raises:
        UserError: the hub cannot be reached.
    """
    folder = context.runs / "data/imdb"
    if not (folder / "origin.json").is_file():
        spec = importlib.util.spec_from_file_location("imdb_make_data", DATA)
        assert spec is not None and spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.prepare(REVIEWS["train"], REVIEWS["test"], base(context), 0, folder)
    return folder


def policy(context: Context, seed: int, penalty: bool) -> Path:
    """Returns a policy, trained if it is missing.

    Args:
        context: of the finding.
        seed: of the training.
        penalty: whether there is a KL penalty.
    """
    run, folder = context.runs / f"imdb-{'kl' if penalty else 'no-kl'}-{seed}", data(context)
    paths = [f"--data.path={folder}/prompts_train.jsonl", f"--data.validation_path={folder}/prompts_validation.jsonl"]
    given = [f"--model.base={base(context)}", f"--model.reward.function={CLASSIFIER}", f"--seed_everything={seed}"]
    more = [*(() if penalty else NO_PENALTY), *(QUICK if context.quick else ())]
    run_stage("ppo", RECIPE, run, [*given, *paths, *more])
    return run / "ppo"


def asked(context: Context) -> Asked:
    """Returns prompts of test reviews, with the judge and reviews of people."""
    folder = data(context)
    return Asked(
        folder=context.runs / "sentiment-hub",
        prompts=folder / "prompts_test.jsonl",
        limit=4 if context.quick else PROMPTS,
        tokens=12 if context.quick else 48,
        sentences=[
            halved(row["text"]) for row in rows_of(folder / "reviews_test.jsonl")[: 4 if context.quick else PEOPLES]
        ],
        judge=lambda pairs: judge.probabilities(fitted(folder), [response for _, response in pairs]),
        auc=lambda: auc(folder),
        second=CLASSIFIER,
    )


def halved(text: str) -> dict[str, str]:
    """Returns a review as a prompt, its first half, and a response."""
    words = text.split(" ")
    return {"prompt": " ".join(words[: len(words) // 2]), "response": " ".join(words[len(words) // 2 :])}


@cache
def fitted(folder: Path) -> LogisticRegression:
    """Returns the judge, fitted on the halves of validation reviews, which no model learns from."""
    return judge.fitted(_labelled(rows_of(folder / "prompts_validation.jsonl")))


def auc(folder: Path) -> float:
    """Returns the judge's area under the ROC curve on halves of test reviews."""
    from sklearn.metrics import roc_auc_score

    labelled = _labelled(rows_of(folder / "prompts_test.jsonl"))
    scores = judge.probabilities(fitted(folder), [one.sentence for one in labelled])
    return float(roc_auc_score([one.fresh for one in labelled], scores))


def _labelled(rows: Sequence[dict[str, Any]]) -> list[Review]:
    return [Review("", row["label"] == 1, row["prompt"]) for row in rows]
