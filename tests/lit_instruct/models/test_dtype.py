"""The dtype of frozen weights: literal times -> choice, the cache, and what a measurement must leave alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, PreTrainedConfig

from lit_instruct.models import dtype, measured
from lit_instruct.models.dtype import Widths, choose_dtype, measure, product_timer, seconds_here, widths_of

CPU = torch.device("cpu")
XEON = {torch.float32: (95, 161), torch.bfloat16: (72, 84)}
"""GFLOP/s in products of few and of many rows: AVX-512 with bfloat16 instructions, where float32 is the faster."""
EPYC = {torch.float32: (70, 84), torch.bfloat16: (190, 390)}
AVX2 = {torch.float32: (45, 45), torch.bfloat16: (11, 10)}
"""bfloat16 is emulated."""


def config(**other: int) -> PreTrainedConfig:
    return AutoConfig.for_model("llama", **{"hidden_size": 576, "intermediate_size": 1536} | other)


class Clock:
    """A processor of known speed."""

    def __init__(self, speeds: dict[torch.dtype, tuple[int, int]]) -> None:
        self.speeds = speeds
        self.rows: list[int] = []
        self.spent = 0.0

    def timer(self, widths: Widths) -> Callable[[torch.dtype, int], float]:
        def seconds(kind: torch.dtype, rows: int) -> float:
            self.rows.append(rows)
            found = 4e-9 * widths[0] * widths[1] * rows / self.speeds[kind][rows > 32]
            self.spent += found
            return found

        return seconds

    def choice(self, **other: int) -> dtype.ChosenDtype:
        return choose_dtype("auto", CPU, config(**other), lambda widths: measure(self.timer(widths)))


@pytest.mark.parametrize(
    ("speeds", "name", "why"),
    [
        (XEON, "float32", "1.5 times as fast as bfloat16 on A"),
        (EPYC, "bfloat16", "3.3 times as fast as float32 on A"),
        (AVX2, "float32", "4.3 times as fast as bfloat16 on A"),
        ({torch.float32: (80, 80), torch.bfloat16: (2, 1)}, "float32", "40 times as fast as bfloat16 on A"),
        ({torch.float32: (80, 80), torch.bfloat16: (75, 75)}, "bfloat16", "half the memory at 0.94 times the speed"),
        ({torch.float32: (80, 80), torch.bfloat16: (71, 71)}, "float32", "1.1 times as fast as bfloat16 on A"),
    ],
)
def test_the_faster_dtype(
    speeds: dict[torch.dtype, tuple[int, int]], name: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dtype, "processor", lambda: ("A", "f"))
    monkeypatch.setattr(dtype, "memory_bytes", lambda: 4e9)
    clock = Clock(speeds)
    chosen = clock.choice()
    assert (chosen.name, chosen.processor, chosen.flags) == (name, "A", "f")
    assert chosen.why.startswith(why)
    assert clock.spent < 0.5
    other = {"float32": "bfloat16", "bfloat16": "float32"}[name]
    assert chosen.line() == f"dtype {name}: {chosen.why}; --model.dtype={other} chooses the other"


def test_rows_of_a_decoding_step_and_of_a_pass() -> None:
    clock = Clock(EPYC)
    clock.choice()
    assert set(clock.rows) == {32, 512}
    slow = Clock(AVX2)
    slow.choice()
    assert set(slow.rows) == {32, 64}  # a pass takes at most 0.04 s


def test_weights_that_only_fit_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"num_hidden_layers": 2, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 1000}
    # 2 x 1000 x 576 embeddings; a layer: 576 x (2 x 576 + 2 x 192), 3 x 576 x 1536, 2 x 576; a norm of 576
    size = 4 * (2 * 1000 * 576 + 2 * (576 * 1536 + 3 * 576 * 1536 + 2 * 576) + 576)
    monkeypatch.setattr(dtype, "memory_bytes", lambda: 2.0 * size)
    assert Clock(XEON).choice(**small).name == "float32"
    monkeypatch.setattr(dtype, "memory_bytes", lambda: 2.0 * size - 1)
    assert Clock(XEON).choice(**small).name == "bfloat16"
    monkeypatch.setattr(dtype, "memory_bytes", lambda: None)
    assert Clock(XEON).choice(**small).name == "float32"


def test_disturbed_passes_do_not_count() -> None:
    """Other work on the machine makes every second pass ten times as long."""
    clock, calls = Clock(EPYC), iter(range(10_000))

    def timer(kind: torch.dtype, rows: int) -> float:
        return clock.timer((576, 1536))(kind, rows) * (10 if next(calls) // 2 % 2 else 1)

    quiet = measure(Clock(EPYC).timer((576, 1536)))
    disturbed = measure(timer)
    assert disturbed["float32"] / disturbed["bfloat16"] == pytest.approx(quiet["float32"] / quiet["bfloat16"], rel=0.1)


def test_given_and_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(widths: Widths) -> dtype.Seconds:
        raise AssertionError("measured")

    assert choose_dtype("float32", CPU, config(), never).dtype == torch.float32
    assert choose_dtype("bfloat16", CPU, config(), never).dtype == torch.bfloat16
    assert choose_dtype("auto", torch.device("mps"), config(), never).name == "float32"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    for native, name in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert choose_dtype("auto", torch.device("cuda"), config(), never).name == name


def test_widths() -> None:
    assert widths_of(config()) == (576, 1536)
    assert widths_of(config(hidden_size=4096, intermediate_size=14336)) == (1024, 2048)
    assert widths_of(config(hidden_size=32, intermediate_size=64)) == (512, 1024)
    assert widths_of(AutoConfig.for_model("gpt2", n_embd=768)) == (768, 2048)
    assert widths_of(AutoConfig.for_model("opt", hidden_size=512, ffn_dim=1100)) == (512, 1100)
    assert widths_of(AutoConfig.for_model("bloom", hidden_size=600)) == (600, 2048)


def test_a_measurement_is_cached_and_healed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = iter(range(100))
    real = tmp_path / "cache"

    def again(widths: Widths = (600, 1200)) -> tuple[dtype.Seconds, int]:
        """As a new process would: the folder is reached by another name, so that nothing is remembered in memory."""
        link = tmp_path / f"link{next(folders)}"
        real.mkdir(exist_ok=True)
        link.symlink_to(real)
        monkeypatch.setattr(measured, "cache_folder", lambda: link)
        clock = Clock(EPYC)
        found = seconds_here(widths, clock.timer)
        assert seconds_here(widths, clock.timer) == found
        return found, len(clock.rows)

    first, passes = again()
    assert passes > 0
    assert again() == (first, 0)
    assert again((600, 1300))[1] > 0  # other shapes
    monkeypatch.setattr(dtype, "processor", lambda: ("another", "f"))
    assert again()[1] > 0
    monkeypatch.undo()
    (file, *_) = sorted((real / "dtype").glob("*.json"))
    whole = json.loads(file.read_text())
    damaged = ["", "{", "[]", "null", '{"seconds": {}}', json.dumps(whole | {"key": "another"})]
    damaged += [json.dumps(whole | {"seconds": {"float32": one, "bfloat16": 1.0}}) for one in (0.0, -1.0, "x", None)]
    damaged.append(json.dumps(whole).replace("1", "NaN", 1))
    for text in damaged:
        for one in (real / "dtype").glob("*.json"):
            one.write_text(text)
        assert again()[1] > 0, text
        assert again()[1] == 0, text


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(measured, "cache_folder", lambda: tmp_path / "file")
    assert seconds_here((512, 1024), Clock(EPYC).timer)["bfloat16"] > 0


def test_a_measurement_leaves_the_process_as_it_was() -> None:
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    found = measure(product_timer((512, 1024)))
    assert all(seconds > 0 for seconds in found.values())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
