"""Options of where responses are sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_instruct.errors import UserError
from lit_instruct.judging.reward_server import check_address

EngineName = Literal["native", "vllm"]
URL = "--model.rollouts.url"
KEY = "LIT_INSTRUCT_ROLLOUT_KEY"
"""Environment variable with the key of the servers, if they need one."""


@dataclass
class RolloutOptions:
    """Where responses are sampled: in the training process, or by vLLM servers (docs/vllm.md).

    Args:
        engine: native decodes in the training process; vllm asks servers, which get the adapter at each iteration.
        url: addresses of the servers, with commas, such as http://127.0.0.1:8801,http://node2:8801; each serves the
            same base, and prompts are dealt evenly.
        mismatch_bound: most nats a token by which the engine's log-probabilities may differ from ours (a KL
            divergence) before the run stops; null only logs it.
        importance_cap: weighs each token by how much more probable it is to our forward pass than to the engine, at
            most by this; null weighs all tokens alike.
        timeout: seconds that a server may take for one response.
        wait: seconds that the run waits for a server to come back when none is left.
    """

    engine: EngineName = "native"
    url: str | None = None
    mismatch_bound: float | None = 0.01
    importance_cap: float | None = None
    timeout: float = 600.0
    wait: float = 300.0

    def __post_init__(self) -> None:
        """Refuses an engine without servers, and servers without an engine that asks them."""
        if self.engine == "vllm" and not self.urls:
            raise UserError(
                f"{URL}: --model.rollouts.engine=vllm needs the address of a server; `lit-instruct serve-rollouts "
                "--run RUN` prints how to start one"
            )
        if self.engine == "native":
            given = [name for name in ("url", "importance_cap") if getattr(self, name) is not None]
            if given:
                raise UserError(
                    f"--model.rollouts.{given[0]}: needs --model.rollouts.engine=vllm; leave one of them out"
                )
        for url in self.urls:
            check_address(url, URL, KEY)
        if len(set(self.urls)) < len(self.urls):
            raise UserError(f"{URL}={self.url}: a server is named twice; name each once")
        for name in ("mismatch_bound", "timeout"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise UserError(f"--model.rollouts.{name}={value}: must be above 0")
        if self.importance_cap is not None and self.importance_cap < 1:
            raise UserError(f"--model.rollouts.importance_cap={self.importance_cap}: must be at least 1")
        if self.wait < 0:
            raise UserError(f"--model.rollouts.wait={self.wait}: must be at least 0")

    @property
    def urls(self) -> list[str]:
        """The addresses of the servers."""
        return [url.strip().rstrip("/") for url in (self.url or "").split(",") if url.strip()]
