"""What a model does to its logits, against its own forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from lit_instruct.errors import UserError
from lit_instruct.models.heads import token_log_probs
from lit_instruct.models.loading import find_source, load_causal_lm
from lit_instruct.models.logits import output_head
from tests.families import FAMILIES, tiny_family

TRANSFORMS = {
    "phi": (True, 1.0, None),
    "gptj": (True, 1.0, None),
    "phimoe": (True, 1.0, None),
    "gemma2": (False, 1.0, 3.0),
    "cohere": (False, 0.25, None),
    "granite": (False, 0.25, None),
    "hyperclovax": (False, 0.25, None),
}
"""Families whose logits are not W h: bias, scale and cap."""
IDS = torch.randint(3, 400, (2, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


def opened(folder: Path, family: str, dtype: torch.dtype = torch.float32, **other: Any) -> PreTrainedModel:
    place = folder / f"{family}{other or ''}"
    if not place.exists():
        tiny_family(place, family, **other)
    return load_causal_lm(find_source(str(place)), dtype)


def ours(model: PreTrainedModel) -> torch.Tensor:
    hidden = getattr(model, model.base_model_prefix)(IDS).last_hidden_state[:, :-1]
    return token_log_probs(hidden.flatten(0, 1), output_head(model), IDS[:, 1:].flatten()).log_probs


def theirs(model: PreTrainedModel) -> torch.Tensor:
    return model(IDS).logits[:, :-1].float().log_softmax(dim=-1).gather(2, IDS[:, 1:, None]).flatten()


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_are_those_of_the_model(folder: Path, family: str) -> None:
    model = opened(folder, family)
    head = output_head(model)
    assert (head.bias is not None, head.scale, head.cap) == TRANSFORMS.get(family, (False, 1.0, None))
    expected = theirs(model)
    assert expected.std() > 0.05
    torch.testing.assert_close(ours(model), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", TRANSFORMS)
def test_so_are_their_gradients(folder: Path, family: str) -> None:
    model = opened(folder, family)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    up = torch.linspace(-1, 1, 16)
    found = torch.autograd.grad((ours(model) * up).sum(), trained, allow_unused=True)
    expected = torch.autograd.grad((theirs(model) * up).sum(), trained, allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", TRANSFORMS)
def test_in_bfloat16_they_are_those_of_the_model_within_rounding(folder: Path, family: str) -> None:
    model = opened(folder, family, torch.bfloat16)
    head = output_head(model)
    assert (head.bias is not None, head.scale, head.cap) == TRANSFORMS[family]
    torch.testing.assert_close(ours(model), theirs(model), rtol=0, atol=0.05)


def test_a_cap_is_found_where_logits_are_too_small_to_show_it(folder: Path) -> None:
    assert output_head(opened(folder, "gemma2", final_logit_softcapping=300.0)).cap == 300.0


def test_a_model_that_transforms_its_logits_in_an_unknown_way_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(folder, "llama")
    load = AutoModelForCausalLM.from_pretrained

    def squared(*args: Any, **options: Any) -> Any:
        model, report = load(*args, **options)
        model.lm_head.register_forward_hook(lambda module, given, logits: logits**2)
        return model, report

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", squared)
    with pytest.raises(UserError) as error:
        opened(folder, "llama")
    assert str(error.value) == (
        f"{folder / 'llama'}: LlamaForCausalLM computes its logits in a way that is not known here (its "
        "log-probabilities are not those of its output embedding); give another model"
    )


def test_a_model_in_training_stays_in_training(folder: Path) -> None:
    place = tiny_family(folder / "training", "gpt2")
    model = AutoModelForCausalLM.from_pretrained(place).train()
    assert output_head(model).is_plain
    assert model.training


def test_weights_with_nan_are_called_so(folder: Path) -> None:
    place = tiny_family(folder / "nan", "llama")
    model = AutoModelForCausalLM.from_pretrained(place)
    model.model.norm.weight.data.fill_(float("nan"))
    model.save_pretrained(place)
    with pytest.raises(UserError, match="nan: its logits are NaN; copy or download its weights again"):
        load_causal_lm(find_source(str(place)), torch.float32)
