"""Whole slides (`.svs`, `.ndpi`, `.mrxs` …), read a region at a time by OpenSlide."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from layergraft.config.paths import check_regular
from layergraft.data.arrays import Pixels
from layergraft.data.decode.picture import BadImage, Picture, Request
from layergraft.data.decode.tiling import Tiling
from layergraft.errors import UserError

SLIDE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi")
PYRAMID_SUFFIXES = (*SLIDE_SUFFIXES, ".tif", ".tiff", ".dcm")
"""Of files that may be pyramids; others that lie beside them belong to them, or are none."""
COARSEST = 1.25  # so many times may a tile be enlarged where the scan is coarser than what is asked for
_NEARLY = 1.02  # so much coarser than asked for may a level be, whose numbers are rounded by the scanners
_CACHE = 64 * 2**20  # bytes of decoded tiles, of all slides together
_AT_ONCE = 2048  # pixels of a level that are read at once for thumbnails, across and down
_LARGEST_TILE = 2**26  # pixels: for more OpenSlide ends the process, which finds no memory
_WHITE = 255
_ROUNDING = 1e-6  # of a tile


class NoScale(BadImage):
    """A slide that does not say how many micrometres a pixel is."""


def _openslide() -> Any:
    try:
        import openslide
    except ImportError:
        raise UserError(
            "Whole slides need OpenSlide to be read.", "Install it: pip install 'layergraft[slides]'."
        ) from None
    return openslide


@cache
def _cache() -> Any:
    return _openslide().OpenSlideCache(_CACHE)


def is_slide(path: str) -> bool:
    """Whether a file is a whole slide, whose tiles need a scale: by its ending, or by what OpenSlide takes it for."""
    if path.lower().endswith(SLIDE_SUFFIXES):
        return True
    if not path.lower().endswith(PYRAMID_SUFFIXES):
        return False
    try:
        import openslide
    except ImportError:
        return False
    try:
        check_regular(path)
    except OSError:
        return False
    return openslide.OpenSlide.detect_format(path) not in (None, "generic-tiff")  # any TIFF file in tiles


class SlideTiles:
    """A slide that is cut into tiles.

    Args:
        path: of the file.
        tiling: the side of a tile, and its scale.

    Raises:
        BadImage: it cannot be opened, or has not the wanted scale; `NoScale` where it does not say its own.
    """

    def __init__(self, path: str, tiling: Tiling) -> None:
        self.path, self.side = path, tiling.tile
        self._slide = self._opened()
        self._downsamples = [float(factor) for factor in self._slide.level_downsamples]
        self.scale = self._scale(tiling)
        width, height = self._slide.dimensions
        self.steps = (self.side * self.scale[0], self.side * self.scale[1])
        self.columns, self.rows = (
            int(n / step + _ROUNDING) for n, step in zip((width, height), self.steps, strict=True)
        )
        self.series = str(self._slide.properties.get("dicom.SeriesInstanceUID", ""))

    def _opened(self) -> Any:
        openslide = _openslide()
        try:
            check_regular(self.path)
            slide = openslide.OpenSlide(self.path)
            slide.set_cache(_cache())
        except openslide.OpenSlideUnsupportedFormatError:
            other = "damaged, or of" if self.path.lower().endswith(SLIDE_SUFFIXES) else "of"
            raise BadImage(f"{other} no kind of slide that OpenSlide knows") from None
        except (openslide.OpenSlideError, OSError) as error:
            reason = str(error).replace(self.path, "…")  # so that slides with one reason are counted together
            raise BadImage(f"damaged slide ({reason})") from None
        for level in range(slide.level_count):
            sides = [slide.properties.get(f"openslide.level[{level}].tile-{side}", "0") for side in ("width", "height")]
            if math.prod(int(side) for side in sides) > _LARGEST_TILE:
                raise BadImage(f"damaged slide (tiles of {sides[0]} by {sides[1]} pixels)")
        return slide

    def _scale(self, tiling: Tiling) -> tuple[float, float]:
        """Pixels of the finest level a pixel of a tile, across and down."""
        if tiling.level is not None:
            if tiling.level >= len(self._downsamples):
                raise BadImage(f"no level {tiling.level}: it has 0 to {len(self._downsamples) - 1}")
            return (self._downsamples[tiling.level],) * 2
        assert tiling.mpp is not None
        scales = []
        for name in ("openslide.mpp-x", "openslide.mpp-y"):
            try:
                scan = float(self._slide.properties[name])
            except (KeyError, ValueError):
                raise NoScale("no micrometres a pixel in the slide") from None
            if not 0 < scan < math.inf:
                raise NoScale("no micrometres a pixel in the slide")
            if scan > tiling.mpp * COARSEST:
                raise BadImage(f"scanned at {scan:.4g} micrometres a pixel, coarser than mpp={tiling.mpp:g}")
            scales.append(tiling.mpp / scan)
        return scales[0], scales[1]

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Where a tile begins, in pixels of the finest level: (x, y)."""
        return round(column * self.steps[0]), round(row * self.steps[1])

    def picture(self, x: int, y: int, request: Request) -> Picture:
        """The tile that begins at a corner, RGB; raises `BadImage`."""
        pixels = self._region(x, y, self.steps, (self.side, self.side), on_white=True)
        return Picture(array=pixels, colours=3)

    def thumbnail(self, row: int, column: int, rows: int, columns: int, side: int) -> Pixels:
        """Some tiles side by side, each shrunk to `side` pixels: RGBA of shape (rows · side, columns · side, 4)."""
        x, y = self.corner(row, column)
        return self._region(x, y, (columns * self.steps[0], rows * self.steps[1]), (columns * side, rows * side))

    def at_once(self, side: int) -> int:
        """How many tiles of a thumbnail, across and down, are read at once."""
        down = self._downsamples[self._level(min(self.steps) / side)]
        return max(1, int(_AT_ONCE * down / max(self.steps)))

    def _level(self, factor: float) -> int:
        """The coarsest level that is fine enough for so many pixels of the finest one a pixel."""
        return max(i for i, down in enumerate(self._downsamples) if i == 0 or down <= factor * _NEARLY)

    def _region(
        self, x: int, y: int, extent: tuple[float, float], size: tuple[int, int], on_white: bool = False
    ) -> Pixels:
        """Read from the coarsest level that is fine enough, and resize.

        Args:
            x: left side, in pixels of the finest level.
            y: upper side, likewise.
            extent: width and height, likewise.
            size: width and height of the result.
            on_white: put what no scanner has seen on white, before it darkens its neighbours.

        Returns:
            RGBA, or RGB on white, uint8.
        """
        level = self._level(min(extent[0] / size[0], extent[1] / size[1]))
        down = self._downsamples[level]
        width, height = max(1, round(extent[0] / down)), max(1, round(extent[1] / down))
        pixels = self._read(x, y, level, (width, height))
        if on_white:
            pixels = _on_white(pixels)
        if (width, height) == size:
            return pixels
        shrinks = width >= size[0] and height >= size[1]
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(pixels, size, interpolation=how), dtype=np.uint8)

    def _read(self, x: int, y: int, level: int, size: tuple[int, int]) -> Pixels:
        """OpenSlide's region.

        A failure spoils a handle for all later reads, those of other threads too. So what fails is read once more by
        a handle that no other thread has, which then tells what is damaged; where it does not fail, all go on with it.
        """
        openslide = _openslide()
        try:
            return np.asarray(self._slide.read_region((x, y), level, size), dtype=np.uint8)
        except (openslide.OpenSlideError, OSError):
            alone = self._opened()
        try:
            pixels = np.asarray(alone.read_region((x, y), level, size), dtype=np.uint8)
        except (openslide.OpenSlideError, OSError) as error:
            raise BadImage(f"damaged ({str(error).partition(':')[0]})") from None
        self._slide = alone
        return pixels


def _on_white(pixels: Pixels) -> Pixels:
    """RGBA on a white ground: what no scanner has seen counts as glass."""
    opacity = pixels[:, :, 3:]
    if opacity.min() == _WHITE:
        return np.ascontiguousarray(pixels[:, :, :3])
    share: npt.NDArray[np.float64] = opacity / _WHITE
    return np.rint(pixels[:, :, :3] * share + _WHITE * (1 - share)).astype(np.uint8)
