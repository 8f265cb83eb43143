"""The file that says which judge is asked, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_type_hints

import jinja2
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lit_instruct.errors import UserError
from lit_instruct.files import cache_folder
from lit_instruct.json_types import fits

Method = Literal["pairs", "all", "rate"]
SHOWN = """\
The user wrote:

{{ prompt }}

"""
CRITERIA = (
    "Judge by how well it follows the instruction, whether it is true, and whether it does harm; not by its length."
)
TEMPLATES: dict[str, str] = {
    "pairs": SHOWN
    + """\
Response A:

{{ first }}

Response B:

{{ second }}

Which response is better? """
    + CRITERIA
    + """
Explain in one sentence. Then write a last line with the better response alone: A, B, or tie.""",
    "all": SHOWN
    + """\
{% for letter, response in responses %}\
Response {{ letter }}:

{{ response }}

{% endfor %}\
Order the responses from best to worst. """
    + CRITERIA
    + """
Explain in one sentence. Then write a last line with the order alone, such as B > A = C, where = means equally good.""",
    "rate": SHOWN
    + """\
The response:

{{ response }}

How good is the response, from {{ low }} (worst) to {{ high }} (best)? """
    + CRITERIA
    + """
Explain in one sentence. Then write a last line with the number alone.""",
}
"""What a judge is asked where its file says nothing else."""
ONE, OTHER = "<one response>", "<another response>"
EXAMPLE: dict[str, Any] = {
    "prompt": "<the prompt>",
    "first": ONE,
    "second": OTHER,
    "response": ONE,
    "responses": [("A", ONE), ("B", OTHER)],
}
SHOWS = {"pairs": "first and second", "all": "responses", "rate": "response"}
"""The names by which a template shows the responses."""
WANTED = {
    "url": "a text",
    "model": "a text",
    "key": "the name of an environment variable",
    "by": "pairs, all or rate",
    "swap": "true or false",
    "templates": "texts by method: pairs, all, rate",
    "system": "a text",
    "lowest": "a number",
    "highest": "a number",
    "max_tokens": "a whole number",
    "body": "names with values",
    "concurrent": "a whole number",
    "timeout": "a number of seconds",
    "retries": "a whole number",
    "budget": "a whole number, or null",
    "cache": "the path of a file",
    "on_unusable": "stop or leave_out",
}


@dataclass
class JudgeOptions:
    """What a judge's file may say."""

    url: str
    """Address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1."""
    model: str
    """Name of the model there."""
    key: str | None = None
    """Name of the environment variable with the key; None sends none."""
    by: Method = "pairs"
    """How K responses are ranked: two at a time, all at once, or each rated on its own."""
    swap: bool = True
    """Whether each question is asked a second time with the responses in the opposite order."""
    templates: dict[str, str] = field(default_factory=dict)
    """Jinja templates of the questions, by method; those of TEMPLATES where it has none."""
    system: str | None = None
    """System prompt; None sends none."""
    lowest: float = 1.0
    """Lowest rating."""
    highest: float = 10.0
    """Highest rating."""
    max_tokens: int = 512
    """Longest answer."""
    body: dict[str, Any] = field(default_factory=dict)
    """Further fields of each request; null leaves one of ours out."""
    concurrent: int = 4
    """Most questions at a time."""
    timeout: float = 60.0
    """Seconds that one call may take."""
    retries: int = 5
    """How often a failed call is repeated."""
    budget: int | None = None
    """Most calls of one command, retries included; None for no limit."""
    cache: str | None = None
    """SQLite file of the answers; None takes judge.db in the cache folder."""
    on_unusable: Literal["stop", "leave_out"] = "stop"
    """What happens if an answer has no verdict."""

    def cache_path(self) -> Path:
        """Returns the file of the answers."""
        return Path(self.cache).expanduser() if self.cache is not None else cache_folder() / "judge.db"


def read_judge(path: Path, name: str) -> JudgeOptions:
    """Returns the options in a judge's file.

    Args:
        path: the file.
        name: the option and what it names, for messages, which never show a value: it might be a key.

    Raises:
        UserError: the file is missing or wrong.
    """
    record = _record(path, name)
    known = {one.name for one in fields(JudgeOptions)}
    for field_name in record:
        if field_name not in known:
            near = get_close_matches(str(field_name), known, 1)
            advice = f"did you mean {near[0]}?" if near else f"its fields are {', '.join(sorted(known))}"
            raise UserError(f"{name}: there is no field {str(field_name)[:40]!r}; {advice}")
    if missing := [one for one in ("url", "model") if not record.get(one)]:
        raise UserError(f"{name}: give `{missing[0]}`, as in docs/labelers.md")
    _check_types(record, name)
    options = JudgeOptions(**record)
    _check_ranges(options, name)
    _check_templates(options, name)
    return options


def _record(path: Path, name: str) -> dict[Any, Any]:
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{name}: no such file; give judge:FILE.yaml") from error
    except OSError as error:
        raise UserError(f"{name}: cannot read it ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise UserError(f"{name}: not a YAML file{where}; correct it") from None  # the cause quotes the file
    if not isinstance(record, dict):
        raise UserError(f"{name}: give names with values, as in docs/labelers.md")
    return record


def _check_types(record: Mapping[str, Any], name: str) -> None:
    hints = get_type_hints(JudgeOptions)
    for field_name, value in record.items():
        if not fits(value, hints[field_name]):
            raise UserError(f"{name}: `{field_name}` must be {WANTED[field_name]}")


def _check_ranges(options: JudgeOptions, name: str) -> None:
    for field_name, least in {"max_tokens": 1, "concurrent": 1, "retries": 0, "budget": 0}.items():
        value = getattr(options, field_name)
        if value is not None and value < least:
            raise UserError(f"{name}: `{field_name}` must be at least {least}")
    if not 0 < options.timeout < float("inf"):
        raise UserError(f"{name}: `timeout` must be above 0")
    if not options.lowest < options.highest:
        raise UserError(f"{name}: `lowest` must be below `highest`")


def _check_templates(options: JudgeOptions, name: str) -> None:
    for method in options.templates:
        if method not in TEMPLATES:
            raise UserError(f"{name}: `templates` has {method[:40]!r}; it may have {', '.join(TEMPLATES)}")
    for method, names in SHOWS.items():
        try:
            text = question(options, method, EXAMPLE)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise UserError(
                f"{name}: `templates`, {method}: {error}; a template may use {', '.join(EXAMPLE)}"
            ) from error
        if not all(response in text for response in (ONE, OTHER)[: 1 if method == "rate" else 2]):
            raise UserError(f"{name}: `templates`, {method}: it does not show every response; use {names}")


def question(options: JudgeOptions, method: str, values: Mapping[str, Any]) -> str:
    """Returns the question that a judge is asked.

    Args:
        options: with the templates.
        method: pairs, all or rate.
        values: prompt; first and second, responses (letter and text of each), or response.

    Raises:
        jinja2.TemplateError: the template is wrong.
    """
    scale = {"low": f"{options.lowest:g}", "high": f"{options.highest:g}"}
    return _compiled(options.templates.get(method, TEMPLATES[method])).render(scale | dict(values))


@cache
def _compiled(template: str) -> jinja2.Template:
    return ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True).from_string(
        template
    )
