"""The sizes of a model that determine its memory, read from its configuration without any weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from lit_instruct.errors import UserError
from lit_instruct.models.embedded import NAME as EMBEDDED
from lit_instruct.models.loading import find_source, load_config
from lit_instruct.models.lora import LoraOptions
from lit_instruct.planning.named import NAMED, named_config


@dataclass(frozen=True)
class Linear:
    """A linear layer inside a decoder layer."""

    name: str
    """Last part of its name, such as q_proj."""
    layer: int
    """Index of its decoder layer."""
    inputs: int
    outputs: int

    @property
    def weights(self) -> int:
        """Size of its matrix."""
        return self.inputs * self.outputs


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a causal language model."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    parameters: int
    """Number of all parameters; tied embeddings count once."""
    head_parameters: int
    """Parameters of the output embedding; 0 if it is tied to the input embedding."""
    linears: tuple[Linear, ...]
    """Linear layers of all decoder layers."""

    @property
    def intermediate(self) -> int:
        """Largest output width of a linear layer, which is that of the feed-forward part."""
        return max(linear.outputs for linear in self.linears)

    @property
    def linear_parameters(self) -> int:
        """Weights of all linear layers in decoder layers: those that are quantised and adapted."""
        return sum(linear.weights for linear in self.linears)

    @property
    def largest_linear(self) -> int:
        """Weights of the largest linear layer."""
        return max(linear.weights for linear in self.linears)

    def adapted(self, lora: LoraOptions) -> list[Linear]:
        """Returns the linear layers that get an adapter.

        Raises:
            UserError: there are fewer layers than `top_layers`, or no such target.
        """
        if lora.top_layers > self.layers:
            raise UserError(f"--model.lora.top_layers={lora.top_layers}: {self.name} has only {self.layers} layers")
        first = self.layers - lora.top_layers if lora.top_layers else 0
        names = {linear.name for linear in self.linears}
        wanted = names if lora.targets == "all-linear" else {target.strip() for target in lora.targets.split(",")}
        if wanted - names:
            missing = sorted(wanted - names)[0]
            raise UserError(f"--model.lora.targets: no linear layer of {self.name} is called {missing!r}; {names}")
        return [linear for linear in self.linears if linear.name in wanted and linear.layer >= first]


@cache
def shape_of(name: str) -> ModelShape:
    """Returns the sizes of a model.

    Args:
        name: a named shape such as llama-8b, the embedded model's name, a hub id or a folder.

    Raises:
        UserError: there is no such model, or it is not a causal language model with decoder layers.
    """
    return shape_of_config(config_of(name), name)


@cache
def config_of(name: str) -> PreTrainedConfig:
    """Returns the configuration of a model, by the names that `shape_of` takes.

    Raises:
        UserError: there is no such model.
    """
    described = named_config(name)
    if described is not None:
        return AutoConfig.for_model(**described)
    try:
        return load_config(find_source(name))
    except UserError as error:
        raise UserError(f"{error}; known without a network are {', '.join([EMBEDDED, *NAMED])}") from error


def shape_of_config(config: PreTrainedConfig, name: str) -> ModelShape:
    """Returns the sizes of the model that a transformers configuration describes, under this name.

    Raises:
        UserError: it does not describe a causal language model with decoder layers.
    """
    try:
        with torch.device("meta"):  # shapes only, no memory
            model: Any = AutoModelForCausalLM.from_config(config)
        decoder = getattr(model, model.base_model_prefix)
        layers = decoder.h if hasattr(decoder, "h") else decoder.layers  # GPT-2 has h
    except (ValueError, AttributeError, ImportError) as error:
        raise UserError(f"{name}: cannot plan for this model ({str(error).splitlines()[0]}); give another") from error
    text = config.get_text_config()
    linears = tuple(
        Linear(path.rpartition(".")[2], number, *_sizes(module))
        for number, layer in enumerate(layers)
        for path, module in layer.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    )
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    tied = bool(getattr(config, "tie_word_embeddings", False)) or head is embedding
    heads = text.num_attention_heads
    total = sum(parameter.numel() for parameter in {id(p): p for p in model.parameters()}.values())
    return ModelShape(
        name=name,
        hidden=text.hidden_size,
        layers=len(layers),
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocabulary=embedding.shape[0],
        parameters=total - (head.numel() if tied and head is not embedding else 0),
        head_parameters=0 if tied else head.numel(),
        linears=linears,
    )


def _sizes(module: nn.Linear | Conv1D) -> tuple[int, int]:
    """Inputs and outputs of a linear layer; GPT-2's `Conv1D` has its matrix transposed."""
    outputs, inputs = module.weight.shape
    return (outputs, inputs) if isinstance(module, Conv1D) else (inputs, outputs)
