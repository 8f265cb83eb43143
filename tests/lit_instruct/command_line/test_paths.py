"""Missing files and folders are named before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lit_instruct.command_line.check import answered

ROOT = Path(__file__).parents[3]
DATA = "--data.path=recipes/demo/data/prompts_train.jsonl"
WRONG = [
    ("sft fit --data.path=nope.jsonl", "nope.jsonl: no such file; check the path, or give a hub id"),
    ("sft fit --data.path=recipes/demo/data,nope.jsonl", "nope.jsonl: no such file"),
    (f"sft fit {DATA}@2,nope.parquet@1", "nope.parquet: no such file"),
    (f"sft fit {DATA} --data.validation_path=nope/", "nope/: no such file"),
    (f"sft fit {DATA} --model.base=/no/where", "/no/where: no such folder; check the path, or give a hub id"),
    (f"sft fit {DATA} --model.base=recipes", "recipes: no model in this folder"),
    (f"sft fit {DATA} --ckpt_path=nope.ckpt", "--ckpt_path=nope.ckpt: no such checkpoint"),
    (f"rm fit {DATA} --run runs/fresh", "rm: no sft model in runs/fresh/sft; run `make sft RUN=fresh` first"),
    (f"ppo fit {DATA} --run runs/fresh", "ppo: no sft model in runs/fresh/sft; run `make sft RUN=fresh` first"),
    (f"ppo fit {DATA} --model.base=org/name --model.reward.model=./no", "./no: no such folder"),
    ("eval --run runs/fresh", "--run=runs/fresh: no such run folder; run `make sft RUN=fresh` first"),
    ("chat --run runs/fresh/sft", "chat: no sft model in runs/fresh/sft"),
    ("chat --run ./fresh", "./fresh: no such folder"),
    ("export --run ./fresh --to x", "./fresh: no such folder"),
    (f"sample --run ./fresh {DATA} --out x", "./fresh: no such folder"),
    ("data inspect nope.jsonl", "nope.jsonl: no such file"),
]


@pytest.mark.parametrize(("line", "said"), WRONG, ids=[line for line, _ in WRONG])
def test_a_missing_path(refusal: Callable[[Sequence[str]], str], line: str, said: str) -> None:
    assert said in refusal(line.split())


def test_a_path_in_a_config_file_counts_too(tmp_path: Path, refusal: Callable[[Sequence[str]], str]) -> None:
    (tmp_path / "mine.yaml").write_text("data:\n  path: nope.jsonl\n")
    assert "nope.jsonl: no such file" in refusal(["sft", "fit", f"--config={tmp_path / 'mine.yaml'}"])


@pytest.mark.parametrize(
    "line",
    [
        f"ppo fit {DATA} --model.base=org/name --model.reward.function=mine.rewards.brevity",
        f"ppo fit {DATA} --model.base=org/name --model.reward.model=org/llama-rm",
        f"sft fit {DATA} --model.base=smollm2-135m-instruct --ckpt_path=last",
        "sft fit --data.path=recipes/demo/data:train --model.base=org/name@main",
        "chat --run org/name",
        "plan --stage sft --data.path=unknown",
    ],
)
def test_what_only_the_libraries_know_is_left_to_them(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(ROOT)
    assert not answered(line.split()[0], line.split()[1:])


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from lit_instruct.cli import main\n"
        "assert main(['sft', 'fit', '--data.path=nope.jsonl']) == 2\n"
        "assert main(['ppo', 'fit', '--config=recipes/demo/ppo.yaml', '--run=runs/fresh']) == 2\n"
        "assert main(['chat', '--run=./fresh']) == 2\n"
        "print([name for name in ('torch', 'lightning', 'transformers', 'jsonargparse') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
