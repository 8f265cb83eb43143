"""Seconds by kind of operation."""

from __future__ import annotations

from benchmarks.operations import told
from benchmarks.operations_sides import OTHER, kinds_of
from benchmarks.operations_table import rows
from benchmarks.packed import packing
from lit_instruct.models import packed_weights


def test_every_operator_counts_for_one_kind() -> None:
    found = kinds_of({"aten::mm": 2.0, "mkldnn::_linear_pointwise": 1.0, "aten::mul": 0.25, "aten::copy_": 0.5})
    assert found == {
        "matrix products": 3.0,
        "attention": 0.0,
        "log-softmax": 0.0,
        "copies and casts": 0.5,
        "gather and scatter": 0.0,
        OTHER: 0.25,
    }
    assert told(found).startswith(f"3.8 s: matrix products 3.00, copies and casts 0.50, {OTHER} 0.25")


def test_nothing_is_packed_in_the_plain_way() -> None:
    before = packed_weights.pays
    with packing("plain"):
        assert packed_weights.pays(None) is False  # type: ignore[arg-type]
    with packing("packed"):
        assert packed_weights.pays is before


def test_the_table_has_a_row_for_each_way() -> None:
    one, two = {"matrix products": 2.0, OTHER: 1.0}, {"matrix products": 1.0, OTHER: 1.0}
    assert rows({"cases": {"ppo": {"plain": one, "packed": two}}}) == [
        ("seconds", "frozen weights", "matrix products", OTHER, "in all"),
        ("ppo", "as it is", "2.00", "1.00", "3.00"),
        ("ppo", "packed", "1.00", "1.00", "2.00"),
    ]
