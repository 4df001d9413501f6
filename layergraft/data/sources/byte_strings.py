"""Byte strings by the million: one buffer, and where in it each one begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ByteStrings:
    """Many byte strings.

    Args:
        offsets: of the first byte of each, and of the end, int64 of shape (N + 1,), from 0.
        content: all of them in a row.
    """

    offsets: npt.NDArray[np.int64]
    content: bytes | memoryview

    @classmethod
    def of(cls, strings: Sequence[bytes]) -> ByteStrings:
        """Those of a list."""
        offsets = np.zeros(len(strings) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, strings), dtype=np.int64, count=len(strings)), out=offsets[1:])
        return cls(offsets, b"".join(strings))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> bytes:
        return bytes(self.content[int(self.offsets[row]) : int(self.offsets[row + 1])])

    def tolist(self) -> list[bytes]:
        """One by one."""
        content, ends = bytes(self.content), self.offsets.tolist()
        return [content[start:stop] for start, stop in pairwise(ends)]
