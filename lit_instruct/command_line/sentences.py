"""Errors of jsonargparse in one sentence, which names the option and what it takes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lit_instruct.command_line.given import Given
from lit_instruct.errors import UserError

WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "dict": "a mapping, as '{name: value}'",
    "list": "a list, as '[first, second]'",
    "null": "null",
    "NoneType": "null",
    "timedelta": "a duration, as 00:12:00:00 (days, hours, minutes, seconds)",
}
CLASS = "a class: its import path, as mypackage.parts.Name, or the name of one of Lightning's"


def parse_error(message: str, given: Sequence[Given]) -> UserError:
    """Returns an error of the parser as one sentence.

    Args:
        message: of jsonargparse; it may have many lines.
        given: all options that were given.
    """
    key = _key(message)
    shown = next((one.shown for one in reversed(given) if one.name == key), f"--{key}")
    if key is None:
        return UserError(" ".join(message.split())[:300])
    if "Unable to load config" in message:
        return UserError(f"{shown}: no such config file, and a group of options needs one; give --{key}.<option>=value")
    of_class = re.search(r"Problem with given class_path '([^']*)':\s*(.*)", message)
    if of_class is not None and "Parser key" not in of_class[2]:
        return UserError(_of_class(key, shown, of_class[1].rpartition(".")[2], of_class[2], of_class[1]))
    wanted = [_words(found) for found in re.findall(r"Expected an? ([^\n]*?)(?:\. Got value: .*)?(?:\n|$)", message)]
    wanted = list(dict.fromkeys(word for word in wanted if word))
    if not wanted:
        return UserError(f"{shown}: {' '.join(message.split())[:300]}")
    return UserError(f"{shown}: must be {' or '.join(wanted)}")


def expected(values: Sequence[str]) -> str:
    """Returns what an option takes, such as "a whole number or null" or "one of k1, k2 or k3"."""
    kinds = [WORDS[value] for value in values if value in WORDS and value != "null"]
    if "int" in values and "float" in values:
        kinds.remove(WORDS["int"])
    words = [value for value in values if value not in WORDS]
    if len(words) > 1:
        kinds.append(f"one of {', '.join(words[:-1])} or {words[-1]}")
    else:
        kinds += words
    return " or ".join([*kinds, *(["null"] if "null" in values else [])])


def _key(message: str) -> str | None:
    """The dotted name of the option that an error is about."""
    keys = re.findall(r'Parser key "([^"]+)"', message)
    keys = list(dict.fromkeys(re.sub(r"^(fit|validate|test)\.", "", key) for key in keys))
    if not keys:
        return None
    inner = [key for key in keys[1:] if not key.startswith(keys[0])]
    return ".".join([keys[0], *inner])


def _of_class(key: str, shown: str, name: str, problem: str, path: str) -> str:
    """The sentence for a class that the user chose, and what is wrong with it."""
    if missing := re.search("required: (.*)", problem):
        first = missing[1].split(",")[0].strip()
        return f"{shown}: {name} needs {missing[1]}; give --{key}.{first}=..."
    if unknown := re.search("Option '([^']*)' is not accepted", problem):
        return f"--{key}.{unknown[1]}: {name} has no such option; --{key}.help={path} lists them"
    return f"{shown}: cannot be used ({problem.strip()}); give {CLASS}"


def _words(kind: str) -> str:
    """What a type is in words; nothing for a path, as texts and classes are expected beside it."""
    if kind.startswith("path but"):
        return ""
    if kind.startswith("dot import path") or "lightning." in kind:
        return CLASS
    if kind.startswith("typing.Literal"):
        found = re.findall(r"'([^']*)'|([\w.]+)(?=[,\]])", kind.partition("[")[2])
        return expected([text or number for text, number in found])
    name = kind.removeprefix("<class '").partition("'")[0].rpartition(".")[2]
    return WORDS.get(name, "" if name == "Iterable" else name)
