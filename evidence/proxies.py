"""Reward models that stand in for a gold labeler, and the curves of best-of-n and PPO that optimise them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from evidence import ROOT
from evidence.agreement import agreed
from evidence.cached import kept_json
from evidence.context import Context
from evidence.curves import Pool, best_of_n_curve, ppo_curve, read_pool, start_of
from evidence.fits import Curve
from evidence.models import SMALL
from evidence.peaks import Measured
from evidence.reward_scores import reward_scores
from evidence.samples import chosen_prompts, sampled
from evidence.stages import run_stage
from lit_instruct.commands.sample import SampleData, SampleOptions
from lit_instruct.losses.aggregate import Aggregate, aggregate
from lit_instruct.rollouts.generate import SamplingOptions

DATA = ROOT / "recipes/demo/data"
RM = ROOT / "recipes/evidence/own_samples/rm.yaml"
PPO = ROOT / "recipes/evidence/overoptimization/ppo.yaml"
HOW: Aggregate = "mean_minus_std"


class Plan(NamedTuple):
    """Sizes of everything."""

    sizes: tuple[int, ...] = (50, 100, 200, 400)
    """Prompts that reward models learn from, four in a step: twelve steps from 50, a hundred from 400."""
    members: int = 5
    """Reward models of the ensemble, with seeds 0, 1, ..."""
    members_trained_on: int = 100
    """Prompts that each of them learns from; one of `sizes`."""
    k: int = 4
    """Responses to each prompt of the comparisons."""
    prompts: int = 64
    """Held-out prompts."""
    pool: int = 66
    """Responses to each of them that best-of-n chooses from; some more than it needs, since empty ones are left out."""
    best_of: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    tokens: int = 40
    """Most tokens of a response."""
    more: tuple[str, ...] = ()
    """Further options of all stages."""
    ppo: tuple[str, ...] = ()
    """Further options of PPO."""


QUICK = Plan(
    sizes=(4, 8),
    members=2,
    members_trained_on=4,
    k=3,
    prompts=4,
    pool=6,
    best_of=(2, 4),
    tokens=12,
    more=SMALL,
    ppo=("--model.iterations=4", "--trainer.val_check_interval=2", "--data.batch_size=4"),
)


class Proxies(NamedTuple):
    """What was measured."""

    curves: Measured
    accuracy: dict[int, list[np.ndarray]]
    """Prompts that a reward model was trained on -> of each seed (P,) how often it agrees with the gold labeler."""


class Setup(NamedTuple):
    """Where everything is, and by whom it is judged."""

    context: Context
    plan: Plan
    sft: Path
    """Stage folder of the model that is sampled and trained on."""
    gold: str
    """Import path of the gold labeler."""

    @property
    def folder(self) -> Path:
        """Of all files of the finding."""
        return self.context.runs / "overoptimization"


def measured(setup: Setup) -> Proxies:
    """Trains what is missing and returns the curves."""
    context, plan = setup.context, setup.plan
    prompts = chosen_prompts(DATA / "prompts_validation.jsonl", plan.prompts, setup.folder / "prompts.jsonl")
    comparisons = _sampled(setup, "comparisons", DATA / "prompts_train.jsonl", plan.k, 1, max(plan.sizes))
    file = _sampled(setup, "pool", prompts, plan.pool, 2)
    pool = read_pool(file)
    wanted = [(size, seed) for size in plan.sizes for seed in context.seeds]
    wanted += [(plan.members_trained_on, seed) for seed in range(plan.members)]
    rewards = {key: _reward_model(setup, comparisons, *key) for key in dict.fromkeys(wanted)}
    scores = _scores(setup, pool, file, rewards)

    def trained(reward: str, proxy: np.ndarray, name: str, seed: int, *more: str) -> Curve:
        run = setup.folder / f"ppo-{name}-{seed}"
        given = [f"--model.base={setup.sft}", f"--model.reward.model={reward}", f"--data.validation_path={prompts}"]
        given += [f"--model.sampling.max_new_tokens={plan.tokens}"]
        run_stage("ppo", PPO, run, [*given, *more, *plan.more, *plan.ppo, f"--seed_everything={seed}"])
        return ppo_curve(run / "ppo/logs/samples.jsonl", pool.prompts, start_of(proxy, pool.gold))

    members = [(plan.members_trained_on, seed) for seed in range(plan.members)]
    together, how = ",".join(str(rewards[key]) for key in members), f"--model.reward.ensemble={HOW}"
    ensemble = as_one(np.stack([scores[key] for key in members]))
    curves = Measured(
        {
            size: [best_of_n_curve(scores[size, s], pool.gold, plan.best_of) for s in context.seeds]
            for size in plan.sizes
        },
        {
            size: [trained(str(rewards[size, s]), scores[size, s], str(size), s) for s in context.seeds]
            for size in plan.sizes
        },
        [trained(together, ensemble, "ensemble", seed, how) for seed in context.seeds],
        plan.members_trained_on,
    )
    accuracy = {
        size: [agreed(scores[size, s].tolist(), pool.gold.tolist()) for s in context.seeds] for size in plan.sizes
    }
    return Proxies(curves, accuracy)


def as_one(scores: np.ndarray) -> np.ndarray:
    """Returns the scores of an ensemble of N reward models as PPO combines them: (N, P, K) -> (P, K)."""
    table = torch.from_numpy(scores.reshape(len(scores), -1).T.copy())
    return aggregate(table, HOW)[0].numpy().reshape(scores.shape[1:])


def _sampled(setup: Setup, name: str, prompts: Path, k: int, seed: int, limit: int | None = None) -> Path:
    sampling = SamplingOptions(max_new_tokens=setup.plan.tokens)
    data = SampleData(str(prompts), limit)
    out = str(setup.folder / f"{name}.jsonl")
    return sampled(SampleOptions(str(setup.sft), data, out, k, setup.gold, sampling, seed=seed))


def _reward_model(setup: Setup, comparisons: Path, size: int, seed: int) -> Path:
    run = setup.folder / f"rm-{size}-{seed}"
    data = [f"--data.path={comparisons}", f"--data.limit={size}"]
    run_stage("rm", RM, run, [f"--model.base={setup.sft}", *data, *setup.plan.more, f"--seed_everything={seed}"])
    return run / "rm"


def _scores(
    setup: Setup, pool: Pool, file: Path, rewards: dict[tuple[int, int], Path]
) -> dict[tuple[int, int], np.ndarray]:
    """(P, K) scores of the pool by each reward model."""
    prompts = [prompt for prompt, texts in zip(pool.prompts, pool.responses, strict=True) for _ in texts]
    responses = [text for texts in pool.responses for text in texts]
    folders = list(rewards.values())
    found = kept_json(
        setup.folder / "scores.json",
        [file, *folders],
        lambda: reward_scores(setup.sft, folders, prompts, responses).tolist(),
    )
    return {key: np.reshape(scores, pool.gold.shape) for key, scores in zip(rewards, found, strict=True)}
