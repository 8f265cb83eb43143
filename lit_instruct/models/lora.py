"""LoRA adapters: options, creation, starting from a smaller adapter, saving and reading."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lit_instruct.errors import UserError
from lit_instruct.fast.fused_lora import fuse_adapters
from lit_instruct.models import peft_private
from lit_instruct.models.base_names import lasting_name
from lit_instruct.models.quantised import check_dora

HEAD_KEY = "base_model.model.score.weight"
"""Where PEFT keeps the reward head in an adapter file."""


@dataclass
class LoraOptions:
    """Low-rank adapters.

    Args:
        r: rank.
        alpha: the update is scaled by alpha / r.
        dropout: dropout on the adapter's input during SFT and reward training (PPO always runs without).
        targets: the linear layers to adapt, by the last part of their names, separated by commas; "all-linear" adapts
            all except the output embedding.
        top_layers: number of upper decoder layers to adapt; 0 adapts all of them. The layers below are frozen, shared
            by all roles and computed once.
        dora: also trains the norm of each row of the weights, apart from its direction (Liu et al. 2024); slower.
        rslora: scales the update by alpha / sqrt(r) instead, which suits large ranks (Kalajdzievski 2023).
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str = "all-linear"
    top_layers: int = 0
    dora: bool = False
    rslora: bool = False

    def __post_init__(self) -> None:
        """Refuses values that do not give an adapter."""
        if self.r < 1:
            raise UserError(f"--model.lora.r={self.r}: must be at least 1 (--model.lora=null trains all weights)")
        if not 0 <= self.dropout < 1:
            raise UserError(f"--model.lora.dropout={self.dropout}: must be at least 0 and below 1")
        if self.top_layers < 0:
            raise UserError(f"--model.lora.top_layers={self.top_layers}: must be 0 (all layers) or a number of layers")

    def config(self, network: nn.Module, layers: int, with_head: bool = False) -> LoraConfig:
        """Returns PEFT's configuration of these options.

        Args:
            network: the model to adapt, for the names of its linear layers.
            layers: its number of decoder layers.
            with_head: for a reward model's adapter, which includes the `score` head.

        Raises:
            UserError: more top layers than the model has, or a target that it lacks.
        """
        if self.top_layers > layers:
            raise UserError(f"--model.lora.top_layers={self.top_layers}: the model has only {layers} layers")
        chosen = list(range(layers - self.top_layers, layers)) if self.top_layers else None
        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self._target_modules(network),
            layers_to_transform=chosen,
            use_dora=self.dora,
            use_rslora=self.rslora,
            fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in network.modules()),
            task_type="SEQ_CLS" if with_head else "CAUSAL_LM",
            modules_to_save=["score"] if with_head else None,
        )

    def _target_modules(self, network: nn.Module) -> list[str]:
        linear = {name: layer for name, layer in network.named_modules() if _is_linear(layer)}
        outputs = (network.get_output_embeddings(), getattr(network, "score", None))
        ends = {_end(name) for name in linear} - {_end(name) for name, layer in linear.items() if layer in outputs}
        if not ends:
            raise UserError(f"--model.lora: {type(network).__name__} has no linear layer; train all weights with null")
        if self.targets == "all-linear":
            if any("experts" in name and weight.dim() == 3 for name, weight in network.named_parameters()):
                rank_zero_info("LoRA leaves out the experts of this model: their weights are fused, not linear layers")
            return sorted(ends)
        wanted = [target.strip() for target in self.targets.split(",")]
        for target in wanted:
            if target not in ends:
                raise UserError(f"--model.lora.targets: no linear layer is called {target!r}; there are {sorted(ends)}")
        return wanted


def _is_linear(layer: nn.Module) -> bool:
    """Tells whether a layer can have an adapter; routers of experts return more than a product."""
    return isinstance(layer, nn.Linear | Conv1D) and not type(layer).__name__.endswith("Router")


def _end(name: str) -> str:
    return name.rpartition(".")[2]


def lora_layers(network: nn.Module, adapter: str) -> dict[str, LoraLayer]:
    """Returns the adapted layers of a network that have the named adapter, by module name."""
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, LoraLayer)}
    return {name: layer for name, layer in layers.items() if adapter in layer.lora_A}


@torch.no_grad()
def merged_weight(layer: LoraLayer, adapter: str) -> Tensor:
    """Returns W + s B A of a layer on a plain matrix, or DoRA's merged weight, rounded to W's dtype at the end."""
    weight = layer.get_base_layer().weight.data
    if adapter not in layer.lora_variant:
        return (weight.float() + layer.get_delta_weight(adapter).float()).to(weight.dtype)
    merged = layer.lora_variant[adapter].merge_safe(layer, adapter, weight)
    peft_private.drop_weight_norm(layer, adapter)  # only needed to unmerge, which never happens
    return merged


