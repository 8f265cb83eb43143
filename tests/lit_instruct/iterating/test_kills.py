"""A loop that is killed (SIGKILL) in sampling, in the reward model or in PPO goes on with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_instruct.iterating.options import IterateOptions
from tests.lit_instruct.iterating.helpers import Commands, loop_options, run_loop
from tests.lit_instruct.stages.helpers import Files

ROOT = Path(__file__).parents[3]
SECONDS = 1000


def without_null(values: dict[str, Any]) -> dict[str, Any]:
    """Options that are given, at any depth."""
    given = {name: without_null(value) if isinstance(value, dict) else value for name, value in values.items()}
    return {name: value for name, value in given.items() if value is not None}


def start(options: IterateOptions, folder: Path) -> subprocess.Popen[bytes]:
    """Starts the command in a process of its own."""
    config = folder / "iterate.yaml"
    config.write_text(yaml.safe_dump(without_null(asdict(options))))
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "LIT_INSTRUCT_CACHE": str(folder / "cache"),
    }
    command = [sys.executable, "-m", "lit_instruct.cli", "iterate", "--config", str(config)]
    with (folder / "loop.log").open("a") as log:
        return subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.STDOUT, stdout=log)


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [2, 3, 8])
def test_stopped_between_steps_it_leaves_the_same_bits(
    trained: Path, files: Files, tmp_path: Path, killed_at: int
) -> None:
    found = []
    for name, stops in (("whole", False), ("stopped", True)):
        (tmp_path / name).mkdir()
        options = loop_options(tmp_path / name, files, trained / "sft", from_sft=1)
        if stops:
            with pytest.raises(KeyboardInterrupt):
                run_loop(options, Commands(killed_at))
        found.append(adapters(run_loop(options, Commands())))
    assert len(found[0]) == 4 and found[0] == found[1]


@pytest.fixture(scope="module")
def whole(trained: Path, files: Files, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The adapters of one round that was not stopped."""
    options = loop_options(tmp_path_factory.mktemp("whole"), files, trained / "sft", rounds=1)
    return adapters(run_loop(options, Commands()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "begun", ["round-0/sample.log", "round-0/rm/logs/config.yaml", "round-0/ppo/checkpoints/last.ckpt"]
)
def test_killed_it_goes_on_with_the_same_bits(
    begun: str, whole: dict[str, bytes], trained: Path, files: Files, tmp_path: Path
) -> None:
    options = loop_options(tmp_path, files, trained / "sft", rounds=1)
    process = start(options, tmp_path)
    deadline = time.monotonic() + SECONDS
    while not (Path(options.run) / begun).exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert start(options, tmp_path).wait(SECONDS) == 0, (tmp_path / "loop.log").read_text()
    found = adapters(Path(options.run))
    assert len(found) == 2 and found == whole


def adapters(folder: Path) -> dict[str, bytes]:
    """The adapters of all stages of a loop."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("round-*/*/adapter_model.*")}
    return found
