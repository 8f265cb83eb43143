"""Where the processor's time goes, by kind of operation, with frozen weights packed (`fast.packed`) and without.

`python -m benchmarks.operations` profiles an iteration of PPO (32 episodes of 24 tokens, 2 inner epochs, LoRA on the
uppermost third of the layers) and the parts of an evaluation, on the demo's prompts, and writes
benchmarks/results/operations.json: seconds by kind. Each case runs in a process of its own, without packing and with.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from benchmarks.harness import Command, Found, run_side, say, scratch_folder
from benchmarks.operations_sides import KINDS

CASES = ("ppo", "evaluation")
WAYS = ("plain", "packed")


def measure(options: Namespace) -> Found:
    """Profiles each case in each way."""
    sizes = {"episodes": 8, "tokens": 6} if options.quick else {"episodes": 32, "tokens": 24}
    found: dict[str, Any] = {"kinds": KINDS, "cases": {}}
    for case in CASES:
        found["cases"][case] = {}
        for way in WAYS:
            with scratch_folder() as folder:
                work = {"case": case, "way": way, "folder": folder, "base": options.base, **sizes}
                seconds = run_side("benchmarks.operations_sides", "profiled", work)
            found["cases"][case][way] = seconds
            say(f"{case}, {way}: {told(seconds)}")
    return Found(found, "operations.json", ("operations",))


def told(seconds: Mapping[str, float]) -> str:
    """Returns seconds by kind as a line, the longest first."""
    kinds = sorted(seconds.items(), key=lambda item: -item[1])
    return f"{sum(seconds.values()):.1f} s: " + ", ".join(f"{kind} {one:.2f}" for kind, one in kinds)


main = Command("benchmarks.operations", __doc__, measure, quick="a few short episodes", base=True)

if __name__ == "__main__":
    raise SystemExit(main())
