"""Functions and objects of a user's program in the place of import paths, and what a run records of them."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_instruct import PPOModule, RewardModule, SFTModule
from lit_instruct.cli import main
from lit_instruct.commands.sample import SampleData, SampleOptions, sample
from lit_instruct.errors import UserError
from lit_instruct.evaluation.options import EvalOptions, options_record
from lit_instruct.models.lora import LoraOptions
from lit_instruct.ppo.options import FurtherReward, ObjectiveOptions, RewardOptions, SelectionOptions
from lit_instruct.rollouts.function_names import function_name
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.reward_functions import function_scorer
from tests.lit_instruct.stages.helpers import Files, demonstrations, plain_trainer, prompts, weights
from tests.lit_instruct.stages.rewards import letters

HERE = __name__


class Judge:
    """An object that can be called."""

    def __call__(self, pairs: list[tuple[str, str]]) -> list[float]:
        return letters(pairs)


class Network(nn.Module):
    """A reward of a user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, prompts: list[str], responses: list[str], rows: list[dict[str, Any]]) -> Tensor:
        counts = [float(sum("a" <= letter <= "m" for letter in response)) for response in responses]
        return torch.tensor(counts) * self.weight


def ppo(base: Path, function: Any, iterations: int = 2, **reward: Any) -> PPOModule:
    return PPOModule(
        base=base,
        lora=LoraOptions(top_layers=1),
        iterations=iterations,
        reward=RewardOptions(function=function, **reward),
        objective=ObjectiveOptions(minibatches=2),
        sampling=SamplingOptions(max_new_tokens=4),
        selection=SelectionOptions(labeler=lambda pairs: [0.5] * len(pairs)),
    )


def loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Prompts to train on and others to validate on."""
    return DataLoader(prompts(8), batch_size=4), DataLoader(prompts(4), batch_size=4)


def trained(folder: Path, base: Path, function: Any) -> dict[str, Tensor]:
    module = ppo(base, function)
    plain_trainer(folder, max_epochs=-1).fit(module, *loaders())
    module.save(folder / "ppo", {})
    return weights(folder / "ppo")


def local(pairs: list[tuple[str, str]]) -> list[float]:
    """A function of this module."""
    return letters(pairs)


def test_every_form_trains_the_same(tmp_path: Path, tiny_model: Path) -> None:
    expected = trained(tmp_path / "path", tiny_model, "tests.lit_instruct.stages.rewards.letters")
    for number, function in enumerate([local, lambda pairs: letters(pairs), Judge(), Network(), partial(letters)]):
        found = trained(tmp_path / str(number), tiny_model, function)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected), function


@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("a.b", "a.b"),
        (local, f"{HERE}.local"),
        (Judge(), f"{HERE}.Judge"),
        (Network(), f"{HERE}.Network"),
        (partial(local), f"{HERE}.local"),
        (lambda pairs: [], f"{HERE}.<lambda>"),
    ],
)
def test_names(function: Any, name: str) -> None:
    assert function_name(function) == name


def test_a_run_records_names(tmp_path: Path, tiny_model: Path) -> None:
    further = [FurtherReward("net", function=Network()), FurtherReward("path", function=f"{HERE}.local")]
    module = ppo(tiny_model, lambda pairs: [1.0] * len(pairs), further=further)
    trainer = plain_trainer(tmp_path, max_epochs=-1)
    trainer.fit(module, *loaders())
    module.save(tmp_path / "ppo", {})
    options = json.loads((tmp_path / "ppo/stage.json").read_text())["options"]["model"]
    assert options["reward"]["function"] == f"{HERE}.test_a_run_records_names.<locals>.<lambda>"
    assert [one["function"] for one in options["reward"]["further"]] == [f"{HERE}.Network", f"{HERE}.local"]
    assert options["selection"]["labeler"] == f"{HERE}.ppo.<locals>.<lambda>"
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["options"]["model.reward.function"] == f"{HERE}.test_a_run_records_names.<locals>.<lambda>"


def test_resuming_with_the_function(tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    module, trainer = ppo(tiny_model, local), plain_trainer(tmp_path, max_epochs=-1)
    trainer.fit(module, *loaders())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    longer = ppo(tiny_model, local, iterations=3)
    again = plain_trainer(tmp_path, max_epochs=-1)
    again.fit(longer, *loaders(), ckpt_path=tmp_path / "last.ckpt")
    assert longer.iterations_done == 3
    assert "reward.function" not in caplog.text
    other = ppo(tiny_model, Judge(), iterations=3)
    again.fit(other, *loaders(), ckpt_path=tmp_path / "last.ckpt")
    assert f"model.reward.function {HERE}.local -> {HERE}.Judge" in caplog.text


@pytest.mark.parametrize("path", ["__main__.reward", "mine.train.<locals>.<lambda>"])
def test_a_recorded_name_that_cannot_be_imported(path: str) -> None:
    sentence = f"--labeler {re.escape(path)}: it was given in Python and cannot be imported; give the function again"
    with pytest.raises(UserError, match=sentence):
        function_scorer(path, option="--labeler")


def test_the_option_of_a_function_is_named_in_its_errors() -> None:
    with pytest.raises(UserError, match=f"--model.reward.function {HERE}.Judge: it raised TypeError"):
        function_scorer(Judge())(["p"], [None], [{}])  # type: ignore[list-item]
    with pytest.raises(UserError, match="--labeler builtins.int: it is not callable"):
        function_scorer(3, option="--labeler")  # type: ignore[arg-type]


def test_sample_takes_a_function(tmp_path: Path, tiny_model: Path, files: Files) -> None:
    options = SampleOptions(
        str(tiny_model),
        SampleData(str(files.ppo), limit=2),
        str(tmp_path / "ranked.jsonl"),
        labeler=local,
        sampling=SamplingOptions(max_new_tokens=4),
    )
    assert sample(options).is_file()


def test_eval_records_names() -> None:
    record = options_record(EvalOptions(labeler=local, second_labeler=Network()))
    assert (record["labeler"], record["second_labeler"]) == (f"{HERE}.local", f"{HERE}.Network")
    assert options_record(EvalOptions(labeler="a.b"))["labeler"] == "a.b"


@pytest.mark.parametrize("given", [nn.Linear(1, 1), None, 3])
def test_a_model_itself_is_refused(given: Any) -> None:
    sentence = rf"give a hub id or a folder, not a {type(given).__name__}; save the model and its tokenizer"
    for kind in (SFTModule, RewardModule, PPOModule):
        with pytest.raises(UserError, match=f"--model.base: {sentence}"):
            kind(base=given)
    if given is not None:
        with pytest.raises(UserError, match=f"--model.reward.model: {sentence}"):
            RewardOptions(model=given)


@pytest.mark.parametrize(
    ("kind", "options", "place"),
    [
        (PPOModule, {}, "{run}/sft"),
        (RewardModule, {}, "{run}/sft"),
        (PPOModule, {"base": "tiny"}, "{run}/rm"),
        (SFTModule, {"base": "tiny", "selection_reward": "{run}/rm"}, "{run}/rm"),
    ],
)
def test_the_run_folder_of_the_command_line(
    kind: Any, options: dict[str, Any], place: str, tmp_path: Path, tiny_model: Path
) -> None:
    options = {name: tiny_model if value == "tiny" else value for name, value in options.items()}
    sentence = rf'^{re.escape(place)}: .*in Python give the module base="runs/demo/sft" and PPO reward=RewardOptions'
    with pytest.raises(UserError, match=sentence):
        plain_trainer(tmp_path).fit(kind(**options), *(DataLoader(demonstrations(8), batch_size=8) for _ in range(2)))


def test_it_comes_before_missing_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="in Python give the module base"):
        plain_trainer(tmp_path).fit(PPOModule())


def test_the_command_line_takes_an_import_path(tmp_path: Path) -> None:
    assert main(["sample", "--run=x", "--data.path=y", f"--out={tmp_path / 'z'}", "--labeler=__main__.f"]) == 2
