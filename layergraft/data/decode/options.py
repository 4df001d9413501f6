"""How the files of a source are to be read: `?range=`, `?channels=`, `?page=`, `?z=` and `?level=`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from layergraft.errors import UserError

Range = tuple[tuple[float, float], ...]
"""(LOW, HIGH) of all channels, or of each one."""
READ_OPTIONS = ("range", "channels", "page", "z", "level")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Which numbers of a file become the grey levels 0 to 255, and how.

    Args:
        range: the values that are black and white in pictures of more than 8 bits, for all channels or for each one;
            `auto` until they have been found.
        channels: those to take, in this order: numbers from 1, or names.
        page: which picture of a file with several, from 1; None is the first, or all of them where they are channels.
        z: what becomes of a stack: one slice from 1, or the largest or mean value of all.
        level: of an OME-Zarr image, 0 is the finest, which None is, too.
    """

    range: Range | Literal["auto"] | None = None
    channels: tuple[int | str, ...] | None = None
    page: int | None = None
    z: int | Literal["max", "mean"] | None = None
    level: int | None = None

    def or_else(self, other: ReadOptions) -> ReadOptions:
        """The same, with another's values where there is none."""
        missing = {f.name: getattr(other, f.name) for f in fields(self) if getattr(self, f.name) is None}
        return replace(self, **missing)

    @property
    def fixed_range(self) -> Range | None:
        """The range as numbers; None where there is none."""
        assert self.range != "auto", "a range that has not been found yet"
        return self.range

    def words(self) -> dict[str, str]:
        """Option -> its value, as it is written behind the `?` of a SOURCE."""
        words: dict[str, str] = {}
        if self.range is not None:
            words["range"] = "auto" if self.range == "auto" else ";".join(f"{a:.9g},{b:.9g}" for a, b in self.range)
        if self.channels is not None:
            words["channels"] = ",".join(map(str, self.channels))
        return words | {
            name: str(value) for name in ("page", "z", "level") if (value := getattr(self, name)) is not None
        }

    def __str__(self) -> str:
        return "&".join(f"{name}={value}" for name, value in self.words().items())


def _range(text: str) -> Range | Literal["auto"]:
    if text == "auto":
        return "auto"
    pairs = []
    for part in text.split(";"):
        low, high = (float(number) for number in part.split(","))
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError
        pairs.append((low, high))
    return tuple(pairs)


def _channels(text: str) -> tuple[int | str, ...]:
    names = [name.strip() for name in text.split(",")]
    numbers = tuple(int(name) if name.isdecimal() else name for name in names)
    if not all(numbers):  # no name, or the number 0
        raise ValueError
    return numbers


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError
    return int(text)


def _z(text: str) -> int | Literal["max", "mean"]:
    return "max" if text == "max" else "mean" if text == "mean" else _count(text)


def _level(text: str) -> int:
    if not text.isdecimal():
        raise ValueError
    return int(text)


_PARSERS = {"range": _range, "channels": _channels, "page": _count, "z": _z, "level": _level}
_GRAMMAR = {
    "range": "It is LOW,HIGH (`range=0,4095`), LOW below HIGH; a pair a channel (`range=0,4095;0,900`); or `auto`.",
    "channels": "It is a list of numbers from 1, or of names: `channels=3,2,1`, `channels=DAPI,GFP`.",
    "page": "It is the number of a page, from 1.",
    "z": "It is `max`, `mean`, or the number of a slice, from 1.",
    "level": "It is the number of a level of the pyramid, 0 is the finest.",
}


def parse_read_options(query: Mapping[str, str], spec: str) -> ReadOptions:
    """Read the options that say how files are to be read; other ones are left alone.

    Args:
        query: option -> value.
        spec: the SOURCE, for messages.

    Raises:
        UserError: a value is none.
    """
    values: dict[str, Any] = {}
    tiled = "tile" in query  # then the level says how tiles are cut (`tiling.py`)
    for name, parse in _PARSERS.items():
        if name in query and not (tiled and name == "level"):
            try:
                values[name] = parse(query[name])
            except ValueError:
                raise UserError(f"{spec!r} has {name}={query[name]}.", _GRAMMAR[name]) from None
    return ReadOptions(**values)


def read_words(words: object, where: str) -> ReadOptions:
    """Options as `words` gives them, from a file; none where the file has none.

    Raises:
        UserError: they are no options.
    """
    if words is None:
        return ReadOptions()
    if not isinstance(words, dict) or not all(isinstance(value, str) for value in words.values()):
        raise UserError(f"{where!r}: how images are read is {words!r}, which is no set of options.")
    return parse_read_options(words, where)


def with_options(spec: str, options: ReadOptions) -> str:
    """A SOURCE with these reading options in place of its own."""
    place, _, query = spec.partition("?")
    parts = [(part.partition("=")[0], part) for part in query.split("&") if part]
    replaced = set(READ_OPTIONS) - ({"level"} if any(name == "tile" for name, _ in parts) else set())
    kept = [part for name, part in parts if name not in replaced]
    words = [f"{name}={value}" for name, value in options.words().items()]
    return "?".join(filter(None, (place, "&".join([*kept, *words]))))
