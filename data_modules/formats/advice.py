"""What to do about rows of no known layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_modules.formats.comparisons import COMPARISON_LAYOUTS
from data_modules.formats.demonstrations import DEMONSTRATION_LAYOUTS
from data_modules.formats.layout import Layout, Record, find, listed
from data_modules.formats.prompts import PROMPT_LAYOUTS

OF_STAGE: Mapping[str, tuple[str, Sequence[Layout]]] = {
    "rm": ("comparisons", COMPARISON_LAYOUTS),
    "sft": ("demonstrations", DEMONSTRATION_LAYOUTS),
    "ppo": ("prompts", PROMPT_LAYOUTS),
}
"""Stage -> its rows and their layouts, in the order in which a record is tried."""
SHOWN = 12
"""Most fields of a row in a message."""


def advice_on(record: Record, chosen: Layout, layouts: Sequence[Layout], others: bool) -> str:
    """Returns what a message says after "field ... is missing": the stage for such rows, or layouts and --data.fields.

    Args:
        record: the row, or a group of rows.
        chosen: the layout that lacks a field.
        layouts: of the wanted kind of row.
        others: whether other layouts may be named.
    """
    for stage, (kind, known) in OF_STAGE.items():
        found = find(record, known) if known is not layouts else None
        if found is not None and (stage != "ppo" or record.keys() <= {*found.needs, *found.takes, "user", "use_case"}):
            return f"; these are {kind} (format {found.name}), for `lit-instruct {stage}`"
    names = [_named(one) for one in layouts if one != chosen] if others else []
    formats = f"; other formats are {', '.join(names)}" if names else ""
    has = list(record)[:SHOWN] + ["..."] * (len(record) > SHOWN)
    mapping = ", ".join(f"{field}: ..." for field in chosen.needs)
    return f"{formats}; the row has {listed(has) or 'no field'}; name its fields with --data.fields='{{{mapping}}}'"


def known_layouts(layouts: Sequence[Layout]) -> str:
    """The layouts with the fields that they need, for messages."""
    return ", ".join(_named(layout) for layout in layouts)


def _named(layout: Layout) -> str:
    return layout.name if layout.needs == (layout.name,) else f"{layout.name} ({', '.join(layout.needs)})"
