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
from layergraft.data.randomness import Randomness
from layergraft.data.sources.file_state import Stamp
from layergraft.data.sources.source import Source
from layergraft.errors import UserError
from layergraft.runs.atomic import write_bytes, writing
from layergraft.runs.interruption import check

_REPLACEMENTS = 20
NAMED = 20


def _silent(message: str) -> None:
    """Say nothing."""


def _entry(line: bytes) -> tuple[int, str, str] | None:
    """(key, name, reason) of a line of a `skipped.jsonl`; None where a kill cut it off, or it is damaged."""
    try:
        row = json.loads(line)
        key = int(row["key"])
        return (key, str(row["name"]), str(row["reason"])) if key >= 0 else None
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def _reasons(rows: bytes) -> dict[int, str]:
    """Key -> reason of the lines of a `skipped.jsonl` that are whole."""
    return {entry[0]: entry[2] for line in rows.splitlines() if (entry := _entry(line)) is not None}


def read_skipped(file: Path) -> dict[int, str]:
    """Key -> reason of a `skipped.jsonl`, empty where there is none."""
    return _reasons(file.read_bytes()) if file.is_file() else {}


def count_reasons(reasons: dict[int, str]) -> str:
    """How many for each reason."""
    return ", ".join(f"{count} {reason}" for reason, count in Counter(reasons.values()).most_common())


def forget_mended(file: Path, source: Source, channels: int) -> None:
    """Drop the lines of a `skipped.jsonl` whose images can be read by now: mended, or a store that was away is back.

    Args:
        file: of an earlier start; it may not be there.
        source: images, of which one with another name than a line's is left alone.
        channels: as they are read with.
    """
    if not file.is_file():
        return

    def still_bad(line: bytes) -> bool:
        check()
        entry = _entry(line)
        if entry is None or not 0 <= entry[0] < len(source.images) or source.images.name(entry[0]) != entry[1]:
            return True
        try:
            source.images.load(entry[0], channels)
        except BadImage:
            return True
        return False

    lines = file.read_bytes().splitlines()
    kept = [line for line in lines if still_bad(line)]
    if len(kept) < len(lines):
        write_bytes(file, b"".join(line + b"\n" for line in kept))


class SkippedImages:
    """Notes the unreadable images of a run, and says when they are too many.

    Args:
        max_bad: fraction of the source that may be unreadable.
        file: `skipped.jsonl`, a line an image; what other processes of the run, or an earlier start, wrote there
            counts. None writes nothing.
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
            self.note(source, key, str(error))
        for word in random.words("replacement", [key], epoch, _REPLACEMENTS)[0]:
            other = int(source.keys[int(word) % len(source)])
            try:
                return other, source.images.load(other, channels, reduction)
            except BadImage as error:
                self.note(source, other, str(error))
        raise UserError(f"Twenty images in a row of {source.spec!r} cannot be read.", self.summary(source))

    def note(self, source: Source, key: int, reason: str) -> None:
        """Write down that an image cannot be read; the first ones are said."""
        with self._lock:
            if key in self.reasons:
                return
            self.reasons[key] = reason
            if self.file:
                row = {"key": key, "name": source.images.name(key), "reason": reason}
                with writing(self.file):
                    self.file.parent.mkdir(parents=True, exist_ok=True)
                with writing(self.file), open(self.file, "ab+") as file:
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
            f"{self.summary(source)}\nMend them where they are, or raise --data.max-bad, and run the same command "
            "again. Without them it is another set of images, which needs another --out.",
        )

    def summary(self, source: Source) -> str:
        """Counts by reason, and the first names."""
        with self._lock:
            reasons = dict(self.reasons)
        keys = [key for key in sorted(reasons) if key < len(source.images)]  # lines of the file may be of others
        names = ", ".join(repr(source.images.name(key)) for key in keys[:NAMED])
        return f"{count_reasons(reasons)}: {names}" if reasons else ""


class NotedImages:
    """Images that are looked at, not trained on: those that cannot be read are noted, and left to the one who asks.

    Args:
        source: the images.
        skipped: where they are noted.
    """

    def __init__(self, source: Source, skipped: SkippedImages) -> None:
        self.source, self.skipped = source, skipped

    def __len__(self) -> int:
        return len(self.source.images)

    def load(self, index: int, channels: int, reduction: Reduction | None = None) -> npt.NDArray[np.uint8]:
        """As the source does; raises `BadImage`, too."""
        try:
            return self.source.images.load(index, channels, reduction)
        except BadImage as error:
            self.skipped.note(self.source, index, str(error))
            raise

    def read(self, index: int) -> bytes:
        return self.source.images.read(index)

    def name(self, index: int) -> str:
        return self.source.images.name(index)

    def stamp(self, keys: npt.NDArray[np.int64]) -> Stamp | None:
        return self.source.images.stamp(keys)
