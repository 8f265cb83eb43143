"""One vLLM server: what it serves, the adapters that it is given, and its completions."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lit_instruct.errors import UserError
from lit_instruct.judging.client import Answer, Client, Failure
from lit_instruct.rollouts.engine_options import KEY, URL

ASKING = 30.0
"""Most seconds for anything but a completion."""
START = "start it with the command that `lit-instruct serve-rollouts --run RUN` prints"
ALREADY = "already been loaded"
"""What a server says of an adapter that it has."""


class GoneError(Exception):
    """A server gives no answer, or has lost the adapter; that may pass."""


class Card(NamedTuple):
    """A model or an adapter that a server lists."""

    name: str
    root: str
    """Folder or hub id."""
    parent: str | None
    """None of the base; the base's name of an adapter."""
    max_model_len: int | None
    """Most tokens of prompt and response; None of an adapter."""


class Completion(NamedTuple):
    """A response as a server gives it."""

    ids: list[int]
    log_probs: list[float]
    """Of each token, in nats."""


class Server:
    """A vLLM server.

    Args:
        url: its address.
        timeout: seconds that it may take for one response.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url
        key = KEY if os.environ.get(KEY) else None
        self._asking = Client(url, URL, key, min(timeout, ASKING), 0)
        self._completing = Client(url, URL, key, timeout, 0)
        self.base: Card | None = None
        """What it serves, once that has been checked."""
        self.adapter: str | None = None
        """The adapter that it has; None while it is not known to be up."""
        self.gone = "was not asked yet"
        """Why it is not up."""

    def cards(self) -> list[Card]:
        """Returns what it lists, the base first.

        Raises:
            GoneError: it gives no answer.
            UserError: it lists no base.
        """
        answer = self.ask("/v1/models")
        listed = answer.get("data") if isinstance(answer, dict) else None
        try:
            cards = [Card(one["id"], str(one["root"]), one["parent"], one["max_model_len"]) for one in listed or []]
        except (KeyError, TypeError) as error:
            raise UserError(f"{URL}: {self.url} is no vLLM server ({error} in its list of models); {START}") from error
        bases = [card for card in cards if card.parent is None]
        if not bases:
            raise UserError(f"{URL}: {self.url} is no vLLM server: it lists no base model; {START}")
        return [bases[0], *(card for card in cards if card.parent is not None)]

    def load(self, name: str, folder: Path) -> None:
        """Makes it read an adapter from a folder, which it must see under the same path.

        Raises:
            GoneError: it gives no answer.
            UserError: it refuses the adapter.
        """
        answer = self._made(self._asking, "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        if answer.status == 200 or ALREADY in answer.text:
            return
        advice = (
            f"it must see {folder} under that path, with `--enable-lora`, a `--max-lora-rank` of at least the "
            f"adapter's and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1; {START}"
        )
        raise UserError(f"{URL}: {self.url} takes no adapter ({answer.status}{answer.said}); {advice}")

    def unload(self, name: str) -> None:
        """Makes it forget an adapter, if it has it.

        Raises:
            GoneError: it gives no answer.
        """
        self._made(self._asking, "/v1/unload_lora_adapter", {"lora_name": name})

    def complete(self, body: Mapping[str, Any]) -> Completion:
        """Returns one response.

        Args:
            body: of the request, for one sample.

        Raises:
            GoneError: it gives no answer, or has lost the adapter.
            UserError: it refuses the request, or is too old to say which tokens it sampled.
        """
        answer = self._made(self._completing, "/v1/completions", {**body, "logprobs": 0, "return_token_ids": True})
        if answer.status == 404:
            raise GoneError(f"has lost the adapter{answer.said}")
        found = self._json("/v1/completions", answer)
        try:
            choice = found["choices"][0]
            ids, log_probs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            completion = Completion([int(token) for token in ids], [float(value) for value in log_probs])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(
                f"{URL}: {self.url} does not say which tokens it sampled and how probable they were ({error!r}); take "
                "vLLM 0.32, in which this was tested"
            ) from error
        if len(completion.ids) != len(completion.log_probs):
            raise UserError(
                f"{URL}: {self.url} answered {len(completion.ids)} tokens with {len(completion.log_probs)} "
                "log-probabilities; take vLLM 0.32, in which this was tested"
            )
        return completion

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Returns the JSON that it answers.

        Raises:
            GoneError: it gives no answer.
            UserError: it refuses.
        """
        return self._json(path, self._made(self._asking, path, body))

    def _made(self, client: Client, path: str, body: Mapping[str, Any] | None) -> Answer:
        found = client.attempt(path, body)
        if isinstance(found, Failure):
            raise GoneError(found.what)
        return found

    def _json(self, path: str, answer: Answer) -> Any:
        if answer.status != 200:
            raise UserError(f"{URL}: {self.url}{path} answered {answer.status}{answer.said}; {START}")
        try:
            return json.loads(answer.text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{URL}: {self.url}{path} answered no JSON{answer.said}; {START}") from error
