"""Whether a server has the base that is trained: configuration, tokenizer, chat template, vocabulary, probabilities."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from lit_instruct.errors import UserError
from lit_instruct.models import peft_private
from lit_instruct.models.roles import Roles
from lit_instruct.prompting import Prompter
from lit_instruct.rollouts.engine_options import URL
from lit_instruct.rollouts.vllm.server import START, Card, Server

TEXT = 'The quick brown fox said: "1,024 naïve cafés in 東京 — isn\'t it?"\n\tdef f(x): return x**2  # 🙂'
"""Has what tokenizers treat differently: digits, accents, spaces, quotes, code, other scripts."""
MESSAGES = [{"role": "user", "content": "Hello"}]
SHARE = 61
"""One id in this many of the vocabulary is compared, and the last one."""
PROBE_TOKENS = 8
FAR = 0.25
"""Mean difference in nats between the log-probabilities of the probe that another dtype does not reach."""
UNIMPORTANT = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
"""Fields of config.json that do not change what is computed, or that --dtype decides."""


@dataclass
class Identity:
    """What a server of a run must serve."""

    roles: Roles
    prompter: Prompter
    needs: int
    """Tokens of the longest prompt with its response."""
    processed: bool
    """Whether log-probabilities must be those after temperature, top-p and top-k."""

    def check(self, server: Server, base: Card) -> None:
        """Refuses a server that serves another base, as far as it tells, or one that does not read whole prompts.

        Raises:
            UserError: says what differs.
            GoneError: the server gives no answer.
        """
        if base.max_model_len is not None and base.max_model_len < self.needs:
            raise UserError(
                f"{URL}: {server.url} reads {base.max_model_len} tokens, but the longest prompt with its response has "
                f"{self.needs}; start it with --max-model-len={self.needs}, or leave out longer prompts with "
                "--data.max_prompt_length and --data.on_long=drop"
            )
        differing = self._files(base.root) or self._tokens(server, base.name)
        if differing is None and not (distance := self._distance(server, base.name)) <= FAR:
            differing = f"its weights (log-probabilities of a probe are {distance:.2f} nats apart)"
        if differing is not None:
            raise UserError(
                f"{URL}: {server.url} serves {base.root}, which differs from the policy's base "
                f"{self._model.name_or_path} in {differing}; {START}"
            )
        if self.processed and not _is_processed(server, base.name, self._probe()):
            raise UserError(
                f"{URL}: {server.url} gives log-probabilities of before temperature, top-p and top-k; start it with "
                "--logprobs-mode=processed_logprobs, or sample with temperature 1, top_p 1 and top_k 0"
            )

    @property
    def _model(self) -> Any:
        return self.roles.language_model("policy")

    def _files(self, root: str) -> str | None:
        """Compares configurations, if both are folders that can be read here."""
        files = [Path(place) / "config.json" for place in (root, self._model.name_or_path)]
        if not all(file.is_file() for file in files):
            return None
        theirs, ours = (json.loads(file.read_text(encoding="utf-8")) for file in files)
        names = sorted((theirs.keys() | ours.keys()) - {*UNIMPORTANT})
        wrong = [name for name in names if theirs.get(name) != ours.get(name)]
        if not wrong:
            return None
        return f"its configuration ({wrong[0]}: {theirs.get(wrong[0])} there, {ours.get(wrong[0])} here)"

    def _tokens(self, server: Server, name: str) -> str | None:
        """Compares tokenizers."""
        tokenizer = self.prompter.tokenizer
        asked = {"model": name, "add_special_tokens": False}
        if _ids(server, {**asked, "prompt": TEXT}) != tokenizer.encode(TEXT, add_special_tokens=False):
            return "its tokenizer"
        if tokenizer.chat_template is not None:
            ours = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
            if _ids(server, {**asked, "messages": MESSAGES, "add_generation_prompt": True}) != ours:
                return "its chat template"
        some = [*range(0, len(tokenizer), SHARE), len(tokenizer) - 1]
        theirs = server.ask("/detokenize", {"model": name, "tokens": some})["prompt"]
        return None if theirs == tokenizer.decode(some) else "its vocabulary"

    def _probe(self) -> list[int]:
        return self.prompter.tokenizer.encode(TEXT, add_special_tokens=False)

    def _distance(self, server: Server, name: str) -> float:
        """Mean difference of the log-probabilities of a greedy response of the base without an adapter, in nats."""
        prompt = self._probe()
        asked = {"model": name, "prompt": prompt, "max_tokens": PROBE_TOKENS, "temperature": 0.0, "ignore_eos": True}
        found = server.complete(asked)
        ours = _base_log_probs(self.roles, prompt, found.ids)
        return float((torch.tensor(found.log_probs) - ours).abs().mean())


def _is_processed(server: Server, name: str, prompt: list[int]) -> bool:
    """With top-k 1 the sampled token has probability 1 after processing."""
    asked = {"model": name, "prompt": prompt, "max_tokens": 1, "temperature": 1.0, "top_k": 1, "ignore_eos": True}
    return abs(server.complete(asked).log_probs[0]) < 1e-4


def _ids(server: Server, body: dict[str, Any]) -> list[int]:
    return server.ask("/tokenize", body)["tokens"]


@torch.no_grad()
def _base_log_probs(roles: Roles, prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
    """Log-probability of each token of a response under the base without an adapter."""
    network, model = roles.roles["policy"].network, roles.language_model("policy")
    for layer in network.modules():
        if isinstance(layer, LoraLayer):
            peft_private.activate(layer, None)
    ids = torch.tensor([[*prompt, *response]], device=next(model.parameters()).device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    roles.activate("policy")
    return logits.log_softmax(dim=-1).gather(1, ids[0, len(prompt) :, None]).squeeze(1).cpu()
