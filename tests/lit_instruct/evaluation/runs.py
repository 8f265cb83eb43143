"""A run folder with records and logs, and models that answer from a table: an evaluation in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from lit_instruct.evaluation.systems import Loaders
from lit_instruct.prompting.hashes import hashes_of
from lit_instruct.rollouts.text import Response

SCRIPT = "<script>alert(1)</script>"
ANSWERS = {
    "base": "The book is bad.",
    "sft": "The book is on the table.",
    "ppo": f"The book is good {SCRIPT}.",
}
LOG_PROBS = {"base": -10.0, "ppo": -20.0, "sft": -26.0}


def write_run(folder: Path) -> Path:
    """A run with the three stages' records and sparse logs, and four prompts beside it."""
    for minute, (stage, metrics) in enumerate(
        {"sft": {"val/loss": 1.0}, "rm": {"val/pair_accuracy": 0.75}, "ppo": {"val/reward": 1.0}}.items()
    ):
        (folder / stage / "logs").mkdir(parents=True)
        record = {
            "stage": stage,
            "base": {"source": "base", "revision": None},
            "parents": {},
            "prompt_format": {"template": "chat", "system": None},
            "metrics": metrics,
            "seed": 0,
            "seconds": 10.0 * (minute + 1),
            "trained_prompts": 0,
            "created": f"2026-01-01T00:0{minute}:00+00:00",
        }
        (folder / stage / "stage.json").write_text(json.dumps(record))
        trained_on(folder / stage, [])
    (folder / "sft" / "logs" / "metrics.csv").write_text("step,train/loss,val/loss\n1,2.0,\n2,1.5,\n2,,1.75\n")
    (folder / "ppo" / "logs" / "metrics.csv").write_text(
        "step,ppo/iteration,ppo/reward,ppo/kl,val/kl\n4,1,0.1,0.0,\n8,2,0.5,3.0,\n8,,,,2.5\n12,3,nan,4.0,\n"
    )
    rows = [
        {"prompt": "Is it good?", "use_case": "chat"},
        {"prompt": f"Explain {SCRIPT}", "use_case": SCRIPT},
        {"prompt": [{"role": "user", "content": f"{SCRIPT} & more"}], "use_case": "chat"},
        {"prompt": "What costs $5 or $6?"},
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def trained_on(folder: Path, prompts: Sequence[Any]) -> None:
    """Makes a stage one that trained on these prompts."""
    hashes = hashes_of(prompts)
    np.save(folder / "trained_prompts.npy", hashes)
    change(folder, trained_prompts=len(hashes))


def change(folder: Path, **fields: Any) -> None:
    """Changes fields of a stage's record."""
    path = folder / "stage.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


class FakePrompter:
    """The prompt format of a model; only "other" has another one."""

    def __init__(self, source: str) -> None:
        self.name = Path(source).name

    def fingerprint(self) -> str:
        return "other" if self.name == "other" else "same"


class FakeGenerator:
    """Answers every prompt with its table entry; the j-th of k answers ends in j exclamation marks more."""

    def __init__(self, source: str, prompter: Any = None) -> None:
        self.name = Path(source).name
        self.prompter = prompter

    def respond(self, prompts: Sequence[Any], *, k: int, **settings: Any) -> list[list[Response]]:
        text = ANSWERS.get(self.name, ANSWERS["ppo"])
        ended = self.name != "base"
        row = [Response(list(range(5 + j + ended)), text + "!" * j, ended) for j in range(k)]
        return [row for _ in prompts]

    def log_probs(self, prompts: Sequence[Any], responses: Sequence[Response], progress: str) -> list[float]:
        return [LOG_PROBS.get(self.name, LOG_PROBS["ppo"])] * len(responses)


class FakeReward:
    """Scores a text by its number of exclamation marks."""

    def score(self, prompts: Sequence[Any], responses: Sequence[str], progress: str) -> list[float]:
        assert len(prompts) == len(responses)
        return [float(text.count("!")) for text in responses]


def fake_loaders(opened: list[tuple[str, Any]]) -> Loaders:
    """Loaders of the fakes that note (name, whose prompt format) of each language model they open."""

    def generator(source: str, prompter: Any = None) -> Any:
        opened.append((Path(source).name, prompter and prompter.name))
        return FakeGenerator(source, prompter)

    return Loaders(generator, cast(Any, FakePrompter), lambda source: cast(Any, FakeReward()))
