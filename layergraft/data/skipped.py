"""Unreadable images: skipped, counted, replaced by another one that depends on the sample alone."""

from __future__ import annotations

import json
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


def read_skipped(file: Path) -> dict[int, str]:
    """Key -> reason of a `skipped.jsonl`, empty where there is none; a line that a kill cut off is left out."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return {row["key"]: row["reason"] for row in rows}


def count_reasons(reasons: dict[int, str]) -> str:
    """How many for each reason."""
    return ", ".join(f"{count} {reason}" for reason, count in Counter(reasons.values()).most_common())


class SkippedImages:
    """Args:
    max_bad: fraction of the source that may be unreadable.
    file: `skipped.jsonl`, a line an image; what an earlier start wrote there counts. None writes nothing.
    warn: called with a sentence about each of the first images.
    """

    def __init__(self, max_bad: float, file: Path | None = None, warn: Callable[[str], None] = _silent) -> None:
        self.max_bad, self.file, self.warn = max_bad, file, warn
        self.reasons = read_skipped(file) if file else {}
        self._lock = threading.Lock()

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
            fresh = key not in self.reasons
            self.reasons[key] = reason
            count = len(self.reasons)
            if fresh and self.file:
                row = {"key": key, "name": source.images.name(key), "reason": reason}
                self.file.parent.mkdir(parents=True, exist_ok=True)
                with open(self.file, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
        if fresh and count <= NAMED:
            self.warn(f"Skipped {source.images.name(key)!r}: {reason}.")
        if count > self.max_bad * len(source):
            raise UserError(
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