@torch.no_grad()
def load_adapter_weights(network: PeftModel, adapter: str, folder: Path) -> None:
    """Starts an adapter as a copy of a saved one, which may be smaller.

    A larger rank keeps the saved rows and adds new ones whose product is zero, and a layer that the saved adapter lacks
    stays at zero, so both adapters compute the same function. Equal shapes are copied bit for bit.

    Args:
        network: model with the adapter already created.
        adapter: its name in `network`.
        folder: of the saved adapter.

    Raises:
        UserError: the saved adapter does not fit into this one.
    """
    saved_config, saved = _read_adapter(folder)
    own_config = network.peft_config[adapter]
    if saved_config.use_dora != own_config.use_dora:
        kinds = ("DoRA", "plain LoRA") if saved_config.use_dora else ("plain LoRA", "DoRA")
        raise UserError(
            f"{folder}: its adapter is {kinds[0]}, which cannot continue as {kinds[1]}; "
            f"give --model.lora.dora={str(saved_config.use_dora).lower()}"
        )
    ratio = _scale(saved_config) / _scale(own_config)
    own = adapter_weights(network, adapter)
    for key, value in saved.items():
        if key == HEAD_KEY:
            continue
        if key not in own or not _fits(key, value, own[key]):
            raise UserError(
                f"{folder}: its LoRA (r={saved_config.r}, {key}) does not fit into the new adapter (r={own_config.r}); "
                "give --model.lora the same or a larger r, and the same or more layers and targets"
            )
        grown = own[key].clone()
        if "lora_B" in key:
            grown.zero_()
            value = value * ratio if ratio != 1 else value
        grown[tuple(slice(0, size) for size in value.shape)] = value.to(grown)
        own[key] = grown
    set_peft_model_state_dict(network, own, adapter_name=adapter)


@peft_private.quiet()
def attach_adapter(base: nn.Module, folder: Path) -> PeftModel:
    """Returns `base` with a saved adapter, as plain PEFT opens it.

    Raises:
        UserError: the adapter cannot be read or was trained on another base.
    """
    _read_adapter(folder)
    try:
        network = PeftModel.from_pretrained(base, str(folder))
    except RuntimeError as error:
        raise UserError(f"{folder}: this adapter was trained on another base than {base.name_or_path}") from error
    check_dora(network, str(folder))
    fuse_adapters(network)
    return network


def _read_adapter(folder: Path) -> tuple[PeftConfig, dict[str, Tensor]]:
    try:
        return PeftConfig.from_pretrained(str(folder)), load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot open this adapter ({error}); run its stage again") from error


def _scale(config: PeftConfig) -> float:
    return config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)


def _fits(key: str, saved: Tensor, own: Tensor) -> bool:
    """Tells whether a matrix has the same width and at most the same rank; DoRA's norms have no rank."""
    if saved.dim() == 1:
        return saved.shape == own.shape
    rank_axis = 0 if "lora_A" in key else 1
    same = saved.shape[1 - rank_axis] == own.shape[1 - rank_axis]
    return same and saved.shape[rank_axis] <= own.shape[rank_axis]


def read_head(folder: Path) -> Tensor:
    """Returns the reward head saved in an adapter folder: (1, H) float32.

    Raises:
        UserError: the adapter has no head, so it is not a reward model.
    """
    _, weights = _read_adapter(folder)
    if HEAD_KEY not in weights:
        raise UserError(
            f"{folder}: this adapter has no reward head (`score`): it is not a reward model; train one with "
            "`lit-instruct rm fit`"
        )
    return weights[HEAD_KEY].float()


def adapter_weights(network: PeftModel, adapter: str = "default") -> dict[str, Tensor]:
    """Returns the tensors of an adapter and of its head, under the names of PEFT's files.

    Embeddings are never resized here; PEFT's default would ask the hub for the base's vocabulary to find that out.
    """
    return get_peft_model_state_dict(network, adapter_name=adapter, save_embedding_layers=False)


def save_adapter(network: PeftModel, adapter: str, folder: Path) -> None:
    """Writes the named adapter of a model, with its head if it has one, into a folder that plain PEFT opens."""
    weights = adapter_weights(network, adapter)
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / "adapter_model.safetensors")
    config = copy.copy(network.peft_config[adapter])
    config.inference_mode = True
    name, commit = lasting_name(config.base_model_name_or_path or "")
    config.base_model_name_or_path = name or None
    config.revision = commit or getattr(network.get_base_model(), "pinned_revision", None)  # what the next stage opens
    config.save_pretrained(str(folder))
