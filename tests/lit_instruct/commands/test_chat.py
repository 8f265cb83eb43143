"""Talking to a model: pipe, terminal, comparison, and ways out."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lit_instruct.commands.chat import COMMANDS, ChatOptions, chat
from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompter
from lit_instruct.rollouts.text import Response, TextGenerator


class Echo:
    """Answers with what it was asked, and notes prompts and settings."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.prompts: list[Any] = []
        self.settings: list[dict[str, Any]] = []

    def respond(self, prompts: Sequence[Any], **settings: Any) -> list[list[Response]]:
        self.prompts += prompts
        self.settings.append(settings)
        prompt = prompts[0] if isinstance(prompts[0], str) else prompts[0][-1]["content"]
        if prompt == "interrupt":
            raise KeyboardInterrupt
        return [[Response([1], f"{self.name}:\n[bold]{prompt}", ended=prompt != "long")]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def opened() -> dict[str, Echo]:
    return {}


def talk(text: str, opened: dict[str, Echo], *, terminal: bool = False, **changes: Any) -> str:
    def load(name: str) -> Any:
        return opened.setdefault(name, Echo(name))

    out = io.StringIO()
    chat(
        ChatOptions(run="ppo", **changes),
        load=load,
        stdin=(Terminal if terminal else io.StringIO)(text),
        stdout=out,
    )
    return out.getvalue()


def test_a_pipe_gives_one_line_an_input_line(opened: dict[str, Echo]) -> None:
    assert talk("hello\n\nbye", opened) == "ppo: [bold]hello\n\nppo: [bold]bye\n"
    assert opened["ppo"].prompts == ["hello", "bye"]
    assert [settings["seed"] for settings in opened["ppo"].settings] == [0, 2]


def test_a_pipe_compares_in_two_columns(opened: dict[str, Echo]) -> None:
    assert talk("hello\n", opened, compare="sft") == "ppo: [bold]hello\tsft: [bold]hello\n"


@pytest.mark.parametrize("last", ["/quit\nnever\n", ""])
def test_leaving_a_pipe(opened: dict[str, Echo], last: str) -> None:
    assert talk(f"hello\n{last}", opened) == "ppo: [bold]hello\n"


def test_an_interrupt_leaves_cleanly(opened: dict[str, Echo]) -> None:
    assert talk("hello\ninterrupt\nnever\n", opened) == "ppo: [bold]hello\n\n"


def test_options_reach_the_model(opened: dict[str, Echo]) -> None:
    talk("hello\n", opened, max_new_tokens=7, temperature=0.5, top_p=0.9, seed=3)
    assert opened["ppo"].settings == [{"max_new_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 3}]


def test_history_is_kept_as_messages(opened: dict[str, Echo]) -> None:
    talk("one\ntwo\n", opened, history=True)
    assert opened["ppo"].prompts[1] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "ppo:\n[bold]one"},
        {"role": "user", "content": "two"},
    ]


def type_lines(monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException]) -> None:
    typed = iter(lines)

    def read(*_: Any) -> str:
        line = next(typed, EOFError)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)


