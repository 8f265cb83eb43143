"""The paper's findings, measured at small scale: `make evidence`."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The checkout."""
RESULTS = ROOT / "recipes/evidence/results"
"""The results that the pages show."""
