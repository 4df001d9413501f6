"""Unreadable images: skipped, counted, replaced by another one that depends on the sample alone."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import numpy.typing as npt

from layergraft.data.decode import BadImage, Reduction
from layergraft.data.sources import Source
from layergraft.errors import UserError
from layergraft.randomness import Randomness

_REPLACEMENTS = 20


class SkippedImages:
    """Args:
    max_bad: fraction of the source that may be unreadable.
    """

    def __init__(self, max_bad: float) -> None:
        self.max_bad = max_bad
        self.reasons: dict[int, str] = {}
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
            self.reasons[key] = reason
            too_many = len(self.reasons) > self.max_bad * len(source)
        if too_many:
            raise UserError(
                f"{len(self.reasons)} of {len(source)} images of {source.spec!r} cannot be read, "
                f"more than --data.max-bad {self.max_bad:g} allows.",
                self.summary(source) + "\nRemove them, or raise --data.max-bad. The last checkpoint is kept.",
            )

    def summary(self, source: Source) -> str:
        """Counts by reason, and the first names."""
        with self._lock:
            reasons = dict(self.reasons)
        counts = ", ".join(f"{count} {reason}" for reason, count in Counter(reasons.values()).most_common())
        names = ", ".join(repr(source.images.name(key)) for key in sorted(reasons)[:20])
        return f"{counts}: {names}" if reasons else ""
