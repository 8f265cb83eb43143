"""The processes of the PPO benchmark: what both sides start from, our iterations, and TRL 1.12's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from benchmarks import ROOT
from benchmarks.harness import peak_bytes
from benchmarks.ppo_work import Shape, Workload, operations, shares_of_peak
from benchmarks.training import DTYPES, PROMPTS, SEED, demo_prompts, fit_ours, now
from data_modules.prompts import PromptDataModule
from lit_instruct.batches import PromptBatch
from lit_instruct.handover import prompter_of
from lit_instruct.models.assemble import policy_network, reward_network
from lit_instruct.models.embedded import NAME
from lit_instruct.models.loading import find_source, load_tokenizer
from lit_instruct.models.lora import LoraOptions, save_adapter
from lit_instruct.models.roles import Roles
from lit_instruct.ppo.objective import ObjectiveOptions, ValueOptions
from lit_instruct.ppo.options import PPOMemoryOptions, RewardOptions
from lit_instruct.prompting import Prompter
from lit_instruct.rollouts.engine import Sampled
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.stopping import StopRule
from lit_instruct.stages.ppo import PPOModule

TRL_PYTHON = ROOT / ".venv-trl112" / "bin" / "python"
TRL_SIDE = Path(__file__).parent / "trl_side"
RANDOM_MODELS: dict[str, dict[str, int]] = {
    name: {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": inner}
    | {"num_key_value_heads": 2, "vocab_size": vocabulary}
    for name, width, layers, heads, inner, vocabulary in (
        ("7M", 128, 6, 4, 384, 49_152),
        ("27M", 320, 10, 10, 832, 49_152),
        ("70M", 512, 16, 8, 1408, 49_152),
        ("0.5B", 896, 24, 14, 4864, 151_936),
        ("1.5B", 1536, 28, 12, 8960, 151_936),
    )
}
"""Shapes of models whose weights are drawn at random, named by their size."""
PEAK_REPETITIONS = 3


class PhaseClock(Callback):
    """Times the parts of each iteration of PPO; with `never_stop` all responses are of full length."""

    def __init__(self, never_stop: bool = True) -> None:
        self.never_stop = never_stop
        self.iterations: list[dict[str, float]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Wraps what samples and what scores; the model is loaded."""
        collector = pl_module.collector
        if self.never_stop:
            collector.stop = collector.engine.stop = StopRule([], [], pl_module.prompter.decode)
        sample, score = collector.sample, collector.score

        def timed_sample(batch: PromptBatch, *more: Any) -> Sampled:
            found: Sampled = sample(batch, *more)
            self.responses = found.responses
            self.response_tokens = sum(len(response) for response in found.responses)
            self.tokens = int(batch.prompt_mask.sum()) + self.response_tokens
            self.sampled = now()
            return found

        def timed_score(*given: Any) -> Any:
            rollouts = score(*given)
            self.scored = now()
            return rollouts

        collector.sample, collector.score = timed_sample, timed_score
        self.began = now()

    def on_train_batch_end(self, *_: Any) -> None:
        """Ends an iteration; the time until the next batch counts to the next one."""
        ended = now()
        self.iterations.append(
            {
                "seconds": ended - self.began,
                "rollout_seconds": self.sampled - self.began,
                "scoring_seconds": self.scored - self.sampled,
                "update_seconds": ended - self.scored,
                "tokens": self.tokens,
                "response_tokens": self.response_tokens,
            }
        )
        self.began = ended


def prepare(folder: str, base: str, thirds: dict[str, int], episodes: int) -> dict[str, Any]:
    """Writes what the sides start from: prompts, and for each of ours an untrained SFT and reward model.

    Args:
        folder: existing; a base of RANDOM_MODELS is written there too.
        base: model, or a name of RANDOM_MODELS.
        thirds: like OURS.
        episodes: how many prompts.

    Returns:
        The base's Hugging Face folder, and the adapted top layers of each side (0: all).
    """
    if base in RANDOM_MODELS:
        base = write_random_model(Path(folder) / base, RANDOM_MODELS[base])
    source = find_source(base)
    prompter = prompter_of(source)
    layers = AutoConfig.from_pretrained(source.base).num_hidden_layers
    top_layers = {side: layers // part if part else 0 for side, part in thirds.items()}
    torch.manual_seed(SEED)
    for side, top in top_layers.items():
        lora, dtype = LoraOptions(top_layers=top), torch.bfloat16
        write_adapter(policy_network(source, lora, dtype), prompter, Path(folder) / side / "sft")
        write_adapter(reward_network(source, lora, dtype, prompter.pad_id), prompter, Path(folder) / side / "rm")
    (Path(folder) / "prompts.json").write_text(json.dumps(demo_prompts(prompter, episodes)))
    return {"base_folder": source.base, "top_layers": top_layers}


def write_adapter(network: nn.Module, prompter: Prompter, folder: Path) -> None:
    """Writes an adapter and its tokenizer into a new folder."""
    folder.mkdir(parents=True)
    save_adapter(network, "default", folder)
    prompter.tokenizer.save_pretrained(str(folder))


def write_random_model(folder: Path, shape: dict[str, int]) -> str:
    """Writes a Llama with random weights and the embedded base's tokenizer, and returns its folder."""
    torch.manual_seed(SEED)
    tokenizer = load_tokenizer(find_source(NAME))
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(tie_word_embeddings=True, **shape, **ids)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))
    return str(folder)


