"""save, load and load_from_checkpoint of the three modules."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_instruct import PPOModule, RewardModule, SFTModule
from lit_instruct.errors import UserError
from lit_instruct.models.lora import LoraOptions
from lit_instruct.ppo.options import ObjectiveOptions, PPOOptimizerOptions, RewardOptions
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.text import TextGenerator
from lit_instruct.rollouts.text_reward import TextReward
from tests.lit_instruct.stages.helpers import (
    assert_equal,
    comparisons,
    demonstrations,
    plain_trainer,
    prompts,
    snapshot,
    weights,
)

KINDS: dict[str, Any] = {"sft": SFTModule, "rm": RewardModule, "ppo": PPOModule}
DATA = {"sft": demonstrations(8), "rm": comparisons(8), "ppo": prompts(8)}
LORA = {"lora": LoraOptions(r=4, top_layers=1), "whole": None}


def loader(stage: str) -> DataLoader[Any]:
    return DataLoader(DATA[stage], batch_size=4)


def module_of(stage: str, base: Path, sft: Path, lora: LoraOptions | None, **more: Any) -> Any:
    if stage != "ppo":
        return KINDS[stage](base=base if stage == "sft" else sft, lora=lora, **more)
    return PPOModule(
        base=sft,
        lora=lora,
        iterations=2,
        reward=RewardOptions(model=sft.parent / "rm"),
        objective=ObjectiveOptions(minibatches=2),
        sampling=SamplingOptions(max_new_tokens=4),
        optimizer=PPOOptimizerOptions(ema_decay=0.5),
        **more,
    )


@pytest.fixture(scope="module", params=LORA)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A run of the three stages from Python, saved by `save`, with a checkpoint of each."""
    folder = tmp_path_factory.mktemp(request.param)
    for stage in KINDS:
        module = module_of(stage, tiny_model, folder / "sft", LORA[request.param])
        trainer = plain_trainer(folder, max_epochs=1)
        trainer.fit(module, loader(stage))
        if stage == "rm":
            module.bias.fill_(0.25)
        module.save(folder / stage)
        trainer.save_checkpoint(folder / f"{stage}.ckpt")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Files of a result; the time of stage.json left out."""
    found = snapshot(folder)
    record = json.loads(found.pop("stage.json"))
    del record["created"]
    return found | {"stage.json": json.dumps(record).encode()}


@pytest.mark.parametrize("stage", KINDS)
def test_round_trip(run: Path, stage: str, tmp_path: Path) -> None:
    module = KINDS[stage].load(run / stage)
    assert not module.training
    module.save(tmp_path / stage)
    before, after = files(run / stage), files(tmp_path / stage)
    assert before.keys() == after.keys()
    for name in before:
        assert before[name] == after[name], name


@pytest.mark.parametrize("stage", KINDS)
def test_a_checkpoint_holds_the_result(run: Path, stage: str, tmp_path: Path) -> None:
    module = KINDS[stage].load_from_checkpoint(run / f"{stage}.ckpt", map_location="cpu")
    module.save(tmp_path / stage)
    assert_equal(weights(tmp_path / stage), weights(run / stage))


@pytest.mark.parametrize("stage", ["sft", "rm"])
def test_a_loaded_module_is_validated_and_trained_further(run: Path, stage: str, tmp_path: Path) -> None:
    module = KINDS[stage].load(run / stage)
    (before,) = plain_trainer(tmp_path).validate(module, loader(stage), verbose=False)
    plain_trainer(tmp_path, max_epochs=2).fit(module, loader(stage))
    (after,) = plain_trainer(tmp_path).validate(module, loader(stage), verbose=False)
    assert after["val/loss"] < before["val/loss"]
    module.save(tmp_path / stage)
    record = json.loads((tmp_path / stage / "stage.json").read_text())
    assert record["options"]["model"]["base"] == str(run / stage)
    assert record["base"] == json.loads((run / stage / "stage.json").read_text())["base"]


def test_a_loaded_policy_is_trained_further(run: Path, tmp_path: Path) -> None:
    module = PPOModule.load(run / "ppo", optimizer=PPOOptimizerOptions(learning_rate=1e-30))
    plain_trainer(tmp_path, max_epochs=-1).fit(module, loader("ppo"))
    module.save(tmp_path / "ppo")
    assert module.iterations_done == 2
    assert_equal(weights(tmp_path / "ppo"), weights(run / "ppo"), 1e-12)


@pytest.mark.parametrize("stage", KINDS)
def test_a_loaded_module_is_not_trained_in_every_precision(run: Path, stage: str, tmp_path: Path) -> None:
    module = KINDS[stage].load(run / stage)
    with pytest.raises(UserError, match=r"^--trainer.precision=bf16-true: trained weights are always float32"):
        plain_trainer(tmp_path, max_epochs=1, precision="bf16-true").fit(module, loader(stage))


def test_what_is_loaded_is_what_other_commands_open(run: Path) -> None:
    rows = DATA["ppo"][:3]
    asked, answers = [row["prompt"] for row in rows], ["the cat", "a dog", "rain"]
    reward = RewardModule.load(run / "rm", dtype="float32")
    assert float(reward.bias) == 0.25
    scores = TextReward(reward.network, reward.prompter, float(reward.bias)).score(asked, answers)
    expected = TextReward.from_source(str(run / "rm"), dtype="float32").score(asked, answers)
    assert scores == pytest.approx(expected, abs=1e-5)
    for stage in ("sft", "ppo"):
        module = KINDS[stage].load(run / stage)
        network = module.result().get_base_model() if module.lora is not None else module.result()
        found = TextGenerator(network, module.prompter).respond(asked, max_new_tokens=4, seed=1)
        other = TextGenerator.from_source(str(run / stage)).respond(asked, max_new_tokens=4, seed=1)
        assert [row[0].text for row in found] == [row[0].text for row in other]


def test_nothing_is_imported_from_a_record(tmp_path: Path, tiny_model: Path) -> None:
    reward = RewardOptions(function="tests.lit_instruct.stages.rewards.letters")
    objective, sampling = ObjectiveOptions(minibatches=2), SamplingOptions(max_new_tokens=4)
    module = PPOModule(tiny_model, 1, None, objective, reward=reward, sampling=sampling)
    trainer = plain_trainer(tmp_path, max_epochs=-1)
    trainer.fit(module, loader("ppo"))
    module.save(tmp_path / "ppo")
    trainer.save_checkpoint(tmp_path / "ppo.ckpt")
    sys.modules.pop("tests.lit_instruct.stages.rewards", None)
    for loaded in (PPOModule.load(tmp_path / "ppo"), PPOModule.load_from_checkpoint(tmp_path / "ppo.ckpt")):
        with pytest.raises(UserError, match=r"rewards.letters: only a record names this function, .*give it again"):
            plain_trainer(tmp_path, max_epochs=-1).fit(loaded, loader("ppo"))
    assert "tests.lit_instruct.stages.rewards" not in sys.modules
    given = PPOModule.load(tmp_path / "ppo", reward=RewardOptions(function=lambda pairs: [1.0] * len(pairs)))
    plain_trainer(tmp_path, max_epochs=-1).fit(given, loader("ppo"))


def test_what_is_refused(run: Path, tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(UserError, match="no stage.json in it, so no stage made it; give it as base="):
        SFTModule.load(tiny_model)
    with pytest.raises(UserError, match="the result of rm, not of sft; load it with its own module"):
        SFTModule.load(run / "rm")
    with pytest.raises(UserError, match="SFTModule.save: there is no model yet; train the module first"):
        SFTModule(tiny_model).save(tmp_path)
    with pytest.raises(UserError, match="this is a checkpoint of sft, not of rm"):
        RewardModule.load_from_checkpoint(run / "sft.ckpt")
    with pytest.raises(UserError, match="no such checkpoint file; check the path"):
        RewardModule.load_from_checkpoint(run / "none.ckpt")
    (tmp_path / "bad.ckpt").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is damaged or not a checkpoint"):
        SFTModule.load_from_checkpoint(tmp_path / "bad.ckpt")


def test_options_replace_those_of_the_checkpoint(run: Path) -> None:
    module = SFTModule.load_from_checkpoint(run / "sft.ckpt", seed=7)
    assert module.seed == 7
    trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
    saved: dict[str, Tensor] = torch.load(run / "sft.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(trained[name], saved[name]) for name in saved)
