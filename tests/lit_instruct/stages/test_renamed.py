"""Options of PPO by their names of 0.1.0: refused with the new name where given, translated in checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_instruct.errors import UserError
from lit_instruct.stages.renamed import RENAMED, refuse_old_names, translated
from lit_instruct.stages.resume import check_options
from tests.lit_instruct.stages.helpers import run

GIVEN = [
    (["--model.ppo.kl_coef=0.1"], "--model.ppo.kl_coef: is called --model.kl.coef now"),
    (["--model.ppo.kl_coef", "0.1"], "--model.ppo.kl_coef: is called --model.kl.coef now"),
    (["--model.ppo", "{minibatches: 2}"], "--model.ppo.minibatches: is called --model.objective.minibatches now"),
    (["--model.ppo={value_clip_range: null}"], "--model.ppo.value_clip_range: is called --model.value.clip_range now"),
    (["--model.shaping.reward_clip=1"], "--model.shaping.reward_clip: is called --model.reward.clip now"),
    (["--model.kl_control.target=6"], "--model.kl_control.target: is called --model.kl.target now"),
    (["--model.value=zero_head"], "--model.value: is called --model.value.start now"),
    (["--model.reward=null"], "--model.reward: is called --model.reward.model now"),
    (["--model.reward_function=a.b"], "--model.reward_function: is called --model.reward.function now"),
    (["--model.labeler", "a.b"], "--model.labeler: is called --model.selection.labeler now"),
    (["--model.further_rewards=[]"], "--model.further_rewards: is called --model.reward.further now"),
    (["--model.further_rewards+={name: a}"], "--model.further_rewards: is called --model.reward.further now"),
    (["--model.generation_batch_size=4"], "is called --model.memory.generation_batch_size now"),
    (["--model.optimizer.value_learning_rate=1"], "is called --model.value.learning_rate now"),
]


@pytest.mark.parametrize(("words", "message"), GIVEN)
def test_an_old_name_on_the_command_line_ends_with_the_new_one(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        refuse_old_names("ppo", ["fit", *words])
    assert str(caught.value).endswith(message)


@pytest.mark.parametrize(
    "words", [[], ["--model.value.start=zero_head"], ["--model.value", "{start: zero_head}"], ["--x"]]
)
def test_new_names_pass(words: list[str]) -> None:
    refuse_old_names("ppo", words)


def test_an_old_name_in_a_config_ends_with_the_new_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "ppo.yaml"
    config.write_text("model:\n  value: zero_head\n  ppo:\n    kl_coef: 0.1\n")
    said = [
        f"--model.value (in {config}): is called --model.value.start now",
        f"--model.ppo.kl_coef (in {config}): is called --model.kl.coef now",
    ]
    for command in (["ppo", "fit"], ["plan"]):
        assert run(*command, "--config", config, "--data.path=prompts.jsonl") == 2
        assert capsys.readouterr().err.strip().endswith(f"lit-instruct: error: {'; '.join(said)}")


def test_a_checkpoint_of_0_1_0_is_compared_by_the_new_names() -> None:
    saved = {"model.ppo.kl_coef": 0.1, "model.value": "zero_head", "model.reward": None, "model.base": "a"}
    now = {"model.kl.coef": 0.1, "model.value.start": "zero_head", "model.reward.model": None, "model.base": "a"}
    assert translated(saved) == now == translated(now)
    assert check_options(saved, now) == []
    assert check_options(saved, now | {"model.kl.coef": 0.2}) == ["model.kl.coef"]
    with pytest.raises(UserError, match="--model.value.start=reward_model: the checkpoint has zero_head"):
        check_options(saved, now | {"model.value.start": "reward_model"})


def test_every_old_name_has_its_own_new_one() -> None:
    assert len(set(RENAMED.values())) == len(RENAMED) == 30
