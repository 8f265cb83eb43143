"""Replays an update that TRL 1.12's PPOTrainer made (tests/oracle) through PPOModule."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

from lit_instruct.batches import PromptBatch, Rollout
from lit_instruct.losses.masked import masked_moments, whiten
from lit_instruct.models.heads import ScoreHead
from lit_instruct.models.roles import Role, Roles
from lit_instruct.ppo.collect import Collector, Reward
from lit_instruct.ppo.objective import KLOptions, ObjectiveOptions, ValueOptions
from lit_instruct.ppo.options import PPOOptimizerOptions, RewardOptions
from lit_instruct.ppo.targets import Target, Targets
from lit_instruct.ppo.update import Step, Updater
from lit_instruct.rollouts.engine import Sampled
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.stages.ppo import PPOModule
from tests.lit_instruct.stages.helpers import plain_trainer

RECORDINGS = Path(__file__).parents[2] / "oracle" / "recordings"
RECORDED = json.loads((RECORDINGS / "cases.json").read_text())
CASES: dict[str, dict[str, Any]] = RECORDED["cases"]
"""Settings and figures of each recording."""


class Recording:
    """What TRL did.

    Args:
        name: of the recording.
        rank: of the process, where there were several.
    """

    def __init__(self, name: str, rank: int | None = None) -> None:
        self.case = CASES[name]
        prefix = "" if rank is None else f"rank{rank}."
        loaded = load_file(RECORDINGS / f"{name}.safetensors")
        self.tensors = {key.removeprefix(prefix): t for key, t in loaded.items() if key.startswith(prefix)}
        self.weights = load_file(RECORDINGS / f"weights-{'lora' if self.case['lora'] else 'full'}.safetensors")
        self.responses = self["responses"]
        self.mask = ~self["padding_mask"]
        self.mask_and_state_after = ~self["padding_mask_p1"]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def ended(self) -> Tensor:
        """(B,) whether a response holds its EOS."""
        return (self.responses == self.case["eos_id"]).any(dim=1) & bool(self.case["stops"])

    @property
    def raw_scores(self) -> Tensor:
        """(B,) scores before the penalty for a missing EOS."""
        return self["scores"] + (self.case["missing_eos_penalty"] or 0.0) * ~self.ended

    @property
    def after(self) -> dict[str, Tensor]:
        """Trained weights after the update, under our names."""
        weights = {key.removeprefix("after."): t for key, t in self.tensors.items() if key.startswith("after.")}
        return {key.replace(".default.", ".policy."): t for key, t in weights.items()}


class Replay(PPOModule):
    """PPOModule on TRL's networks, prompts and responses.

    Args:
        recording: of TRL.
        given: takes TRL's log-probabilities and values in place of our own.
        state_after: counts the state after a response that ended early as TRL did; see `test_ppo_oracle.py`.
        minibatches: optimizer steps per inner epoch.
        micro_batch_size: rows of a micro-batch; None takes as many as TRL.
    """

    def __init__(
        self,
        recording: Recording,
        given: bool,
        state_after: bool,
        minibatches: int = 1,
        micro_batch_size: int | None = None,
    ) -> None:
        case = recording.case
        rate = case["learning_rate"]
        super().__init__(
            "recorded",
            iterations=1,
            lora=None,
            objective=ObjectiveOptions(
                case["cliprange"], case["gamma"], case["lam"], True, 0.0, case["num_ppo_epochs"], minibatches
            ),
            kl=KLOptions(case["kl_coef"], case["kl_estimator"]),
            reward=RewardOptions(
                function="recorded",
                whiten=case["whiten_rewards"],
                missing_eos_penalty=case["missing_eos_penalty"] or 0.0,
            ),
            value=ValueOptions("reward_model", case["cliprange_value"], case["vf_coef"], rate),
            optimizer=PPOOptimizerOptions(learning_rate=rate, warmup_iterations=0, max_grad_norm=1e9),
            sampling=SamplingOptions(temperature=case["temperature"]),
        )
        self.recording, self.given, self.state_after = recording, given, state_after
        self.micro_batch_size = micro_batch_size or len(recording.responses) // case["micro_batches"]
        self.prompter: Any = SimpleNamespace(
            pad_id=case["pad_id"], stop_ids=[case["eos_id"]] if case["stops"] else [], decode=str
        )
        self.rollouts: list[Rollout] = []
        self.found: list[Target] = []
        self.losses: list[dict[str, float]] = []
        self.gradient_norms: list[float] = []

    def setup(self, stage: str) -> None:
        """Puts the recording in the place of models and samples."""
        self.roles, self.offloading = roles_of(self.recording), nullcontext()
        scores = self.recording.raw_scores.tolist()
        rewards = [Reward("main", 1.0, lambda *_: scores)]
        self.compose(rewards, 0.0)
        sampling, count = self.options.sampling, self.options.objective.minibatches
        self.collector = RecordedCollector(
            *(self.roles, self.prompter, sampling, rewards, 0.0, count, self.cut, self.guard, self.ranks),
            engine=self.collector.engine,
        )
        self.collector.replay = self
        self.targets = RecordedTargets(
            self.options.reward, self.options.objective, self.kl.options.estimator, self.ranks
        )
        self.targets.replay = self

    def configure_optimizers(self) -> dict[str, Any]:
        """Takes the recorded epsilon; see `Case.adam_epsilon` of the recording script."""
        configured = super().configure_optimizers()
        for group in configured["optimizer"].param_groups:
            group["eps"] = self.recording.case["adam_epsilon"]
        return configured

    def run(self) -> Replay:
        """Trains for the recorded iteration."""
        step = Updater.step

        def noted_step(updater: Updater, *given: Any) -> Step:
            found = step(updater, *given)
            self.losses.append(found.losses)
            return found

        def noted_clipping(parameters: Any, max_norm: float) -> Tensor:
            norm = CLIP(parameters, max_norm)
            self.gradient_norms.append(float(norm))
            return norm

        with (
            TemporaryDirectory() as folder,
            patch("torch.nn.utils.clip_grad_norm_", noted_clipping),
            patch.object(Updater, "step", noted_step),
        ):
            trainer = plain_trainer(Path(folder), max_epochs=-1)
            trainer.fit(self, DataLoader([prompts_of(self.recording)], collate_fn=lambda rows: rows[0]))
        return self

    @property
    def after(self) -> dict[str, Tensor]:
        """Trained weights, under the names of the recording."""
        parts = {role: self.roles.roles[role].network for role in ("policy", "value")}
        parts["value.score"] = self.roles.value_head
        found = {f"{role}.{name}": p for role, part in parts.items() for name, p in part.named_parameters()}
        return {name: p.detach() for name, p in found.items() if p.requires_grad}

    def cut(self, rows: list[int], lengths: list[int]) -> list[list[int]]:
        """Cuts rows into as many micro-batches as TRL made, unless the constructor was given a size."""
        size = self.micro_batch_size
        return [rows[first : first + size] for first in range(0, len(rows), size)]


CLIP = torch.nn.utils.clip_grad_norm_


class RecordedTargets(Targets):
    """Keeps its rollouts and targets, and counts tokens as TRL does if `state_after` is set."""

    replay: Replay

    def __call__(
        self, rollouts: Sequence[Rollout], kl_coef: float, rows: Sequence[Sequence[int]] = ()
    ) -> tuple[list[Target], float]:
        """Finds the targets of a recording."""
        found, spread = super().__call__(rollouts, kl_coef, rows)
        if self.replay.state_after:
            found = [self.as_trl_counts(*pair) for pair in zip(found, rollouts, strict=True)]
        self.replay.rollouts, self.replay.found = list(rollouts), found
        return found, spread

    def as_trl_counts(self, target: Target, rollout: Rollout) -> Target:
        """TRL whitens and averages over the tokens alone what it computed with the states after them."""
        mask = self.replay.recording.mask[self.replay.collector.parts[0]]
        advantages = whiten(target.advantages, mask, masked_moments(target.advantages, mask))
        return target._replace(advantages=advantages * rollout.response_mask.sum() / mask.sum())


class RecordedCollector(Collector):
    """Samples what TRL sampled, and takes TRL's figures where they are given."""

    replay: Replay
    parts: Sequence[Sequence[int]]

    def sample(self, batch: PromptBatch, key: tuple[int, ...]) -> Sampled:
        """Returns TRL's responses."""
        recording = self.replay.recording
        return Sampled([ids[mask].tolist() for ids, mask in zip(recording.responses, recording.mask, strict=True)])

    def join(self, batch: PromptBatch, responses: list[list[int]], rows: Sequence[int]) -> tuple[Tensor, ...]:
        """Counts the state after a response if `state_after` is set."""
        *others, response_mask = super().join(batch, responses, rows)
        if self.replay.state_after:
            response_mask = self.replay.recording.mask_and_state_after[rows, : response_mask.shape[1]]
        return *others, response_mask

    def score(self, batch: PromptBatch, responses: list[list[int]], parts: Sequence[Sequence[int]]) -> list[Rollout]:
        """Scores with our code, then puts TRL's figures in place of ours where they are given."""
        self.parts = parts
        rollouts = super().score(batch, responses, parts)
        return [self.as_recorded(rollout, list(rows)) for rollout, rows in zip(rollouts, parts, strict=True)]

    def as_recorded(self, rollout: Rollout, rows: list[int]) -> Rollout:
        """Puts TRL's figures in place of ours where they are given."""
        recording, width = self.replay.recording, rollout.response_mask.shape[1]
        tokens = recording.mask[rows, :width]
        if not self.replay.given:  # no action follows the state after a response
            return rollout._replace(
                log_probs=rollout.log_probs * tokens, reference_log_probs=rollout.reference_log_probs * tokens
            )
        return rollout._replace(
            log_probs=recording["logprobs"][rows, :width] * tokens,
            reference_log_probs=recording["ref_logprobs"][rows, :width] * tokens,
            values=recording["values"][rows, :width] * rollout.response_mask,
        )


