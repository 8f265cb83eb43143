"""What this machine is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_instruct import machine

X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nmodel name\t: Some CPU\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize(
    ("text", "name", "changed"),
    [(X86, "Some CPU", X86.replace("avx2", "avx512f")), (ARM, "aarch64", ARM.replace("0xd40", "0xd0c"))],
)
def test_processor(monkeypatch: pytest.MonkeyPatch, text: str, name: str, changed: str) -> None:
    """Its name, and a digest that changes with what it can do."""
    monkeypatch.setattr(machine.platform, "processor", lambda: "aarch64")
    monkeypatch.setattr(Path, "read_text", lambda self, **_: text)
    first = machine.processor()
    assert first[0] == name
    assert machine.processor() == first
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert machine.processor()[1] != first[1]
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    monkeypatch.setattr(Path, "read_text", lambda self, **_: changed)
    assert machine.processor()[1] != first[1]


def test_a_processor_without_proc_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Path, **_: str) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", missing)
    assert machine.processor()[0]
