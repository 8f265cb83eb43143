"""Which weights are packed, and that models with packed weights compute what they computed before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lit_instruct.fast.packed import PackedLinear, unpack_layers
from lit_instruct.models import packed_weights
from lit_instruct.models.heads import token_log_probs
from lit_instruct.models.loading import find_source, load_causal_lm
from lit_instruct.models.logits import output_head
from lit_instruct.models.packed_weights import (
    keep_output_plain,
    measure,
    packed_head,
    packed_output,
    pays,
    seconds_here,
    temporary_weight,
)
from lit_instruct.rollouts.text import TextGenerator
from tests.lit_instruct.models.tiny_roles import (
    Folders,
    changed,
    copied_state,
    ids_and_masks,
    make_roles,
    plain_hidden,
    train,
)

BIG = (256, 256)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs matrices of any size, as if it paid."""
    monkeypatch.setattr(packed_weights, "SMALLEST", 1)
    monkeypatch.setattr(packed_weights, "seconds_here", lambda shape, dtype: {"plain": 2.0, "packed": 1.0})


def frozen(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape), requires_grad=False)


@pytest.mark.parametrize(("plain", "used"), [(1.06, True), (1.05, True), (1.04, False), (0.5, False)])
def test_what_is_faster_by_enough_is_packed(plain: float, used: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def times(*asked_for: Any) -> dict[str, float]:
        asked.append(asked_for)
        return {"plain": plain, "packed": 1.0}

    monkeypatch.setattr(packed_weights, "seconds_here", times)
    assert pays(frozen(*BIG)) is used
    assert asked == [(BIG, torch.float32)]
    assert not pays(frozen(255, 256))  # too small, and not measured
    assert not pays(nn.Parameter(torch.randn(*BIG)))  # trains
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not pays(frozen(*BIG))
        assert pays(frozen(*BIG).bfloat16()) is used
    assert len(asked) == 2
    pays(torch.empty(20_000, 3000))
    assert asked[-1] == ((16384, 2048), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_times_are_measured_once(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.random.get_rng_state()
    found = seconds_here((40, 24), dtype)
    assert found.keys() == {"plain", "packed"} and all(0 < one < 1 for one in found.values())
    assert torch.equal(torch.random.get_rng_state(), before)
    monkeypatch.setattr(packed_weights, "measure", lambda shape, dtype: pytest.fail("measured again"))
    assert seconds_here((40, 24), dtype) == found


def test_a_measurement_under_autocast_is_of_the_dtype_asked_for() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(one > 0 for one in measure((40, 24), torch.float32).values())


def test_an_output_embedding_is_packed_once_and_anew_after_a_change(always: None) -> None:
    head = nn.Linear(24, 40, bias=False).requires_grad_(False)
    first, x = packed_output(head.weight), torch.randn(3, 24)
    assert first is not None and packed_output(head.weight) is first
    torch.testing.assert_close(packed_head(head)(x), head(x))
    head.load_state_dict({"weight": torch.randn(40, 24)})
    torch.testing.assert_close(packed_head(head)(x), head(x))
    assert type(head) is nn.Linear
    head.requires_grad_(True)
    assert packed_head(head) is head


def test_log_probabilities_by_a_packed_output_embedding(folders: Folders, always: None) -> None:
    """The same as by the plain one, also in backward, and a row alone as in a batch."""
    model = load_causal_lm(find_source(str(folders.base)), torch.float32).requires_grad_(False)
    hidden, tokens = torch.randn(9, model.config.hidden_size), torch.arange(9)
    head, found = output_head(model), []
    assert head.packed is not None
    for one in (head, head._replace(packed=None)):
        given = hidden.clone().requires_grad_()
        log_probs, entropy, is_top = token_log_probs(given, one, tokens, 0.7, describe=True)
        (log_probs.sum() + entropy.square().sum()).backward()
        found.append((log_probs, entropy, is_top, given.grad))
    torch.testing.assert_close(found[0], found[1])
    some = token_log_probs(hidden[:4], head, tokens[:4], 0.7).log_probs
    assert torch.equal(some, found[0][0][:4])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert output_head(model).packed is None
    keep_output_plain(model)
    assert output_head(model).packed is None


def test_layers_without_gradient_are_packed_and_unpacked(folders: Folders, always: None) -> None:
    ids, mask, *_ = ids_and_masks()
    roles = make_roles(folders)
    before, packs = copied_state(roles), lambda: sum(isinstance(one, PackedLinear) for one in roles.modules())
    with torch.no_grad():
        expected = roles.hidden("policy", ids, mask)
    assert roles.trunk_layers == 1
    roles.pack_frozen()
    assert packs() == 7
    roles.check_trunk(torch.device("cpu"))
    assert roles.trunk_layers == 1
    torch.testing.assert_close(roles.hidden("policy", ids, mask), expected)
    train(roles, "policy")
    unpack_layers(roles)
    assert packs() == 0
    assert all("policy" in name for name in changed(before, roles))
    full = make_roles(folders, lora=None)
    full.pack_frozen()
    assert sum(isinstance(one, PackedLinear) for one in full.modules()) == 7 * 4  # the reference


def test_a_temporary_weight_is_taken_out_again(always: None) -> None:
    layer = nn.Linear(24, 40).requires_grad_(False)
    own, x = layer.weight, torch.randn(3, 24)
    before, plain, names = own.clone(), layer(x), list(layer.state_dict())
    with pytest.raises(KeyError), temporary_weight(layer, torch.ones(40, 24)):
        torch.testing.assert_close(layer(x), x.sum(dim=1, keepdim=True) + layer.bias)
        raise KeyError
    assert layer.weight is own and torch.equal(own, before) and torch.equal(layer(x), plain)
    assert type(layer) is nn.Linear and list(layer.state_dict()) == names


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_role_with_packed_merged_weights(dtype: torch.dtype, folders: Folders, always: None) -> None:
    ids, mask, *_ = ids_and_masks()
    roles = make_roles(folders, dtype=dtype)
    before = copied_state(roles)
    with torch.no_grad():
        expected = roles.hidden("policy", ids, mask)
        with roles.merged("policy") as model:
            projection = model.model.layers[3].self_attn.q_proj.get_base_layer()
            assert isinstance(projection, PackedLinear)
            merged = plain_hidden(model, ids, mask)
        tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.15, "rtol": 0.05}
        torch.testing.assert_close(merged[mask], expected[mask], **tolerance)
        assert not changed(before, roles)
        assert torch.equal(roles.hidden("policy", ids, mask), expected)


def test_a_generator_answers_the_same_with_packed_weights(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = ["one two", "three", "a b c d e f"]
    plain = TextGenerator.from_source(str(folders.sft), "float32")
    expected = plain.respond(prompts, max_new_tokens=12)
    monkeypatch.setattr(packed_weights, "SMALLEST", 1)
    monkeypatch.setattr(packed_weights, "seconds_here", lambda shape, dtype: {"plain": 2.0, "packed": 1.0})
    packed = TextGenerator.from_source(str(folders.sft), "float32")
    assert sum(isinstance(layer, PackedLinear) for layer in packed.model.modules()) == 7 * 4
    assert packed.respond(prompts, max_new_tokens=12) == expected
    assert packed.respond(prompts, max_new_tokens=12, batch_size=1) == expected
    responses = [row[0] for row in expected]
    assert packed.log_probs(prompts, responses) == pytest.approx(plain.log_probs(prompts, responses), abs=1e-4)
