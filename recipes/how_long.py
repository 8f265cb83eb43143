"""Says how long a recipe's stages will take on this processor; `make demo` begins with it.

    python recipes/how_long.py demo                       about 14 minutes on this processor (sft 0.5, ...)
    python recipes/how_long.py demo --record runs/demo    writes recipes/demo/results/time.json from a run made here

The times of a recorded run are scaled by the speed of a linear layer of the model's widths, here against there
(`lit_instruct.models.dtype.seconds_here`). A run in the same folder is not looked at: all stages are trained anew.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lit_instruct.files import json_text, write_text
from lit_instruct.machine import processor
from lit_instruct.models.dtype import seconds_here, widths_of
from lit_instruct.models.loading import find_source, load_config

RECIPES = Path(__file__).parent


def main() -> None:
    """Prints the time, or records it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="its folder in recipes/")
    parser.add_argument("--record", type=Path, metavar="RUN", help="a run folder, with eval, that was made here")
    options = parser.parse_args()
    file = RECIPES / options.recipe / "results" / "time.json"
    if options.record:
        report = json.loads((options.record / "eval/report.json").read_text())
        found = recorded(report, processor()[0], seconds_per_token(report["base"]["source"]))
        write_text(file, json_text(found), "--record")
    elif file.is_file() and not torch.cuda.is_available():
        measured = json.loads(file.read_text())
        print(f"{options.recipe}: {line(measured, seconds_per_token(measured['base']))}", flush=True)


def recorded(report: Mapping[str, Any], on: str, per_token: float) -> dict[str, Any]:
    """Returns what later estimates need of a run's report.

    Args:
        report: the report.json of an evaluation.
        on: name of the processor that it was made on.
        per_token: its speed as `seconds_per_token` returns it.
    """
    kept = {key: report[key] for key in ("seconds", "machine", "versions", "date")}
    return kept | {"base": report["base"]["source"], "processor": on, "seconds_per_token": per_token}


def seconds_per_token(base: str) -> float:
    """Returns the seconds that two linear layers of a model take per token here, in the faster dtype."""
    return min(seconds_here(widths_of(load_config(find_source(base)))).values())


def line(measured: Mapping[str, Any], per_token: float) -> str:
    """Returns the expected time in words.

    Args:
        measured: as `recorded` returns it.
        per_token: seconds of a token here, as `seconds_per_token` returns them.
    """
    slower = per_token / measured["seconds_per_token"]
    stages = {name: seconds * slower / 60 for name, seconds in measured["seconds"].items()}
    parts = ", ".join(f"{name} {minutes:.1f}" for name, minutes in stages.items())
    total = max(1, round(sum(stages.values())))
    return (
        f"about {total} minute{'s' if total > 1 else ''} on this processor ({parts}), which is "
        f"{1 / slower:.1f} times as fast as the one that it was measured on"
    )


if __name__ == "__main__":
    main()
