"""NIfTI: volumes of MR and CT, of which one axial slice is a picture; read by nibabel."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from layergraft.data.decode.picture import BadImage, Picture, Request, check_size, damage_named
from layergraft.data.decode.stack import MOST_BYTES, Array, take_plane
from layergraft.errors import UserError

_GZIP = b"\x1f\x8b"
_HEADER = 352
_FIRST, _SECOND = b"n+1\0", b"n+2\0"


def _unpacked(content: bytes, most: int) -> bytes:
    """At most so many bytes of a file that may be gzipped."""
    if content[:2] != _GZIP:
        return content[:most]
    try:
        return zlib.decompressobj(wbits=31).decompress(content, most)
    except zlib.error:
        return b""


def is_nifti(content: bytes) -> bool:
    """Whether a file is NIfTI-1 or -2 in one part, perhaps gzipped."""
    if content[:2] != _GZIP and content[344:348] != _FIRST and content[4:8] != _SECOND:
        return False
    start = _unpacked(content, _HEADER)
    return start[344:348] == _FIRST or start[4:8] == _SECOND


def _axial(image: Any, volume: int) -> tuple[int, Any]:
    """(slices from the feet up, number -> slice as radiologists see it: front at the top, right side on the left)."""
    import nibabel

    axes = nibabel.io_orientation(image.affine)  # of each axis: which of right, front and up it is nearest to; its sign
    if np.isnan(axes).any():
        raise BadImage("a volume whose orientation is not known")
    up = int(np.flatnonzero(axes[:, 0] == 2)[0])
    count = image.shape[up]
    flat = [axis for axis in range(3) if axis != up]

    def plane(number: int) -> Array:
        index: list[Any] = [slice(None)] * 3 + [volume] * (len(image.shape) > 3)
        index[up] = number if axes[up, 1] > 0 else count - 1 - number
        picture = np.asanyarray(image.dataobj[tuple(index)])
        picture = picture if axes[flat[0], 0] == 0 else picture.T  # (right, front)
        for axis in flat:
            if axes[axis, 1] < 0:
                picture = np.flip(picture, axis=int(axes[axis, 0]))
        return np.ascontiguousarray(picture[::-1, ::-1].T)

    return count, plane


def _picture(content: bytes, request: Request) -> Picture:
    import nibabel

    content = _unpacked(content, MOST_BYTES)
    kind = nibabel.Nifti1Image if content[344:348] == _FIRST else nibabel.Nifti2Image
    image = kind.from_bytes(content)
    shape = (*image.shape, 1, 1)[: max(3, len(image.shape))]
    if len(shape) > 4 or min(shape) < 1:
        raise BadImage(f"an array of shape {image.shape}")
    if image.dataobj.dtype.fields:
        raise BadImage("colours or other records in place of numbers")
    size = int(np.prod(shape, dtype=np.int64)) * image.dataobj.dtype.itemsize
    if size + int(image.dataobj.offset) > len(content):
        raise BadImage(f"more than 4 GiB: {shape}" if size > MOST_BYTES - _HEADER else "damaged (cut off)")
    if len(image.shape) < 3:
        image = kind(np.asanyarray(image.dataobj).reshape(shape), image.affine, image.header)
    volumes, options = (shape[3] if len(shape) > 3 else 1), request.options
    if (options.page or 1) > volumes:
        raise BadImage(f"no page {options.page}: it has {volumes}")
    _, height, width = sorted(shape[:3])  # of the largest slice
    check_size(height, width, len(content))
    count, plane = _axial(image, (options.page or 1) - 1)
    within = type(options)(z=options.z)
    array, remarks = take_plane(count, plane, within, called="slices", middle=True)
    if volumes > 1 and options.page is None:
        remarks = (f"{volumes} volumes; the first is taken (?page=N takes another)", *remarks)
    low, high = float(image.header["cal_min"]), float(image.header["cal_max"])
    span = (low, high) if low < high else None
    return Picture(array=array[:, :, np.newaxis], colours=1, range=span, remarks=remarks)


def read_nifti(content: bytes, request: Request) -> Picture:
    """Read one axial slice of a NIfTI volume: `?z=N` from the feet up, else the middle one; `?page=N` is the time.

    Values are those after slope and intercept; cal_min and cal_max of the header are their range, where it has them.

    Raises:
        BadImage: it is damaged, has another number of axes, or no such slice.
        UserError: nibabel is not installed.
    """
    try:
        import nibabel  # noqa: F401 - whether it is there
    except ImportError:
        raise UserError("A NIfTI file needs nibabel.", "Install it: pip install 'layergraft[medical]'.") from None
    with damage_named():
        return _picture(content, request)
