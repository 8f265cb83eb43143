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

if TYPE_CHECKING:
    from lit_instruct.prompting import Message, Prompt
    from lit_instruct.rollouts.text import Response, TextGenerator

# Control characters other than line feed and tab: a model must not control the terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


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
    """Answers each input until /quit, end of input or Ctrl-C.

    In a terminal answers appear in panels, two side by side with `compare`. With a pipe as stdin, each input line gives
    one output line: the answer with line breaks replaced by spaces; with `compare`, both answers separated by a tab.

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
    alone, turns = "each input stands alone; /quit to leave", "/quit to leave, /new to start a new conversation"
    hint = turns if options.history else alone
    console.print(Text(hint, style="dim"))
    for turn, text in enumerate(_typed(console, speakers)):
        with console.status("..."):
            answers = [speaker.answer(text, turn, options) for speaker in speakers]
        console.print(_side_by_side(speakers, answers, console.width))


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
        if text == "/new":
            for speaker in speakers:
                speaker.messages.clear()
        elif text:
            yield text


def _side_by_side(speakers: Iterable[Speaker], answers: Iterable[Response], width: int) -> Columns:
    panels = [
        Panel(_shown(answer), title=Text(speaker.name), title_align="left")
        for speaker, answer in zip(speakers, answers, strict=True)
    ]
    beside = len(panels) > 1 and width >= 80  # otherwise they would be too narrow and are stacked
    return Columns(panels, width=(width - 1) // 2 if beside else width, padding=(0, 1 if beside else 0))


def _shown(answer: Response) -> Text:
    text = Text(printable(answer.text) or "(empty)")  # Text, not str: "[bold]" in an answer is not markup
    return text if answer.ended else text.append(" [length limit]", style="dim")


def _answer_lines(speakers: list[Speaker], options: ChatOptions, lines: Iterable[str], out: TextIO) -> None:
    for turn, line in enumerate(lines):
        text = line.strip()
        if text == "/quit":
            return
        answers = [speaker.answer(text, turn, options).text for speaker in speakers] if text else [""]
        print("\t".join(" ".join(printable(answer).split()) for answer in answers), file=out, flush=True)


def printable(text: str) -> str:
    """Returns a text without control characters other than line feed and tab."""
    return _CONTROL.sub("", text)
