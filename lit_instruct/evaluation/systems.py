"""Base, SFT, best-of-n and PPO answer the held-out prompts, and each answer is scored."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lit_instruct.evaluation import measures
from lit_instruct.evaluation.options import REWARD, EvalOptions

if TYPE_CHECKING:
    from data_modules.rows import PromptRow
    from lit_instruct.prompting import Prompt, Prompter
    from lit_instruct.rollouts.reward_functions import TextScorer
    from lit_instruct.rollouts.text import Response, TextGenerator
    from lit_instruct.rollouts.text_reward import TextReward


@dataclass
class System:
    """One system's responses to the held-out prompts, with one number per prompt for each measure."""

    name: str
    responses: list[Response]
    kl: list[float]
    reward: list[float]
    labeler: list[float]
    second_labeler: list[float]

    def per_prompt(self) -> dict[str, list[float]]:
        """Returns measure -> one value per prompt; length includes the EOS, eos_share is 1 if there is one."""
        return {
            "labeler": self.labeler,
            "second_labeler": self.second_labeler,
            "reward": self.reward,
            "kl": self.kl,
            "length": [float(len(response.ids)) for response in self.responses],
            "eos_share": [float(response.ended) for response in self.responses],
        }


class Loaders(NamedTuple):
    """Functions that open the models of a run; tests pass their own."""

    generator: Callable[..., TextGenerator]
    """(source, prompter=None) -> language model."""
    prompter: Callable[[str], Prompter]
    """source -> the prompt format of its training, without loading weights."""
    reward: Callable[[str], TextReward]
    """source -> reward model."""


def default_loaders(options: EvalOptions) -> Loaders:
    """Opens the stage folders of a run."""
    from lit_instruct.handover import prompter_of
    from lit_instruct.models.loading import find_source
    from lit_instruct.rollouts.text import TextGenerator
    from lit_instruct.rollouts.text_reward import TextReward

    def open_generator(source: str, prompter: Prompter | None = None) -> TextGenerator:
        return TextGenerator.from_source(source, prompter=prompter, quantize=options.quantize)

    reward = partial(TextReward.from_source, quantize=options.quantize)
    return Loaders(open_generator, lambda source: prompter_of(find_source(source)), reward)


def measure_systems(options: EvalOptions, base: str, rows: list[PromptRow], loaders: Loaders) -> list[System]:
    """Samples and scores with one model in memory at a time: base, PPO, SFT, reward model."""
    from lit_instruct.rollouts.reward_functions import function_scorer

    run, n, prompts = Path(options.run), options.best_of, [row.prompt for row in rows]
    names = ("labeler", "second_labeler")
    labelers = [
        None if getattr(options, name) == REWARD else function_scorer(getattr(options, name), option=f"--{name}")
        for name in names
    ]
    answers, log_probs = {}, {}
    # The base answers in SFT's prompt format, so that only the training differs.
    sft_format = loaders.prompter(str(run / "sft"))
    for name, source, prompter in (("base", base, sft_format), ("ppo", str(run / "ppo"), None)):
        model = loaders.generator(source, prompter)
        answers[name] = [row[0] for row in _respond(model, options, prompts, name, k=1)]
        log_probs[name] = model.log_probs(prompts, answers[name], progress=f"{name}: log-probabilities")
        del model
        gc.collect()  # free it before the next model is loaded

    model = loaders.generator(str(run / "sft"), None)
    many = _respond(model, options, prompts, "sft", k=n)
    reference = {
        name: model.log_probs(prompts, answers[name], progress=f"sft: log-probabilities of {name}") for name in answers
    }
    del model
    gc.collect()
    kl = {name: np.subtract(log_probs[name], reference[name]).tolist() for name in answers}
    kl |= {"sft": [0.0] * len(prompts), f"best_of_{n}": [measures.best_of_n_kl(n)] * len(prompts)}

    rewards, best = _rewards(loaders.reward(str(run / "rm")), prompts, many, answers)
    answers["sft"] = [row[0] for row in many]
    answers[f"best_of_{n}"] = [row[i] for row, i in zip(many, best, strict=True)]
    rewards[f"best_of_{n}"] = rewards.pop("best")
    return [
        System(name, answers[name], kl[name], rewards[name], *_labels(labelers, rows, answers[name], rewards[name]))
        for name in ("base", "sft", f"best_of_{n}", "ppo")
    ]


def _respond(
    model: TextGenerator, options: EvalOptions, prompts: list[Prompt], name: str, k: int
) -> list[list[Response]]:
    assert options.max_new_tokens is not None  # `own_run.completed` fills it in
    return model.respond(
        prompts,
        k=k,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        seed=options.seed,
        batch_size=options.batch_size,
        progress=f"{name}: {len(prompts) * k} responses",
    )


def _rewards(
    model: TextReward, prompts: list[Prompt], many: list[list[Response]], answers: dict[str, list[Response]]
) -> tuple[dict[str, list[float]], list[int]]:
    """Scores of each system and of the best of many, with the index of the best (the first of equals)."""
    rewards = {
        name: model.score(prompts, [answer.text for answer in system], progress=f"rm: scores of {name}")
        for name, system in answers.items()
    }
    n = len(many[0])
    repeated = [prompt for prompt in prompts for _ in range(n)]
    texts = [answer.text for row in many for answer in row]
    scores = np.reshape(model.score(repeated, texts, progress="rm: scores of sft"), (len(prompts), n))
    rewards |= {"sft": scores[:, 0].tolist(), "best": scores.max(axis=1).tolist()}
    return rewards, scores.argmax(axis=1).tolist()


def _labels(
    labelers: Sequence[TextScorer | None], rows: list[PromptRow], answers: list[Response], rewards: list[float]
) -> list[list[float]]:
    """Scores by each labeler; None stands for the reward model."""
    prompts, texts, columns = [row.prompt for row in rows], [a.text for a in answers], [row.columns() for row in rows]
    return [rewards if labeler is None else labeler(prompts, texts, columns) for labeler in labelers]
