"""Every route over HTTP: what a page of ours may do, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_instruct.labeling.rankings import rankings
from lit_instruct.labeling.store import Store
from lit_instruct.page_server.address import Address
from lit_instruct.page_server.guard import LARGEST_BODY
from tests.lit_instruct.labeling.helpers import Client, make_store, serving, tasks

KEY = "0123456789abcdef"
ROUTES: dict[str, dict[str, Any]] = {
    "join": {"name": "Eve"},
    "task": {},
    "answer": {"slot": 1, "key": KEY, "kind": "ranking", "seconds": 1, "ranks": [1, 2, 3, 4]},
    "undo": {"key": KEY},
    "renew": {"slot": 1},
}
FILES = ("/", "/page.css", "/page.js", "/view.js", "/merge.js", "/server.js")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("served") / "rankings.db", tasks(300))


@pytest.fixture(scope="module")
def address(path: Path) -> Iterator[Address]:
    with serving(path) as found:
        yield found


def _events(path: Path) -> int:
    store = Store(path)
    with store.reading() as connection:
        found = connection.execute("SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM labelers)").fetchone()
    store.close()
    return found[0]


def test_a_ranking_by_two_labelers_at_once(address: Address, path: Path) -> None:
    ada, ben = Client(address, "Ada"), Client(address, "Ben")
    first, second = ada.post("task", {})[1]["task"], ben.post("task", {})[1]["task"]
    assert first["slot"] != second["slot"]
    status, found = ada.rank(first, "ada-key-1", [2, 1, 2, 3])
    assert status == 200
    assert found["task"]["slot"] not in (first["slot"], second["slot"])
    assert found["progress"] == {
        "labeler": "Ada",
        "done": 1,
        "median_seconds": 3.5,
        "self_agreement": None,
        "self_pairs": 0,
        "all_done": found["progress"]["all_done"],
        "all_wanted": 300,
    }
    assert ben.rank(first, "ben-key-1")[0] == 409  # another labeler's task
    assert ada.rank(first, "ada-key-1")[0] == 200  # the same saving again, after an answer that got lost
    assert ada.rank(first, "ada-key-2")[0] == 409  # another tab
    assert ada.post("undo", {"key": "ada-undo-1"})[1]["task"]["earlier"] == {"ranks": [2, 1, 2, 3]}
    assert ada.rank(first, "ada-key-3")[0] == 200
    assert ben.post("renew", {"slot": second["slot"]})[0] == 200
    assert ben.post("renew", {"slot": first["slot"]})[0] == 409
    store = Store(path)
    assert [one.labeler for one in rankings(store) if one.labeler in ("Ada", "Ben")] == ["Ada"]
    store.close()


def test_the_page_is_complete_and_names_no_other_place(address: Address) -> None:
    client = Client(address)
    for name in FILES:
        status, content = client.send("GET", name)
        assert status == 200
        assert b"http:" not in content and b"https:" not in content and b"//cdn" not in content
    assert "needs JavaScript" in client.send("GET", "/")[1].decode()
    assert client.send("GET", "/../store.py")[0] == 404
    assert client.send("GET", "/openapi.json")[0] == 404


def test_the_headers_forbid_everything_but_our_own_files(address: Address) -> None:
    import http.client

    connection = http.client.HTTPConnection(address.host, address.port)
    connection.request("GET", f"/?token={address.token}")
    answer = connection.getresponse()
    cookie = answer.headers["set-cookie"]
    assert (answer.status, answer.headers["location"]) == (303, "/")
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    connection.close()


@pytest.mark.parametrize("cookie", ["", "wrong"])
def test_every_route_refuses_a_missing_or_wrong_token(address: Address, path: Path, cookie: str) -> None:
    client = Client(address, "Ada")
    before = _events(path)
    client.cookies = {name: cookie if not name.endswith("labeler") else value for name, value in client.cookies.items()}
    if not cookie:
        client.cookies = {}
    for route, body in ROUTES.items():
        status, answer = client.post(route, body)
        assert (status, "lacks the token" in answer["error"]) == (403, True), route
    for name in (*FILES, "/?token=wrong", "/?token=", "/nothing"):
        assert client.send("GET", name)[0] == 403, name
    assert _events(path) == before


def test_a_cookie_does_not_help_a_wrong_token(address: Address) -> None:
    assert Client(address, "Ada").send("GET", "/?token=wrong")[0] == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", ""])
def test_every_route_refuses_another_origin(address: Address, path: Path, origin: str) -> None:
    client = Client(address, "Ada")
    before = _events(path)
    for route, body in ROUTES.items():
        status, answer = client.post(route, body, Origin=origin)
        assert (status, "from another page" in answer["error"]) == (403, True), route
    assert _events(path) == before


def test_other_sites_may_only_link_to_the_page(address: Address) -> None:
    client = Client(address, "Ada")
    cross = {"Sec_Fetch_Site": "cross-site"}
    assert client.send("GET", "/", Sec_Fetch_Mode="navigate", **cross)[0] == 200
    assert client.send("GET", "/page.js", Sec_Fetch_Mode="no-cors", **cross)[0] == 403
    assert client.post("task", {}, **cross)[0] == 403


def test_a_form_cannot_post(address: Address) -> None:
    client = Client(address, "Ada")
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data", ""):
        assert client.post("undo", {"key": KEY}, Content_Type=kind)[0] == 415


def test_without_a_name_or_with_a_forged_one_nothing_is_given_out(address: Address) -> None:
    client = Client(address)
    for forged in ("", "1.forged", "1", "x.y", "\u00b2.x"):
        client.cookies |= {f"{name}-labeler": forged for name in list(client.cookies) if not name.endswith("labeler")}
        for route in ("task", "answer", "undo", "renew"):
            assert client.post(route, ROUTES[route])[0] == 401, route


def test_a_name_on_one_store_is_none_on_another_with_the_same_token(address: Address, tmp_path: Path) -> None:
    """A browser sends its cookies to every port; number 1 is somebody else there."""
    ada = Client(address, "Ada")
    with serving(make_store(tmp_path / "other.db", tasks(1))) as other:
        assert other.token == address.token
        Client(other, "Ben")
        client = Client(other)
        (own,) = client.cookies
        hers = next(value for name, value in ada.cookies.items() if name.endswith("-labeler"))
        for cookies in (ada.cookies, {f"{own}-labeler": hers}):
            client.cookies |= cookies
            assert client.post("task", {})[0] == 401


def test_large_bodies_are_refused_on_every_route(address: Address, path: Path) -> None:
    client = Client(address, "Ada")
    before = _events(path)
    headers = {"Origin": f"http://{client.host}", "Content_Type": "application/json"}
    for route in ROUTES:
        status, content = client.send("POST", f"/api/{route}", b" " * (LARGEST_BODY + 1), **headers)
        assert status == 413 and b"256 KB" in content
    assert _events(path) == before


def test_ten_megabytes_in_chunks_are_cut_off(address: Address) -> None:
    import socket

    client = Client(address, "Ada")
    cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    head = (
        f"POST /api/join HTTP/1.1\r\nHost: {client.host}\r\nOrigin: http://{client.host}\r\nCookie: {cookies}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    sent = 0
    with socket.create_connection((address.host, address.port), timeout=10) as connection:
        connection.sendall(head.encode())
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        try:
            for _ in range(160):
                connection.sendall(chunk)
                sent += 65536
            answer = connection.recv(200)
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
    assert sent < 10 * 2**20 or b" 413 " in answer
    assert client.post("task", {})[0] == 200


@pytest.mark.parametrize(
    "change",
    [
        {"ranks": [1, 2, 3]},
        {"ranks": [1, 2, 3, 9]},
        {"ranks": [1, 2, 3, "4"]},
        {"ranks": [1, 2, 3, 1.5]},
        {"ranks": [1, 2, 3, True]},
        {"ranks": {"0": 1}},
        {"ranks": None},
        {"ranks": [1] * 1000},
        {"seconds": -1},
        {"seconds": "1e999"},
        {"quality": [1, 2, 3, 99]},
        {"flags": [["<script>"], [], [], []]},
        {"kind": "undo"},
        {"key": "short"},
        {"key": "'; DROP TABLE events; --"},
        {"slot": "1"},
        {"slot": 2**70},
        {"more": 1},
    ],
    ids=str,
)
def test_malformed_answers_are_refused_in_one_sentence(address: Address, path: Path, change: dict[str, Any]) -> None:
    client = Client(address, "Mal")
    task = client.post("task", {})[1]["task"]
    before = _events(path)
    status, answer = client.post("answer", ROUTES["answer"] | {"slot": task["slot"]} | change)
    assert status in (409, 422) and set(answer) == {"error"} and "\n" not in answer["error"]
    assert _events(path) == before


def test_what_is_no_json_is_refused(address: Address) -> None:
    client = Client(address, "Ada")
    headers = {"Origin": f"http://{client.host}", "Content_Type": "application/json"}
    for body in (b"{", b"[]", b"\xff\xfe", b"null", b"[" * 100_000):
        status, content = client.send("POST", "/api/answer", body, **headers)
        assert status in (400, 422) and content.startswith(b'{"error"'), body[:5]


@pytest.mark.parametrize("name", ["", "  ", "a\nb\u202e", "<script>", "../x", "x" * 41, "-", "a/b", "a\x00"])
def test_odd_names_are_refused(address: Address, name: str) -> None:
    status, answer = Client(address).post("join", {"name": name})
    assert status == 422 and "name" in answer["error"]


@pytest.mark.parametrize("name", ["Ada", "Gr\u00fc\u00dfe", "\u674e\u96f7", "ada@example.org", "Ada B. O'Neil", "x"])
def test_ordinary_names_of_any_script_are_taken(address: Address, name: str) -> None:
    client = Client(address, name)
    assert client.post("task", {})[1]["progress"]["labeler"] == name


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    path = make_store(tmp_path / "rankings.db", tasks(12))
    reason = {"kind": "cannot_judge", "ranks": [], "reason": "x" * 1990}
    store = Store(path)
    with store.reading() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    store.close()
    saved, refusal = 0, None
    with serving(path, most_pages=pages) as address:
        client = Client(address, "Ada")
        while refusal is None:
            status, answer = client.rank(client.post("task", {})[1]["task"], f"{KEY}{saved}", **reason)
            saved, refusal = (saved + 1, None) if status == 200 else (saved, (status, answer["error"]))
    assert refusal[0] == 507 and "Nothing is lost" in refusal[1]
    assert _events(path) == saved + 1  # and one labeler
    with serving(path) as address:
        client = Client(address, "Ada")
        assert client.rank(client.post("task", {})[1]["task"], f"{KEY}x", **reason)[0] == 200
    assert _events(path) == saved + 2
