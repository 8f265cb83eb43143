"""Runs several command lines in one process of several: starting PyTorch takes longer than a tiny training.

`python -m tests.lit_instruct.stages.worker jobs.json results`: jobs are lists of words, in which {rank} is the rank;
the exit codes, and what each job said on stderr, go to results-<rank>.json after every job.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path

from lightning.pytorch.callbacks import Callback

from lit_instruct.cli import main


class Vanish(Callback):
    """Ends rank 1 in the middle of a training, as the system does when memory runs out."""

    def on_train_batch_start(self, trainer: object, module: object, batch: object, batch_idx: int) -> None:
        """Exits without an error message."""
        if batch_idx == 1 and os.environ["RANK"] == "1":
            os._exit(0)


def work(jobs: list[list[str]], results: str) -> None:
    """Runs every job."""
    rank = os.environ["RANK"]
    done = []
    for words in jobs:
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            code = main([word.replace("{rank}", rank) for word in words])
        done.append({"code": code, "said": said.getvalue()})
        Path(f"{results}-{rank}.json").write_text(json.dumps(done))


if __name__ == "__main__":
    work(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2])
