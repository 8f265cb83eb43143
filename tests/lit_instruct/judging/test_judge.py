"""A judge over HTTP, against a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_instruct.errors import UserError
from lit_instruct.judging import client
from lit_instruct.judging.agreement import Agreed
from lit_instruct.judging.comparisons import Outcomes, ranks, wins
from lit_instruct.judging.judge import Judge
from tests.lit_instruct.judging.endpoint import Endpoint, Reply, endpoint, judge_file, longer, longer_first, said

KEY = 'sk-secret/Zq9"17'
PROMPTS = ["Hello", [{"role": "user", "content": "A poem?"}, {"role": "assistant", "content": "Which?"}]]
RESPONSES = [["a", "bbb", "cc"], ["yes", "you", "yes"]]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.001)
    monkeypatch.setenv("TEST_JUDGE_KEY", KEY)


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with endpoint(longer) as running:
        yield running


def _judge(folder: Path, server: Endpoint, **more: Any) -> Judge:
    return Judge(str(judge_file(folder, server.url, **more)), "--labeler judge:judge.yaml")


def _ranks(outcomes: Outcomes | None) -> list[int]:
    assert outcomes is not None
    return ranks(wins(outcomes))


def test_pairs_are_asked_in_both_orders(tmp_path: Path, server: Endpoint) -> None:
    judge = _judge(tmp_path, server)
    found = judge.compare(PROMPTS, RESPONSES)
    assert [_ranks(one) for one in found] == [[3, 1, 2], [1, 1, 1]]
    first = {f"Hello|{one}|{other}" for one in RESPONSES[0] for other in RESPONSES[0] if one != other}
    talk = "user: A poem?\n\nassistant: Which?"
    assert sorted(server.asked) == sorted([*first, f"{talk}|yes|you", f"{talk}|you|yes"])
    assert judge.tally.swapped == [Agreed(3.0, 3), Agreed(0.0, 0)]
    assert (judge.tally.first_wins, judge.tally.decided, judge.client.calls) == (3, 6, 8)


def test_requests_have_temperature_0_the_key_and_what_the_file_adds(tmp_path: Path, server: Endpoint) -> None:
    more = {"key": "TEST_JUDGE_KEY", "system": "Be fair.", "body": {"seed": 3, "max_tokens": None}}
    _judge(tmp_path, server, swap=False, **more).compare(["p"], [["a", "bb"]])
    assert server.keys == {f"Bearer {KEY}"}
    (body,) = server.bodies
    assert body.pop("messages")[0] == {"role": "system", "content": "Be fair."}
    assert body == {"model": "tiny-judge", "temperature": 0, "seed": 3}


def test_all_at_once(tmp_path: Path, server: Endpoint) -> None:
    server.answer = longer_first
    judge = _judge(tmp_path, server, by="all")
    texts = ["aa", "b", "cc", "dddd"]
    assert _ranks(judge.compare(["p"], [texts])[0]) == [2, 3, 2, 1]
    shown = [[part[2:] for part in asked.split("|")[1:-1]] for asked in server.asked]
    assert sorted(shown[0]) == texts and shown[1] == shown[0][::-1]
    assert judge.tally.swapped == [Agreed(5.0, 5)]


@pytest.mark.parametrize(("by", "agreed"), [("pairs", Agreed(0.0, 3)), ("all", Agreed(0.0, 3))])
def test_a_judge_that_takes_the_first_agrees_with_itself_never(
    tmp_path: Path, server: Endpoint, by: str, agreed: Agreed
) -> None:
    server.answer = lambda asked: "A" if by == "pairs" else "A > B > C"
    judge = _judge(tmp_path, server, by=by)
    assert _ranks(judge.compare(["p"], [["a", "b", "c"]])[0]) == [1, 1, 1]
    assert judge.tally.swapped == [agreed]
    assert (judge.tally.first_wins, judge.tally.decided) == (6, 6)


def test_some_position_bias_is_measured(tmp_path: Path, server: Endpoint) -> None:
    """It prefers what is shown first unless the other is two characters longer."""

    def biased(asked: str) -> str:
        _, first, second = asked.split("|")
        return "B" if len(second) - len(first) >= 2 else "A"

    server.answer = biased
    judge = _judge(tmp_path, server)
    found = judge.compare(["p"], [["a", "bb", "ccc", "dddd"]])
    assert _ranks(found[0]) == [4, 3, 2, 1]
    assert judge.tally.swapped == [Agreed(3.0, 6)]  # three pairs differ by at least two characters
    assert (judge.tally.first_wins, judge.tally.decided) == (9, 12)


def test_without_swapping_nothing_is_said_about_it(tmp_path: Path, server: Endpoint) -> None:
    judge = _judge(tmp_path, server, swap=False)
    assert _ranks(judge.compare(["p"], [["a", "bb", "ccc"]])[0]) == [3, 2, 1]
    assert len(server.asked) == 3 and judge.tally.swapped == []


def test_ratings(tmp_path: Path, server: Endpoint) -> None:
    server.answer = lambda asked: f"Short.\n\nRating: {len(asked.split('|')[1])}/10"
    assert _judge(tmp_path, server).rate(["p", "q"], ["aaa", "aaaaaaa"]) == [3.0, 7.0]
    assert sorted(server.asked) == ["p|aaa|1 to 10", "q|aaaaaaa|1 to 10"]


def test_the_templates_of_ours_are_understood(tmp_path: Path, server: Endpoint) -> None:
    server.answer = lambda asked: "A" if "Response A:\n\nyes\n" in asked else "B"
    judge = _judge(tmp_path, server, templates={})
    assert _ranks(judge.compare(["Really?"], [["no", "yes"]])[0]) == [2, 1]
    assert all("Really?" in asked and "or tie." in asked for asked in server.asked)
    server.answer = lambda asked: "8" if "from 1 (worst) to 10 (best)" in asked and "Really?" in asked else "-"
    assert judge.rate(["Really?"], ["yes"]) == [8.0]
    server.answer = lambda asked: "A > B" if "Response A:\n\nyes\n" in asked else "B > A"
    assert _ranks(_judge(tmp_path, server, templates={}, by="all").compare(["p"], [["no", "yes"]])[0]) == [2, 1]


def test_a_second_run_asks_nothing(tmp_path: Path, server: Endpoint) -> None:
    first = _judge(tmp_path, server).compare(PROMPTS, RESPONSES)
    asked = len(server.asked)
    again = _judge(tmp_path, server)
    assert again.compare(PROMPTS[::-1], [texts[::-1] for texts in RESPONSES[::-1]]) == [
        [row[::-1] for row in outcomes[::-1]] for outcomes in first[::-1] if outcomes is not None
    ]
    assert (len(server.asked), again.client.calls) == (asked, 0)
    assert (again.tally.questions, again.tally.from_cache) == (8, 8)


@pytest.mark.parametrize(
    "other",
    [
        {"model": "another"},
        {"templates": {"pairs": "Say! {{ prompt }}|{{ first }}|{{ second }}"}},
        {"system": "Be fair."},
        {"max_tokens": 5},
        {"body": {"seed": 1}},
    ],
)
def test_anything_else_is_another_question(tmp_path: Path, server: Endpoint, other: dict[str, Any]) -> None:
    _judge(tmp_path, server).compare(["p"], [["a", "bb"]])
    _judge(tmp_path, server, **other).compare(["p"], [["a", "bb"]])
    assert len(server.asked) == 4


def test_the_budget_ends_a_run_and_the_next_one_goes_on(tmp_path: Path, server: Endpoint) -> None:
    texts = [[f"{'x' * n}" for n in range(1, 5)]]  # 12 questions
    for done in (5, 10):
        with pytest.raises(UserError, match="^--labeler judge:judge.yaml: the budget of 5 calls is used up; the ans"):
            _judge(tmp_path, server, budget=5).compare(["p"], texts)
        assert len(server.asked) == done
    assert _ranks(_judge(tmp_path, server, budget=5).compare(["p"], texts)[0]) == [4, 3, 2, 1]
    assert len(server.asked) == len(set(server.asked)) == 12


def test_as_many_calls_at_once_as_the_file_says(tmp_path: Path, server: Endpoint) -> None:
    def slow(asked: str) -> str:
        time.sleep(0.02)
        return longer(asked)

    server.answer = slow
    _judge(tmp_path, server, concurrent=3).compare(["p"], [[f"{'x' * n}" for n in range(1, 6)]])
    assert server.most_at_once == 3


@pytest.mark.parametrize(
    ("failure", "times"),
    [
        (Reply("busy", 500), 2),
        (Reply("", 429, {"Retry-After": "0"}), 2),
        (Reply("<html>gateway</html>", 200), 1),
        (Reply("", 503, {"Retry-After": "Sat, 01 Jan 2000 00:00:00 GMT"}), 2),
    ],
)
def test_failures_that_pass_are_repeated(tmp_path: Path, server: Endpoint, failure: Reply, times: int) -> None:
    def flaky(asked: str) -> str | Reply:
        return failure if server.asked.count(asked) <= times else longer(asked)

    server.answer = flaky
    judge = _judge(tmp_path, server)
    assert _ranks(judge.compare(["p"], [["a", "bb"]])[0]) == [2, 1]
    assert judge.client.calls == len(server.asked) == 2 * (1 + times)


def test_retry_after_is_obeyed(tmp_path: Path, server: Endpoint) -> None:
    server.answer = lambda asked: longer(asked) if len(server.asked) > 1 else Reply("", 429, {"Retry-After": "0.3"})
    start = time.monotonic()
    _judge(tmp_path, server, swap=False).compare(["p"], [["a", "bb"]])
    assert time.monotonic() - start >= 0.3


SENTENCES = [
    (Reply("no!", 500), "answered 500: no!, also after 2 retries; check that the server runs and run the same"),
    (Reply("", 429, {"Retry-After": "7200"}), "answered 429 and asks to wait 7200 s; run the same command again"),
    (Reply("<html>", 200), "answered with no JSON: <html>, also after 2 retries"),
    (Reply('{"error": {"message": "bad model"}}', 404), "answered 404: bad model; check address and model"),
    (Reply("", 302, {"Location": "http://127.0.0.1:1/"}), "answered 302; check address and model"),
    (Reply(f"wrong key {KEY}", 401), r"refuses the key \(401: wrong key \[key\]\); check the environment variable"),
    (said("I like both."), r"answer ends without a verdict \('I like both.'\); correct the template, or leave such"),
    (said(""), "the judge's answer has no text; correct the template"),
    (said(None), "the judge's answer has no text"),
    (said("A because", "length"), "the length limit cut it: raise `max_tokens`"),
    (Reply('{"choices": []}'), "the judge's answer has no text"),
    (Reply('"text"'), "the judge's answer has no text"),
]


@pytest.mark.parametrize(("reply", "sentence"), SENTENCES)
def test_what_does_not_pass_is_one_sentence(tmp_path: Path, server: Endpoint, reply: Reply, sentence: str) -> None:
    server.answer = lambda asked: reply if "|bb" in asked else longer(asked)
    judge = _judge(tmp_path, server, key="TEST_JUDGE_KEY", swap=False)
    with pytest.raises(UserError, match=sentence) as error:
        judge.compare(["p"], [["a", "bb", "cccc"]])
    assert str(error.value).startswith("--labeler judge:judge.yaml: ")
    assert KEY not in str(error.value) and "\n" not in str(error.value)
    for file in tmp_path.iterdir():
        assert KEY.encode() not in file.read_bytes()


def test_a_prompt_without_a_verdict_can_be_left_out(tmp_path: Path, server: Endpoint) -> None:
    server.answer = lambda asked: "I cannot judge this." if "bomb" in asked else longer(asked)
    judge = _judge(tmp_path, server, on_unusable="leave_out")
    found = judge.compare(["p", "bomb", "q"], [["a", "bb"]] * 3)
    assert [None if one is None else _ranks(one) for one in found] == [[2, 1], None, [2, 1]]
    assert judge.tally.left_out == 1 and len(judge.tally.swapped) == 2
    rated = judge.rate(["bomb"], ["a"])
    assert len(rated) == 1 and rated[0] != rated[0]


def test_a_server_that_hangs(tmp_path: Path, server: Endpoint) -> None:
    release = threading.Event()
    server.answer = lambda asked: longer(asked) if release.wait(10) else "A"
    with pytest.raises(UserError, match="gave no answer within 0.1 s, also after 1 retries"):
        _judge(tmp_path, server, timeout=0.1, retries=1).compare(["p"], [["a", "bb"]])
    release.set()


def test_no_server(tmp_path: Path) -> None:
    with endpoint(longer) as gone:
        pass
    with pytest.raises(UserError, match=r"127.0.0.1:\d+/v1/chat/completions cannot be reached \(.*refused"):
        _judge(tmp_path, gone).compare(["p"], [["a", "bb"]])


def test_an_answer_that_quotes_the_key_is_kept_without_it(tmp_path: Path, server: Endpoint) -> None:
    server.answer = lambda asked: f"Your key is {KEY}.\nA"
    _judge(tmp_path, server, key="TEST_JUDGE_KEY").compare(["p"], [["a", "bb"]])
    for file in tmp_path.iterdir():
        assert b"sk-secret" not in file.read_bytes()


def test_a_failing_question_keeps_the_answers_of_the_others(tmp_path: Path, server: Endpoint) -> None:
    server.answer = lambda asked: Reply("", 404) if len(server.asked) == 4 else longer(asked)
    with pytest.raises(UserError, match="answered 404"):
        _judge(tmp_path, server, concurrent=1).compare(["p"], [["a", "bb", "ccc", "dddd"]])
    assert len(server.asked) <= 6
    server.answer = longer
    before = len(server.asked)
    _judge(tmp_path, server).compare(["p"], [["a", "bb", "ccc", "dddd"]])
    assert len(server.asked) - before == 12 - (before - 1)


def test_a_file_that_is_no_cache(tmp_path: Path, server: Endpoint) -> None:
    (tmp_path / "answers.db").write_text("something else, and long enough to be read as a header of a file" * 9)
    with pytest.raises(UserError, match="answers.db: not a cache of answers, or damaged .*; move it away, or name"):
        _judge(tmp_path, server)
