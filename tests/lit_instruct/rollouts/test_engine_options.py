"""Options of the rollout engine."""

from __future__ import annotations

from typing import Any

import pytest

from lit_instruct.errors import UserError
from lit_instruct.rollouts.engine_options import RolloutOptions


def test_addresses_of_servers() -> None:
    options = RolloutOptions("vllm", "http://127.0.0.1:8801/, http://node2:8801")
    assert options.urls == ["http://127.0.0.1:8801", "http://node2:8801"]
    assert RolloutOptions().urls == []


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"engine": "vllm"}, "--model.rollouts.url: --model.rollouts.engine=vllm needs the address of a server"),
        ({"url": "http://127.0.0.1:8801"}, "--model.rollouts.url: needs --model.rollouts.engine=vllm"),
        ({"importance_cap": 2.0}, "--model.rollouts.importance_cap: needs --model.rollouts.engine=vllm"),
        ({"engine": "vllm", "url": "127.0.0.1:8801"}, "--model.rollouts.url: not an address"),
        ({"engine": "vllm", "url": "http://a:1?key=x"}, "environment variable LIT_INSTRUCT_ROLLOUT_KEY"),
        ({"engine": "vllm", "url": "http://a:1,http://a:1/"}, "a server is named twice"),
        ({"engine": "vllm", "url": "http://a:1", "mismatch_bound": 0.0}, "mismatch_bound=0.0: must be above 0"),
        ({"engine": "vllm", "url": "http://a:1", "importance_cap": 0.5}, "importance_cap=0.5: must be at least 1"),
        ({"wait": -1.0}, "--model.rollouts.wait=-1.0: must be at least 0"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence.replace("?", r"\?")):
        RolloutOptions(**given)
