"""The parser's own errors, about what options.json does not know, are one sentence too."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from lit_instruct.command_line import check, stored
from lit_instruct.command_line.sentences import expected

DATA = "--data.path=recipes/demo/data/prompts_train.jsonl"
MODELS = ("--model.base=org/name", "--model.reward.model=org/reward")
WRONG = [
    ("--trainer.callbacks=NoSuch", "--trainer.callbacks=NoSuch: must be a list, as '[first, second]' or a class: its"),
    ("--trainer.callbacks=EarlyStopping", "EarlyStopping needs monitor; give --trainer.callbacks.monitor="),
    ("--trainer.callbacks=EarlyStopping --trainer.callbacks.moniter=x", "callbacks.moniter: EarlyStopping has no such"),
    ("--trainer.logger=no.such.Logger", "--trainer.logger=no.such.Logger: cannot be used (No module named 'no')"),
    ("--data.fields=3", "--data.fields=3: must be a mapping, as '{name: value}' or null"),
    ("--model.sampling.stop_ids=[a]", "--model.sampling.stop_ids=[a]: must be a whole number"),
    ("--model.lora={rr:1}", "--model.lora"),
    ("--model=nofile.yaml", "--model=nofile.yaml: no such config file"),
    ("--model.seed=3", "--model.seed: cannot be given alone; give --seed_everything"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[words for words, _ in WRONG])
def test_a_wrong_value(refusal: Callable[[Sequence[str]], str], words: str, said: str) -> None:
    assert said in refusal(["ppo", "fit", DATA, *MODELS, *words.split()])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"ppo fit {DATA} --model.lora.r=many", "--model.lora.r=many: must be a whole number or null"),
        (f"ppo fit {DATA} --model.kl.estimator=k9", "--model.kl.estimator=k9: must be one of k1, k2 or k3"),
        (f"ppo fit {DATA} --model.kl.coff=9", "unrecognized arguments: --model.kl.coff=9"),
        ("chat --temprature=1", "unrecognized arguments: --temprature=1"),
    ],
)
def test_without_current_stored_options(
    refusal: Callable[[Sequence[str]], str], monkeypatch: pytest.MonkeyPatch, line: str, said: str
) -> None:
    monkeypatch.setattr(check, "stored_command", lambda _: None)
    assert said in refusal(line.split())


def test_what_an_option_takes_in_words() -> None:
    assert expected(["int", "null"]) == "a whole number or null"
    assert expected(["int", "float"]) == "a number"
    assert expected(["bool", "int"]) == "true or false or a whole number"
    assert expected(["k1", "k2"]) == "one of k1 or k2"
    assert stored.stored().commands["chat"].options
