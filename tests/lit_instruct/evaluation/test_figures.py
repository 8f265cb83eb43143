"""Which samples the page has, and which of them it shows first."""

from __future__ import annotations

from lit_instruct.evaluation.figures import ranked_samples

PAIR = ("ppo", "sft")


def test_samples_are_evenly_spaced_from_best_to_worst() -> None:
    samples = [{"ppo_minus_sft": gain} for gain in (0.0, 4.0, -3.0, 1.0, 2.0, -1.0, 3.0)]
    ranked = ranked_samples(samples, PAIR, 3)
    assert [sample["ppo_minus_sft"] for sample in ranked.samples] == [4.0, 3.0, 2.0, 1.0, 0.0, -1.0, -3.0]
    assert ranked.shown == {0, 3, 6}
    assert ranked_samples(samples[:2], PAIR, 3).shown == {0, 1}


def test_a_page_has_a_thousand_samples_at_most() -> None:
    ranked = ranked_samples([{"ppo_minus_sft": float(i)} for i in range(5001)], PAIR, 9)
    gains = [sample["ppo_minus_sft"] for sample in ranked.samples]
    assert len(gains) == 1000 and gains == sorted(gains, reverse=True)
    assert (gains[0], gains[-1]) == (5000.0, 0.0)
    assert len(ranked.shown) == 9 and {0, 999} <= ranked.shown
