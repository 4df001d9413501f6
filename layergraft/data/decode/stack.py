"""Files of several planes: slices of a volume, frames of a recording."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from layergraft.data.decode.options import ReadOptions
from layergraft.data.decode.picture import BadImage

Array = npt.NDArray[Any]
MOST_BYTES = 2**32  # of a picture, and of what a compressed file unpacks to


def project(count: int, plane: Callable[[int], Array], how: Literal["max", "mean"]) -> Array:
    """The largest or mean value over planes, one at a time in memory.

    Args:
        count: how many planes.
        plane: number from 0 -> one plane.
        how: `max`, or `mean`, rounded where the planes hold whole numbers.
    """
    first = plane(0)
    if how == "max":
        highest = first.copy()
        for number in range(1, count):
            np.maximum(highest, plane(number), out=highest)
        return highest
    total = first.astype(np.float64)
    for number in range(1, count):
        total += plane(number)
    mean = total / count
    return np.rint(mean).astype(first.dtype) if first.dtype.kind in "iu" else mean.astype(first.dtype)


def take_plane(
    count: int, plane: Callable[[int], Array], options: ReadOptions, *, called: str, middle: bool = False
) -> tuple[Array, tuple[str, ...]]:
    """The plane that `?page=` or `?z=` asks for; without either the first or the middle one, which is said.

    Args:
        count: how many planes.
        plane: number from 0 -> one plane.
        options: what follows the `?` of the SOURCE.
        called: what the planes are: `frames`.
        middle: whether the middle one stands for all, rather than the first.

    Returns:
        The plane, and remarks.

    Raises:
        BadImage: there is no such plane.
    """
    if options.page is None and options.z in ("max", "mean"):
        return project(count, plane, "max" if options.z == "max" else "mean"), ()
    wanted = options.page or options.z
    if wanted is not None:
        assert isinstance(wanted, int)
        if wanted > count:
            raise BadImage(f"no plane {wanted}: it has {count}")
        return plane(wanted - 1), ()
    taken, name = (count // 2, "middle") if middle else (0, "first")
    remark = f"{count} {called}; the {name} is taken (?z=N takes another, ?z=max or ?z=mean all)"
    return plane(taken), (remark,) if count > 1 else ()
