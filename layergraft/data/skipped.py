"""Unreadable images: skipped, counted, replaced by another one that depends on the sample alone."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from layergraft.data.decode import BadImage, Reduction
from layergraft.data.sources import Source
from layergraft.errors import UserError
from layergraft.randomness import Randomness

_REPLACEMENTS = 20
NAMED = 20


def _silent(message: str) -> None:
    """Say nothing."""


def _reasons(rows: bytes) -> dict[int, str]:
    """Key -> reason of lines of a `skipped.jsonl`; one that a kill cut off is left out."""
    found = {}
    for line in rows.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found[row["key"]] = row["reason"]
    return found


def read_skipped(file: Path) -> dict[int, str]:
    """Key -> reason of a `skipped.jsonl`, empty where there is none."""
    return _reasons(file.read_bytes()) if file.is_file() else {}


def count_reasons(reasons: dict[int, str]) -> str:
    """How many for each reason."""
    return ", ".join(f"{count} {reason}" for reason, count in Counter(reasons.values()).most_common())


class SkippedImages:
    """Args:
    max_bad: fraction of the source that may be unreadable.
    file: `skipped.jsonl`, a line an image; what other processes of the run, or an earlier start, wrote there counts.
        None writes nothing.
    warn: called with a sentence about each of the first images.
    """

    def __init__(self, max_bad: float, file: Path | None = None, warn: Callable[[str], None] = _silent) -> None:
        self.max_bad, self.file, self.warn = max_bad, file, warn
        self.reasons: dict[int, str] = {}
        self._lock, self._seen = threading.Lock(), 0
        self._gather()

    def load(
        self,
        source: Source,
        key: int,
        channels: int,
        random: Randomness,
        epoch: int,
        reduction: Reduction | None = None,
    ) -> tuple[int, npt.NDArray[np.uint8]]:
        """(key, its image), or those of its replacement, whose label counts; `reduction` as in `decode`."""
        try:
            return key, source.images.load(key, channels, reduction)
        except BadImage as error:
            self._record(source, key, str(error))
        for word in random.words("replacement", [key], epoch, _REPLACEMENTS)[0]:
            other = int(source.keys[int(word) % len(source)])
            try:
                return other, source.images.load(other, channels, reduction)
            except BadImage as error:
                self._record(source, other, str(error))
        raise UserError(f"Twenty images in a row of {source.spec!r} cannot be read.", self.summary(source))

    def _record(self, source: Source, key: int, reason: str) -> None:
        with self._lock:
            if key in self.reasons:
                return
            self.reasons[key] = reason
            if self.file:
                row = {"key": key, "name": source.images.name(key), "reason": reason}
                self.file.parent.mkdir(parents=True, exist_ok=True)
                with open(self.file, "ab+") as file:
                    end = file.seek(0, os.SEEK_END)
                    file.seek(max(0, end - 1))
                    cut = file.read(1) not in (b"", b"\n")  # a kill in the middle of a line must not cost the next
                    file.write(b"\n" * cut + json.dumps(row).encode() + b"\n")
                self._gather()
            count = len(self.reasons)
        if count <= NAMED:
            self.warn(f"Skipped {source.images.name(key)!r}: {reason}.")

    def _gather(self) -> None:
        """Take in the whole lines that were written to the file since the last time."""
        if self.file and self.file.is_file():
            with open(self.file, "rb") as file:
                file.seek(self._seen)
                rows = file.read()
            rows = rows[: rows.rfind(b"\n") + 1]
            self._seen += len(rows)
            self.reasons |= _reasons(rows)

    def too_many(self, source: Source) -> bool:
        """Whether more images cannot be read than may be, as far as this process knows."""
        return len(self.reasons) > self.max_bad * len(source)

    def error(self, source: Source) -> UserError:
        """What stops a run with too many, whichever of its processes knew it first."""
        with self._lock:
            self._gather()
            count = len(self.reasons)
        return UserError(
            f"{count} of {len(source)} images of {source.spec!r} cannot be read, "
            f"more than --data.max-bad {self.max_bad:g} allows.",
            self.summary(source) + "\nRemove them, or raise --data.max-bad and run the same command again.",
        )

    def summary(self, source: Source) -> str:
        """Counts by reason, and the first names."""
        with self._lock:
            reasons = dict(self.reasons)
        names = ", ".join(repr(source.images.name(key)) for key in sorted(reasons)[:NAMED])
        return f"{count_reasons(reasons)}: {names}" if reasons else ""
