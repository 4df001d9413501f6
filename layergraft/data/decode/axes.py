"""Which part of a series of planes is the picture: OME-TIFF, ImageJ and OME-Zarr by the same rules."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from layergraft.data.decode.picture import BadImage, Request, check_slice

UNKNOWN_AXES = "IQ"  # tifffile's letters for pages whose meaning the file does not say


@dataclass(kw_only=True)
class Choice:
    """Which part of a series becomes the picture, axis by axis.

    Args:
        axes: of the series, one letter each.
        shape: likewise.
        channel: position of the axis of channels, or None.
        stack: position of the axis of slices, or None.
        fixed: position -> index, of the other axes but Y and X.
        remarks: what was assumed.
    """

    axes: str
    shape: tuple[int, ...]
    channel: int | None = None
    stack: int | None = None
    fixed: dict[int, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def channels(self) -> int:
        return 1 if self.channel is None else self.shape[self.channel]


def choose(axes: str, shape: tuple[int, ...], request: Request) -> Choice:
    """Say which axes of a series are channels, slices and pages.

    Args:
        axes: one letter each, as tifffile and OME name them.
        shape: likewise.
        request: says which page, slices and channels are wanted.

    Raises:
        BadImage: there is no such page or slice, or there are two axes of channels.
    """
    choice = Choice(axes=axes, shape=shape)
    options, wanted = request.options, request.channels
    free = [p for p, (axis, size) in enumerate(zip(axes, shape, strict=True)) if axis not in "YX" and size > 1]
    channels = [p for p in free if axes[p] in "CS"]
    if len(channels) > 1:
        raise BadImage(f"axes {axes} with two of channels")
    if channels:
        choice.channel = channels[0]
    elif len(free) == 1 and options.page is None and options.z is None:
        unknown = axes[free[0]] in UNKNOWN_AXES  # slices and times are no channels, however many there are
        if unknown and (options.channels is not None or shape[free[0]] == wanted):
            choice.channel = free[0]
    left = [p for p in free if p != choice.channel]
    slices = [p for p in left if axes[p] == "Z"]
    if not slices and len(left) == 1 and options.z is not None and axes[left[0]] in UNKNOWN_AXES:
        slices = left
    choice.fixed = {p: 0 for p in range(len(axes)) if axes[p] not in "YX" and p != choice.channel}
    if slices:
        _choose_slice(choice, slices[0], options.z)
    else:
        check_slice(options.z)
    _choose_page(choice, [p for p in left if p not in slices[:1]], options.page)
    if choice.channel is not None and axes[choice.channel] != "S" and wanted == 1 and options.channels is None:
        choice.remarks.append(f"{choice.channels} channels; the first is taken (?channels=N takes another)")
        if not request.whole:
            choice.fixed[choice.channel], choice.channel = 0, None
    return choice


def _choose_slice(choice: Choice, position: int, z: int | str | None) -> None:
    count = choice.shape[position]
    if z in ("max", "mean"):
        choice.stack = position
        del choice.fixed[position]
        return
    if isinstance(z, int) and z > count:
        raise BadImage(f"no slice {z}: it has {count}")
    choice.fixed[position] = z - 1 if isinstance(z, int) else 0
    if z is None:
        choice.remarks.append(f"{count} slices; the first is taken (?z=max, ?z=mean or ?z=N)")


def _choose_page(choice: Choice, positions: list[int], page: int | None) -> None:
    sizes = [choice.shape[p] for p in positions]
    count = int(np.prod(sizes)) if sizes else 1
    if page is not None and page > count:
        raise BadImage(f"no page {page}: it has {count}")
    choice.fixed |= dict(
        zip(positions, map(int, np.unravel_index((page or 1) - 1, sizes)) if sizes else (), strict=True)
    )
    if count > 1 and page is None:
        choice.remarks.append(f"{count} pages; the first is taken (?page=N takes another)")
