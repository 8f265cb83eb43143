"""Rollouts: samples and scores equal those of plain models, however the rows are batched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_instruct.batches import Rollout, columns_from
from lit_instruct.models.roles import Roles
from lit_instruct.ppo.collect import Collector, Reward
from lit_instruct.prompting import Prompter
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.reward_functions import TextScorer
from lit_instruct.rollouts.text import Response, TextGenerator
from lit_instruct.rollouts.text_reward import TextReward
from tests.lit_instruct.ppo.parts import SAMPLING, TEXTS, batch_of, collector_of
from tests.lit_instruct.rollouts.stage_folders import REWARD_BIAS


def test_an_iteration_scores_its_minibatches_as_the_update_takes_them(roles: Roles, prompter: Prompter) -> None:
    collector, batch = collector_of(roles, prompter), batch_of(prompter)
    rollouts = collector.collect(batch, (0, 3))
    assert rollouts.responses == collector.sample(batch, (0, 3)).responses
    assert [len(minibatch) for minibatch in rollouts.minibatches] == [1, 1]
    assert sorted(row for [part] in rollouts.minibatches for row in part) == [0, 1, 2, 3]
    for [rows], rollout in zip(rollouts.minibatches, rollouts.parts, strict=True):
        responses = zip(rollout.response_ids, rollout.response_mask, strict=True)
        assert [ids[real].tolist() for ids, real in responses] == [rollouts.responses[row] for row in rows]
    whole = collector.collect(batch, (0, 3), whole=True)
    assert whole.responses == rollouts.responses
    assert whole.minibatches == [[[0, 1], [2, 3]]]


def _responses(prompter: Prompter) -> list[list[int]]:
    """Two responses that end and two that were cut."""
    return [[30, 31, prompter.eos_id], [32], [33, 34, 35, 36, 37], [prompter.eos_id]]


def test_samples_depend_on_prompt_and_key_alone(roles: Roles, prompter: Prompter) -> None:
    together = collector_of(roles, prompter).sample(batch_of(prompter), (0, 3))
    assert collector_of(roles, prompter, generation_batch_size=1).sample(batch_of(prompter), (0, 3)) == together
    halves = [collector_of(roles, prompter).sample(batch_of(prompter, rows), (0, 3)) for rows in ([2, 0], [3, 1])]
    first, second = (half.responses for half in halves)
    assert [first[1], second[1], first[0], second[0]] == together.responses
    assert collector_of(roles, prompter).sample(batch_of(prompter), (0, 4)) != together
    assert all(1 <= len(ids) <= 6 for ids in together.responses)
    assert collector_of(roles, prompter, merge=False).sample(batch_of(prompter), (0, 3)) == together


def test_samples_come_from_the_policy(roles: Roles, prompter: Prompter) -> None:
    collector = collector_of(roles, prompter, sampling=SamplingOptions(max_new_tokens=4, temperature=1e-4))
    sampled = collector.sample(batch_of(prompter), (0, 0)).responses
    for text, ids in zip(TEXTS, sampled, strict=True):
        sequence = prompter.prompt_ids(text)
        for token in ids:
            input_ids = torch.tensor([sequence])
            with torch.no_grad():
                hidden = roles.hidden("policy", input_ids, torch.ones_like(input_ids, dtype=torch.bool))
            assert int((hidden[0, -1] @ roles.output_weight("policy").T).argmax()) == token
            sequence = [*sequence, token]


def _score(collector: Collector, parts: list[list[int]]) -> list[Rollout]:
    return collector.score(batch_of(collector.prompter), _responses(collector.prompter), parts)


def test_scores_are_those_of_the_reward_model_as_text(
    stages: tuple[Path, Path], roles: Roles, prompter: Prompter
) -> None:
    collector, responses = collector_of(roles, prompter), _responses(prompter)
    [rollout] = _score(collector, [[0, 1, 2, 3]])
    network = TextReward.from_source(str(stages[1]), dtype="float32").network
    for row, text in enumerate(TEXTS):
        ids = torch.tensor([prompter.prompt_ids(text) + responses[row]])
        with torch.no_grad():
            expected = network(input_ids=ids).logits.item() + REWARD_BIAS
        assert rollout.scores[row].item() == pytest.approx(expected, abs=1e-5)
    assert rollout.ended.tolist() == [True, False, False, True]
    assert torch.equal(rollout.reward_parts, rollout.scores[:, None])


def test_log_probs_are_those_of_the_text_generator(stages: tuple[Path, Path], roles: Roles, prompter: Prompter) -> None:
    [rollout] = _score(collector_of(roles, prompter), [[0, 1, 2, 3]])
    answers = [Response(ids, "", False) for ids in _responses(prompter)]
    reference = TextGenerator.from_source(str(stages[0]), dtype="float32").log_probs(TEXTS, answers)
    assert rollout.reference_log_probs.sum(dim=1).tolist() == pytest.approx(reference, abs=1e-4)
    with roles.merged("policy") as model:
        policy = TextGenerator(model, prompter).log_probs(TEXTS, answers)
    assert rollout.log_probs.sum(dim=1).tolist() == pytest.approx(policy, abs=1e-4)
    assert policy != pytest.approx(reference, abs=1e-3)


def test_parts_do_not_change_the_figures(roles: Roles, prompter: Prompter) -> None:
    collector = collector_of(roles, prompter)
    [whole] = _score(collector, [[0, 1, 2, 3]])
    parts = [[2, 0], [3], [1]]
    rollouts = _score(collector, parts)
    for rows, rollout in zip(parts, rollouts, strict=True):
        width = rollout.response_mask.shape[1]
        assert width == max(len(_responses(prompter)[row]) for row in rows)  # as narrow as they allow
        sequences = [len(prompter.prompt_ids(TEXTS[row]) + _responses(prompter)[row]) for row in rows]
        assert rollout.input_ids.shape[1] == max(sequences)
        assert rollout.attention_mask.sum(dim=1).tolist() == sequences
        for name in ("log_probs", "reference_log_probs", "values", "response_mask"):
            torch.testing.assert_close(getattr(rollout, name), getattr(whole, name)[rows, :width])
        torch.testing.assert_close(rollout.scores, whole.scores[rows])
        torch.testing.assert_close(rollout.entropy, whole.entropy[rows])
        assert rollout.ended.tolist() == whole.ended[rows].tolist()


def test_masked_positions_are_zero(roles: Roles, prompter: Prompter) -> None:
    [rollout] = _score(collector_of(roles, prompter), [[0, 1, 2, 3]])
    assert rollout.response_length.tolist() == [3, 1, 5, 1]
    for part in (rollout.log_probs, rollout.reference_log_probs, rollout.values):
        assert (part[~rollout.response_mask] == 0).all()
        assert (part[rollout.response_mask] != 0).all()
    responses = zip(rollout.response_ids, rollout.response_mask, strict=True)
    assert [ids[real].tolist() for ids, real in responses] == _responses(prompter)
    assert (rollout.input_ids[~rollout.attention_mask] == prompter.pad_id).all()


def test_forwarding_a_part_again_gives_a_ratio_of_exactly_one(roles: Roles, prompter: Prompter) -> None:
    collector = collector_of(roles, prompter)
    for rollout in _score(collector, [[2, 0], [3, 1]]):
        assert rollout.trunk is not None
        mask = rollout.response_mask
        hidden = roles.hidden("policy", rollout.input_ids, rollout.attention_mask, rollout.trunk)
        hidden = columns_from(hidden, rollout.prompt_length - 1, mask.shape[1] + 1)
        again, _ = roles.response_log_probs("policy", hidden, rollout.response_ids, mask, SAMPLING.temperature)
        assert again.requires_grad
        assert torch.equal(again, rollout.log_probs)


def test_log_probs_are_of_the_distribution_sampled_from(roles: Roles, prompter: Prompter) -> None:
    collector = collector_of(roles, prompter)
    [plain] = _score(collector, [[0, 1, 2, 3]])
    [sharp] = _score(collector_of(roles, prompter, sampling=SamplingOptions(temperature=0.5)), [[0, 1, 2, 3]])
    assert not torch.allclose(plain.log_probs, sharp.log_probs)
    assert not torch.allclose(plain.reference_log_probs, sharp.reference_log_probs)
    torch.testing.assert_close(plain.values, sharp.values)


def test_reward_from_text(roles: Roles, prompter: Prompter) -> None:
    asked: list[tuple[list[Any], list[str]]] = []

    def scorer(prompts: Sequence[Any], responses: Sequence[str], rows: Sequence[Any]) -> list[float]:
        asked.append((list(prompts), list(responses)))
        return [0.5, 1.5, 2.5, 3.5]

    rollouts = _score(collector_of(roles, prompter, scorer), [[3, 1], [0, 2]])
    assert asked == [(TEXTS, [prompter.decode(ids) for ids in _responses(prompter)])]  # once, all rows together
    assert [rollout.scores.tolist() for rollout in rollouts] == [[3.5, 1.5], [0.5, 2.5]]  # no bias


def test_a_response_that_ends_by_a_stop_string_has_ended(roles: Roles, prompter: Prompter) -> None:
    """Rewards read the text up to the string."""
    asked: list[list[str]] = []

    def scorer(prompts: Sequence[Any], responses: Sequence[str], rows: Sequence[Any]) -> list[float]:
        asked.append(list(responses))
        return [0.0] * len(responses)

    responses = [list(ids) for ids in _responses(prompter)]
    responses[1] = list(prompter.tokenizer("a poem about the sea", add_special_tokens=False)["input_ids"])
    collector = collector_of(roles, prompter, scorer, sampling=SamplingOptions(stop_strings=["the sea"]))
    [rollout] = collector.score(batch_of(prompter), responses, [[0, 1, 2, 3]])
    assert rollout.ended.tolist() == [True, True, False, True]
    assert asked[0][1] == "a poem about"


def test_further_rewards_are_added_by_their_weights(roles: Roles, prompter: Prompter) -> None:
    def constant(*values: float) -> TextScorer:
        return lambda *_: list(values)

    further = [Reward("first", 2.0, constant(1, 2, 3, 4)), Reward("second", -1.0, constant(5, 6, 7, 8))]
    [alone] = _score(collector_of(roles, prompter), [[3, 1, 0, 2]])
    [rollout] = _score(collector_of(roles, prompter, further=further), [[3, 1, 0, 2]])
    assert rollout.reward_parts[:, 1:].tolist() == [[4.0, 8.0], [2.0, 6.0], [1.0, 5.0], [3.0, 7.0]]
    torch.testing.assert_close(rollout.reward_parts[:, 0], alone.scores)
    torch.testing.assert_close(rollout.scores - alone.scores, torch.tensor([0.0, -2.0, -3.0, -1.0]))
