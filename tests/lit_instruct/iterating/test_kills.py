"""A loop that is killed (SIGKILL) in sampling, in the reward model or in PPO goes on with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from lit_instruct.iterating.options import IterateOptions
from tests.lit_instruct.iterating.helpers import Commands, loop_options, run_loop
from tests.lit_instruct.stages.helpers import Files

ROOT = Path(__file__).parents[3]
SECONDS = 300


def start(options: IterateOptions, folder: Path) -> subprocess.Popen[bytes]:
    """Starts the command in a process of its own."""
    config = folder / "iterate.yaml"
    config.write_text(yaml.safe_dump(asdict(options)))
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "LIT_INSTRUCT_CACHE": str(folder / "cache"),
    }
    command = [sys.executable, "-m", "lit_instruct.cli", "iterate", "--config", str(config)]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.STDOUT, stdout=subprocess.DEVNULL)


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
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "begun", ["round-0/sample.log", "round-0/rm/logs/config.yaml", "round-1/ppo/checkpoints/last.ckpt"]
)
def test_killed_it_goes_on_with_the_same_bits(
    begun: str, trained: Path, files: Files, tmp_path: Path, tokens_folder: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    expected = run_loop(loop_options(whole, files, trained / "sft"), Commands())
    options = loop_options(killed, files, trained / "sft")
    process = start(options, killed)
    deadline = time.monotonic() + SECONDS
    while not (Path(options.run) / begun).exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert start(options, killed).wait(SECONDS) == 0
    assert adapters(Path(options.run)) == adapters(expected)


def adapters(folder: Path) -> dict[str, bytes]:
    """The adapters of all stages of a loop."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("round-*/*/adapter_model.*")}
    assert len(found) == 4
    return found
