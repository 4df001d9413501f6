"""Numbers as people read them, on the terminal and in reports."""

from __future__ import annotations

import math
import re
from itertools import pairwise

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def short(number: float, digits: int = 3) -> str:
    """A number to some digits, without what an exponent does not need: 2.4e-5, 480."""
    return f"{float(f'{number:.{digits}g}'):g}".replace("e-0", "e-").replace("e+0", "e")


def counted(number: float, thing: str) -> str:
    """A number of things: `1 epoch`, `4.5 epochs`, `1,200 images`, `2 classes`."""
    ending = "es" if thing.endswith(("s", "tch")) else "s"
    return f"{number:,.10g} {thing}{'' if number == 1 else ending}"


def counted_shots(shots: str) -> str:
    """Labels a class as results have them: `1 shot`, `5 shots`, `10% labels`."""
    return f"{shots} labels" if shots.endswith("%") else f"{shots} shot{'' if shots == '1' else 's'}"


def duration(seconds: float) -> str:
    """A length of time in at most two units: `0.4 s`, `45 s`, `2 min 10 s`, `1 h 32 min`, `3 d 4 h`."""
    if not math.isfinite(seconds):
        return "an unknown time"
    for (unit, length), (smaller_unit, smaller_length) in pairwise(_UNITS):
        count, rest = divmod(round(seconds / smaller_length), length // smaller_length)
        if count:
            return f"{count} {unit} {rest} {smaller_unit}" if rest else f"{count} {unit}"
    return f"{seconds:.0f} s" if seconds >= 9.95 else f"{short(seconds, 2)} s"


def slug(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9+.]+", "-", text).strip("-")
