"""Without a network the hub is asked once, and then its cache alone."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import huggingface_hub.constants as constants
import pytest

from lit_instruct.hub import offline_without_network


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting and nothing known from before."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    offline_without_network.cache_clear()
    yield
    offline_without_network.cache_clear()


def test_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert offline_without_network()
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert constants.HF_HUB_OFFLINE


def test_the_hub_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert not offline_without_network()
    assert not constants.HF_HUB_OFFLINE


def test_settings_of_the_user_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("asked the network"))
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert not offline_without_network()
    offline_without_network.cache_clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert offline_without_network()
