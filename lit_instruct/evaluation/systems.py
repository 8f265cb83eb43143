"""The compared systems answer the prompts, and each answer is scored."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lit_instruct.evaluation import measures
from lit_instruct.evaluation.compared import Compared
from lit_instruct.evaluation.options import REWARD, EvalOptions

if TYPE_CHECKING:
    from data_modules.rows import PromptRow
    from lit_instruct.prompting import Prompt, Prompter
    from lit_instruct.rollouts.reward_functions import TextScorer
    from lit_instruct.rollouts.text import Response, TextGenerator
    from lit_instruct.rollouts.text_reward import TextReward


@dataclass
class System:
    """One system's responses to the prompts, with one number per prompt for each measure."""

    name: str
    responses: list[Response]
    kl: list[float] | None
    """None without a reference that has the same tokens."""
    reward: list[float] | None
    """None without a reward model."""
    labeler: list[float]
    second_labeler: list[float]

    def per_prompt(self) -> dict[str, list[float]]:
        """Returns measure -> one value per prompt; length includes the EOS, eos_share is 1 if there is one."""
        measured = {
            "labeler": self.labeler,
            "second_labeler": self.second_labeler,
            "reward": self.reward,
            "kl": self.kl,
            "length": [float(len(response.ids)) for response in self.responses],
            "eos_share": [float(response.ended) for response in self.responses],
        }
        return {name: values for name, values in measured.items() if values is not None}


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


Also = Callable[[Sequence[str], "TextGenerator"], None]
"""What else is measured on a language model while it is in memory, with the names of the systems that it is."""


def measure_systems(
    options: EvalOptions, compared: Compared, rows: list[PromptRow], loaders: Loaders, also: Also | None = None
) -> list[System]:
    """Samples and scores with one model in memory at a time: the systems, the reference, the reward model."""
    from lit_instruct.rollouts.reward_functions import function_scorer

    n, prompts = options.best_of, [row.prompt for row in rows]
    labelers = [
        None if getattr(options, name) == REWARD else function_scorer(getattr(options, name), option=f"--{name}")
        for name in ("labeler", "second_labeler")
    ]
    answers, kl, many = _sample(options, compared, prompts, loaders, also)
    best = f"best_of_{n}"
    rewards: dict[str, list[float]] = {}
    if compared.reward is not None:
        alone = {name: system for name, system in answers.items() if not many or name != compared.best_of}
        rewards, chosen = _rewards(loaders.reward(compared.reward), prompts, many, alone)
        if compared.best_of is not None:
            answers[best] = [row[i] for row, i in zip(many, chosen, strict=True)]
            kl[best] = [measures.best_of_n_kl(n)] * len(prompts)
            rewards[best] = rewards.pop("best")
            rewards[compared.best_of] = rewards.pop("first")
    return [
        System(
            name,
            answers[name],
            kl.get(name),
            rewards.get(name),
            *_labels(labelers, rows, answers[name], rewards.get(name)),
        )
        for name in compared.labels(n)
    ]


def _sample(
    options: EvalOptions, compared: Compared, prompts: list[Prompt], loaders: Loaders, also: Also | None
) -> tuple[dict[str, list[Response]], dict[str, list[float]], list[list[Response]]]:
    """Responses of each system, their KL to the reference, and the n samples for best-of-n ([] without it)."""
    formats = {name: loaders.prompter(compared.formats.get(name, source)) for name, source in compared.sources.items()}
    measured = _same_tokens(compared, formats, loaders)
    answers, log_probs, kl = {}, {}, {}
    others = {name: source for name, source in compared.sources.items() if source != compared.reference}
    own = next((name for name in compared.sources if name not in others), None)
    for name in others:
        model = loaders.generator(others[name], formats[name] if name in compared.formats else None)
        answers[name] = [row[0] for row in _respond(model, options, prompts, name, k=1)]
        if name in measured:
            log_probs[name] = model.log_probs(prompts, answers[name], progress=f"{name}: log-probabilities")
        if also is not None:
            also([name], model)
        del model
        gc.collect()  # free it before the next model is loaded
    many: list[list[Response]] = []
    if compared.reference is not None and (own is not None or measured):
        model = loaders.generator(compared.reference, None)
        if own is not None:
            many = _respond(model, options, prompts, own, k=options.best_of if compared.best_of else 1)
            kl[own] = [0.0] * len(prompts)
        for name in log_probs:
            reference = model.log_probs(prompts, answers[name], progress=f"reference: log-probabilities of {name}")
            kl[name] = np.subtract(log_probs[name], reference).tolist()
        if also is not None and own is not None:
            also([name for name in compared.sources if name not in others], model)
        del model
        gc.collect()
    for name in compared.sources.keys() - others.keys():  # the reference, under each of its names
        answers[name], kl[name] = [row[0] for row in many], kl[str(own)]
    return answers, kl, many if compared.best_of is not None else []


def _same_tokens(compared: Compared, formats: dict[str, Prompter], loaders: Loaders) -> set[str]:
    """Systems whose prompts and responses the reference tokenises in the same way, so that their KL is defined."""
    if compared.reference is None:
        return set()
    reference = loaders.prompter(compared.reference).fingerprint()
    same = {name for name, prompter in formats.items() if prompter.fingerprint() == reference}
    others = [name for name in compared.sources if name not in same]
    if others:
        compared.left_out.append(f"KL of {', '.join(others)} is left out: another prompt format than the reference's")
    return same


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
    """Scores of each system, and of the first and the best of many, with the index of the best (first of equals)."""
    rewards = {
        name: model.score(prompts, [answer.text for answer in system], progress=f"rm: scores of {name}")
        for name, system in answers.items()
    }
    if not many:
        return rewards, []
    n = len(many[0])
    repeated = [prompt for prompt in prompts for _ in range(n)]
    texts = [answer.text for row in many for answer in row]
    scores = np.reshape(model.score(repeated, texts, progress="rm: scores of sft"), (len(prompts), n))
    return rewards | {"first": scores[:, 0].tolist(), "best": scores.max(axis=1).tolist()}, scores.argmax(
        axis=1
    ).tolist()


def _labels(
    labelers: Sequence[TextScorer | None], rows: list[PromptRow], answers: list[Response], rewards: list[float] | None
) -> list[list[float]]:
    """Scores by each labeler; None stands for the reward model, which there is then (`own_run.completed`)."""
    prompts, texts, columns = [row.prompt for row in rows], [a.text for a in answers], [row.columns() for row in rows]
    return [(rewards or []) if labeler is None else labeler(prompts, texts, columns) for labeler in labelers]
