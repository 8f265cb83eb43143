"""Without a network the hub's libraries retry for half a minute; asked once, they can use their cache at once."""

from __future__ import annotations

import os
import socket
import sys
from functools import cache
from urllib.parse import urlsplit

SECONDS = 3.0
"""How long a connection may take."""
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@cache
def offline_without_network() -> bool:
    """Makes the hub's libraries use their cache alone if the hub does not answer; returns whether they do.

    Behind a proxy nothing is tried: only the proxy can tell.
    """
    if any(os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON") for name in OFFLINE):
        return True
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return False
    hub = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.create_connection((hub.hostname or "", hub.port or 443), timeout=SECONDS).close()
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
        for name in ("huggingface_hub.constants", "datasets.config"):  # they read it when they were imported
            if name in sys.modules:
                sys.modules[name].HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
        return True
    return False
