"""`lit-instruct watch --text`, its page over HTTP, and mistakes."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from lit_instruct.page_server.address import Address, listening, web_server
from lit_instruct.run_views import watch as command
from lit_instruct.run_views.parts import Page
from lit_instruct.run_views.server import application
from lit_instruct.run_views.stage_log import StageLog, stages_in
from lit_instruct.run_views.text import frame, one_line, sparkline
from tests.lit_instruct.labeling.helpers import TOKEN, Client
from tests.lit_instruct.run_views.runs import (
    NOW,
    PROMPT,
    ppo_log,
    progress,
    record,
    sample,
    sft_log,
    training_run,
    write_stage,
)
from tests.lit_instruct.stages.helpers import run as lit_instruct


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return training_run(tmp_path / "x")


def text(run: Path, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(frame(run, stages_in(run), NOW, width))
    return console.export_text()


def test_one_frame_where_there_is_no_terminal(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lit_instruct("watch", "--run", run, "--text") == 0
    shown = capsys.readouterr().out
    assert shown.index("PPO: ") < shown.index("SFT: ")
    assert "no sign of life" in shown  # the run is of another time


def test_a_frame(run: Path) -> None:
    lines = [line.rstrip() for line in text(run).splitlines()]
    assert "training: iteration 4 of 10, 24 s each, about 2 min left" in lines
    assert (
        re.split(" {2,}", next(line for line in lines if line.startswith("reward")))
        == ["reward", "1.00", "▁▃▆█", "2.00", "▁█", ""][:5]
    )
    assert "peak memory 1.50 GB" in lines
    assert "iteration 4: What is <b>2 + 2</b>?" in lines
    assert "Four, after 4.  [reward 0.5, kl 1.25, length 5]" in lines
    assert "finished in 2 min: validation loss 1" in lines


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_frame_is_no_wider_than_the_terminal(run: Path, width: int) -> None:
    assert max(map(len, text(run, width).splitlines())) <= width


def test_escape_sequences_of_samples_do_not_reach_the_terminal(tmp_path: Path) -> None:
    run = tmp_path / "x"
    write_stage(run / "ppo", ppo_log(2), samples=[sample(2, "\x1b[31mred\u202e", response="\x07 [bold]x[/bold]")])
    shown = text(run)
    assert "\\x1b[31mred\\u202e" in shown and "\\x07 [bold]x[/bold]" in shown


def test_sparklines() -> None:
    assert sparkline([], 8) == sparkline([1.0], 8) == ""
    assert sparkline([1.0, 1.0], 8) == "▄▄"
    assert sparkline([0.0, 7.0, 3.5], 8) == "▁█▅"
    assert sparkline(range(16), 8) == "▁▂▃▄▅▆▇█"
    assert one_line([{"role": "user", "content": "a\nb"}, {"role": "assistant", "content": "c"}]) == "a b / c"


@contextlib.contextmanager
def served(run: Path, refresh: float = 0.2, port: int = 0) -> Iterator[Address]:
    with listening("127.0.0.1", port) as listener:
        address = Address("127.0.0.1", listener.getsockname()[1], TOKEN)
        server = web_server(application(run, TOKEN, refresh))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield address
        finally:
            server.should_exit = True
            thread.join()


def test_the_page_and_its_parts(run: Path) -> None:
    with served(run) as address:
        client = Client(address)
        status, page = client.send("GET", "/")
        assert status == 200 and b"<svg" in page
        assert not re.search(rb"(src|href|url\()[=\"']*(https?:)?//", page)
        assert page.decode().index('id="ppo-head"') < page.decode().index('id="sft-head"')
        assert PROMPT.encode() not in page and b"What is &lt;b&gt;2 + 2&lt;/b&gt;?" in page
        names = [name for name, _ in json.loads(client.send("GET", "/parts")[1])]
        assert names == [f"{stage}-{part}" for stage in ("ppo", "sft") for part in ("head", "curves", "samples")]
        part = json.loads(client.send("GET", "/parts/ppo-samples")[1])
        assert part["id"] == "ppo-samples" and "Four, after 4." in part["html"]
        assert client.send("GET", "/watch.js")[0] == 200
        for name in ("/parts/nothing", "/nothing", "/../stage_log.py", "/docs"):
            assert client.send("GET", name)[0] == 404, name


def test_the_token_is_asked_for(run: Path) -> None:
    with served(run) as address:
        client = Client(address)
        client.cookies = {}
        for name in ("/", "/parts", "/parts/ppo-head", "/watch.js", "/?token=wrong"):
            status, answer = client.send("GET", name)
            assert (status, b"that `lit-instruct watch` printed" in answer) == (403, True), name
        assert client.send("GET", "/parts", Sec_Fetch_Site="cross-site")[0] == 403


def digests(page: Page) -> dict[str, str]:
    return {part.id: part.digest for part in page.parts()}


def test_only_what_changed_is_another_part_and_new_stages_appear(run: Path) -> None:
    times = iter([NOW, NOW + 1, NOW + 500, NOW + 1000, NOW + 1500])
    page = Page(run, 2.0, lambda: next(times))
    first = digests(page)
    write_stage(run / "ppo", ppo_log(6), progress("ppo", 6, 10, written=NOW + 499))
    assert digests(page) == first  # read a second ago
    second = digests(page)
    assert {name for name in first if first[name] != second[name]} == {"ppo-head", "ppo-curves"}
    write_stage(run / "rm", lock=NOW + 999)
    assert [name for name in digests(page) if name not in first] == ["rm-head", "rm-curves", "rm-samples"]
    for path in sorted(run.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (part,) = page.parts()
    assert "none of the stages sft, rm and ppo" in part.html


def test_a_run_that_is_complete(tmp_path: Path) -> None:
    run = tmp_path / "x"
    made = record("sft", {"val/loss": 1.0}, ending="the budget was reached")
    write_stage(run / "sft", sft_log(400), progress("sft", 400, 400, ended="complete"), made)
    (head, curves, _) = Page(run, 2.0, lambda: NOW).parts()
    assert "finished in 2 min: validation loss 1" in head.html and "the budget was reached" in head.html
    assert "1.50 GB" in head.html
    assert "learning rate" in curves.html and len(curves.html) < 120_000
    assert StageLog(run / "sft").samples == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--run=runs/nope"], "runs/nope: no such run folder"),
        (["--run=runs/nope", "--text"], "runs/nope: no such run folder"),
        (["--refresh=0"], "--refresh=0.0: must be between"),
        (["--token=short"], "--token: must be 16 to 200"),
        (["--host=0.0.0.0"], "LIT_INSTRUCT_WATCH_TOKEN"),
        (["--port=70000"], "choose another with --port"),
    ],
)
def test_a_mistake_is_one_sentence(run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert lit_instruct("watch", f"--run={run}", *words) == 2
    told = capsys.readouterr().err
    assert told.startswith("lit-instruct: error: ") and said in told and told.count("\n") == 1


def test_a_port_in_use_and_a_missing_extra(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening("127.0.0.1", 0) as listener:
        assert lit_instruct("watch", f"--run={run}", f"--port={listener.getsockname()[1]}") == 2
    assert "another program uses this port; choose another with --port" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert lit_instruct("watch", f"--run={run}", "--port=0") == 2
    assert "watch: uvicorn is not installed; run `pip install 'lit-instruct[rank]'`" in capsys.readouterr().err
    assert lit_instruct("watch", f"--run={run}", "--text") == 0


def test_ctrl_c_ends_it_as_other_commands(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", press)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert lit_instruct("watch", f"--run={run}", "--text") == 130


def test_a_view_beside_a_training_is_light() -> None:
    names = "lit_instruct.run_views.watch, lit_instruct.run_views.server"
    code = f"import sys, {names}; print({{'torch', 'lightning'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
