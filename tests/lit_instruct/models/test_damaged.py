"""A model that cannot be opened names the file that is damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from lit_instruct.errors import UserError
from lit_instruct.models.damaged import damaged_file
from lit_instruct.models.loading import find_source, load_causal_lm, load_config, load_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"


def opened(folder: Path) -> None:
    source = find_source(str(folder))
    load_config(source)
    load_tokenizer(source)
    load_causal_lm(source, torch.float32)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize(("fault", "said"), [("cut", "is damaged or cut short ("), ("pointer", "`git lfs pull`")])
def test_the_file_is_named(tmp_path: Path, tiny_model: Path, name: str, fault: str, said: str) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    assert damaged_file(folder) is None
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(POINTER.encode() if fault == "pointer" else content[: len(content) // 2])
    with pytest.raises(UserError) as error:
        opened(folder)
    assert f"{folder / name} {'is a Git-LFS pointer' if fault == 'pointer' else ''}" in str(error.value)
    assert said in str(error.value)
