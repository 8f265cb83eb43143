"""People rank the responses of a round on the page of `lit-instruct rank`, for as long as they need."""

from __future__ import annotations

import contextlib
import json
import os
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lit_instruct.commands.rank import PageOptions, RankData, RankOptions, rank
from lit_instruct.commands.rankings import ExportOptions, export
from lit_instruct.errors import UserError
from lit_instruct.iterating.options import IterateOptions
from lit_instruct.labeling.serving import TOKEN, serve
from lit_instruct.labeling.status import status
from lit_instruct.labeling.store import Store
from lit_instruct.page_server.address import chosen_token


def ranked_by_people(folder: Path, options: IterateOptions) -> list[dict[str, Any]]:
    """Serves the page of a round until its responses are ranked, and returns the rows with their ranks.

    Args:
        folder: with samples.jsonl; the store rankings.db is made there.
        options: of the loop.

    Raises:
        UserError: the page cannot be served.
        KeyboardInterrupt: the server was stopped before everything was ranked; the next call serves it again.
    """
    store, people, page = folder / "rankings.db", options.people, PageOptions()
    if not store.is_file():
        data = RankData(str(folder / "samples.jsonl"))
        rank(RankOptions(str(store), data=data, seed=options.seed, overlap=people.overlap, serve=False))
    enough = partial(is_ranked, share=people.enough)
    with contextlib.closing(Store(store)) as opened:
        ready, found = enough(opened), status(opened, time.time())
    if not ready:
        token = people.token if people.token is not None else os.environ.get(TOKEN)
        left = found["wanted"] - found["rankings"] - found["cannot_judge"]
        print(f"{store}: {left} of {found['wanted']} rankings are missing; waiting for people", flush=True)
        rules = {"flags": page.flags, "lease_seconds": 60 * page.lease_minutes}
        serve(store, people.host, people.port, token, rules, page.pairwise_from, enough)
    out = folder / "exported.jsonl"
    export(ExportOptions(str(store), str(out)))
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def check_people(options: IterateOptions) -> None:
    """Refuses an address without its secret, and an installation without the server, before anything is sampled.

    Raises:
        UserError: the address needs a token, the token is no good, or the extra is not installed.
    """
    if absent := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        raise UserError(f"--labeler=people: {absent[0]} is not installed; run `pip install 'lit-instruct[rank]'`")
    token = options.people.token if options.people.token is not None else os.environ.get(TOKEN)
    chosen_token(options.people.host, token, "", TOKEN)


def is_ranked(store: Store, share: float) -> bool:
    """Returns whether a share of the wanted rankings is there; tasks that cannot be judged count as ranked."""
    found = status(store, time.time())
    return bool(found["rankings"] + found["cannot_judge"] >= share * found["wanted"])
