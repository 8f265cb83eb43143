"""The public name of an exported model's base, and how it differs from the base of the training."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, ModelCard
from huggingface_hub.errors import HfHubHTTPError

from lit_instruct.models.embedded import FOLDER, NAME

EMBEDDED_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_DIFFERS = (
    "It was trained on the embedded copy of this base, whose weights are Q4_1 (4 bits) dequantised to bfloat16; the "
    "hub's are the bfloat16 weights that copy was rounded from. On those the adapter's outputs differ slightly, by "
    "an amount that was not measured; `lit-instruct export --merge` writes the weights it was trained on."
)
FOLDER_ONLY = (
    "The base is a folder of the machine that trained it, of which only the name is given. Put that model beside this "
    "folder's reader under this name, or write its place into `adapter_config.json`; `--base` of `lit-instruct export` "
    "names a public one."
)


@dataclass(frozen=True)
class PublicBase:
    """A base under the name that others load."""

    name: str
    """Hub id or folder."""
    remark: str | None = None
    """What to know before loading it."""

    @property
    def on_hub(self) -> bool:
        """Whether the name is a hub id."""
        return is_hub_id(self.name)


def public_base(base: str, given: str | None) -> PublicBase:
    """Returns the public name of a base.

    Args:
        base: hub id or folder that the training opened.
        given: another name from the user; None uses the base's own.
    """
    embedded = base == NAME or Path(base).name == FOLDER
    own = f"./{Path(base).name}" if Path(base).exists() else base.partition("@")[0]
    name = given or (EMBEDDED_ON_HUB if embedded else own)
    if embedded and name == EMBEDDED_ON_HUB:
        return PublicBase(name, EMBEDDED_DIFFERS)
    return PublicBase(name, None if is_hub_id(name) else FOLDER_ONLY)


def is_hub_id(name: str) -> bool:
    """Returns whether a name is `organisation/name` and not a local folder."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and name[0] != "." and not Path(name).exists()


def base_licence(base: str, public: PublicBase) -> str | None:
    """Returns the licence field of the base's model card; None if there is none or it cannot be read.

    Args:
        base: hub id or folder that the training opened.
        public: its public name.
    """
    if public.name == EMBEDDED_ON_HUB:
        return "apache-2.0"
    card = Path(base) / "README.md" if Path(base).is_dir() else base
    return _licence(ModelCard, str(card))


def data_licence(path: str) -> str | None:
    """Returns the licence field of a hub dataset's card; None for other data."""
    return _licence(DatasetCard, path) if is_hub_id(path) else None


def _licence(card: type[ModelCard] | type[DatasetCard], where: str) -> str | None:
    try:
        data: Any = card.load(where, ignore_metadata_errors=True).data
    except (OSError, ValueError, HfHubHTTPError):  # no card, no network, or not a card
        return None
    return getattr(data, "license", None)
