"""Which tiles of a slide hold tissue, by the colour of a thumbnail."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from layergraft.data.arrays import Pixels
from layergraft.runs.interruption import check

SIDE = 16  # pixels of a tile in the thumbnail, across and down
LOW, HIGH = 0.05, 0.2  # of the saturation that parts tissue from glass: a slide may hold one of them alone
BLACK = 0.1  # of the value: what is darker is no tissue, but the border of a scan
Grid = npt.NDArray[np.bool_]


class Thumbnails(Protocol):
    """Something cut into tiles, whose tiles can be seen small."""

    rows: int
    columns: int

    def thumbnail(self, row: int, column: int, rows: int, columns: int, side: int) -> Pixels:
        """Some tiles side by side, each of `side` pixels: RGBA."""
        ...

    def at_once(self, side: int) -> int:
        """How many tiles, across and down, are to be asked for at once."""
        ...


def find_tissue(tiles: Thumbnails, share: float) -> Grid:
    """Find the tiles of which enough is tissue.

    On a thumbnail in which a tile has 16 by 16 pixels, tissue is what is more saturated (HSV) than Otsu's threshold of
    this thumbnail (N. Otsu, 1979, "A threshold selection method from gray-level histograms"), held between 0.05 and
    0.2. What is transparent or black is none.

    Args:
        tiles: of one slide.
        share: of a tile that is to be tissue, in (0, 1].

    Returns:
        Shape (rows, columns).
    """
    saturation = np.zeros((tiles.rows * SIDE, tiles.columns * SIDE), dtype=np.uint8)
    seen = np.zeros(saturation.shape, dtype=bool)
    step = tiles.at_once(SIDE)
    for row in range(0, tiles.rows, step):
        for column in range(0, tiles.columns, step):
            check()
            rows, columns = min(step, tiles.rows - row), min(step, tiles.columns - column)
            pixels = tiles.thumbnail(row, column, rows, columns, SIDE)
            hsv = cv2.cvtColor(np.ascontiguousarray(pixels[:, :, :3]), cv2.COLOR_RGB2HSV)
            where = np.s_[row * SIDE : (row + rows) * SIDE, column * SIDE : (column + columns) * SIDE]
            saturation[where] = hsv[:, :, 1]
            seen[where] = (pixels[:, :, 3] > 127) & (hsv[:, :, 2] > 255 * BLACK)
    values = saturation[seen]
    if not len(values):
        return np.zeros((tiles.rows, tiles.columns), dtype=bool)
    otsu, _ = cv2.threshold(values[np.newaxis], 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    tissue = seen & (saturation > min(max(otsu, 255 * LOW), 255 * HIGH))
    shares = tissue.reshape(tiles.rows, SIDE, tiles.columns, SIDE).mean(axis=(1, 3))
    return np.asarray(shares >= share, dtype=bool)
