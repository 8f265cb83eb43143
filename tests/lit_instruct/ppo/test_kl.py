"""The coefficient of the KL penalty: fixed, adapted, bounded, resumed."""

from __future__ import annotations

import pytest

from lit_instruct.errors import UserError
from lit_instruct.ppo.kl import KLController
from lit_instruct.ppo.objective import KLOptions


def test_without_a_target_it_stays() -> None:
    control = KLController(KLOptions(0.04))
    control.adapt(100.0)
    assert control.coef == 0.04


def test_it_follows_its_target_by_a_fifth_of_the_gain_at_most() -> None:
    control = KLController(KLOptions(0.1, target=6.0, gain=0.5))
    control.adapt(60.0)
    assert control.coef == pytest.approx(0.1 * 1.1)
    control.adapt(5.4)  # a tenth too low
    assert control.coef == pytest.approx(0.1 * 1.1 * 0.95)


def test_it_does_not_fall_below_its_least_value_and_rises_from_there() -> None:
    control = KLController(KLOptions(0.1, target=6.0, gain=2.0, min_coef=0.1))
    for _ in range(9):  # a training begins at a KL of 0
        control.adapt(0.0)
    assert control.coef == 0.1
    control.adapt(60.0)
    assert control.coef == pytest.approx(0.14)
    used_up = KLController(KLOptions(0.1, target=6.0, gain=2.0))
    for _ in range(9):
        used_up.adapt(0.0)
    assert used_up.coef == pytest.approx(0.1 * 0.6**9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"target": 6.0, "gain": 5.0},
            "gain=5.0: one iteration changes the coefficient by up to gain / 5, so from 5 on",
        ),
        ({"min_coef": 0.01}, "min_coef=0.01: the coefficient is fixed with --model.kl.target=null"),
        ({"target": 6.0, "min_coef": 0.03}, "min_coef=0.03: must not be above --model.kl.coef=0.02"),
        ({"target": 6.0, "min_coef": -0.1}, "min_coef=-0.1"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        KLOptions(**options)


def test_what_the_bound_asks_for() -> None:
    assert KLController(KLOptions()).beyond_bound(1e9, 1) is None
    for action in ("stop", "shrink"):
        control = KLController(KLOptions(bound=2.0, on_bound=action))
        assert control.beyond_bound(2.0, 1) is None
        assert control.beyond_bound(2.1, 1) == action


@pytest.mark.parametrize(("target", "first", "coef"), [(6.0, 0.02, 0.5), (6.0, 0.03, 0.02), (None, 0.02, 0.02)])
def test_a_resumed_coefficient_is_kept_unless_its_start_has_changed(
    target: float | None, first: float, coef: float
) -> None:
    control = KLController(KLOptions(0.02, target=target))
    control.restore(0.5, first)
    assert control.coef == coef
