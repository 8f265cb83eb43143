"""Which samples the report shows, and what its figures warn of."""

from __future__ import annotations

from lit_instruct.evaluation.figures import choose_samples, sameness


def test_samples_are_evenly_spaced_from_best_to_worst() -> None:
    samples = [{"ppo_minus_sft": gain} for gain in (0.0, 4.0, -3.0, 1.0, 2.0, -1.0, 3.0)]
    assert [sample["ppo_minus_sft"] for sample in choose_samples(samples, 3)] == [4.0, 1.0, -3.0]
    assert [sample["ppo_minus_sft"] for sample in choose_samples(samples[:2], 3)] == [4.0, 0.0]


def test_a_policy_that_says_the_same_to_every_prompt_is_named() -> None:
    assert sameness({"ppo_over_sft": 0.85}) == sameness({"ppo_over_sft": 1.1}) == sameness({"ppo_over_sft": None}) == []
    (warning,) = sameness({"ppo_over_sft": 0.532})
    assert "53 % of sft's" in warning and "--model.kl.coef" in warning
