"""A reward model that reads text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from lit_instruct.errors import UserError
from lit_instruct.rollouts.text_reward import TextReward
from tests.lit_instruct.rollouts.stage_folders import REWARD_BIAS, reward_folder, sft_folder

PROMPTS = ["Hello", "What is the capital of France?", "Write a poem about the sea."]
RESPONSES = ["Hi.", "The capital of France is Paris.", "wind and sea"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Path, Path]:
    run = tmp_path_factory.mktemp("score")
    sft = sft_folder(run / "sft", tiny_model)
    return sft, reward_folder(run / "rm", sft)


def test_scores_are_those_of_plain_peft_plus_the_bias(folders: tuple[Path, Path], tiny_model: Path) -> None:
    reward = TextReward.from_source(str(folders[1]), dtype="float32")
    base = AutoModelForSequenceClassification.from_pretrained(str(tiny_model), num_labels=1)
    plain = PeftModel.from_pretrained(base, str(folders[1])).eval()
    expected = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        ids = reward.prompter.prompt_ids(prompt) + reward.prompter.response_ids(response)
        with torch.no_grad():
            expected.append(plain(input_ids=torch.tensor([ids])).logits.item() + REWARD_BIAS)
    assert len(set(expected)) == 3
    for tokens in (1, 64, 8192):
        assert reward.score(PROMPTS, RESPONSES, batch_tokens=tokens) == pytest.approx(expected, abs=1e-5)
    assert reward.score(PROMPTS[::-1], RESPONSES[::-1]) == pytest.approx(expected[::-1], abs=1e-5)


def test_a_plain_classifier_scores_without_bias(tiny_model: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = AutoModelForSequenceClassification.from_pretrained(str(tiny_model), num_labels=1).eval()
    plain.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_bytes((tiny_model / name).read_bytes())
    reward = TextReward.from_source(str(tmp_path), dtype="float32")
    ids = reward.prompter.prompt_ids("Hello") + reward.prompter.response_ids("Hi.")
    with torch.no_grad():
        expected = plain(input_ids=torch.tensor([ids])).logits.item()
    assert reward.bias == 0.0
    assert reward.score(["Hello"], ["Hi."]) == pytest.approx([expected], abs=1e-6)


def test_models_without_a_head_are_refused(folders: tuple[Path, Path], tiny_model: Path) -> None:
    for folder in (folders[0], tiny_model):
        with pytest.raises(UserError, match=f"{folder}: .*no .*reward head|{folder}: no trained reward head"):
            TextReward.from_source(str(folder))


def test_a_long_prompt_is_read_once_for_all_its_responses(folders: tuple[Path, Path]) -> None:
    reward = TextReward.from_source(str(folders[1]), dtype="float32")
    prompts = ["Hello " * 40] * 4 + ["Hi"] + ["a sea " * 50] * 3
    responses = ["a", "b c", "wind and sea", "d" * 9, "e", "f", "g h", "i"]
    separate = [reward.score([prompt], [said])[0] for prompt, said in zip(prompts, responses, strict=True)]
    attention = reward.network.get_base_model().config._attn_implementation
    read: list[int] = []
    embedding = reward.network.get_base_model().get_input_embeddings()
    counting = embedding.register_forward_hook(lambda module, given, out: read.append(given[0].numel()))
    expected = pytest.approx(separate, abs=1e-5)
    assert reward.score(prompts, responses) == expected  # it also tests the model
    read.clear()
    assert reward.score(prompts, responses) == expected
    counting.remove()
    assert sum(read) < sum(len(reward.ids(*pair)) for pair in zip(prompts, responses, strict=True)) / 2
    assert reward.network.get_base_model().config._attn_implementation == attention
    assert reward.score(prompts, responses, batch_tokens=1) == expected
    assert reward.score(prompts[::-1], responses[::-1]) == pytest.approx(separate[::-1], abs=1e-5)
    assert [score for (score,) in map(reward.score, *[[[each] for each in part] for part in (prompts, responses)])] == (
        separate
    )  # the scores of separate responses are as they were, to the bit
