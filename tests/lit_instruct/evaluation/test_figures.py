"""Which samples the report shows."""

from __future__ import annotations

from lit_instruct.evaluation.figures import choose_samples


def test_samples_are_evenly_spaced_from_best_to_worst() -> None:
    samples = [{"ppo_minus_sft": gain} for gain in (0.0, 4.0, -3.0, 1.0, 2.0, -1.0, 3.0)]
    assert [sample["ppo_minus_sft"] for sample in choose_samples(samples, 3)] == [4.0, 1.0, -3.0]
    assert [sample["ppo_minus_sft"] for sample in choose_samples(samples[:2], 3)] == [4.0, 0.0]
