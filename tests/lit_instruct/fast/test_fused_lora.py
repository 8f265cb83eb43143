"""The fused LoRA layer computes what PEFT's computes, and leaves to PEFT what it does not cover."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lit_instruct.fast import fused_lora
from lit_instruct.fast.fused_lora import FusedLinear, fuse_adapters


class TwoLayers(nn.Module):
    """Something to adapt."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.first = nn.Linear(6, 10, dtype=dtype)
        self.second = nn.Linear(10, 4, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


def pair(dtype: torch.dtype = torch.float32, **options: object) -> tuple[PeftModel, PeftModel]:
    """The same adapted network as PEFT made it and fused."""
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["first", "second"], **options)
    plain = get_peft_model(TwoLayers(dtype), config)
    for name, weight in plain.named_parameters():
        if "lora" in name:
            nn.init.normal_(weight)
    fused = copy.deepcopy(plain)
    fuse_adapters(fused)
    return plain, fused


def outcome(network: nn.Module, autocast: bool = False, recompute: bool = False) -> dict[str, Tensor]:
    """Output and all gradients of one pass over the same input."""
    torch.manual_seed(1)
    x = torch.randn(2, 3, 6, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        y = checkpoint(network, x, use_reentrant=False) if recompute else network(x)
    y.float().square().sum().backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return {"y": y.detach(), "x": x.grad} | found


def calls(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Counts fused products."""
    counted: list[None] = []
    function = fused_lora.FusedLora
    apply = function.apply

    def counting(*arguments: object) -> Tensor:
        counted.append(None)
        return apply(*arguments)

    monkeypatch.setattr(function, "apply", counting)
    return counted


@pytest.mark.parametrize("recompute", [False, True])
def test_output_and_gradients_are_those_of_peft(recompute: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fused = pair()
    counted = calls(monkeypatch)
    expected, found = outcome(plain), outcome(fused, recompute=recompute)
    assert len(counted) == (4 if recompute else 2)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).norm() < 1e-6 * value.norm(), name


def test_under_autocast_it_is_about_as_close_to_float32_as_peft_is() -> None:
    exact = outcome(pair()[0])
    narrow = [outcome(network, autocast=True) for network in pair(torch.bfloat16)]
    for name, value in exact.items():
        errors = [float((found[name].float() - value).norm() / value.norm()) for found in narrow]
        assert errors[1] < max(2 * errors[0], 0.02), name  # bfloat16 keeps 8 bits
        assert narrow[0][name].dtype == narrow[1][name].dtype


def test_one_step_by_hand() -> None:
    _, fused = pair()
    layer = fused.get_submodule("base_model.model.second")
    with torch.no_grad():
        layer.base_layer.weight.copy_(torch.eye(4, 10))
        layer.lora_A["default"].weight.copy_(torch.ones(2, 10))
        layer.lora_B["default"].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]]))
    y = layer(torch.arange(10.0))  # A x = (45, 45), scaled by 6 / 2
    assert y.tolist() == [0 + 135, 1 + 135, 2 + 0, 3 + 270]


def test_what_it_does_not_cover_goes_the_way_of_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = calls(monkeypatch)
    for options in ({"use_dora": True}, {"lora_dropout": 0.5}, {"lora_bias": True}):
        plain, fused = pair(**options)
        torch.manual_seed(2)
        expected = plain(torch.ones(2, 6))
        torch.manual_seed(2)
        assert torch.equal(fused(torch.ones(2, 6)), expected)
    plain, fused = pair()
    with fused.disable_adapter(), plain.disable_adapter():
        assert torch.equal(fused(torch.ones(2, 6)), plain(torch.ones(2, 6)))
    assert not counted


def test_dropout_is_off_in_evaluation_so_it_is_fused_there(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fused = pair(lora_dropout=0.5)
    counted = calls(monkeypatch)
    fused.eval()(torch.ones(2, 6))
    assert len(counted) == 2


def test_only_plain_layers_are_changed_and_peft_can_still_merge() -> None:
    plain, fused = pair()
    kinds = [type(module) for module in fused.modules() if isinstance(module, PeftLinear)]
    assert kinds == [FusedLinear, FusedLinear]
    assert plain.state_dict().keys() == fused.state_dict().keys()
    torch.testing.assert_close(fused.merge_and_unload()(torch.ones(1, 6)), plain(torch.ones(1, 6)))
