"""Memory of a stage by part and phase."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lit_instruct.errors import UserError
from lit_instruct.fast.host_memory import KEPT_PRODUCTS
from lit_instruct.models.lora import LoraOptions
from lit_instruct.planning.memory import CONTEXT, memory_of
from lit_instruct.planning.weights import adapter_sizes, base_bytes
from lit_instruct.planning.work import Work, check_gpu_size, read_work
from tests.tiny import tiny_llama

SHARED = {
    "model.dtype": "auto",
    "model.quantize": "none",
    "model.optimizer.name": "adamw",
    "model.memory.gradient_checkpointing": False,
    "model.memory.activation_offloading": False,
    "model.memory.pack_output": True,
    "model.lora.r": 8,
    "trainer.devices": 1,
    "trainer.num_nodes": 1,
    "trainer.precision": None,
}
SFT = SHARED | {"data.batch_size": 4, "data.max_length": 100, "trainer.accumulate_grad_batches": 2}
RM = SHARED | {"data.batch_size": 2, "data.max_length": 100, "model.max_tokens": 8192, "model.shared_prompt": "auto"}
PPO = SHARED | {
    "data.batch_size": 64,
    "data.max_prompt_length": 30,
    "model.sampling.max_new_tokens": 70,
    "model.memory.generation_batch_size": 32,
    "model.memory.merge_for_rollouts": True,
    "model.objective.minibatches": 8,
    "model.objective.responses_per_prompt": 1,
    "model.memory.micro_batch_size": 4,
    "model.reward.model": "runs/none/rm",
    "model.reward.function": None,
    "model.value.start": "reward_model",
}
OPTIONS: dict[str, dict[str, Any]] = {"sft": SFT, "rm": RM, "ppo": PPO}


def work(stage: Any, base: str = "smollm2-135m", device: Any = "cuda", **changes: Any) -> Work:
    given = OPTIONS[stage] | {name.replace("__", "."): value for name, value in changes.items()}
    if given.get("model.lora", 0) is None:
        given = {name: value for name, value in given.items() if not name.startswith("model.lora.")}
    return read_work(stage, given, device, base)


def test_what_a_stage_computes_at_one_time() -> None:
    sft, rm, ppo = work("sft"), work("rm"), work("ppo")
    assert (sft.rows, sft.tokens, sft.scored, sft.passes) == (4, 400, 400, 2)
    assert (rm.rows, rm.tokens, rm.scored, rm.passes) == (18, 1800, 0, 1)  # two prompts, nine responses each
    assert (ppo.rows, ppo.tokens, ppo.scored, ppo.passes) == (4, 400, 280, 2)
    assert work("rm", model__max_tokens=500).tokens == 500
    assert work("rm", model__max_tokens=50).tokens == 100  # no sequence is cut
    assert work("ppo", trainer__devices=4).rollouts.rows == 16


@pytest.mark.parametrize("name", ["org/rm", "org/llama-rm"])
def test_hub_id_called_rm_is_a_model_of_its_own(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    shape = work("ppo").model
    monkeypatch.setattr("lit_instruct.planning.work.shape_of", lambda _: shape)
    assert work("ppo", model__reward__model=name).others == (shape,)
    assert work("ppo", model__reward__model="{run}/rm").others == ()


def test_parts_of_adapters_on_one_base() -> None:
    sft, ppo = work("sft"), work("ppo")
    one = sum(adapter_sizes(sft.model, LoraOptions(r=8)))
    rounded, head = 2 * one, 4 * 576
    of_sft, of_ppo = memory_of(sft).phases["update"], memory_of(ppo).phases["update"]
    assert of_sft["base"] == of_ppo["base"] == 2 * sft.model.parameters
    assert of_sft["adapters"] == 4 * one + rounded
    assert of_ppo["adapters"] == 4 * 4 * one + rounded + 2 * head  # policy, SFT, value and reward
    assert of_sft["optimizer"] == 2 * of_sft["gradients"] == 8 * one
    assert of_ppo["gradients"] == 4 * 2 * one + head  # policy and value
    no_value = memory_of(work("ppo", model__value__start="policy_trunk")).phases["update"]
    assert no_value["gradients"] == 4 * one + head


def test_full_fine_tuning_has_networks_of_its_own() -> None:
    shape = work("sft").model
    assert memory_of(work("sft", model__lora=None)).phases["step"]["base"] == 4 * shape.parameters
    ppo = memory_of(work("ppo", model__lora=None)).phases["step"]
    rest = 2 * shape.parameters + base_bytes(shape, "none", 2, with_head=False)  # the reference and the reward model
    assert ppo["base"] == 2 * 4 * shape.parameters + rest


def test_a_rollout_merges_adapters_into_plain_matrices_only() -> None:
    plain, quantised = memory_of(work("ppo")), memory_of(work("ppo", model__quantize="4bit"))
    assert plain.phases["rollout"]["merged"] == 2 * plain_parameters("smollm2-135m")
    assert quantised.phases["rollout"]["merged"] == 0
    assert memory_of(work("ppo", model__memory__merge_for_rollouts=False)).phases["rollout"]["merged"] == 0
    upper = memory_of(work("ppo", model__lora__top_layers=3))
    assert upper.phases["rollout"]["merged"] == plain.phases["rollout"]["merged"] // 10


def test_a_frozen_output_embedding_has_a_packed_copy_on_a_cpu() -> None:
    def base(*args: Any, **changes: Any) -> int:
        return memory_of(work(*args, model__dtype="float32", **changes)).phases["update"]["base"]

    for stage in ("sft", "ppo"):
        with_copy = base(stage, device="cpu")
        assert with_copy - base(stage, device="cpu", model__memory__pack_output=False) == 4 * 576 * 49_152
        assert with_copy - base(stage, device="cpu", trainer__precision="bf16-mixed") == 4 * 576 * 49_152
    assert base("rm", device="cpu") == base("rm", device="cpu", model__memory__pack_output=False)
    assert base("sft", device="cpu", model__lora=None) == 4 * work("sft").model.parameters


def plain_parameters(name: str) -> int:
    return work("ppo", name).model.linear_parameters


def test_the_peak_is_that_of_one_phase_and_has_a_reserve() -> None:
    memory = memory_of(work("ppo"))
    totals = {phase: sum(parts.values()) for phase, parts in memory.phases.items()}
    assert set(totals) == {"rollout", "update", "step"}
    assert memory.peak == max(totals.values()) == totals[memory.peak_phase]
    held = memory.allocated
    assert memory.peak - held == CONTEXT["cuda"] + int(0.05 * held)


def test_compiled_products_are_counted_on_a_cpu_that_computes_in_bfloat16() -> None:
    def reserve(stage: Any, dtype: str, **changes: Any) -> int:
        options = OPTIONS[stage] | changes | {"model.dtype": dtype}
        phases = memory_of(read_work(stage, options, "cpu", "smollm2-135m")).phases
        (found,) = {parts["reserve"] for parts in phases.values()}
        return found

    assert [reserve(stage, "float32") for stage in ("sft", "rm", "ppo")] == [0, 0, 0]
    assert reserve("sft", "bfloat16") == 30 * 300_000
    assert reserve("rm", "bfloat16") == 75 * 300_000
    assert reserve("ppo", "bfloat16", **{"model.sampling.max_new_tokens": 10}) == 20 * 700_000
    assert reserve("ppo", "bfloat16") == KEPT_PRODUCTS * 700_000


def test_less_memory_for_every_option_that_promises_it() -> None:
    base = memory_of(work("ppo", "llama-8b")).peak
    for changes in (
        {"model__quantize": "8bit"},
        {"model__memory__gradient_checkpointing": True},
        {"model__memory__activation_offloading": True},
        {"model__memory__micro_batch_size": 1},
        {"model__lora__top_layers": 4},
        {"model__memory__merge_for_rollouts": False},
    ):
        assert (
            memory_of(work("ppo", "llama-8b", **{"model__memory__generation_batch_size": 1, **changes})).peak < base
        ), changes
    update = memory_of(work("sft", "llama-8b", model__lora=None)).phases["update"]
    assert memory_of(work("sft", "llama-8b", model__lora=None, model__optimizer__name="adamw_8bit")).phases["update"][
        "optimizer"
    ] == pytest.approx(update["optimizer"] / 4, rel=0.02)


def test_processes_share_what_their_strategy_shares() -> None:
    alone = memory_of(work("sft", "llama-8b", model__lora=None)).phases["step"]
    together = {"model__lora": None, "trainer__devices": 8}
    sharded = memory_of(work("sft", "llama-8b", **together, trainer__strategy="fsdp2")).phases["step"]
    zero = memory_of(work("sft", "llama-8b", **together, trainer__strategy="deepspeed_stage_2")).phases["step"]
    copied = memory_of(work("sft", "llama-8b", **together, trainer__strategy="ddp")).phases["step"]
    assert (sharded["base"], sharded["optimizer"]) == (alone["base"] // 8, alone["optimizer"] // 8)
    assert (zero["base"], zero["optimizer"]) == (alone["base"], alone["optimizer"] // 8)
    assert (copied["base"], copied["gradients"]) == (alone["base"], 2 * alone["gradients"])


def test_the_outputs_of_frozen_lower_layers_are_kept() -> None:
    few = work("ppo", model__lora__top_layers=2)
    assert few.rollouts is not None
    more = replace(few, rollouts=replace(few.rollouts, kept_rows=65))
    difference = memory_of(more).phases["update"]["activations"] - memory_of(few).phases["update"]["activations"]
    assert difference == 100 * 576 * 2


def test_an_average_of_the_policy_is_held() -> None:
    kept = memory_of(work("ppo", model__optimizer__ema_decay=0.99)).phases["step"]["optimizer"]
    one = sum(adapter_sizes(work("ppo").model, LoraOptions(r=8)))
    assert kept - memory_of(work("ppo")).phases["step"]["optimizer"] == 4 * one


@pytest.mark.parametrize(("text", "size"), [("24GB", 24), ("24", 24), ("24 GiB", 24), ("11.5gb", 11.5)])
def test_sizes_of_cards(text: str, size: float) -> None:
    assert check_gpu_size(text) == size * 2**30


@pytest.mark.parametrize("text", ["", "GB", "rtx", "-1", "0", "24TB", "nan", "inf"])
def test_text_that_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="not the memory of a GPU"):
        check_gpu_size(text)


def test_only_an_adapter_on_the_policys_base_shares_it(tmp_path: Path) -> None:
    def adapter(name: str, base: str) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        return str(tmp_path / name)

    base, other = (str(tiny_llama(tmp_path / name)) for name in ("base", "other"))
    sft, ours, theirs = adapter("sft", base), adapter("ours", base), adapter("theirs", other)
    for policy in (base, sft):
        rollouts = work("ppo", policy, model__reward__model=ours).rollouts
        assert rollouts is not None and rollouts.shared_rewards == 1
        found = work("ppo", policy, model__reward__model=theirs)
        assert found.rollouts is not None and found.rollouts.shared_rewards == 0
        assert [shape.name for shape in found.others] == [theirs]
    embedded = adapter("embedded", "smollm2-135m-instruct")
    found = work("ppo", "smollm2-135m-instruct", model__reward__model=embedded)
    assert found.rollouts is not None and found.rollouts.shared_rewards == 1
    three = work("ppo", base, model__reward__model=f"{ours},{sft},{ours}")
    assert three.rollouts is not None and three.rollouts.shared_rewards == 3
    assert work("ppo", base, model__reward__model=ours, model__lora=None).others[0].name == ours
