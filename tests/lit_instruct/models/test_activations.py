"""Computing activations again, or keeping them elsewhere, changes no gradient, whichever adapter is active."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trl.models import get_act_offloading_ctx_manager

from lit_instruct import trl_bridge
from lit_instruct.errors import UserError
from lit_instruct.models.activations import checkpoint_layers
from lit_instruct.models.assemble import policy_network, ppo_roles
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.quantised import Quantisation
from lit_instruct.models.roles import Roles
from lit_instruct.rollouts.decode import ModelDecoding
from lit_instruct.trl_bridge import activation_offloading
from tests.lit_instruct.rollouts.stage_folders import reward_folder, sft_folder

CPU = torch.device("cpu")
BITS = [None, Quantisation("8bit", CPU), Quantisation("4bit", CPU)]
NAMES = ["plain", "8bit", "4bit"]
IDS = torch.arange(3, 35).view(2, 16)
MASK = torch.ones_like(IDS, dtype=torch.bool)
RESPONSE = MASK[:, -5:]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[str, str]:
    """Of an SFT and a reward stage."""
    run = tmp_path_factory.mktemp("activations")
    sft = sft_folder(run / "sft", tiny_model)
    return str(sft), str(reward_folder(run / "rm", sft))


def _roles(folders: tuple[str, str], bits: Quantisation | None, lora: LoraOptions) -> Roles:
    sft, reward = map(find_source, folders)
    return ppo_roles(sft, [reward], lora, torch.float32, quantised=bits)


def _gradients(roles: Roles, context: Any = None, trunk: bool = False) -> dict[str, Tensor]:
    """Of one update: backward for the policy, then the other adapter, then backward for the value function."""
    with torch.no_grad():
        frozen = roles.hidden_with_trunk("reference", IDS, MASK)[1] if trunk else None
    context = context or activation_offloading(roles, wanted=False)
    with context:
        hidden = roles.hidden("policy", IDS, MASK, frozen)
    roles.response_log_probs("policy", hidden, IDS[:, -5:], RESPONSE, 1.0)[0].sum().backward()
    with context:
        hidden = roles.hidden("value", IDS, MASK, frozen)
    roles.values(hidden, RESPONSE).square().sum().backward()
    return {name: p.grad.clone() for name, p in roles.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("trunk", [False, True], ids=["whole", "above the trunk"])
@pytest.mark.parametrize(
    "lora", [LoraOptions(r=4, alpha=8.0, top_layers=2), LoraOptions(r=6, alpha=8.0)], ids=["top layers", "all layers"]
)
@pytest.mark.parametrize("bits", BITS, ids=NAMES)
def test_gradients_with_adapter_switching(
    folders: tuple[str, str], bits: Quantisation | None, lora: LoraOptions, trunk: bool
) -> None:
    roles = _roles(folders, bits, lora)
    plain = _gradients(roles, trunk=trunk)
    roles.zero_grad()
    checkpoint_layers(roles)
    again = _gradients(roles, trunk=trunk)
    assert plain.keys() == again.keys()
    assert {name.split(".")[-2] for name in plain if "lora" in name} == {"policy", "value"}
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-7, rtol=1e-5, msg=name)


def test_gradients_are_wrong_if_the_adapter_is_switched_before_the_backward_pass(folders: tuple[str, str]) -> None:
    """What the order in the update is there for: torch sees it only where the adapters differ in shape."""
    roles = _roles(folders, None, LoraOptions(r=4, alpha=8.0, top_layers=2))
    checkpoint_layers(roles)
    right = _gradients(roles)
    roles.zero_grad()
    hidden = roles.hidden("policy", IDS, MASK)
    loss = roles.response_log_probs("policy", hidden, IDS[:, -5:], RESPONSE, 1.0)[0].sum()
    roles.activate("value")
    loss.backward()
    name, parameter = next((n, p) for n, p in roles.named_parameters() if "lora_B.policy" in n)
    assert parameter.grad is None or not torch.allclose(parameter.grad, right[name])


def _bytes_kept(network: nn.Module) -> int:
    """Of what a graph keeps: by autograd's own means, and as attributes of bitsandbytes' nodes."""
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = network(input_ids=IDS, labels=IDS).loss
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    for node in _nodes(loss.grad_fn):
        for thing in _tensors(getattr(node, "tensors", ()), getattr(node, "A", None)):
            saved[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(size for pointer, size in saved.items() if pointer not in weights)


def _nodes(start: Any) -> set[Any]:
    todo, seen = [start], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [following for following, _ in node.next_functions]
    return seen


def _tensors(*things: Any) -> list[Tensor]:
    flat = [part for thing in things for part in (thing if isinstance(thing, tuple | list) else [thing])]
    return [thing for thing in flat if isinstance(thing, Tensor)]


@pytest.mark.parametrize("bits", BITS, ids=NAMES)
def test_less_is_kept(tiny_model: Path, bits: Quantisation | None) -> None:
    """bitsandbytes keeps the inputs of 8-bit products where a non-reentrant checkpoint does not find them."""
    network = policy_network(find_source(str(tiny_model)), LoraOptions(r=4), torch.float32, bits).train()
    whole = _bytes_kept(network)
    checkpoint_layers(network)
    assert _bytes_kept(network) < 0.4 * whole


def test_decoding_is_not_touched(tiny_model: Path) -> None:
    network = policy_network(find_source(str(tiny_model)), LoraOptions(r=4), torch.float32).get_base_model().eval()
    steps = []
    for _ in range(2):
        with torch.no_grad():
            way = ModelDecoding(network)
            steps.append(torch.stack([way.start(IDS[:, :8], MASK[:, :8]), way.step(IDS[:, 8]), way.step(IDS[:, 9])]))
        checkpoint_layers(network)
    assert torch.equal(*steps)


def test_a_model_without_such_layers() -> None:
    with pytest.raises(UserError, match=r"^--model.memory.gradient_checkpointing: this model does not support it"):
        checkpoint_layers(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("bits", BITS, ids=NAMES)
def test_offloading_changes_no_gradient(
    folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch, bits: Quantisation | None, checkpointing: bool
) -> None:
    """TRL's hooks as they run on a GPU, with this CPU taken for one."""
    roles = _roles(folders, bits, LoraOptions(r=6, alpha=8.0))
    plain = _gradients(roles)
    roles.zero_grad()
    if checkpointing:
        checkpoint_layers(roles)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: CPU)
    monkeypatch.setattr(torch.cpu, "empty_cache", lambda: None, raising=False)
    here = partial(get_act_offloading_ctx_manager, use_pin_memory=False, use_streams=False)
    monkeypatch.setattr(trl_bridge, "get_act_offloading_ctx_manager", here)
    context = activation_offloading(roles, wanted=True)
    for _ in range(2):  # the context is entered repeatedly
        roles.zero_grad()
        found = _gradients(roles, context)
        assert context.tensor_id > 0  # tensors were offloaded
        assert plain.keys() == found.keys()
        for name, gradient in plain.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-7, rtol=1e-5, msg=name)


def test_without_an_accelerator_nothing_is_offloaded(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: None)
    with activation_offloading(nn.Linear(2, 2), wanted=True) as context:
        assert context is None
