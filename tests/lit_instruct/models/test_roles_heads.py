"""Log-probabilities, values and rewards that roles give for the response tokens."""

from __future__ import annotations

import pytest
import torch

from lit_instruct.errors import UserError
from lit_instruct.models.assemble import ppo_roles
from lit_instruct.models.loading import find_source
from tests.lit_instruct.models.tiny_roles import (
    LARGER,
    PROMPTS,
    RESPONSES,
    Folders,
    ids_and_masks,
    make_roles,
    reward_scores,
    sft_model,
    train,
)


def test_response_log_probs_are_those_of_plain_transformers(folders: Folders) -> None:
    ids, mask, tokens, response_mask = ids_and_masks()
    roles, temperature = make_roles(folders), 0.8
    with torch.no_grad():
        log_probs, entropy = roles.response_log_probs(
            "reference", roles.hidden("reference", ids, mask), tokens, response_mask, temperature, with_entropy=True
        )
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            logits = sft_model(folders)(torch.tensor([prompt + response])).logits[0] / temperature
            expected = logits[len(prompt) - 1 : -1].log_softmax(dim=-1)
            length = len(response)
            torch.testing.assert_close(log_probs[row, :length], expected[range(length), response], atol=1e-5, rtol=1e-5)
            exact = -(expected.exp() * expected).sum(dim=-1)
            torch.testing.assert_close(entropy[row, :length], exact, atol=1e-5, rtol=1e-5)
    assert (log_probs[~response_mask] == 0).all()
    assert (entropy[~response_mask] == 0).all()


def test_hidden_states_from_the_last_prompt_token_on_suffice(folders: Folders) -> None:
    """(B, R + 1, H), as PPO passes them, gives the same as the hidden states of prompt and response."""
    ids, mask, tokens, response_mask = ids_and_masks()
    roles, count = make_roles(folders), response_mask.shape[1]
    with torch.no_grad():
        for role in ("policy", "value", "reward"):
            whole = roles.hidden(role, ids, mask)
            short = whole[:, -count - 1 :]
            assert short.shape == (3, count + 1, whole.shape[2])
            if role == "policy":
                results = [roles.response_log_probs(role, h, tokens, response_mask, 1.0, True) for h in (short, whole)]
                assert [found.shape for found in results[0]] == [(3, count)] * 2
                assert torch.equal(torch.stack(results[0]), torch.stack(results[1]))
                continue
            head, shape = (roles.values, (3, count)) if role == "value" else (roles.rewards, (3,))
            assert head(short, response_mask).shape == shape
            torch.testing.assert_close(head(short, response_mask), head(whole, response_mask))


def test_reward_and_value_start_as_the_reward_model(folders: Folders) -> None:
    ids, mask, _, response_mask = ids_and_masks()
    roles = make_roles(folders)
    with torch.no_grad():
        rewards = roles.rewards(roles.hidden("reward", ids, mask), response_mask)
        hidden = roles.hidden("value", ids, mask)
        last = 5 + response_mask.sum(dim=1) - 1
        values = roles.value_head(hidden[torch.arange(3), last]).squeeze(-1)
        torch.testing.assert_close(rewards, reward_scores(folders), atol=1e-5, rtol=1e-5)
        assert torch.equal(values, rewards)
        # V before token t is read where token t is predicted
        per_state = roles.values(hidden, response_mask)
        torch.testing.assert_close(per_state[1, 1:], roles.value_head(hidden[1, 5:8]).squeeze(-1))
        torch.testing.assert_close(per_state[1, 0], roles.value_head(hidden[1, 4]).squeeze(-1))
        assert (per_state[~response_mask] == 0).all()
        assert per_state.dtype == torch.float32


def test_full_fine_tuning_starts_the_value_as_the_reward_model(folders: Folders) -> None:
    ids, mask, _, response_mask = ids_and_masks()
    roles = make_roles(folders, lora=None)
    assert len(roles.reward_heads) == 0
    with torch.no_grad():
        last = 5 + response_mask.sum(dim=1) - 1
        values = roles.value_head(roles.hidden("value", ids, mask)[torch.arange(3), last]).squeeze(-1)
    torch.testing.assert_close(values, reward_scores(folders), atol=1e-5, rtol=1e-5)


def test_without_a_reward_model_the_value_is_zero_and_can_learn(folders: Folders) -> None:
    ids, mask, _, response_mask = ids_and_masks()
    for lora in (LARGER, None):
        roles = make_roles(folders, lora, reward=False)
        assert "reward" not in roles.roles
        with torch.no_grad():
            hidden = roles.hidden("value", ids, mask)
            assert (roles.values(hidden, response_mask) == 0).all()
            torch.testing.assert_close(hidden, roles.hidden("reference", ids, mask))
        train(roles, "value")
        assert (roles.value_head.weight != 0).any()


def test_reward_model_without_head_is_refused(folders: Folders) -> None:
    for lora in (LARGER, None):
        with pytest.raises(UserError, match="no reward head"):
            ppo_roles(find_source(str(folders.sft)), [find_source(str(folders.sft))], lora, torch.float32)