@pytest.mark.parametrize("end", ["/quit", EOFError, KeyboardInterrupt])
def test_a_terminal_shows_panels_and_leaves_cleanly(
    monkeypatch: pytest.MonkeyPatch, opened: dict[str, Echo], end: str | type[BaseException]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    type_lines(monkeypatch, "hello", "  ", "long", end, "never")
    shown = talk("", opened, terminal=True, compare="sft")
    assert opened["ppo"].prompts == opened["sft"].prompts == ["hello", "long"]
    assert shown.count("[bold]hello") == 2  # markup in an answer is text
    assert any("ppo:" in line and "sft:" in line for line in shown.splitlines())  # side by side
    assert shown.count("[cut at --max_new_tokens=128]") == 2


def test_a_narrow_terminal_puts_answers_below_each_other(
    monkeypatch: pytest.MonkeyPatch, opened: dict[str, Echo]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    type_lines(monkeypatch, "hello")
    shown = talk("", opened, terminal=True, compare="sft")
    assert not any("ppo:" in line and "sft:" in line for line in shown.splitlines())


@pytest.mark.parametrize("command", ["/reset", "/new"])
def test_reset_forgets_the_conversation(monkeypatch: pytest.MonkeyPatch, opened: dict[str, Echo], command: str) -> None:
    type_lines(monkeypatch, "one", command, "two")
    talk("", opened, terminal=True, history=True)
    assert opened["ppo"].prompts[1] == [{"role": "user", "content": "two"}]


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("typed", ["/help", "/what is this", "/frobnicate"])
def test_help_and_unknown_commands_list_the_commands(
    monkeypatch: pytest.MonkeyPatch, opened: dict[str, Echo], typed: str, terminal: bool
) -> None:
    type_lines(monkeypatch, typed)
    shown = talk(f"{typed}\n", opened, terminal=terminal)
    assert all(command in shown for command in COMMANDS)
    assert ("unknown command" in shown) == (typed != "/help")
    assert "ppo" not in opened or opened["ppo"].prompts == []
    assert terminal or shown.count("\n") == 1


def test_a_path_is_no_command(opened: dict[str, Echo]) -> None:
    talk("/etc/hosts is what?\n", opened)
    assert opened["ppo"].prompts == ["/etc/hosts is what?"]


def test_an_answer_that_the_limit_cut_says_so_beside_a_pipe(
    opened: dict[str, Echo], capsys: pytest.CaptureFixture[str]
) -> None:
    assert talk("short\nlong\n", opened, compare="sft").count("cut at") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "cut at" in line]
    assert said == [f"line 2: the answer of {name} is cut at --max_new_tokens=128" for name in ("ppo", "sft")]


def test_a_system_prompt_is_set_and_taken_back(tiny_model: Path) -> None:
    generators: list[TextGenerator] = []

    def load(name: str) -> TextGenerator:
        generators.append(TextGenerator.from_source(name))
        return generators[-1]

    def prompt_after(*lines: str) -> list[str]:
        generators.clear()
        out, options = io.StringIO(), ChatOptions(run=str(tiny_model), compare=str(tiny_model), max_new_tokens=1)
        chat(options, load=load, stdin=io.StringIO("\n".join(lines)), stdout=out)
        prompters = [generator.prompter for generator in generators]
        return [prompter.tokenizer.decode(prompter.prompt_ids("Hi")) for prompter in prompters]

    own = prompt_after("hello")
    assert all("You are rude" in text for text in prompt_after("/system You are rude", "hello"))
    assert prompt_after("/system You are rude", "/system Be brief", "/system") == own


def test_a_model_without_system_prompts_says_so(tmp_path: Path, tiny_model: Path) -> None:
    generator = TextGenerator.from_source(str(tiny_model))
    raw = Prompter(generator.prompter.tokenizer, "raw")
    out = io.StringIO()

    def load(_: str) -> TextGenerator:
        generator.prompter = raw
        return generator

    chat(ChatOptions(run="raw"), load=load, stdin=io.StringIO("/system Be brief\n"), stdout=out)
    assert out.getvalue().startswith("the system prompt stays as it was: ")
    assert generator.prompter is raw


def test_control_characters_do_not_reach_the_terminal(opened: dict[str, Echo]) -> None:
    shown = talk("a\x1b[2Jb\u202ec\n", opened)
    assert "a\\x1b[2Jb\\u202ec" in shown and "\x1b[2J" not in shown and "\u202e" not in shown


@pytest.mark.parametrize("wrong", [{"max_new_tokens": 0}, {"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(wrong))}: "):
        ChatOptions(**wrong)


def test_a_missing_model_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        chat(ChatOptions(run=os.fspath(tmp_path / "none")), stdin=io.StringIO("hello\n"), stdout=io.StringIO())


def test_a_real_model_answers_a_pipe(tiny_model: Path) -> None:
    out = io.StringIO()
    options = ChatOptions(run=str(tiny_model), max_new_tokens=4)
    chat(options, load=TextGenerator.from_source, stdin=io.StringIO("hello\nhello\n"), stdout=out)
    assert out.getvalue().count("\n") == 2
