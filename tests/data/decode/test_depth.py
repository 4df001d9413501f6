"""Depth and kinds of the formats out of the box: compared with what imagecodecs reads, or with what was written."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, features

from layergraft.data.decode import BadImage, ReadOptions, decode
from layergraft.data.decode.options import parse_read_options
from layergraft.data.decode.picture import Request
from layergraft.data.decode.readers import read_picture

imagecodecs = pytest.importorskip("imagecodecs")
GREY = np.add.outer(np.arange(48) * 700, np.arange(64) * 500).astype(np.uint16)
COLOUR = np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])
BANDS = np.dstack([COLOUR, GREY.T[:48, :1].repeat(64, axis=1) // 2, GREY // 3])
PLAIN = ReadOptions()


def jpeg2000(array: np.ndarray, bits: int, **how: object) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(array, level=0, reversible=True, bitspersample=bits, **how))


def avif(array: np.ndarray, bits: int) -> bytes:
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    return bytes(imagecodecs.avif_encode(array, level=100, bitspersample=bits))


def jpeg(array: np.ndarray, bits: int, **how: object) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(array, bitspersample=bits, **how))


def ppm(array: np.ndarray, top: int) -> bytes:
    head = f"P{6 if array.ndim == 3 else 5}\n# a line\n{array.shape[1]} {array.shape[0]}\n{top}\n"
    return head.encode() + array.astype(">u2").tobytes()


def ppm_as_text(array: np.ndarray, top: int) -> bytes:
    words = " ".join(map(str, array.ravel().tolist()))
    return f"P{3 if array.ndim == 3 else 2} {array.shape[1]} {array.shape[0]} {top}\n{words}\n".encode()


def png(array: np.ndarray) -> bytes:
    return bytes(imagecodecs.png_encode(array))


def mapped(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.round(np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


# kind -> (a file, what its own reader gives, bits)
KINDS: dict[str, tuple[Callable[[], bytes], np.ndarray, int]] = {
    "PNG, 16-bit RGB": (lambda: png(COLOUR), COLOUR, 16),
    "PNG, 16-bit grey": (lambda: png(GREY), GREY, 16),
    "JPEG 2000, 16-bit RGB": (lambda: jpeg2000(COLOUR, 16), COLOUR, 16),
    "JPEG 2000, 12-bit RGB": (lambda: jpeg2000(COLOUR >> 4, 12), COLOUR >> 4, 12),
    "JPEG 2000, 12-bit grey": (lambda: jpeg2000(GREY >> 4, 12), GREY >> 4, 12),
    "JPEG 2000, a code stream": (lambda: jpeg2000(COLOUR, 16, codecformat="j2k"), COLOUR, 16),
    "JPEG 2000, 5 bands": (lambda: jpeg2000(BANDS, 16), BANDS, 16),
    "AVIF, 12-bit RGB": (lambda: avif(COLOUR >> 4, 12), COLOUR >> 4, 12),
    "AVIF, 10-bit RGB": (lambda: avif(COLOUR >> 6, 10), COLOUR >> 6, 10),
    "AVIF, 12-bit grey": (lambda: avif(GREY >> 4, 12), GREY >> 4, 12),
    "JPEG, 12-bit lossless": (lambda: jpeg(GREY >> 4, 12, lossless=True), GREY >> 4, 12),
    "JPEG, 16-bit lossless": (lambda: jpeg(GREY, 16, lossless=True), GREY, 16),
    "JPEG, 16-bit lossless RGB": (lambda: jpeg(COLOUR, 16, lossless=True), COLOUR, 16),
    "JPEG, 16-bit lossless of ljpeg": (lambda: bytes(imagecodecs.ljpeg_encode(GREY)), GREY, 16),
    "PPM, 16-bit": (lambda: ppm(COLOUR, 65535), COLOUR, 16),
    "PPM, 12-bit": (lambda: ppm(COLOUR >> 4, 4095), COLOUR >> 4, 12),
    "PGM, 12-bit as text": (lambda: ppm_as_text(GREY >> 4, 4095), GREY >> 4, 12),
    "PPM, 16-bit as text": (lambda: ppm_as_text(COLOUR, 65535), COLOUR, 16),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_depth_goes_through_a_range(kind: str) -> None:
    write, numbers, bits = KINDS[kind]
    content, channels = write(), 1 if numbers.ndim == 2 else numbers.shape[2]
    numbers = numbers.reshape(*numbers.shape[:2], channels)
    for low, high in ((0, 2**bits - 1), (100, 900)):
        reading = parse_read_options({"range": f"{low},{high}"}, "folder")
        assert np.array_equal(decode(content, channels, options=reading), mapped(numbers, low, high))
    stored = read_picture(content, Request(channels=channels, options=PLAIN, whole=True))
    assert (stored.depth(), stored.array.tolist()) == (bits, numbers.tolist())
    last = parse_read_options({"channels": str(channels)}, "folder")
    assert np.array_equal(decode(content, 1, options=last)[:, :, 0], numbers[:, :, -1] >> (bits - 8))
    plain = decode(content, channels).astype(int)
    assert np.abs(plain - (numbers >> (bits - 8))).max() <= 1  # Pillow rounds some where others are cut


@pytest.mark.parametrize("pixels", [GREY >> 4, COLOUR >> 4])
def test_lossy_jpeg_of_twelve_bits(pixels: np.ndarray) -> None:
    content = jpeg(pixels, 12, level=95)
    expected = imagecodecs.jpeg8_decode(content).reshape(48, 64, -1)
    found = read_picture(content, Request(channels=1, options=PLAIN))
    assert np.array_equal(found.array, expected)
    assert (found.depth(), found.array.max() > 3000) == (12, True)
    for cut in (2, 200):  # its own reader fills what is missing, without a word
        with pytest.raises(BadImage, match="truncated"):
            decode(content[:-cut], 1)


@pytest.mark.parametrize("kind", [*KINDS, "TIFF"])
def test_a_page_that_is_not_there_is_refused(kind: str) -> None:
    buffer = io.BytesIO()
    pytest.importorskip("tifffile").imwrite(buffer, GREY)
    content = buffer.getvalue() if kind == "TIFF" else KINDS[kind][0]()
    channels = 1 if kind == "TIFF" else KINDS[kind][1].reshape(48, 64, -1).shape[2]
    for query in ({}, {"range": "0,4095"}):
        with pytest.raises(BadImage, match="no page 2: it has 1"):
            decode(content, channels, options=parse_read_options(query | {"page": "2"}, "folder"))
        with pytest.raises(BadImage, match="no slice 2: it has 1"):
            decode(content, channels, options=parse_read_options(query | {"z": "2"}, "folder"))
        first = parse_read_options(query | {"page": "1"}, "folder")
        assert np.array_equal(
            decode(content, channels, options=first),
            decode(content, channels, options=parse_read_options(query, "folder")),
        )


def test_pages_of_deep_avif_keep_their_depth() -> None:
    frames = np.stack([COLOUR >> 4, COLOUR[::-1] >> 4])
    reading = parse_read_options({"range": "0,4095", "page": "2"}, "folder")
    assert np.array_equal(decode(avif(frames, 12), 3, options=reading), mapped(frames[1], 0, 4095))


def test_signed_jpeg_2000_needs_a_range() -> None:
    numbers = (GREY // 2).astype(np.int16) - 9000
    content = jpeg2000(numbers, 16)
    with pytest.raises(BadImage, match="int16 pixels, whose range no one knows"):
        decode(content, 1)
    reading = parse_read_options({"range": "-9000,20000"}, "folder")
    assert np.array_equal(decode(content, 1, options=reading)[:, :, 0], mapped(numbers, -9000, 20000))


def test_transparency_of_deep_colours() -> None:
    alpha = np.where(np.arange(64) < 32, 0, 4095).astype(np.uint16)[np.newaxis].repeat(48, axis=0)
    reading = parse_read_options({"range": "0,4095"}, "folder")
    for content in (jpeg2000(np.dstack([COLOUR >> 4, alpha]), 12), avif(np.dstack([COLOUR >> 4, alpha]), 12)):
        found = decode(content, 3, options=reading)
        assert (found[:, :32] == 255).all()
        assert np.array_equal(found[:, 32:], mapped(COLOUR >> 4, 0, 4095)[:, 32:])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("P")])
def test_damage_is_named(kind: str) -> None:
    content = KINDS[kind][0]()
    reading = parse_read_options({"range": "0,4095"}, "folder")
    for cut in (len(content) // 2, 60, 24):
        with pytest.raises(BadImage):
            decode(content[:cut], 1, options=reading)


def test_without_imagecodecs_it_is_named_or_said(monkeypatch: pytest.MonkeyPatch) -> None:
    colours, twelve = jpeg2000(COLOUR, 16), jpeg(GREY >> 4, 12, level=95)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert decode(colours, 3).shape == (48, 64, 3)
    found = read_picture(colours, Request(channels=3, options=PLAIN, whole=True))
    assert found.array.dtype == np.uint8
    needs = "JPEG 2000 of 16 bits and 3 channels, which needs the package imagecodecs"
    assert found.remarks == (f"16 bits a channel, of which 8 are read: {needs}",)
    with pytest.raises(BadImage, match="which needs the package imagecodecs"):
        decode(colours, 3, options=parse_read_options({"range": "0,4095"}, "folder"))
    with pytest.raises(BadImage, match="a JPEG of 12 bits, which needs the package imagecodecs"):
        decode(twelve, 1)


OTHERS = {
    "JPEG XL": lambda: imagecodecs.jpegxl_encode(COLOUR, lossless=True),
    "JPEG XR": lambda: imagecodecs.jpegxr_encode(COLOUR),
    "JPEG-LS": lambda: imagecodecs.jpegls_encode(GREY),
    "QOI": lambda: imagecodecs.qoi_encode((COLOUR >> 8).astype(np.uint8)),
    "Radiance HDR": lambda: imagecodecs.rgbe_encode((COLOUR / 65535).astype(np.float32)),
    "HEIC": lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99),
    "HDF5": lambda: b"\x89HDF\r\n\x1a\n" + bytes(99),
    "Zeiss CZI": lambda: b"ZISRAWFILE" + bytes(99),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_are_refused_by_name(name: str) -> None:
    with pytest.raises(BadImage, match=f"^{name} files are not read$"):
        decode(bytes(OTHERS[name]()), 3)


def test_a_ppm_whose_white_is_no_power_of_two() -> None:
    content = ppm(GREY // 7, 10_000)
    assert np.array_equal(decode(content, 1)[:, :, 0], mapped(GREY // 7, 0, 10_000))
    for wrong in (content[:-1], ppm_as_text(GREY // 7, 10_000)[:-40], b"P5 9 9 70000\n" + bytes(162)):
        with pytest.raises(BadImage):
            decode(wrong, 1)
    eight = io.BytesIO()
    Image.fromarray((GREY >> 8).astype(np.uint8)).save(eight, "PPM")
    assert np.array_equal(decode(eight.getvalue(), 1)[:, :, 0], GREY >> 8)
