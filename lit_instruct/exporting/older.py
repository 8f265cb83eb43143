"""Makes an export readable by transformers 4 too, and by programs that read its formats (vLLM, llama.cpp, MLX)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NEW_CLASS, OLD_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
"""Name of the tokenizer class that reads tokenizer.json, in transformers 5 and 4; version 5 knows both."""
OF_THIS_MACHINE = ("is_local", "local_files_only", "name_or_path")
FULL, SLIDING = "full_attention", "sliding_attention"


def add_older_names(folder: Path) -> None:
    """Adds to the JSON files of an export what transformers 4 looks for under other names.

    The class of the tokenizer, its further special tokens, the dtype and the frequencies of rotary positions: without
    these version 4 would compute with the default base of 10,000, and say nothing.

    Args:
        folder: of the export, with its tokenizer and, for whole weights, config.json.
    """
    _rewrite(folder / "tokenizer_config.json", _older_tokenizer)
    _rewrite(folder / "config.json", _older_config)


def _rewrite(file: Path, change: Any) -> None:
    if file.is_file():
        record = json.loads(file.read_text(encoding="utf-8"))
        text = json.dumps(change(record), indent=2, sort_keys=True, ensure_ascii=False)
        file.write_text(text + "\n", encoding="utf-8")


def _older_tokenizer(record: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in record.items() if name not in OF_THIS_MACHINE}
    if kept.get("tokenizer_class") == NEW_CLASS:
        kept["tokenizer_class"] = OLD_CLASS
    if isinstance(kept.get("extra_special_tokens"), list):  # a dict in version 4
        kept["additional_special_tokens"] = kept.pop("extra_special_tokens")
    return kept


def _older_config(record: dict[str, Any]) -> dict[str, Any]:
    older = dict(record)
    if isinstance(inner := older.get("text_config"), dict):
        older["text_config"] = _older_config(inner)
    if "dtype" in older:
        older.setdefault("torch_dtype", older["dtype"])
    rope = older.get("rope_parameters")
    if isinstance(rope, dict):
        full = rope.get(FULL, rope)
        older |= _older_rope(full)
        if isinstance(local := rope.get(SLIDING), dict):  # Gemma 3
            older["rope_local_base_freq"] = local.get("rope_theta")
    return older


def _older_rope(rope: dict[str, Any]) -> dict[str, Any]:
    """The base of the frequencies, the share of rotated dimensions, and how frequencies are scaled, if they are."""
    found: dict[str, Any] = {name: rope[name] for name in ("rope_theta", "partial_rotary_factor") if name in rope}
    if rope.get("rope_type", "default") != "default":
        found["rope_scaling"] = {name: value for name, value in rope.items() if name not in found}
    return found
