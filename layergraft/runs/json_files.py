"""Read JSON and JSON lines that anybody may have cut, garbled, or replaced."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from layergraft.config.paths import read_regular
from layergraft.errors import UserError

T = TypeVar("T")
MOVE_AWAY = "Restore it, or move it away and run the command that wrote it again."


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    return read_json_as(path, dict[str, Any])


def read_json_as(path: Path, kind: type[T], hint: str = MOVE_AWAY) -> T:
    """Read a JSON file whose content has a type; fields that the type does not name are left out.

    Args:
        path: the file.
        kind: what msgspec can check and build: a dataclass, a TypedDict, a list of them.
        hint: what to do where it is something else.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        content = read_regular(path)
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}.", hint) from None
    return parse_json_as(content, path, kind, hint)


def parse_json_as(content: str | bytes, path: Path, kind: type[T], hint: str = MOVE_AWAY) -> T:
    """As `read_json_as`, of JSON that is a part of a file.

    Args:
        content: the JSON.
        path: the file, for the message.
        kind: as in `read_json_as`.
        hint: likewise.

    Raises:
        UserError: it is no JSON, or something else.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        return msgspec.convert(json.loads(text), kind)
    except UnicodeDecodeError:
        raise UserError(f"{str(path)!r} cannot be read: it is not UTF-8.", hint) from None
    except (ValueError, RecursionError) as error:  # ValidationError is a ValueError
        raise UserError(f"{str(path)!r} cannot be read: {str(error).rstrip('.')}.", hint) from None


def read_json_lines(path: Path, fits: Callable[[Any], bool]) -> list[dict[str, Any]]:
    """Read one object a line; a bad line costs itself alone, with a word on stderr.

    Args:
        path: the file; it may not be there.
        fits: whether a line's object is what it should be.

    Returns:
        The good lines in order. A last line that a kill cut off is left out without a word.

    Raises:
        UserError: the file cannot be read.
    """
    if not path.exists():
        return []
    try:
        lines = read_regular(path).splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}.", MOVE_AWAY) from None
    rows, bad = [], []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line.decode("utf-8"))
            whole = isinstance(row, dict) and fits(row)
        except (ValueError, RecursionError):
            whole = False
        if whole:
            rows.append(row)
        elif line.strip() and (number < len(lines) or line.endswith(b"\n")):
            bad.append(number)
    if bad:
        named = ", ".join(map(str, bad[:8])) + (" …" if len(bad) > 8 else "")
        print(f"{path}: {len(bad)} damaged lines are left out: {named}.", file=sys.stderr)
    return rows