@cache
def recording_of(name: str, rank: int | None = None) -> Recording:
    """Reads a recording once."""
    return Recording(name, rank)


@cache
def replay_of(name: str, given: bool, state_after: bool) -> Replay:
    """Replays a recording once; tests must not write to what it returns."""
    return Replay(recording_of(name), given, state_after).run()


def prompts_of(recording: Recording) -> PromptBatch:
    """The recorded prompts."""
    ids = recording["queries"]
    rows = [SimpleNamespace(prompt=str(row), use_case=None, columns=dict) for row in range(len(ids))]
    return PromptBatch(ids, ids != recording.case["pad_id"], torch.arange(len(ids)), rows)


def roles_of(recording: Recording) -> Roles:
    """TRL's four networks before the update; its reward model's scores are taken from the recording."""
    config = LlamaConfig(**RECORDED["network"])
    part = _parts(recording.weights)
    reference = _load(LlamaForCausalLM(config), part["reference"])
    value = _load(LlamaForCausalLM(config), {n: t for n, t in part["value"].items() if not n.startswith("score.")})
    roles = {"value": Role(value, None), "reference": Role(reference, None)}
    if recording.case["lora"]:
        adapter = LoraConfig(**RECORDED["lora"], task_type="CAUSAL_LM")
        network = get_peft_model(reference, adapter, adapter_name="policy")
        _load(network, {name.replace(".default.", ".policy."): t for name, t in part["policy"].items()})
        roles |= {"policy": Role(network, "policy"), "reference": Role(network, None)}
    else:
        roles["policy"] = Role(_load(LlamaForCausalLM(config), part["policy"]), None)
    head = ScoreHead(config.hidden_size, 1, bias=True)
    head.load_state_dict({name: part["value"][f"score.{name}"] for name in ("weight", "bias")})
    return Roles(roles, head)


def _parts(weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        role, _, rest = name.partition(".")
        parts.setdefault(role, {})[rest] = tensor
    return parts


def _load(network: Any, weights: dict[str, Tensor]) -> Any:
    unknown = network.load_state_dict(weights, strict=False).unexpected_keys
    assert weights
    assert not unknown
    return network
