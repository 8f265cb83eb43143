"""What model, data and trainer were given: which models those are, and what stage.json says of it."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from lit_instruct.models.loading import Source
from lit_instruct.models.lora import LoraOptions
from lit_instruct.ppo.options import RewardOptions
from lit_instruct.stages.given import as_json, constructor_arguments, data_options
from lit_instruct.stages.ppo import PPOModule
from tests.lit_instruct.stages.helpers import Files


class Base:
    def __init__(self, seed: int) -> None:
        self.given = constructor_arguments(inspect.currentframe())


class Special(Base):
    def __init__(self, rank: int, lora: LoraOptions, names: tuple[str, ...] = ("a",)) -> None:
        local = rank + 1
        super().__init__(local)


def test_the_arguments_of_the_most_specific_class() -> None:
    given = Special(3, LoraOptions(r=2)).given
    assert given["rank"] == 3
    assert given["lora"]["r"] == 2
    assert given["names"] == ["a"]
    assert set(given) == {"rank", "lora", "names"}


def test_all_of_ppo_is_json() -> None:
    module = PPOModule(base="a", reward=RewardOptions("b"))
    assert json.loads(json.dumps(module.given)) == module.given
    assert module.given["kl"]["coef"] == 0.02
    assert module.given["base"] == "a"


def test_models_from_the_hub_may_be_called_like_a_stage() -> None:
    module = PPOModule(base="org/sft", reward=RewardOptions("org/llama-rm"))
    assert module.source == Source("org/sft", "org/sft", None)
    assert module.reward_sources == [Source("org/llama-rm", "org/llama-rm", None)]


@pytest.mark.parametrize(
    ("value", "json_value"), [(Path("a"), "a"), ({1: (2.0, None)}, {"1": [2.0, None]}), (True, True)]
)
def test_as_json(value: object, json_value: object) -> None:
    assert as_json(value) == json_value


def test_a_finished_stage_records_them(trained: Path, files: Files) -> None:
    options = json.loads((trained / "sft/stage.json").read_text())["options"]
    assert options["data"]["path"] == str(files.sft)
    assert options["data"]["batch_size"] == 4
    assert options["trainer"]["max_epochs"] == 2
    assert options["trainer"]["world_size"] == 1
    assert options["trainer"]["optimizer_steps"] == 10
    assert options["model"]["lora"]["top_layers"] == 2
    assert data_options(None) == {}
