"""Every kind of file that is right today stays right, as the fields' own writers write it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from field_files import KINDS, PICTURE
from field_writers import deep

from layergraft.data.decode import decode


@pytest.mark.parametrize("name", KINDS)
def test_pixels_are_those_written(name: str) -> None:
    kind = KINDS[name]
    content, expected = kind.write(PICTURE), kind.expected(PICTURE)
    channels = expected.shape[2]
    found = decode(content, channels, options=kind.options)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() <= kind.off
    if channels == 1:  # grey is grey in three channels, too
        assert np.array_equal(decode(content, 3, options=kind.options), found.repeat(3, axis=2))


@pytest.mark.slow
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "zstd", "lzma"])
def test_layouts_of_sixteen_bits(order: str, planes: str, compression: str | None) -> None:
    tifffile = pytest.importorskip("tifffile")
    stored = deep(PICTURE) if planes == "contig" else np.ascontiguousarray(np.moveaxis(deep(PICTURE), 2, 0))
    for tile in (None, (16, 16)):
        for predictor in (False, True) if compression in ("zlib", "lzw") else (False,):
            layout = {"byteorder": order, "planarconfig": planes, "tile": tile, "predictor": predictor or None}
            for photometric, array, expected in (
                ("rgb", stored, PICTURE),
                ("minisblack", deep(PICTURE)[:, :, 1], PICTURE[:, :, 1:2]),
                ("miniswhite", 65535 - deep(PICTURE)[:, :, 1], PICTURE[:, :, 1:2]),
            ):
                how = layout | ({} if photometric == "rgb" else {"planarconfig": None})
                buffer = io.BytesIO()
                tifffile.imwrite(buffer, array, photometric=photometric, compression=compression, **how)
                assert np.array_equal(decode(buffer.getvalue(), expected.shape[2]), expected), (tile, predictor)


@pytest.mark.parametrize("shape", [(1, 1), (400, 2), (2, 400)])
@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "TIFF, planes", "WebP", "BMP", "GeoTIFF", "TIFF, big-endian", "FITS", "DICOM"]
)
def test_sizes_at_the_edge(kind: str, shape: tuple[int, int]) -> None:
    rgb = np.broadcast_to(PICTURE[:1, :1], (*shape, 3)).copy()
    expected = KINDS[kind].expected(rgb)
    found = decode(KINDS[kind].write(rgb), expected.shape[2], options=KINDS[kind].options)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= KINDS[kind].off
