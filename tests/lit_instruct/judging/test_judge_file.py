"""The file of a judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_instruct.errors import UserError
from lit_instruct.judging.judge import Judge
from lit_instruct.judging.judge_file import read_judge

GOOD = {"url": "http://127.0.0.1:1/v1", "model": "m"}
SECRET = "sk-verysecret"


def _write(folder: Path, content: Any) -> Path:
    path = folder / "judge.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_two_fields_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_INSTRUCT_CACHE", str(tmp_path / "cache"))
    options = read_judge(_write(tmp_path, GOOD), "judge")
    assert (options.by, options.swap, options.on_unusable) == ("pairs", True, "stop")
    assert options.cache_path() == tmp_path / "cache" / "judge.db"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("url: [", "not a YAML file, line 1; correct it"),
        ("- a", "give names with values, as in docs/labelers.md"),
        ({"url": "http://x/v1"}, "give `model`, as in docs/labelers.md"),
        (GOOD | {"urls": 1}, "there is no field 'urls'; did you mean url?"),
        (GOOD | {"api_key": SECRET}, "there is no field 'api_key'"),
        (GOOD | {"key": 5}, "`key` must be the name of an environment variable"),
        (GOOD | {"by": "elo"}, "`by` must be pairs, all or rate"),
        (GOOD | {"swap": "yes"}, "`swap` must be true or false"),
        (GOOD | {"budget": 1.5}, "`budget` must be a whole number, or null"),
        (GOOD | {"concurrent": 0}, "`concurrent` must be at least 1"),
        (GOOD | {"retries": -1}, "`retries` must be at least 0"),
        (GOOD | {"timeout": 0}, "`timeout` must be above 0"),
        (GOOD | {"lowest": 5, "highest": 5}, "`lowest` must be below `highest`"),
        (GOOD | {"templates": {"pair": "x"}}, "`templates` has 'pair'; it may have pairs, all, rate"),
        (
            GOOD | {"templates": {"pairs": "{{ first }}"}},
            "`templates`, pairs: it does not show every response; use first",
        ),
        (GOOD | {"templates": {"all": "{{ prompt }}"}}, "`templates`, all: it does not show every response; use respo"),
        (
            GOOD | {"templates": {"rate": "{{ answer }}"}},
            "`templates`, rate: 'answer' is undefined; a template may use",
        ),
        (GOOD | {"templates": {"rate": "{{ response"}}, "`templates`, rate: "),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, content: Any, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        read_judge(_write(tmp_path, content), "--labeler judge:judge.yaml")
    assert str(error.value).startswith(f"--labeler judge:judge.yaml: {sentence}")
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"key": "NO_SUCH_KEY_HERE"}, "the environment variable that `key` names is not set; export it"),
        ({"key": SECRET}, "the environment variable that `key` names is not set"),
        ({"key": "LINES_KEY"}, "the key has characters that HTTP cannot send"),
        ({"url": f"http://me:{SECRET}@127.0.0.1/v1"}, "leave name and password out of the address"),
        ({"url": "127.0.0.1:8000/v1"}, "not an address; give one such as http://127.0.0.1:8000/v1"),
        ({"url": "ftp://127.0.0.1/v1"}, "not an address"),
        ({"url": "http://["}, "not an address"),
    ],
)
def test_keys_and_addresses_are_checked_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, str], sentence: str
) -> None:
    monkeypatch.setenv("LINES_KEY", f"{SECRET}\nX: y")
    path = _write(tmp_path, GOOD | {"cache": str(tmp_path / "a.db")} | more)
    with pytest.raises(UserError) as error:
        Judge(str(path), "judge")
    assert str(error.value).startswith(f"judge: {sentence}")
    assert SECRET not in str(error.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; give judge:FILE.yaml"):
        read_judge(tmp_path / "none.yaml", "judge")
