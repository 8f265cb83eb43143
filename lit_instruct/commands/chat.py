"""`lit-instruct chat`: talk to a stage's model in the terminal, or to two side by side."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, TextIO

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from lit_instruct.errors import UserError
from lit_instruct.terminal import printable

if TYPE_CHECKING:
    from lit_instruct.prompting import Message, Prompt, Prompter
    from lit_instruct.rollouts.text import Response, TextGenerator

COMMANDS = {
    "/help": "list the commands",
    "/reset": "start a new conversation (also /new)",
    "/system": "TEXT sets the system prompt; without a text, the model's own is used again",
    "/quit": "leave",
}
_COMMAND = re.compile(r"/[a-z]+(?=\s|$)")  # "/etc/hosts" is no command


@dataclass
class ChatOptions:
    """Which model to talk to, and how it samples."""

    run: str = "runs/demo/ppo"
    """Stage folder, hub id, Hugging Face folder or embedded name of the model."""
    compare: str | None = None
    """A second model, whose answers are shown beside the first's."""
    max_new_tokens: int = 128
    """Maximum number of tokens per answer."""
    temperature: float = 0.7
    """Sampling temperature; lower is more predictable."""
    top_p: float = 0.95
    """Nucleus sampling: keep the most probable tokens that together have this probability."""
    seed: int = 0
    """Seed of the first answer; each further answer adds 1."""
    history: bool = False
    """Include earlier turns in the prompt (the demo trains on single turns; needs a chat template)."""
    quantize: Literal["none", "8bit", "4bit"] | None = None
    """Bits of the models' bases; null uses those of their stages."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"--max_new_tokens: {self.max_new_tokens} is below 1; give a positive number")
        if not self.temperature > 0:
            raise UserError(f"--temperature: {self.temperature} is not above 0; give a positive number")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top_p: {self.top_p} is not in (0, 1]; give a share such as 0.95")


@dataclass
class Speaker:
    """A model in the conversation, with its history."""

    name: str
    generator: TextGenerator
    messages: list[Message] = field(default_factory=list)
    own_format: Prompter | None = None
    """The model's own prompt format, while another system prompt is set."""

    def with_system(self, text: str) -> Prompter:
        """Returns the model's prompt format with a system prompt, "" for its own; UserError if it takes none."""
        own = self.own_format or self.generator.prompter
        return type(own)(own.tokenizer, own.kind, text, own.more_stop_ids) if text else own

    def set_format(self, prompter: Prompter) -> None:
        """Uses a prompt format of `with_system` from now on."""
        self.own_format = self.own_format or self.generator.prompter
        self.generator.prompter = prompter

    def answer(self, text: str, turn: int, options: ChatOptions) -> Response:
        """Answers an input; with `history`, both become part of the conversation."""
        asked: Message = {"role": "user", "content": text}
        prompt: Prompt = [*self.messages, asked] if options.history else text
        response = self.generator.respond(
            [prompt],
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            seed=options.seed + turn,
        )[0][0]
        if options.history:
            self.messages += [asked, {"role": "assistant", "content": response.text}]
        return response


def chat(
    options: ChatOptions,
    *,
    load: Callable[[str], TextGenerator] | None = None,
    stdin: TextIO | None = None,
    stdout: TextIO | None = None,
) -> None:
    """Answers each input until /quit, end of input or Ctrl-C; `COMMANDS` are carried out.

    In a terminal answers appear in panels, two side by side with `compare`. With a pipe as stdin, each input line gives
    one output line: the answer with line breaks replaced by spaces; with `compare`, both answers separated by a tab.
    An answer that the length limit cut says so, with a pipe on standard error.

    Args:
        options: the models and their sampling.
        load: model source -> TextGenerator; for tests.
        stdin: input, by default the process's.
        stdout: output, by default the process's.

    Raises:
        UserError: a model cannot be opened, or does not support the options.
    """
    source, out = stdin or sys.stdin, stdout or sys.stdout
    try:
        speakers = _load(options, load)
        if source.isatty():
            _talk(speakers, options, Console(file=out))
        else:
            _answer_lines(speakers, options, source, out)
    except KeyboardInterrupt:
        print(file=out)


