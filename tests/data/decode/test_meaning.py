"""What files say of their numbers beside the numbers: bits, palettes, white, planes elsewhere, no value at all."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image

from layergraft.data.decode import BadImage, ReadOptions, decode
from layergraft.data.decode.picture import Request
from layergraft.data.decode.readers import read_picture
from layergraft.data.first_look import look_at, remarks_on_files
from layergraft.data.reading import settle
from layergraft.data.shrink import shrunk
from layergraft.data.sources.open import open_source
from layergraft.data.survey import survey

tifffile = pytest.importorskip("tifffile")
ROWS, COLUMNS = np.mgrid[:40, :60]
GREY = ((3 * COLUMNS + 2 * ROWS) % 251).astype(np.uint8)
RGB = np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])
TWELVE = GREY.astype(np.uint16) * 16
HOLE = GREY < 60


def tiff(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_significant_bits_of_ome(compression: str | None) -> None:
    how = {"ome": True, "photometric": "minisblack", "compression": compression}
    said = {"SignificantBits": 12}
    grey = tiff(TWELVE, **how, metadata={"axes": "YX"} | said)
    assert np.array_equal(decode(grey, 1)[:, :, 0], GREY)
    five = tiff(np.stack([TWELVE] * 5), **how, metadata={"axes": "CYX"} | said)
    assert np.array_equal(decode(five, 5), np.repeat(GREY[:, :, np.newaxis], 5, axis=2))
    unsaid = tiff(TWELVE, **how, metadata={"axes": "YX"})
    assert np.array_equal(decode(unsaid, 1)[:, :, 0], TWELVE >> 8)


@pytest.mark.parametrize("query", ["", "?range=0,40000"])
def test_smaller_files_of_numbers_above_their_significant_bits(tmp_path: Path, query: str) -> None:
    """They keep no lower bits alone: they are read as the large ones are."""
    content = tiff(TWELVE * 10, ome=True, photometric="minisblack", metadata={"axes": "YX", "SignificantBits": 12})
    (tmp_path / "0.tif").write_bytes(content)
    source = open_source(f"{tmp_path}{query}")
    smaller = shrunk(source, 0, 1, 40)
    assert np.array_equal(decode(smaller, 1, options=source.options), source.images.load(0, 1))


@pytest.mark.parametrize("scale", [257, 1])
def test_palettes_of_16_and_of_8_bits(scale: int) -> None:
    ramp = np.arange(256)
    palette = np.stack([ramp, 255 - ramp, ramp // 2]).astype(np.uint16)
    content = tiff(GREY, photometric="palette", colormap=palette * scale)
    assert np.array_equal(decode(content, 3), palette.T[GREY])


@pytest.mark.parametrize("photometric", ["ycbcr", "separated"])
def test_planes_of_inks_are_colours_or_refused(photometric: str) -> None:
    mode = {"ycbcr": "YCbCr", "separated": "CMYK"}[photometric]
    inks = np.asarray(Image.fromarray(RGB).convert(mode))
    expected = np.asarray(Image.fromarray(inks, mode=mode).convert("RGB")).astype(int)
    planes, right = np.ascontiguousarray(np.moveaxis(inks, 2, 0)), 0
    for depth in (np.uint8(1), np.uint16(257)):
        for compression in (None, "zlib", "webp", "jpegxl"):
            if compression in ("webp", "jpegxl") and (photometric == "separated" or depth > 1):
                continue
            separate = compression not in ("webp", "jpegxl")
            how = {"planarconfig": "separate" if separate else "contig", "compression": compression}
            content = tiff((planes if separate else inks) * depth, photometric=photometric, **how)
            with suppress(BadImage):
                pixels = decode(content, 3)
                right += 1
                assert np.abs(pixels.astype(int) - expected).max() <= 3
    assert right


def test_numbers_whose_0_is_white_are_turned_over(tmp_path: Path) -> None:
    for number, options in ((255 - GREY.astype(np.int16), (-256.0, -1.0)), (1 - GREY / 255, (-1.0, 0.0))):
        array = number if number.dtype == np.int16 else number.astype(np.float32)
        content = tiff(array, photometric="miniswhite")
        turned = decode(content, 1, options=ReadOptions(range=(options,)))[:, :, 0]
        assert np.abs(turned.astype(int) - GREY).max() <= 1
    for number in range(3):
        (tmp_path / f"{number}.tif").write_bytes(tiff(4095 - TWELVE, photometric="miniswhite"))
    source = open_source(str(tmp_path))
    said = " ".join(remarks_on_files(look_at(source), source))
    assert "turned over" in said
    assert "nearly white. Append ?range=61440,65535" in said
    (found,) = settle(open_source(f"{tmp_path}?range=61440,65535"), 1, print).images.load(0, 1)[None, :, :, 0]
    assert np.abs(found.astype(int) - GREY).max() <= 1


def _parts(folder: Path, channels: int, slices: int, split: str) -> list[bytes]:
    """An OME image of two files, whose second half lies in the second."""
    ids, names = [str(uuid4()) for _ in range(2)], ("a.ome.tif", "b.ome.tif")
    each = channels * slices // 2
    data = "".join(
        f'<TiffData FirstC="{plane % channels}" FirstZ="{plane // channels}" IFD="{plane % each}" PlaneCount="1">'
        f'<UUID FileName="{names[plane // each]}">urn:uuid:{ids[plane // each]}</UUID></TiffData>'
        for plane in range(channels * slices)
    )
    named = "".join(f'<Channel ID="Channel:0:{c}" Name="{split}{c}" SamplesPerPixel="1"/>' for c in range(channels))
    size = f'SizeX="60" SizeY="40" SizeC="{channels}" SizeZ="{slices}" SizeT="1"'
    contents = []
    for part in range(2):
        xml = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{ids[part]}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" '
            f'Type="uint16" {size}>{named}{data}</Pixels></Image></OME>'
        )
        planes = np.stack([np.roll(GREY, 7 * (part * each + plane), axis=1) for plane in range(each)])
        deep = planes.astype(np.uint16) * 257
        tifffile.imwrite(folder / names[part], deep, description=xml, metadata=None, photometric="minisblack")
        contents.append((folder / names[part]).read_bytes())
    return contents


def test_planes_in_other_files_are_not_made_up(tmp_path: Path) -> None:
    for part, content in enumerate(_parts(tmp_path, 2, 1, "x")):
        assert np.array_equal(decode(content, 1)[:, :, 0], np.roll(GREY, 7 * part, axis=1))  # grey, of its own
        for channels, options in ((2, ReadOptions()), (3, ReadOptions()), (1, ReadOptions(channels=("x1",)))):
            with pytest.raises(BadImage, match="in other files"):
                decode(content, channels, options=options)
    first, second = _parts(tmp_path, 2, 2, "x")
    assert np.array_equal(decode(first, 2)[:, :, 1], np.roll(GREY, 7, axis=1))
    for content, options in ((first, ReadOptions(z=2)), (first, ReadOptions(z="mean")), (second, ReadOptions())):
        with pytest.raises(BadImage, match="in other files"):
            decode(content, 2, options=options)


NODATA = [(np.float32, -9999.0), (np.float32, -3.4028234663852886e38), (np.int16, -32768), (np.uint16, 65535)]


@pytest.mark.parametrize(("dtype", "nodata"), NODATA)
@pytest.mark.parametrize("bands", [1, 2])
def test_no_value_is_black_and_no_part_of_a_range(dtype: Any, nodata: float, bands: int, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    values = np.where(HOLE, nodata, GREY.astype(np.float64) * 8).astype(dtype)
    how = {"driver": "GTiff", "height": 40, "width": 60, "count": bands, "dtype": dtype, "nodata": nodata}
    with rasterio.open(tmp_path / "0.tif", "w", **how) as file:
        file.write(np.stack([values] * bands))
    with rasterio.open(tmp_path / "0.tif") as file:
        valid = file.read(1, masked=True).compressed()
    source = settle(open_source(f"{tmp_path}?range=auto"), bands, print)
    assert source.options.fixed_range is not None
    for low, high in source.options.fixed_range:
        assert valid.min() <= low < valid.min() + 10
        assert valid.max() - 10 < high <= valid.max()
    (seen, *_) = survey(source, bands, 1).stored
    assert valid.min() <= seen.low <= seen.high <= valid.max()
    pixels = source.images.load(0, bands)[:, :, bands - 1]
    assert (pixels[HOLE] == 0).all()
    assert np.array_equal(pixels, np.where(HOLE, 0, levels(values, low, high)))


def test_no_value_is_not_averaged(tmp_path: Path) -> None:
    values = np.where(HOLE, -9999, GREY.astype(np.float32)).astype(np.float32)
    (tmp_path / "0.tif").write_bytes(tiff(values, extratags=[(42113, "s", 0, "-9999", True)]))
    with pytest.raises(BadImage, match="stand for no value"):
        shrunk(open_source(str(tmp_path)), 0, 1, 20)


def test_complex_numbers_are_refused() -> None:
    content = tiff((GREY + 1j * GREY).astype(np.complex64))
    with pytest.raises(BadImage, match="complex64"):
        decode(content, 1, options=ReadOptions(range=((0.0, 255.0),)))


def test_names_of_channels_are_text_and_of_one_channel() -> None:
    planes = np.stack([np.roll(GREY, k, axis=0) for k in range(3)]).astype(np.uint16) * 257
    names = ["A & B", "<405>", "A & B"]
    content = tiff(planes, ome=True, photometric="minisblack", metadata={"axes": "CYX", "Channel": {"Name": names}})
    picture = read_picture(content, Request(channels=3, options=ReadOptions(), whole=True))
    assert picture.names == tuple(names)
    assert np.array_equal(decode(content, 1, options=ReadOptions(channels=("<405>",)))[:, :, 0], planes[1] >> 8)
    with pytest.raises(BadImage, match="2 channels are called 'A & B'"):
        decode(content, 1, options=ReadOptions(channels=("A & B",)))
