"""OME-Zarr (versions 0.1 to 0.5): an image is a folder, of which the chunks that are needed are read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from layergraft.config.paths import read_regular
from layergraft.data.decode.axes import Choice, choose
from layergraft.data.decode.picture import BadImage, Picture, Request, check_size, damage_named
from layergraft.data.decode.stack import MOST_BYTES, project
from layergraft.data.decode.zarr_chunks import open_zarr_node
from layergraft.runs.readable import counted

MARKS = ("zarr.json", ".zgroup", ".zarray")
_AXES = "TCZYX"  # of versions that do not name them; and the letters of tifffile for the names of later ones
_DEEPEST = 4  # folders from a store to an image: row, well and field of a plate
_BAD_NAMES = (".", "..")
Box = tuple[int, int, int, int]
"""Top, left, height and width of a part."""


def is_store(folder: str) -> bool:
    """Whether a folder of this machine is a Zarr store, or a group or array of one."""
    return any(os.path.isfile(os.path.join(folder, mark)) for mark in MARKS)


def _attributes(folder: str) -> dict[str, Any] | None:
    """What OME-Zarr says of a group; None of an array, empty where nothing is said or the file is damaged."""
    for name in ("zarr.json", ".zattrs"):
        try:
            content = json.loads(read_regular(os.path.join(folder, name)))
        except (OSError, ValueError, RecursionError):
            continue
        if not isinstance(content, dict):
            return {}
        if name == "zarr.json":
            if content.get("node_type") == "array":
                return None
            content = content.get("attributes", {})
            content = content.get("ome", content) if isinstance(content, dict) else {}
        return content if isinstance(content, dict) else {}
    return None if os.path.isfile(os.path.join(folder, ".zarray")) else {}


def images_of(store: str, depth: int = 0) -> Iterator[str]:
    """Paths of the images in a store, relative to it: "" for the store itself; fields of a plate's wells by name."""
    attributes = _attributes(store)
    if attributes is None:
        return
    if "multiscales" in attributes:
        yield ""
        return
    if depth >= _DEEPEST:
        return
    with os.scandir(store) as entries:
        folders = sorted((entry.name for entry in entries if entry.is_dir()), key=_natural)
    for name in folders:
        for path in images_of(os.path.join(store, name), depth + 1):
            yield f"{name}/{path}" if path else name


def _natural(name: str) -> tuple[int, str]:
    """Numbers by their value: field 10 comes after field 9."""
    return (len(name) if name.isdecimal() else 0, name)


class OmeZarr:
    """An image of a store at one of its levels.

    Args:
        path: of its group.
        level: 0 is the finest.

    Raises:
        BadImage: it is damaged, or has no such level.
        UserError: zarr is not installed.
    """

    def __init__(self, path: str, level: int) -> None:
        with damage_named():
            attributes = _attributes(path) or {}
            multiscales = attributes.get("multiscales") or []
            if not multiscales:
                raise BadImage("no OME-Zarr image")
            datasets = multiscales[0]["datasets"]
            if level >= len(datasets):
                raise BadImage(f"no level {level}: it has 0 to {len(datasets) - 1}")
            inside = str(datasets[level]["path"])
            if os.path.isabs(inside) or any(part in _BAD_NAMES for part in inside.split("/")):
                raise BadImage("damaged (a level outside the image)")
            self.array = open_zarr_node(os.path.join(path, inside))
            self.axes = _axes(multiscales[0].get("axes"), self.array.ndim)
            self.names = _names(attributes)
        if not (self.axes.count("Y") == self.axes.count("X") == 1 and len(self.axes) == self.array.ndim):
            raise BadImage(f"axes {self.axes} of an array with {self.array.ndim}")
        if self.array.dtype.kind not in "buif":
            raise BadImage(f"an array of {self.array.dtype}, not of numbers")
        self.height, self.width = (int(self.array.shape[self.axes.index(axis)]) for axis in "YX")

    def picture(self, request: Request, box: Box | None = None) -> Picture:
        """The picture that is wanted, or a part of it; raises `BadImage`."""
        choice = choose(self.axes, tuple(self.array.shape), request)
        height, width = box[2:] if box else (self.height, self.width)
        item = self.array.dtype.itemsize
        check_size(height, width, height * width * item)
        if height * width * choice.channels * item > MOST_BYTES:
            raise BadImage(
                f"{counted(choice.channels, 'channel')} of {height} by {width} pixels, which is more than 4 GiB"
            )
        with damage_named():
            take = partial(self._take, choice, box or (0, 0, height, width))
            if choice.stack is None:
                array = take(None)
            else:
                array = project(choice.shape[choice.stack], take, "max" if request.options.z == "max" else "mean")
        if array.ndim == 2:
            array = array[:, :, np.newaxis]
        named = request.as_stored and len(self.names) == array.shape[2]
        return Picture(
            array=np.ascontiguousarray(array),
            colours=0 if choice.channel is not None else 1,
            names=self.names if named else None,
            remarks=tuple(choice.remarks),
        )

    def _take(self, choice: Choice, box: Box, at: int | None) -> npt.NDArray[Any]:
        """One picture, of shape (H, W) or (H, W, C); `at` is a slice of the stack."""
        fixed = choice.fixed | ({} if choice.stack is None or at is None else {choice.stack: at})
        top, left, height, width = box
        cut = {"Y": slice(top, top + height), "X": slice(left, left + width)}
        index = tuple(fixed.get(p, cut.get(axis, slice(None))) for p, axis in enumerate(self.axes))
        part = np.asarray(self.array[index])
        left_over = [axis for p, axis in enumerate(self.axes) if p not in fixed]
        order = [left_over.index(axis) for axis in "YX"] + [p for p, axis in enumerate(left_over) if axis not in "YX"]
        part = part.transpose(order)
        if part.shape[:2] != (height, width):
            raise BadImage(f"no such tile: it has {self.height} by {self.width} pixels")
        return part


def _axes(axes: Any, count: int) -> str:
    """A letter an axis."""
    if not axes:  # before version 0.3 there were always five
        return _AXES[-count:]
    names = [str(axis.get("name", "") if isinstance(axis, dict) else axis).upper() for axis in axes]
    return "".join(name if name in _AXES and len(name) == 1 else "Q" for name in names)


def _names(attributes: dict[str, Any]) -> tuple[str, ...]:
    """Names of the channels by the section `omero`, if it has some."""
    omero = attributes.get("omero")
    channels = omero.get("channels", []) if isinstance(omero, dict) else []
    return tuple(str(channel.get("label", "")) for channel in channels if isinstance(channel, dict))
