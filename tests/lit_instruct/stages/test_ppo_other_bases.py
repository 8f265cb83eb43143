"""A reward model and a value function on a base of another size than the policy's, and with another vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lit_instruct.handover import prompter_of
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import LoraOptions
from lit_instruct.ppo.options import RewardOptions
from lit_instruct.ppo.targets import Targets
from lit_instruct.rollouts.text_reward import TextReward
from lit_instruct.stages.ppo import PPOModule
from tests.lit_instruct.rollouts.stage_folders import reward_folder, sft_folder
from tests.lit_instruct.stages.helpers import Files
from tests.lit_instruct.stages.test_ppo import FAST, UNCLIPPED, train
from tests.tiny import tiny_llama

WIDTH = 48
TOP_LAYERS = LoraOptions(top_layers=2)


@pytest.fixture(scope="module")
def reward_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reward models that are wider than the policy: an adapter, a whole model, and one with more words."""
    folder = tmp_path_factory.mktemp("larger")
    size = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4}
    base = tiny_llama(folder / "base", seed=3, **size)
    torch.manual_seed(4)
    whole = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    whole.score.weight.data.normal_()
    for name in ("whole", "words"):
        tokenizer = AutoTokenizer.from_pretrained(base)
        if name == "words":
            tokenizer.add_tokens(["the cat"])
            whole.resize_token_embeddings(len(tokenizer))
        whole.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    adapter = reward_folder(folder / "rm", sft_folder(folder / "sft", base))
    return {"adapter": adapter, "whole": folder / "whole", "words": folder / "words"}


@pytest.fixture
def rollouts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Tensor]]]:
    """The rollouts of every iteration, and the weights before its first step."""
    kept: list[tuple[Any, dict[str, Tensor]]] = []
    targets = Targets.__call__

    def keep(self: Targets, new: list[Any], kl_coef: float, *rows: Any) -> Any:
        weights = {name: value.detach().clone() for name, value in self.ranks.networks.state_dict().items()}
        kept.extend((rollout, weights) for rollout in new)
        return targets(self, new, kl_coef, *rows)

    monkeypatch.setattr(Targets, "__call__", keep)
    return kept


@pytest.mark.parametrize(
    ("lora", "kind"),
    [
        pytest.param(TOP_LAYERS, "adapter", id="lora, adapter"),
        pytest.param(None, "whole", id="full, whole model"),
        pytest.param(TOP_LAYERS, "whole", id="lora, whole model", marks=pytest.mark.slow),
        pytest.param(None, "adapter", id="full, adapter", marks=pytest.mark.slow),
    ],
)
def test_the_value_function_is_a_copy_of_a_larger_reward_model_and_learns(
    tmp_path: Path,
    files: Files,
    trained: Path,
    reward_models: dict[str, Path],
    rollouts: list[tuple[Any, dict[str, Tensor]]],
    lora: LoraOptions | None,
    kind: str,
) -> None:
    reward = RewardOptions(str(reward_models[kind]))
    more = {"lora": lora, "reward": reward, "iterations": 2, **FAST, "value": UNCLIPPED}
    module, rows = train(tmp_path, files, trained / "sft", more)
    assert module.roles.value_head.weight.shape == (1, WIDTH)
    scorer = TextReward.from_source(str(reward_models[kind]), dtype="float32")
    first, before = rollouts[0]
    for ids, mask, width, values, score in zip(
        first.input_ids, first.attention_mask, first.prompt_length, first.values, first.scores, strict=True
    ):
        prompt = ids[:width].tolist()
        assert float(values[0]) == pytest.approx(scorer.score_ids([[prompt]])[0][0], abs=1e-4)  # V of the prompt alone
        text = module.collector.stop.text(ids[width:][mask[width:]].tolist())
        assert float(score) == pytest.approx(scorer.score([_prompt(module, prompt)], [text])[0], abs=1e-4)
    assert all(row["ppo/first_ratio_error"] == 0.0 for row in rows)
    assert (module.roles.trunk_layers > 0) is (lora is not None)  # policy and reference still share their lower layers
    assert (first.trunk is not None) is (lora is not None)
    moved = [p for name, p in module.roles.named_parameters() if not torch.equal(p, before[name])]
    assert all(parameter.requires_grad for parameter in moved)
    for role in ("policy", "value"):
        own = module.roles.parameters_of(role)
        assert any(parameter is other for parameter in moved for other in own)


def _prompt(module: PPOModule, ids: list[int]) -> str:
    rows = module.trainer.datamodule.train_rows
    return next(row.prompt for row in rows if module.prompter.prompt_ids(row.prompt) == ids)


@pytest.mark.parametrize("lora", [TOP_LAYERS, None], ids=["lora", "full"])
def test_with_another_vocabulary_the_value_function_starts_as_the_sft_model(
    tmp_path: Path,
    files: Files,
    trained: Path,
    reward_models: dict[str, Path],
    lora: LoraOptions | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = prompter_of(find_source(str(reward_models["words"])))
    own = prompter_of(find_source(str(trained / "sft")))
    assert words.prompt_ids("the cat") != own.prompt_ids("the cat")
    with caplog.at_level("INFO"):
        module, rows = train(
            tmp_path, files, trained / "sft", {"lora": lora, "reward": RewardOptions(str(reward_models["words"]))}
        )
    assert module.roles.value_head.weight.shape == (1, 32)
    assert "words has another vocabulary" in caplog.text
    assert rows[0]["ppo/reward"] != 0.0
