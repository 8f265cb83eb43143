"""A process of a benchmark: `python -m benchmarks.side MODULE FUNCTION WORK` prints as JSON what the function returns.

WORK is a JSON object: the arguments of the function.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module

if __name__ == "__main__":
    module, side, work = sys.argv[1:]
    print("\n" + json.dumps(getattr(import_module(module), side)(**json.loads(work))), flush=True)
