"""FITS files by astropy, read by astropy as the truth."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from layergraft.data.decode import BadImage, ReadOptions, decode
from layergraft.data.decode.picture import Request
from layergraft.data.decode.readers import read_picture

fits = pytest.importorskip("astropy.io.fits")
ROWS, COLUMNS = np.mgrid[:40, :60]
RAMP = (ROWS * 1000 + COLUMNS * 7).astype(np.uint16)


def write(*units: Any) -> bytes:
    file = io.BytesIO()
    fits.HDUList(list(units)).writeto(file)
    return file.getvalue()


def stored(content: bytes, options: ReadOptions | None = None, channels: int = 1) -> np.ndarray:
    return read_picture(content, Request(channels=channels, options=options or ReadOptions())).array


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "uint32", "float32", "float64"])
def test_numbers_are_astropy_s_upside_up(dtype: str) -> None:
    content = write(fits.PrimaryHDU((RAMP % 251).astype(dtype)))
    array = stored(content)
    expected = fits.getdata(io.BytesIO(content))[::-1]
    assert array.dtype.isnative
    assert np.array_equal(array[:, :, 0], expected)
    assert array.dtype == expected.dtype.newbyteorder("=")


def test_16_bits_are_no_noise() -> None:
    """Pillow gives these numbers byte-swapped and without BZERO."""
    content = write(fits.PrimaryHDU(RAMP))
    assert np.array_equal(decode(content, 1)[:, :, 0], RAMP[::-1] >> 8)


def test_floats_need_a_range_and_blanks_are_black() -> None:
    sky = RAMP.astype(np.float32) / 100
    sky[3, 4] = np.nan
    content = write(fits.PrimaryHDU(sky))
    with pytest.raises(BadImage, match="range"):
        decode(content, 1)
    mapped = decode(content, 1, options=ReadOptions(range=((0.0, 400.0),)))[::-1, :, 0]
    expected = np.rint(np.clip(np.nan_to_num(sky.astype(np.float64)) / 400, 0, 1) * 255)
    assert np.array_equal(mapped, expected)


def test_scaled_and_compressed_images() -> None:
    scaled = fits.PrimaryHDU((RAMP // 8).astype(np.int16))
    scaled.header["BSCALE"], scaled.header["BZERO"] = 0.5, 100.0
    content = write(scaled)
    assert np.allclose(stored(content)[:, :, 0], fits.getdata(io.BytesIO(content))[::-1])
    tiled = write(fits.PrimaryHDU(), fits.CompImageHDU(RAMP, compression_type="RICE_1"))
    assert np.array_equal(stored(tiled)[:, :, 0], RAMP[::-1])


def test_cubes_are_channels_or_pages() -> None:
    cube = np.stack([RAMP // (k + 1) for k in range(3)])
    content = write(fits.PrimaryHDU(cube))
    assert np.array_equal(stored(content, channels=3), np.moveaxis(cube, 0, 2)[::-1])
    assert np.array_equal(stored(content, ReadOptions(page=2))[:, :, 0], cube[1, ::-1])
    assert np.array_equal(stored(content, ReadOptions(z="max"))[:, :, 0], cube[0, ::-1])
    assert "3 planes" in read_picture(content, Request(channels=1, options=ReadOptions())).remarks[0]
    more = write(fits.PrimaryHDU(), fits.ImageHDU(RAMP, name="SCI"), fits.ImageHDU(RAMP // 2, name="ERR"))
    assert np.array_equal(stored(more, ReadOptions(page=2))[:, :, 0], RAMP[::-1] // 2)
    with pytest.raises(BadImage, match="no plane 3"):
        stored(more, ReadOptions(page=3))


@pytest.mark.filterwarnings("ignore")
def test_tables_and_damage_are_named() -> None:
    table = write(fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column(name="a", format="J", array=[1, 2])]))
    with pytest.raises(BadImage, match="without an image"):
        decode(table, 1)
    content = write(fits.PrimaryHDU(RAMP))
    for cut in (9, 2000, len(content) // 2):
        with pytest.raises(BadImage, match=r"damaged|without an image"):
            decode(content[:cut], 1)
