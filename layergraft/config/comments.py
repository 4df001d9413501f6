"""Comments in the YAML of a recipe: why a key has its value. They are kept when the file is written again."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping

WIDTH = 120
_KEY = re.compile(r"( *)([A-Za-z0-9_/-]+):(?: |$)")
Comments = Mapping[str, str]
"""Dotted key -> why it has its value; the key "" is the whole recipe."""


def _keys(lines: list[str]) -> Iterator[tuple[int, str, int]]:
    """(line, dotted key, indent) of every key of YAML in block style."""
    above: list[tuple[int, str]] = []
    for number, line in enumerate(lines):
        match = _KEY.match(line)
        if match is None:
            continue
        indent = len(match[1])
        above = [(depth, key) for depth, key in above if depth < indent]
        above.append((indent, match[2]))
        yield number, ".".join(key for _, key in above), indent


def _lines(sentence: str, indent: int) -> list[str]:
    start = f"{' ' * indent}# "
    return textwrap.wrap(sentence, WIDTH, initial_indent=start, subsequent_indent=start, break_long_words=False)


def with_comments(text: str, comments: Comments) -> str:
    """YAML in block style with a comment above each key that has one; those of keys that are not there are left out.

    Args:
        text: the YAML, without comments.
        comments: what is to be said.
    """
    lines = text.splitlines()
    before = {number: _lines(comments[key], indent) for number, key, indent in _keys(lines) if comments.get(key)}
    whole = [line for part in comments.get("", "").splitlines() for line in _lines(part, 0)]
    written = [*whole, ""] if whole else []
    for number, line in enumerate(lines):
        written += [*before.get(number, ()), line]
    return "\n".join(written) + "\n"


def read_comments(text: str) -> dict[str, str]:
    """The comments of a text that `with_comments` wrote."""
    lines = text.splitlines()
    comments: dict[str, str] = {}
    if "" in lines and all(line.startswith("#") for line in lines[: lines.index("")]):
        comments[""] = "\n".join(line.lstrip("# ") for line in lines[: lines.index("")])
    for number, key, _ in _keys(lines):
        first = number
        while first and lines[first - 1].lstrip().startswith("#"):
            first -= 1
        if first < number:
            comments[key] = " ".join(line.strip().lstrip("# ") for line in lines[first:number])
    return comments
