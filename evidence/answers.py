"""Answers of the trained systems to held-out prompts: base, SFT, best-of-n, PPO and PPO-ptx of a seed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from evidence.cached import kept_json
from evidence.models import Models
from evidence.reward_scores import reward_scores
from lit_instruct.handover import prompter_of
from lit_instruct.models.loading import find_source
from lit_instruct.rollouts.text import TextGenerator

BASE, SFT, BEST, PPO, PTX = "base", "SFT", "best-of-n", "PPO", "PPO-ptx"


class Sampling(NamedTuple):
    """How the systems answer."""

    tokens: int = 40
    """Most tokens of an answer."""
    best_of: int = 8
    """Samples of the SFT model that its reward model chooses from."""


def answers(
    models: Models, prompts: Sequence[str], sampling: Sampling, folder: Path, seed: int
) -> dict[str, list[str]]:
    """Returns each system's answer to each prompt; the SFT model's is the first of its samples.

    Args:
        models: stage folders of a seed.
        prompts: P texts.
        sampling: how they answer.
        folder: where answers are kept until a model or a prompt changes.
        seed: of sampling, the same for all systems.
    """
    ways = {BASE: (models.base, 1), SFT: (models.sft, sampling.best_of), PPO: (models.ppo, 1), PTX: (models.ptx, 1)}
    many = {}
    for name, (source, k) in ways.items():
        # the base answers in the prompt format of SFT
        parts = [str(source), models.sft, *([source] if isinstance(source, Path) else [])]
        many[name] = kept_json(
            folder / f"{name}.json",
            [*parts, list(prompts), list(sampling), seed],
            partial(_responses, str(source), models.sft, prompts, k, sampling.tokens, seed),
        )
    found = {name: [texts[0] for texts in own] for name, own in many.items()}
    scored = [models.sft, models.rm, list(prompts), many[SFT]]
    best = kept_json(folder / f"{BEST}.json", scored, lambda: _best(models, prompts, many[SFT]))
    return found | {BEST: best}


def _responses(source: str, sft: Path, prompts: Sequence[str], k: int, tokens: int, seed: int) -> list[list[str]]:
    model = TextGenerator.from_source(source, prompter=prompter_of(find_source(str(sft))))
    found = model.respond(prompts, k=k, max_new_tokens=tokens, seed=seed, progress=f"{len(prompts) * k} responses")
    return [[response.text for response in own] for own in found]


def _best(models: Models, prompts: Sequence[str], many: Sequence[Sequence[str]]) -> list[str]:
    """The sample of each prompt that the reward model scores highest, the first of equals."""
    asked = [prompt for prompt, own in zip(prompts, many, strict=True) for _ in own]
    scores = reward_scores(models.sft, [models.rm], asked, [text for own in many for text in own])[0]
    table = scores.reshape(len(prompts), -1)
    return [own[int(row.argmax())] for own, row in zip(many, table, strict=True)]
