"""Settings of every test (offline, quiet, few threads) and the tiny model they share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from jaxtyping import install_import_hook

from data_modules.tables import cache as token_cache
from lit_instruct.models import measured
from tests.tiny import tiny_llama

torch.set_num_threads(1)
install_import_hook("lit_instruct.losses", "beartype.beartype")  # shapes and dtypes at the doors of losses/


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Llama with tokenizer; tests must not write into it."""
    return tiny_llama(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(autouse=True, scope="session")
def tokens_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tokenised data and measurements of the tests go here, not into the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_cache, "cache_folder", lambda: folder)
        patch.setattr(measured, "cache_folder", lambda: folder)
        yield folder
