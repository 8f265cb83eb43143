"""The commands of docs/vllm.md and of the rollouts in docs/gpus.md."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lit_instruct.cli import main
from tests.lit_instruct.rollouts.vllm.fake_server import fake_vllm
from tests.lit_instruct.stages.helpers import FLOAT, QUICK, Files

DOCS = Path(__file__).parents[2] / "docs"
TEXT = "".join((DOCS / page).read_text(encoding="utf-8") for page in ("vllm.md", "gpus.md"))
LINES = re.findall(r"^\.venv/bin/lit-instruct .*$", TEXT, re.M)
SERVERS = [line for line in LINES if "serve-rollouts" in line]
TRAININGS = [line for line in LINES if "--model.rollouts.engine=vllm" in line]


def test_the_commands_of_servers(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(SERVERS) == 3
    for line in SERVERS:
        words = [word for word in shlex.split(line)[1:] if word != "--start"]
        words[words.index("--run") + 1] = str(tiny_model)
        assert main(words) == 0
        assert f"{tiny_model} --enable-lora --host=127.0.0.1 --port=8801" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("line", TRAININGS)
def test_the_commands_of_trainings(
    line: str, tmp_path: Path, files: Files, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(DOCS.parent)
    small = [f"--model.base={tiny_model}", "--model.reward.function=tests.lit_instruct.stages.rewards.letters"]
    small += [*files.options("ppo"), "--data.batch_size=8", "--model.lora.top_layers=2", "--trainer.fast_dev_run=1"]
    small += [
        "--model.sampling.max_new_tokens=6",
        "--data.limit=null",
        "--run",
        str(tmp_path),
        "--model.kl.budget=null",
    ]
    with fake_vllm(tiny_model) as one, fake_vllm(tiny_model) as two:
        for port, server in ((8801, one), (8802, two)):
            line = line.replace(f"http://127.0.0.1:{port}", server.url)
        # A strategy of several processes would leave its group and its environment in this process.
        assert main([*shlex.split(line)[1:], *small, *FLOAT, *QUICK, "--trainer.strategy=auto"]) == 0
        assert one.asked_for("/v1/load_lora_adapter")
        assert bool(two.asked_for("/v1/load_lora_adapter")) == (two.url in line)
