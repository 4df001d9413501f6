"""FITS: images of telescopes, read by astropy."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from layergraft.data.decode.picture import BadImage, Picture, Request, check_size, damage_named
from layergraft.data.decode.stack import MOST_BYTES, Array, take_plane
from layergraft.errors import UserError


def is_fits(content: bytes) -> bool:
    """Whether a file begins as the standard says."""
    return content[:9] == b"SIMPLE  ="


def _upright(plane: Array) -> Array:
    """In the machine's byte order, the first row at the top: FITS counts rows from the bottom."""
    return np.ascontiguousarray(plane[::-1].astype(plane.dtype.newbyteorder("="), copy=False))


def _picture(content: bytes, request: Request) -> Picture:
    from astropy.io import fits

    with fits.open(io.BytesIO(content), memmap=False) as file:
        shapes = [(unit, tuple(unit.shape)) for unit in file if unit.is_image and len(unit.shape or ()) >= 2]
        if not shapes:
            raise BadImage("a FITS file without an image")
        for _, shape in shapes:
            check_size(shape[-2], shape[-1], len(content))
            if 8 * int(np.prod(shape, dtype=np.int64)) > MOST_BYTES:
                raise BadImage(f"an array of shape {shape}, which is more than 4 GiB")
        options, first = request.options, shapes[0][1]
        bands = first[0] if len(first) == 3 else 1
        if (
            bands > 1
            and options.page is None
            and options.z is None
            and (request.as_stored or bands == request.channels)
        ):
            cube = np.stack([_upright(plane) for plane in shapes[0][0].data], axis=2)
            return Picture(array=cube)
        # The planes of all images, in the order of the file.
        planes: list[tuple[Any, int]] = [
            (unit, number) for unit, shape in shapes for number in range(int(np.prod(shape[:-2], dtype=np.int64)))
        ]

        def plane(position: int) -> Array:
            unit, number = planes[position]
            return _upright(unit.data.reshape(-1, *unit.shape[-2:])[number])

        array, remarks = take_plane(len(planes), plane, options, called="planes")
        return Picture(array=array[:, :, np.newaxis], colours=1, remarks=remarks)


def read_fits(content: bytes, request: Request) -> Picture:
    """Read a FITS file: physical values, by BZERO and BSCALE; what is not 8-bit or unsigned needs a `?range=`.

    A first image with three axes has channels where as many are wanted; else its planes, and those of further images,
    are pages.

    Raises:
        BadImage: it is damaged, has no image, or no such plane.
        UserError: astropy is not installed.
    """
    try:
        import astropy  # noqa: F401 - whether it is there
    except ImportError:
        raise UserError("A FITS file needs astropy.", "Install it: pip install 'layergraft[astronomy]'.") from None
    with damage_named():
        return _picture(content, request)
