"""Rewards over HTTP, against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from lit_instruct.errors import UserError
from lit_instruct.evaluation.options import EvalOptions
from lit_instruct.judging import client
from lit_instruct.ppo.options import FurtherReward, RewardOptions, SelectionOptions
from lit_instruct.rollouts.labelers import labeler_of
from lit_instruct.rollouts.reward_functions import function_scorer
from tests.lit_instruct.judging.endpoint import Endpoint, Reply, endpoint

KEY = "sk-secret-9"


def lengths(asked: str) -> Reply:
    """The length of each response."""
    return Reply(json.dumps([len(response) for response in json.loads(asked)["responses"]]))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.001)
    monkeypatch.setenv("LIT_INSTRUCT_REWARD_KEY", KEY)
    with endpoint(lengths) as running:
        yield running


def test_prompts_responses_and_columns_are_sent(server: Endpoint) -> None:
    talk = [{"role": "user", "content": "Hi"}]
    scores = function_scorer(server.url)(["p", talk], ["a", "b\ud83d"], [{"answer": 3}, {}])
    assert scores == [1.0, 2.0]
    assert server.bodies == [{"prompts": ["p", talk], "responses": ["a", "b\ud83d"], "rows": [{"answer": 3}, {}]}]
    assert server.keys == {f"Bearer {KEY}"}


def test_many_responses_go_in_several_requests(server: Endpoint) -> None:
    texts = ["x" * (n % 7 + 1) for n in range(150)]
    assert function_scorer(server.url)(["p"] * 150, texts, [{}] * 150) == [len(text) for text in texts]
    assert [len(body["responses"]) for body in server.bodies] == [64, 64, 22]


def test_it_may_name_its_scores_and_be_a_labeler(server: Endpoint) -> None:
    server.answer = lambda asked: Reply(f'{{"scores": {lengths(asked).body}}}')
    found = labeler_of(server.url).ranked(["p"], [["a", "ccc", "bb"]])
    assert [one and one.ranks for one in found] == [[3, 1, 2]]


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (Reply("[1]"), "the server answered 1 scores for 2 responses; it must answer one for each, in their order"),
        (Reply("3"), "the server answered no list of scores; it must answer a list of numbers"),
        (Reply('{"rewards": [1, 2]}'), "the server answered no list of scores"),
        (Reply("[1, NaN]"), "it returned nan for row 1 .'b'.; return finite numbers"),
        (Reply('[1, "good"]'), "it returned 'good' for row 1 .'b'.; return numbers"),
        (Reply("oops", 500), "answered 500: oops, also after 5 retries; check that the server runs"),
        (Reply(f"not {KEY}", 403), r"refuses the key \(403: not \[key\]\)"),
    ],
)
def test_wrong_answers_are_one_sentence(server: Endpoint, reply: Reply, sentence: str) -> None:
    server.answer = lambda asked: reply
    with pytest.raises(UserError, match=f"^--model.reward.function http://127.*: .*{sentence}"):
        function_scorer(server.url)(["p", "p"], ["a", "b"], [{}, {}])


@pytest.mark.parametrize("address", [f"http://me:{KEY}@127.0.0.1/", f"http://127.0.0.1/score?key={KEY}", "http://"])
def test_an_address_with_a_secret_is_refused_before_anything_records_it(address: str) -> None:
    for build in (
        lambda: RewardOptions(function=address),
        lambda: FurtherReward("more", function=address),
        lambda: SelectionOptions(labeler=address),
        lambda: EvalOptions(labeler=address),
        lambda: EvalOptions(second_labeler=address),
        lambda: function_scorer(address),
    ):
        with pytest.raises(UserError, match="leave|not an address") as error:
            build()
        assert KEY not in str(error.value)