def _load(options: ChatOptions, load: Callable[[str], TextGenerator] | None) -> list[Speaker]:
    if load is None:
        from lit_instruct.rollouts.text import TextGenerator

        load = partial(TextGenerator.from_source, quantize=options.quantize)
    names = [options.run] if options.compare is None else [options.run, options.compare]
    with Console(stderr=True).status(f"loading {' and '.join(names)}"):
        return [Speaker(name, load(name)) for name in names]


def _talk(speakers: list[Speaker], options: ChatOptions, console: Console) -> None:
    kept = "earlier turns are part of the prompt" if options.history else "each input stands alone"
    console.print(Text(f"{kept}; /help lists the commands, /quit leaves", style="dim"))
    for turn, text in enumerate(_typed(console, speakers)):
        with console.status("..."):
            answers = [speaker.answer(text, turn, options) for speaker in speakers]
        console.print(_side_by_side(speakers, answers, console.width, options.max_new_tokens))


def _typed(console: Console, speakers: list[Speaker]) -> Iterator[str]:
    """Yields what the user types, without commands and empty lines, until /quit or the end of input."""
    with contextlib.suppress(ImportError):  # not on every platform
        import readline  # noqa: F401 (line editing in input())

    while True:
        try:
            text = console.input(Text("you> ", style="bold")).strip()
        except EOFError:
            console.print()
            return
        if text == "/quit":
            return
        if _COMMAND.match(text):
            console.print(Text(_carry_out(text, speakers), style="dim"))
        elif text:
            yield text


def _carry_out(text: str, speakers: list[Speaker]) -> str:
    """Carries out a command other than /quit and returns what to tell the user."""
    command, _, rest = text.partition(" ")
    if command in ("/reset", "/new"):
        for speaker in speakers:
            speaker.messages.clear()
        return "a new conversation"
    if command == "/system":
        try:
            formats = [speaker.with_system(rest.strip()) for speaker in speakers]
        except UserError as error:
            return f"the system prompt stays as it was: {error}"
        for speaker, prompter in zip(speakers, formats, strict=True):
            speaker.set_format(prompter)
        return f"system prompt: {rest.strip()}" if rest.strip() else "system prompt: the model's own"
    known = "\n".join(f"{name:8} {what}" for name, what in COMMANDS.items())
    return known if command == "/help" else f"unknown command {command}; the commands are\n{known}"


def _side_by_side(speakers: Iterable[Speaker], answers: Iterable[Response], width: int, most: int) -> Columns:
    panels = [
        Panel(_shown(answer, most), title=Text(speaker.name), title_align="left")
        for speaker, answer in zip(speakers, answers, strict=True)
    ]
    beside = len(panels) > 1 and width >= 80  # otherwise they would be too narrow and are stacked
    return Columns(panels, width=(width - 1) // 2 if beside else width, padding=(0, 1 if beside else 0))


def _shown(answer: Response, most: int) -> Text:
    text = Text(printable(answer.text) or "(empty)")  # Text, not str: "[bold]" in an answer is not markup
    return text if answer.ended else text.append(f" [{_cut(most)}]", style="dim")


def _cut(most: int) -> str:
    return f"cut at --max_new_tokens={most}"


def _answer_lines(speakers: list[Speaker], options: ChatOptions, lines: Iterable[str], out: TextIO) -> None:
    for turn, line in enumerate(lines):
        text = line.strip()
        if text == "/quit":
            return
        if not text or _COMMAND.match(text):
            told = [_carry_out(text, speakers).replace("\n", "; ")] if text else [""]
        else:
            answers = [speaker.answer(text, turn, options) for speaker in speakers]
            told = [answer.text for answer in answers]
            for speaker in (s for s, answer in zip(speakers, answers, strict=True) if not answer.ended):
                print(
                    f"line {turn + 1}: the answer of {speaker.name} is {_cut(options.max_new_tokens)}", file=sys.stderr
                )
        print("\t".join(" ".join(printable(part).split()) for part in told), file=out, flush=True)
