"""Side by side with peers, and at scale: one command each, results as JSON in benchmarks/results."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
