"""The wrap of TRL's trainers, beyond their losses (which tests/lit_instruct/stages compares with TRL's own)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForSequenceClassification

from lit_instruct.handover import prompter_of
from lit_instruct.models.loading import find_source, load_causal_lm
from lit_instruct.models.rewards import RewardForward
from lit_instruct.trl_bridge import (
    Prepared,
    RankedRewardTrainer,
    RewardLossOptions,
    SFTLossOptions,
    last_token_accuracy,
    prepare_sft,
    sft_loss,
)
from tests.families import tiny_family
from tests.lit_instruct.prompting.tokenizers import only_end

ROWS = [{"input_ids": [5, 6, 7, 2], "labels": [-100, -100, 7, 2]}, {"input_ids": [8, 9, 2], "labels": [-100, 9, 2]}]
OPTIONS = RewardLossOptions(center_rewards_coefficient=0.25)


def prepared(
    model: Path, dtype: torch.dtype = torch.float32, device: torch.device = torch.device("cpu"), **options: object
) -> Prepared:
    source = find_source(str(model))
    network = get_peft_model(
        load_causal_lm(source, dtype), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])
    )
    tokenizer = prompter_of(source).tokenizer
    return prepare_sft(network, tokenizer, Dataset.from_list(ROWS), None, SFTLossOptions(**options), 64, 3, device)


def test_building_a_trainer_leaves_the_random_state_alone(tiny_model: Path) -> None:
    prepared(tiny_model)  # the first import of parts of TRL is no part of it
    source = find_source(str(tiny_model))
    network, tokenizer = load_causal_lm(source, torch.float32), prompter_of(source).tokenizer
    torch.manual_seed(11)
    before = torch.get_rng_state()
    prepare_sft(network, tokenizer, Dataset.from_list(ROWS), None, SFTLossOptions(), 64, seed=3)
    assert torch.equal(before, torch.get_rng_state())


def test_no_gpu_is_touched_whatever_card_lightning_trains_on(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU transformers would move the model to cuda:0, which need not be the card of this process."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    moved: list[object] = []
    monkeypatch.setattr("torch.nn.Module.to", lambda model, *args, **kwargs: moved.append(args) or model)
    assert prepared(tiny_model, device=torch.device("cuda:1")).trainer.args.device == torch.device("cpu")
    assert "cuda" not in str(moved)


def test_the_device_chooses_the_output_head(tiny_model: Path) -> None:
    """On a CPU ours computes the logits of trained tokens alone; on a GPU TRL's own has a kernel."""
    heads = {
        device: prepared(tiny_model, device=torch.device(device)).trainer.model.get_base_model().forward
        for device in ("cpu", "cuda:1")
    }
    assert heads["cpu"].__module__ == "lit_instruct.trl_bridge"
    assert heads["cuda:1"].__module__ != "lit_instruct.trl_bridge"


def test_building_a_trainer_needs_no_shared_folder(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's files in the temp directory are not in the way, and nothing stays there or in the folder."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (temporary / "lit-instruct-trl").touch()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.chdir(tmp_path)
    prepared(tiny_model)
    assert [path.name for path in temporary.iterdir()] == ["lit-instruct-trl"]
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]


def test_padding_with_eos_leaves_eos_trained_and_padding_masked(tiny_model: Path) -> None:
    source = find_source(str(tiny_model))
    network, tokenizer = load_causal_lm(source, torch.float32), only_end(pad_token="<|im_end|>")
    made = prepare_sft(network, tokenizer, Dataset.from_list(ROWS), None, SFTLossOptions(), 64, seed=3)
    batch = made.trainer.data_collator([dict(row) for row in made.train_dataset])
    assert batch["labels"].tolist() == [[-100, -100, 7, 2], [-100, 9, 2, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_ids_and_labels_pass_through_unchanged(tiny_model: Path) -> None:
    made = prepared(tiny_model)
    assert [row["input_ids"] for row in made.train_dataset] == [row["input_ids"] for row in ROWS]
    batch = made.trainer.data_collator([dict(row) for row in made.train_dataset])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 2], [8, 9, 2, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 7, 2], [-100, 9, 2, -100]]


def test_trained_weights_are_float32_on_a_bfloat16_base(tiny_model: Path) -> None:
    model = prepared(tiny_model, torch.bfloat16).trainer.model
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_loss_is_the_mean_over_trained_tokens(tiny_model: Path) -> None:
    made = prepared(tiny_model)
    batch = made.trainer.data_collator([dict(row) for row in made.train_dataset])
    model = made.trainer.model.eval()
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)
    wanted = [(0, 1, 7), (0, 2, 2), (1, 0, 9), (1, 1, 2)]
    total = -sum(float(logits[at].detach()) for at in wanted)
    hits = sum(int(logits[row, place].argmax()) == token for row, place, token in wanted)
    assert abs(float(sft_loss(made, model, batch, None)) - total / 4) < 1e-5
    assert abs(last_token_accuracy(made) - hits / 4) < 1e-6
    assert abs(float(sft_loss(made, model, batch, 8)) - total / 8) < 1e-5


@pytest.mark.parametrize("packed", [False, True])
def test_experts_are_balanced_as_by_the_model_itself(tmp_path: Path, packed: bool) -> None:
    made = prepared(tiny_family(tmp_path / "m", "mixtral", router_aux_loss_coef=0.5), packing=packed)
    batch = made.trainer.data_collator([dict(row) for row in made.train_dataset])
    model = made.trainer.model.eval()
    expected = model(**batch, output_router_logits=True)
    assert expected.aux_loss > 1
    assert float(sft_loss(made, model, batch, None)) == pytest.approx(float(expected.loss), abs=1e-5)
    labels = int((batch["labels"][:, 1:] != -100).sum())
    alone = float(expected.loss) - 0.5 * float(expected.aux_loss)
    in_step = alone * labels / 12 + 0.5 * float(expected.aux_loss) / 6
    assert float(sft_loss(made, model, batch, 12, parts=6)) == pytest.approx(in_step, abs=1e-5)


def ranked_trainer(model: Path, outputs: int = 1) -> RankedRewardTrainer:
    config = LlamaConfig.from_pretrained(model, num_labels=outputs, pad_token_id=None)
    network = LlamaForSequenceClassification(config)
    return RankedRewardTrainer(RewardForward(network), prompter_of(find_source(str(model))).tokenizer, OPTIONS, seed=3)


def test_trl_sets_up_the_reward_model(tiny_model: Path) -> None:
    made = ranked_trainer(tiny_model)
    assert made.model.config.pad_token_id == made.processing_class.pad_token_id is not None
    assert set(made.model.model_tags) >= {"trl", "reward-trainer"}
    assert made.args.center_rewards_coefficient == 0.25
    with pytest.raises(ValueError, match="num_labels=2"):
        ranked_trainer(tiny_model, outputs=2)


def test_building_a_reward_trainer_leaves_the_random_state_alone(tiny_model: Path) -> None:
    forward = ranked_trainer(tiny_model).reward_forward
    tokenizer = prompter_of(find_source(str(tiny_model))).tokenizer
    torch.manual_seed(11)
    before = torch.get_rng_state()
    RankedRewardTrainer(forward, tokenizer, OPTIONS, seed=3)
    assert torch.equal(before, torch.get_rng_state())
