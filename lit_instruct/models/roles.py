"""Policy, reference, value and reward as roles on as few copies of the weights as possible.

With LoRA one frozen base carries a named adapter for each role. The layers below the first adapted one (the trunk) then
compute the same for every role, so their output is computed once and cached. With full fine-tuning every role has a
network of its own.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lit_instruct.batches import position_ids
from lit_instruct.models import peft_private
from lit_instruct.models.heads import ScoreHead, TokenLogProbs, token_log_probs
from lit_instruct.models.logits import output_head
from lit_instruct.models.lora import lora_layers, merged_weight
from lit_instruct.models.packed_weights import pack_frozen, temporary_weight
from lit_instruct.models.sharding import inside, shard, shard_head

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

RoleName = str
"""policy, reference, value, or a reward model of an ensemble: reward, reward_2, reward_3, ..."""
log = logging.getLogger(__name__)


def reward_role(member: int) -> RoleName:
    """Returns the role of a reward model; `member` is its number in the ensemble, from 0."""
    return "reward" if member == 0 else f"reward_{member + 1}"


@dataclass(frozen=True)
class Role:
    """A network, which roles may share, and the adapter that makes it this role."""

    network: nn.Module
    """A causal or sequence-classification model, or the PeftModel around one."""
    adapter: str | None
    """Name of the adapter; None is the network without adapters."""


class Roles(nn.Module):
    """The networks of PPO, and which network and adapter plays each role.

    Shapes below: B responses in a micro-batch, T tokens of prompt and response, R of the response alone. Hidden states
    of shape (B, R + 1, H) start at the last prompt token, which predicts the first response token; earlier columns may
    precede them and are ignored.

    Args:
        roles: policy, reference and value; rewards only if they share their base.
        value_head: H -> 1.
        reward_heads: H -> 1 of each reward role; empty if the reward does not come from a role.
    """

    def __init__(
        self, roles: dict[RoleName, Role], value_head: ScoreHead, reward_heads: Sequence[ScoreHead] = ()
    ) -> None:
        super().__init__()
        self.roles = roles
        self.networks = nn.ModuleList(list(dict.fromkeys(role.network for role in roles.values())))
        self.value_head = value_head
        self.reward_heads = nn.ModuleList(reward_heads)
        self.value_on_policy = roles["value"] == roles["policy"]
        """Whether the value function is only a head on the policy's decoder (`--model.value.start=policy_trunk`)."""
        self.trunk_layers = self._count_trunk()
        """Number of lower layers in the trunk; 0 turns the trunk cache off."""
        self._set_trainable()
        self.eval()

    def shard(self, mesh: DeviceMesh, compute: torch.dtype) -> None:
        """Shards every network and head (`sharding.shard`); no role may be an adapter."""
        for network in self.networks:
            shard(network, mesh, compute)
        shard_head(self.value_head, mesh)

    def parameters_of(self, role: Literal["policy", "value"]) -> list[nn.Parameter]:
        """Returns the trainable parameters of a role, its head included."""
        network, adapter = self.roles[role].network, self.roles[role].adapter
        if role == "value" and self.value_on_policy:
            return list(self.value_head.parameters())
        if adapter is None:
            parameters = list(_decoder(network).parameters())
            if role == "policy":
                parameters += [p for p in network.parameters() if all(p is not q for q in parameters)]
        else:
            parameters = [p for name, p in network.named_parameters() if f".{adapter}." in name]
        return parameters + (list(self.value_head.parameters()) if role == "value" else [])

    def hidden(self, role: RoleName, input_ids: Tensor, mask: Tensor | None, trunk: Tensor | None = None) -> Tensor:
        """Returns a role's hidden states after the final norm: (B, T, H).

        Args:
            role: which one.
            input_ids: (B, T) long.
            mask: (B, T) bool, True is real; None: the padding, if any, lies on the right.
            trunk: (B, T, H) from `hidden_with_trunk`, to start above the trunk.
        """
        decoder = self.activate(role)
        if trunk is None or self.roles[role].network is not self.roles["policy"].network:
            return inside(self.language_model(role), partial(_run, decoder, mask, input_ids=input_ids))
        with _only_layers(decoder, self.trunk_layers):
            return _run(decoder, mask, inputs_embeds=trunk)

    def hidden_with_trunk(self, role: RoleName, input_ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Returns `hidden`, and the trunk's output that every role can start from: (B, T, H), None without a trunk.

        Args:
            role: which one.
            input_ids: (B, T) long.
            mask: as in `hidden`.
        """
        if self.trunk_layers == 0:
            return self.hidden(role, input_ids, mask), None
        caught: list[Tensor] = []
        layer = _decoder(self.roles[role].network).layers[self.trunk_layers]
        hook = layer.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        try:
            final = self.hidden(role, input_ids, mask)
        finally:
            hook.remove()
        return final, caught[0]

    def response_log_probs(
        self,
        role: RoleName,
        hidden: Tensor,
        tokens: Tensor,
        mask: Tensor,
        temperature: float,
        with_entropy: bool = False,
        places: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities and entropies in nats: (B, R) float32 with gradient, masked positions 0.

        Args:
            role: whose output embedding is used.
            hidden: (B, R + 1, H) the role's final hidden states.
            tokens: (B, R) long, the response.
            mask: (B, R) bool of the response, True is real.
            temperature: of the policy's distribution.
            with_entropy: computes entropies too; they are 0 otherwise.
            places: `Rollout.places` of the mask; without them the host waits for the device to find them.
        """
        real = mask.nonzero(as_tuple=True) if places is None else (places[0], places[1])
        predicting = hidden[:, -tokens.shape[1] - 1 : -1]
        # Selecting the real tokens first gives a contiguous matrix; a slice would be multiplied row by row.
        chosen, entropy, _ = self.token_log_probs(role, predicting[real], tokens[real], temperature, with_entropy)
        log_probs = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
        entropies = torch.zeros_like(log_probs)
        return log_probs.masked_scatter(mask, chosen), entropies.masked_scatter(mask, entropy)

    def token_log_probs(
        self, role: RoleName, hidden: Tensor, tokens: Tensor, temperature: float = 1.0, describe: bool = False
    ) -> TokenLogProbs:
        """Returns `heads.token_log_probs` under a role's output embedding: (n, H) hidden states, (n,) tokens."""
        model = self.language_model(role)
        return inside(model, lambda: token_log_probs(hidden, output_head(model), tokens, temperature, describe))

    def values(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Returns V of the state before each response token: (B, R) float32, masked positions 0.

        Args:
            hidden: (B, R + 1, H) the value role's final hidden states.
            mask: (B, R) bool of the response, True is real.
        """
        before = hidden[:, -mask.shape[1] - 1 : -1]
        return self.value_head(before).squeeze(-1) * mask

    def rewards(self, hidden: Tensor, response_mask: Tensor, member: int = 0) -> Tensor:
        """Returns a reward head's score at the last real token of each response: (B,) float32.

        Args:
            hidden: (B, R + 1, H) the reward role's final hidden states.
            response_mask: (B, R) bool, True is real.
            member: number of the reward model in the ensemble, from 0.
        """
        last = hidden.shape[1] - response_mask.shape[1] + response_mask.sum(dim=1) - 1
        rows = torch.arange(len(hidden), device=hidden.device)
        return self.reward_heads[member](hidden[rows, last]).squeeze(-1)

    def output_weight(self, role: RoleName) -> Tensor:
        """Returns the (V, H) weight of a role's output embedding; under FSDP2 it is whole only `inside` the model."""
        return self.language_model(role).get_output_embeddings().weight

    def language_model(self, role: RoleName) -> nn.Module:
        """Returns the transformers model behind a role, without the PEFT wrapper."""
        return _unwrap(self.roles[role].network)

    def activate(self, role: RoleName) -> nn.Module:
        """Makes a role's adapter the active one and returns its decoder.

        PEFT's own `set_adapter` also flips `requires_grad`, which would freeze the other trained role.
        """
        network, adapter = self.roles[role].network, self.roles[role].adapter
        for layer in network.modules():
            if isinstance(layer, LoraLayer):
                peft_private.activate(layer, adapter)
        return _decoder(network)

    @contextlib.contextmanager
    def merged(self, role: RoleName, fold: bool = True) -> Iterator[nn.Module]:
        """Yields the language model of a role with its adapter merged into the weights, for fast decoding.

        On exit the original base weights are restored bit for bit. Quantised bases (8- and 4-bit) are not merged.
        `fold=False` merges nothing: slower, but without a second copy of the weights in memory.
        """
        network, adapter = self.roles[role].network, self.roles[role].adapter
        self.activate(role)
        layers = list(lora_layers(network, adapter).values()) if fold and adapter is not None else []
        if not all(_is_plain(layer) for layer in layers):
            layers = []
        with contextlib.ExitStack() as merged:
            for layer in layers:
                merged.enter_context(temporary_weight(layer.get_base_layer(), merged_weight(layer, str(adapter))))
                merged.callback(peft_private.disable, layer, False)
                peft_private.disable(layer, True)
            yield _unwrap(network)

    def check_trunk(self, device: torch.device) -> None:
        """Turns the trunk cache off if starting above the trunk does not give exactly the model's own output."""
        if self.trunk_layers == 0:
            return
        input_ids = torch.arange(1, 25, device=device).view(2, 12)
        mask = torch.ones_like(input_ids, dtype=torch.bool)
        mask[0, :5] = False
        with torch.no_grad():
            whole, trunk = self.hidden_with_trunk("policy", input_ids, mask)
            upper = self.hidden("policy", input_ids, mask, trunk)
        if not torch.equal(whole[mask], upper[mask]):
            log.warning("trunk cache off: this model's upper layers cannot run on their own")
            self.trunk_layers = 0

    def pack_frozen(self) -> None:
        """Packs the layers that no gradient passes through, where that pays: the trunk, and frozen networks."""
        for network in self.networks:
            layers = list(getattr(_decoder(network), "layers", None) or [])
            trunk = self.trunk_layers if network is self.roles["policy"].network else 0
            frozen = not any(parameter.requires_grad for parameter in network.parameters())
            pack_frozen(layers if frozen else layers[:trunk])

    def _count_trunk(self) -> int:
        shared = self.roles["reference"].network is self.roles["policy"].network
        layers = getattr(_decoder(self.roles["policy"].network), "layers", None)
        if not shared or layers is None:
            return 0
        kinds = set(getattr(_unwrap(self.roles["policy"].network).config, "layer_types", None) or ["same"])
        if len(kinds) > 1:  # the model picks each layer's mask by its index, which slicing would shift
            return 0
        adapted = [i for i, layer in enumerate(layers) if any(isinstance(m, LoraLayer) for m in layer.modules())]
        return min(adapted, default=0)

    def _set_trainable(self) -> None:
        self.requires_grad_(False)
        for role in ("policy", "value"):
            for parameter in self.parameters_of(role):
                parameter.requires_grad_(True)


def _run(decoder: nn.Module, mask: Tensor | None, **inputs: Tensor) -> Tensor:
    # Right padding needs no mask: causal attention never looks at it, and runs faster without one.
    if mask is not None and not mask[:, 0].all():
        inputs |= {"attention_mask": mask.long(), "position_ids": position_ids(mask)}
    return decoder(use_cache=False, **inputs).last_hidden_state


@contextlib.contextmanager
def _only_layers(decoder: nn.Module, first: int) -> Iterator[None]:
    layers = decoder.layers
    decoder.layers = layers[first:]
    try:
        yield
    finally:
        decoder.layers = layers


def _unwrap(network: nn.Module) -> nn.Module:
    return network.get_base_model() if isinstance(network, PeftModel) else network


def _decoder(network: nn.Module) -> nn.Module:
    model = _unwrap(network)
    return getattr(model, model.base_model_prefix)


def _is_plain(layer: LoraLayer) -> bool:
    base = layer.get_base_layer()  # fused experts have no `weight`
    return type(base) in (nn.Linear, Conv1D) and base.weight.is_floating_point()
