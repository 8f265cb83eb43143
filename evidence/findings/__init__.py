"""One module for each finding, found by its file: `measure(context) -> Result` and `QUESTION`.

`SOURCES` names where its data can come from, if not from packages alone (`NO_HUB` says why); `PACKAGES` modules that it
needs beyond those that the modules of evidence/ import.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

ORDER = ("sentiment", "preferred", "tax", "truthful_toxic", "overoptimization", "reward_model", "rounds")
"""In which they run and are shown; others follow by name."""


def names() -> list[str]:
    """Returns the findings that there are."""
    found = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return sorted(found, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def module_of(name: str) -> ModuleType:
    """Returns the module of a finding."""
    return importlib.import_module(f"{__name__}.{name}")