def ours(**work: Any) -> dict[str, Any]:
    """Does `ppo.work_of`: trains our PPO stage for some iterations, and measures the matmul peak of its process."""
    workload, frozen = Workload(**work["workload"]), DTYPES[work["dtype"]]
    parents = Path(work["folder"]) / work["side"]
    module = PPOModule(
        base=str(parents / "sft"),
        iterations=work["warmup"] + work["iterations"],
        lora=LoraOptions(top_layers=work["top_layers"]),
        objective=ObjectiveOptions(inner_epochs=workload.inner_epochs, minibatches=1),
        reward=RewardOptions(str(parents / "rm")),
        value=ValueOptions(work["value"]),
        sampling=SamplingOptions(max_new_tokens=workload.response_tokens),
        dtype=str(frozen).removeprefix("torch."),
        memory=PPOMemoryOptions(micro_batch_size=work["micro_batch_size"]),
        seed=SEED,
    )
    sizes = {"limit": workload.episodes, "batch_size": workload.episodes}
    data = PromptDataModule(str(PROMPTS), validation_share=0.0, seed=SEED, **sizes)
    clock = PhaseClock()
    fit_ours(module, data, [clock], epochs=-1, device=work["device"], frozen=frozen)
    return {"peak_memory_gb": _peak_gb(work["device"]), **_figures(module, clock, work, workload)}


def _figures(module: PPOModule, clock: PhaseClock, work: dict[str, Any], workload: Workload) -> dict[str, Any]:
    timed = clock.iterations[work["warmup"] :]
    found: dict[str, Any] = {name: median(iteration[name] for iteration in timed) for name in timed[0]}
    shape = shape_of(module.roles)
    tokens, response_tokens = (round(mean(i[name] for i in timed)) for name in ("tokens", "response_tokens"))
    own_value = not module.roles.value_on_policy
    needed = operations(shape, tokens, response_tokens, workload.inner_epochs, own_value)
    peak = matmul_peak(module.roles, [tokens // workload.episodes * work["micro_batch_size"], tokens])
    parts = {"scoring": found["scoring_seconds"], "update": found["update_seconds"], "seconds": found["seconds"]}
    return found | {
        "seconds_of_each": [iteration["seconds"] for iteration in timed],
        "adapted_layers": shape.adapted,
        "gigaflop": {part: round(getattr(needed, part) / 1e9, 1) for part in ("rollout", "scoring", "update")},
        "matmul_peak_gflops": round(peak / 1e9, 1),
        "of_peak": shares_of_peak(needed, parts, peak),
        "tokens_per_second": round(response_tokens / found["seconds"], 1),
        "threads": torch.get_num_threads(),
    }


def shape_of(roles: Roles) -> Shape:
    """Returns the shape of the policy's model, whose layers in the trunk cache are not adapted."""
    weights = layer_weights(roles)
    layers = len(_decoder(roles).layers)
    count = sum(weight.numel() for weight in weights) // layers
    return Shape(layers, layers - roles.trunk_layers, count, roles.output_weight("policy").numel())


def layer_weights(roles: Roles) -> list[Tensor]:
    """Returns the frozen matrices of all decoder layers, in order."""
    modules = _decoder(roles).named_modules()
    return [module.weight for name, module in modules if isinstance(module, nn.Linear) and ".lora_" not in name]


@torch.no_grad()
def matmul_peak(roles: Roles, rows: list[int]) -> float:
    """Returns the peak FLOP/s of the model's matrix products, one after the other, with nothing else between.

    `rows` are numbers of tokens per product, of which the fastest gives the peak.
    """
    weights = [*layer_weights(roles), roles.output_weight("policy")]
    best = 0.0
    for count in rows:
        inputs = {weight.shape[1]: torch.randn(count, weight.shape[1]).to(weight) for weight in weights}
        for _ in range(PEAK_REPETITIONS):
            began = now()
            for weight in weights:
                F.linear(inputs[weight.shape[1]], weight)
            seconds = now() - began
            best = max(best, 2 * count * sum(weight.numel() for weight in weights) / seconds)
    return best


def _decoder(roles: Roles) -> Any:
    model = roles.language_model("policy")
    return getattr(model, model.base_model_prefix)


def _peak_gb(device: str) -> float:
    return torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else peak_bytes() / 1e9


def trl(**work: Any) -> dict[str, Any]:
    """Does `ppo.work_of`: runs TRL's side in its own environment and returns what it prints last."""
    workload = Workload(**work["workload"])
    names = ("micro_batch_size", "dtype", "device", "warmup", "iterations")
    options = {name: work[name] for name in names} | {
        "base": work["base_folder"],
        "prompts": f"{work['folder']}/prompts.json",
        "response_length": workload.response_tokens,
        "inner_epochs": workload.inner_epochs,
        "learning_rate": 1e-4,
        "seed": SEED,
    }
    return run_trl("ppo.py", options, (work["warmup"] + work["iterations"]) * workload.inner_epochs)


def run_trl(script: str, options: dict[str, Any], steps: int) -> dict[str, Any]:
    """Runs a script of trl_side/ in the environment with TRL 1.12 and returns the last line that it prints.

    Args:
        script: its name.
        options: what it takes as JSON.
        steps: that the optimizer has to take.

    Raises:
        RuntimeError: it failed (the message has the end of its stderr), or it took another number of steps.
    """
    if not TRL_PYTHON.is_file():
        build = ["sh", str(TRL_SIDE / "environment.sh")]
        subprocess.run(build, env=os.environ | {"PYTHON": sys.executable}, check=True)
    command = [str(TRL_PYTHON), str(TRL_SIDE / script), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{script} failed with {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if found["optimizer_steps"] != steps:
        raise RuntimeError(f"{script}: TRL took {found['optimizer_steps']} optimizer steps instead of {steps}")
    return found
