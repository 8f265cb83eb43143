"""Options of `lit-instruct iterate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lit_instruct.errors import UserError
from lit_instruct.judging.comparisons import Noise
from lit_instruct.labeling.tasks import Shares
from lit_instruct.rollouts.function_names import Function
from lit_instruct.rollouts.generate import SamplingOptions

PEOPLE = "people"
"""As a labeler: people rank on the page of `lit-instruct rank`."""


@dataclass
class FreshPrompts:
    """Prompts of the comparisons. No prompt is used twice, and none that the SFT model was trained on.

    Args:
        path: file of prompts.
        per_round: prompts of a round, in an order that follows from the seed.
        held_out: share of the prompts of each round whose comparisons no reward model learns from.
        fields: field of the layout -> its name in the file, such as {prompt: question}.
    """

    path: str
    per_round: int = 160
    held_out: float = 0.2
    fields: dict[str, str] | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.per_round < 2:
            raise UserError(f"--prompts.per_round={self.per_round}: must be at least 2")
        if not 0 < self.held_out < 1:
            raise UserError(f"--prompts.held_out={self.held_out}: must be above 0 and below 1")


@dataclass
class Stages:
    """Config files of the steps of a round, and options that count more than these.

    Args:
        rm: of the reward model, such as recipes/demo/rm.yaml.
        ppo: of PPO.
        eval: of the evaluation.
        rm_options: further options of the reward model, as on the command line of `rm fit`.
        ppo_options: the same of `ppo fit`.
        eval_options: the same of `eval`.
    """

    rm: str
    ppo: str
    eval: str
    rm_options: list[str] = field(default_factory=list)
    ppo_options: list[str] = field(default_factory=list)
    eval_options: list[str] = field(default_factory=list)


@dataclass
class PeopleOptions:
    """The page on which people rank, with `--labeler=people`.

    Args:
        overlap: tasks that are ranked more than once.
        host: address to serve at; others than this machine's own need --people.token, and a proxy of yours with TLS.
        port: of the address; 0 takes a free one.
        token: secret of the address; null takes LIT_INSTRUCT_RANK_TOKEN of the environment, or the store's own.
        enough: share of the wanted rankings with which the round goes on; lower it if some tasks are skipped by all.
    """

    overlap: Shares = field(default_factory=lambda: Shares(share=0.0, repeated=0.0))
    host: str = "127.0.0.1"
    port: int = 8712
    token: str | None = None
    enough: float = 1.0

    def __post_init__(self) -> None:
        """Checks the share."""
        if not 0 < self.enough <= 1:
            raise UserError(f"--people.enough={self.enough}: must be above 0 and at most 1")


@dataclass
class IterateOptions:
    """Rounds of comparisons, reward model and PPO: each round ranks responses of the newest policy.

    The same command goes on where it was stopped or killed.

    Args:
        prompts: prompts of the comparisons.
        stages: config files of the steps.
        run: folder of the rounds.
        rounds: number of rounds in all; more than there are adds rounds.
        sft: stage folder of the SFT model, which round 0 samples and every policy is compared with.
        k: responses to each prompt.
        from_sft: how many of these k come from the SFT model in later rounds.
        from_older: how many of these k come from policies before the newest one, which take turns over the prompts.
        labeler: ranks the responses: one of docs/labelers.md, such as the import path of a Python function or
            reward:RUN; or people, who rank on a page.
        start: what each policy is trained from: sft, as in the paper, or the last policy, to which its KL penalty then
            refers too.
        weights: weights of the rounds' comparisons, the newest first, the last number for all older ones: the reward
            model's rows are drawn in these proportions without repetition, so that some are left out. Null takes all
            rows of all rounds.
        sampling: length and temperature.
        batch_size: sequences decoded in parallel.
        seed: of the order of the prompts, and with the number of the round that of sampling and training.
        people: the page, with --labeler=people.
        noise: makes the labeler disagree with others; not with people.
        compare: folder of other rounds, such as those of a single long round, shown beside these in rounds.html.
    """

    prompts: FreshPrompts
    stages: Stages
    run: str = "runs/loop"
    rounds: int = 3
    sft: str = "runs/demo/sft"
    k: int = 4
    from_sft: int = 0
    from_older: int = 0
    labeler: Function = "lit_instruct.evaluation.prompt_aware.helpful"
    start: Literal["sft", "last"] = "sft"
    weights: list[float] | None = None
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    batch_size: int = 64
    seed: int = 0
    people: PeopleOptions = field(default_factory=PeopleOptions)
    noise: Noise = field(default_factory=Noise)
    compare: str | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.rounds < 1:
            raise UserError(f"--rounds={self.rounds}: must be at least 1")
        if self.k < 2:
            raise UserError(f"--k={self.k}: a comparison needs at least 2 responses")
        for name in ("from_sft", "from_older"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name}={getattr(self, name)}: must be 0 or more")
        if self.from_sft + self.from_older >= self.k:
            raise UserError(
                f"--from_sft={self.from_sft} --from_older={self.from_older}: at least one of the {self.k} responses "
                "must come from the newest policy; lower them, or raise --k"
            )
        if self.labeler == PEOPLE and self.noise.flip:
            raise UserError(f"--noise.flip={self.noise.flip}: with --labeler=people nothing is flipped; leave it out")
        if self.weights is not None and (not self.weights or any(not weight > 0 for weight in self.weights)):
            raise UserError(f"--weights={self.weights}: must be numbers above 0, the newest round's first")
