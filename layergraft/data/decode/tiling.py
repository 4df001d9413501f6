"""How large images are cut into tiles: `?tile=256&mpp=0.5` of whole slides, `?tile=256` of any other large image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from layergraft.errors import UserError

TILING_OPTIONS = ("tile", "mpp", "level", "tissue")
_SMALLEST, _LARGEST = 16, 8192
TISSUE = 0.5  # of whole slides


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How images are cut.

    Args:
        tile: side of a tile in pixels.
        mpp: micrometres a pixel of a tile; None takes pixels as they are.
        level: of a pyramid, 0 is the finest; None where `mpp` says the scale, and of images without levels.
        tissue: share of a tile that is to be tissue, in [0, 1]; 0 takes all.
    """

    tile: int
    mpp: float | None = None
    level: int | None = None
    tissue: float = 0.0

    @property
    def scaled(self) -> bool:
        """Whether it cuts pyramids, at a scale, and not pixels as they are."""
        return self.mpp is not None or self.level is not None

    def __str__(self) -> str:
        scale = f"&mpp={self.mpp:g}" if self.mpp is not None else ""
        level = f"&level={self.level}" if self.level is not None else ""
        return f"tile={self.tile}{scale}{level}&tissue={self.tissue:g}"


def _number(query: Mapping[str, str], name: str, spec: str, grammar: str, low: float, high: float) -> float | None:
    if name not in query:
        return None
    try:
        value = float(query[name])
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise UserError(f"{spec!r} has {name}={query[name]}.", grammar)
    return value


def parse_tiling(query: Mapping[str, str], spec: str) -> Tiling | None:
    """Read the options that say how images are cut; None where they are not.

    Args:
        query: option -> value.
        spec: the SOURCE, for messages.

    Raises:
        UserError: a value is none, or does not fit the others.
    """
    grammar = f"It is the side of a tile in pixels, from {_SMALLEST} to {_LARGEST}: `tile=256`."
    tile = _number(query, "tile", spec, grammar, _SMALLEST, _LARGEST)
    if tile is None:
        for name in ("mpp", "tissue"):
            if name in query:
                raise UserError(f"{spec!r} has {name}= and no tile=.", f"?tile=256&{name}={query[name]} cuts tiles.")
        return None
    if tile != int(tile):
        raise UserError(f"{spec!r} has tile={query['tile']}.", grammar)
    mpp = _number(query, "mpp", spec, "It is micrometres a pixel: `mpp=0.5` is 20x.", 1e-3, 1e3)
    level = _number(query, "level", spec, "It is a level of the pyramid, 0 is the finest: `level=0`.", 0, 64)
    if level is not None and level != int(level):
        raise UserError(f"{spec!r} has level={query['level']}.", "It is a whole number, 0 is the finest: `level=0`.")
    if mpp is not None and level is not None:
        raise UserError(f"{spec!r} has mpp= and level=.", "Give one of them.")
    scaled = mpp is not None or level is not None
    tissue = _number(query, "tissue", spec, "It is the share of a tile that is tissue, 0 to 1; 0 takes all.", 0, 1)
    if tissue is None:
        tissue = TISSUE if scaled else 0.0
    return Tiling(tile=int(tile), mpp=mpp, level=None if level is None else int(level), tissue=tissue)
