"""`lit-instruct rank`: people rank responses on a page that this command serves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from data_modules.rows import PromptRow, read_rows
from lit_instruct.commands.sample import sampled_texts
from lit_instruct.errors import UserError
from lit_instruct.files import sums_of
from lit_instruct.labeling.rows import answered_prompts, sampled_task, task_of
from lit_instruct.labeling.serving import TOKEN, serve
from lit_instruct.labeling.store import Store, new_store
from lit_instruct.labeling.tasks import Shares, Task, add_tasks
from lit_instruct.models.base_names import lasting_name
from lit_instruct.models.quantised import Quantize
from lit_instruct.page_server.address import chosen_token
from lit_instruct.rollouts.generate import SamplingOptions

FLAGS = (
    "does not follow the instruction",
    "inappropriate for an assistant",
    "hallucination",
    "ignores a constraint in the prompt",
    "sexual content",
    "violent content",
    "encourages violence or self-harm",
    "denigrates a group of people",
    "harmful advice",
    "expresses an opinion",
    "expresses a moral judgment",
)
"""After Table 3 of the paper."""


@dataclass
class RankData:
    """What is ranked.

    Args:
        path: with --run, file of prompts; else rows that have responses, in any layout of ranked comparisons (their
            ranks are ignored) or as {prompt, responses}.
        limit: use only this many, from the start.
        fields: field of the layout -> its name in the file, such as {prompt: question}.
    """

    path: str | None = None
    limit: int | None = None
    fields: dict[str, str] | None = None


@dataclass
class PageOptions:
    """What the page offers.

    Args:
        flags: yes/no questions on each response.
        pairwise_from: number of responses from which two at a time are shown; keys rank 9 at most.
        lease_minutes: a task comes back if its labeler is away for so long.
    """

    flags: list[str] = field(default_factory=lambda: list(FLAGS))
    pairwise_from: int = 10
    lease_minutes: float = 30.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not 2 <= self.pairwise_from <= 10:
            raise UserError(f"--page.pairwise_from={self.pairwise_from}: must be between 2 and 10")
        if not 0 < self.lease_minutes <= 1e6:
            raise UserError(f"--page.lease_minutes={self.lease_minutes}: must be above 0")
        if len(set(self.flags)) < len(self.flags) or any(not 0 < len(flag) <= 100 for flag in self.flags):
            raise UserError("--page.flags: must be different names of 1 to 100 characters")


@dataclass
class RankOptions:
    """Serves a page on which people rank K responses to each prompt; the rankings stay in a store.

    `rank status`, `rank import`, `rank export` and `rank agreement` work on the store, also while the page is served.

    Args:
        store: file of tasks and rankings, such as runs/loop/rankings.db; made from --data.path if it is not there.
        run: the model that is sampled: a stage folder such as runs/demo/sft, a hub id or smollm2-135m-instruct; null
            takes responses from --data.path.
        data: prompts, or rows with responses.
        k: responses sampled per prompt, at least 2.
        sampling: length and temperature.
        batch_size: sequences decoded in parallel.
        seed: of sampling, of the order in which labelers see responses, and of the tasks that several rank.
        quantize: bits of the model's base: none, 8bit or 4bit; null uses that of its stage.
        overlap: tasks that are ranked more than once.
        page: what the page offers.
        host: address to serve at; others than this machine's own need --token, and a proxy of yours with TLS.
        port: of the address; 0 takes a free one.
        token: secret of the address; null takes LIT_INSTRUCT_RANK_TOKEN of the environment, or the store's own.
        serve: false only makes the store.
    """

    store: str
    run: str | None = None
    data: RankData = field(default_factory=RankData)
    k: int = 4
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    batch_size: int = 64
    seed: int = 0
    quantize: Quantize | None = None
    overlap: Shares = field(default_factory=Shares)
    page: PageOptions = field(default_factory=PageOptions)
    host: str = "127.0.0.1"
    port: int = 8712
    token: str | None = None
    serve: bool = True

    def __post_init__(self) -> None:
        """Checks that there is something to compare."""
        if self.k < 2:
            raise UserError(f"--k={self.k}: a comparison needs at least 2 responses")


def rank(options: RankOptions) -> None:
    """Makes the store if it is not there, and serves its page until Ctrl-C.

    Raises:
        UserError: options, data, model or store cannot be used, or no prompt is left.
    """
    path = Path(options.store)
    token = options.token if options.token is not None else os.environ.get(TOKEN)
    chosen_token(options.host, token, "", TOKEN)  # before a model is loaded
    if path.exists():
        _check_same(path, options)
    else:
        _make(path, options)
    if options.serve:
        rules = {"flags": options.page.flags, "lease_seconds": 60 * options.page.lease_minutes}
        serve(path, options.host, options.port, token, rules, options.page.pairwise_from)


def _check_same(path: Path, options: RankOptions) -> None:
    """Refuses a store that was made from something else than the options name."""
    store = Store(path)
    store.close()
    for option, name, value in (("--run", "run", options.run), ("--data.path", "data", options.data.path)):
        made = store.meta[name]
        if value is not None and (made is None or lasting_name(made) != lasting_name(value)):
            raise UserError(
                f"--store={path}: this store was made with {option}={made}, not {value}; name another store, or leave "
                f"{option} out"
            )
    defaults = {one.name: one.default for one in fields(RankOptions)}
    for name in ("seed", "k"):
        made, value = store.meta[name], getattr(options, name)
        if made is not None and value not in (made, defaults[name]):
            raise UserError(
                f"--store={path}: this store was made with --{name}={made}, not {value}; leave --{name} out"
            )


def _make(path: Path, options: RankOptions) -> None:
    if options.data.path is None:
        raise UserError(f"--store={path}: no such store; give --data.path (and --run) to make it, or check the path")
    left_out = [0]
    tasks = list(_without_none(_tasks(options), left_out))
    if not tasks:
        raise UserError(
            f"{options.data.path}: no prompt with two different responses is left to rank; give other prompts"
        )
    meta: dict[str, Any] = {"run": options.run, "data": options.data.path, "seed": options.seed}
    meta["k"] = options.k if options.run is not None else None
    with new_store(path, meta) as connection:
        add_tasks(connection, tasks, options.overlap, options.seed)
        wanted = connection.execute("SELECT count(*) FROM slots").fetchone()[0]
    note = f"; {left_out[0]} prompts left out, with fewer than two different responses" if left_out[0] else ""
    print(f"{path}: {len(tasks)} tasks, {wanted} rankings wanted{note}")


def _tasks(options: RankOptions) -> Iterator[Task | None]:
    data = options.data
    assert data.path is not None
    if options.run is None:
        yield from map(task_of, answered_prompts(data.path, data.limit, data.fields))
        return
    rows = read_rows(data.path, PromptRow, fields=data.fields)[: data.limit]
    if not rows:
        return
    texts = sampled_texts(options, [row.prompt for row in rows])
    version = _version(options.run)
    for row, answers in zip(rows, texts, strict=True):
        yield sampled_task(row, answers, options.run, version)


def _without_none(tasks: Iterator[Task | None], left_out: list[int]) -> Iterator[Task]:
    for task in tasks:
        if task is None:
            left_out[0] += 1
        else:
            yield task


def _version(run: str) -> str | None:
    """The commit of a model on a hub, or a digest of the weights in a folder."""
    folder = Path(run).expanduser()
    if not folder.is_dir():
        return lasting_name(run)[1]
    sums = {name: found for name, found in sums_of(folder).items() if name.endswith(".safetensors")}
    return next((found[1][:12] for _, found in sorted(sums.items())), None)
