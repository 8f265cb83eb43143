"""A rollout engine over HTTP: vLLM servers sample from the policy's adapter."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_instruct.batches import PromptBatch
from lit_instruct.errors import UserError
from lit_instruct.models.roles import Roles
from lit_instruct.prompting import Prompter
from lit_instruct.rollouts.engine import Sampled, Told
from lit_instruct.rollouts.engine_options import URL, RolloutOptions
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.sampling import seed_of
from lit_instruct.rollouts.stopping import StopRule
from lit_instruct.rollouts.vllm.adapters import adapter_name, write_adapter
from lit_instruct.rollouts.vllm.identity import Identity
from lit_instruct.rollouts.vllm.replicas import Replicas
from lit_instruct.rollouts.vllm.server import Completion, Server

NEUTRAL = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_p": 0.0}
"""What a model's generation_config.json could change in a server."""


@dataclass
class VLLMEngine:
    """Gives servers the policy's adapter whenever it has changed, and asks them for responses."""

    roles: Roles
    sampling: SamplingOptions
    stop: StopRule
    replicas: Replicas
    folder: Path
    """Of the adapters; the servers see it under the same path."""
    first: bool
    """Whether this process writes the adapters."""
    agree: Callable[[Callable[[], Any]], Any]
    """Runs work on all processes, so that all stop if one of them must."""

    def sample(self, batch: PromptBatch, key: tuple[int, ...], told: Told) -> Sampled:
        """Samples one response to each prompt of this process.

        Raises:
            UserError: a server is wrong, or none is up, here or for another process; or a prompt is too long for one.
        """
        policy = self.roles.roles["policy"]
        name = adapter_name(policy.network, str(policy.adapter))
        folder = self.folder / name
        self.agree(lambda: self._give(name, folder))
        prompts = [ids[mask].tolist() for ids, mask in zip(batch.prompt_ids, batch.prompt_mask, strict=True)]
        seeds = [seed_of((*key, number)) for number in batch.row_number.tolist()]
        bodies = [self._request(name, *one) for one in zip(prompts, seeds, strict=True)]
        found = self.agree(lambda: self._completed(bodies, name, folder, told))
        return Sampled([one.ids for one in found], [one.log_probs for one in found])

    def close(self) -> None:
        """Makes the servers forget this run's adapters, and removes these."""
        if self.first:
            self.replicas.forget(self.folder)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _give(self, name: str, folder: Path) -> None:
        if self.first:
            policy = self.roles.roles["policy"]
            write_adapter(policy.network, str(policy.adapter), folder)
            self.replicas.give(name, folder)

    def _request(self, name: str, prompt: list[int], seed: int) -> dict[str, Any]:
        options = self.sampling
        asked: dict[str, Any] = {
            "model": name,
            "prompt": prompt,
            "seed": seed,
            "max_tokens": options.max_new_tokens,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "top_k": options.top_k,
            "ignore_eos": True,  # our rule knows which tokens end a response
            "stop_token_ids": self.stop.ids,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
        }
        if self.stop.strings:
            asked |= {"stop": self.stop.strings, "include_stop_str_in_output": True}
        return asked | NEUTRAL

    def _completed(self, bodies: list[dict[str, Any]], name: str, folder: Path, told: Told) -> list[Completion]:
        return [self._ended(one) for one in self.replicas.complete(bodies, name, folder, told)]

    def _ended(self, found: Completion) -> Completion:
        """A completion up to where our rule ends it: a server may see a stop string some tokens later."""
        most = self.sampling.max_new_tokens
        for end in range(1, len(found.ids) + 1):
            if self.stop.ended(found.ids[:end]) or end == most:
                return Completion(found.ids[:end], found.log_probs[:end])
        raise UserError(
            f"{URL}: a server ended a response after {len(found.ids)} of --model.sampling.max_new_tokens={most} "
            "tokens, without a token that ends one; start it with a larger --max-model-len"
        )


def vllm_engine(
    options: RolloutOptions,
    roles: Roles,
    sampling: SamplingOptions,
    prompter: Prompter,
    needs: int,
    at_once: int,
    folder: Path,
    first: bool,
    agree: Callable[[Callable[[], Any]], Any],
) -> VLLMEngine:
    """Returns the engine of a run; no server is asked before the first sample.

    Args:
        options: with the addresses of the servers.
        roles: the policy is one of them, an adapter on its base.
        sampling: how responses are sampled.
        prompter: the prompt format.
        needs: tokens of the longest prompt with its response.
        at_once: most requests that one server gets at a time.
        folder: of the adapters; the servers see it under the same path.
        first: whether this process writes the adapters.
        agree: runs work on all processes, so that all stop if one of them must.
    """
    identity = Identity(roles, prompter, needs, processed=sampling.temperature != 1 or sampling.top_p != 1)
    servers = [Server(url, options.timeout) for url in options.urls]
    replicas = Replicas(servers, identity.check, options.wait, at_once)
    return VLLMEngine(roles, sampling, sampling.stop_rule(prompter), replicas, folder.absolute(), first, agree)
