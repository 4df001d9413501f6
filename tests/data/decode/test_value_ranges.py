"""Numbers of more than 8 bits become grey levels through a range, at full depth; the expected ones are numpy's."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from layergraft.data.decode import BadImage, ReadOptions, decode
from layergraft.data.decode.options import parse_read_options, with_options
from layergraft.data.decode.picture import Picture
from layergraft.data.decode.ranges import to_levels
from layergraft.errors import UserError

DEEP = np.random.default_rng(0).integers(0, 65536, (50, 70), dtype=np.uint16)
TWELVE = DEEP >> 4


def mapped(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The formula that `export` writes down."""
    return np.round(np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def reading(text: str) -> ReadOptions:
    return parse_read_options(dict(part.split("=") for part in text.split("&")), "folder")


@pytest.mark.parametrize("kind", ["u2", ">u2", "i2", ">i2", "i4", "u4", "f2", "f4", ">f4", "f8", "i1"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_every_type_of_number(kind: str, channels: int) -> None:
    values = np.stack([np.roll(DEEP, 7 * number) for number in range(channels)], axis=2)
    array = (values // 512).astype(kind) if kind in ("f2", "i1") else values.astype(kind)
    low, high = (-20.5, 90) if kind in ("f2", "i1") else (-3000, 21000.25)
    assert np.array_equal(to_levels(Picture(array=array), ((low, high),)), mapped(array, low, high))
    pairs = tuple((low - 5.0 * number, high + 3.0 * number) for number in range(channels))
    expected = np.stack([mapped(array[:, :, c], *pair) for c, pair in enumerate(pairs)], axis=2)
    assert np.array_equal(to_levels(Picture(array=array), pairs), expected)
    if channels > 1:
        with pytest.raises(BadImage, match=f"{channels} channels, but .range= has {channels + 1} pairs"):
            to_levels(Picture(array=array), (*pairs, (0, 1)))


def test_a_table_and_arithmetic_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV before 5 looks up 8 bits alone."""
    picture = Picture(array=DEEP[:, :, np.newaxis])
    expected = to_levels(picture, ((17, 4001),))

    def refuse(*_: Any) -> None:
        raise cv2.error("8 bits alone")

    monkeypatch.setattr(cv2, "LUT", refuse)
    assert np.array_equal(to_levels(picture, ((17, 4001),)), expected)


@pytest.mark.parametrize("bits", range(8, 17))
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_upper_bits_of_every_number(bits: int, order: str) -> None:
    numbers = np.arange(2**16, dtype=np.uint16).reshape(256, 256, 1)
    found = to_levels(Picture(array=numbers.astype(order), bits=bits), None)
    assert np.array_equal(found, np.minimum(numbers >> (bits - 8), 255))


@pytest.mark.parametrize(
    ("low", "high"), [(0, 4095), (0, 65535), (-3.5, 900), (0, 255), (-1e6, 1e6), (0, 1), (7, 4000)]
)
def test_a_line_is_drawn_where_it_is_the_table(low: float, high: float) -> None:
    numbers = np.arange(2**16, dtype=np.uint16).reshape(256, 256, 1)
    assert np.array_equal(to_levels(Picture(array=numbers), ((low, high),)), mapped(numbers, low, high))


def test_nan_and_infinity_have_levels() -> None:
    array = np.array([[[np.nan, -np.inf, np.inf, 0.5]]], dtype=np.float32)
    assert to_levels(Picture(array=array), ((0, 1),)).tolist() == [[[0, 0, 255, 128]]]


def files(pixels: np.ndarray) -> dict[str, bytes]:
    """The same numbers in the containers that hold 16 bits."""
    contents = {suffix: cv2.imencode(suffix, pixels)[1].tobytes() for suffix in (".png", ".tif", ".jp2")}
    if pixels.ndim == 2:
        contents[".pgm"] = cv2.imencode(".pgm", pixels)[1].tobytes()
    return contents


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
@pytest.mark.parametrize(("low", "high"), [(0, 4095), (100, 3000), (-5.5, 70000)])
def test_grey_files(suffix: str, low: float, high: float) -> None:
    for pixels in (DEEP, TWELVE):
        content = files(pixels)[suffix]
        found = decode(content, 1, options=reading(f"range={low},{high}"))
        assert np.array_equal(found[:, :, 0], mapped(pixels, low, high))
        assert np.array_equal(decode(content, 1)[:, :, 0], pixels >> 8)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_colours_keep_their_depth(suffix: str) -> None:
    pixels = np.dstack([TWELVE, TWELVE[::-1], TWELVE[:, ::-1]])
    content = cv2.imencode(suffix, pixels[:, :, ::-1])[1].tobytes()
    assert np.array_equal(decode(content, 3, options=reading("range=0,4095")), mapped(pixels, 0, 4095))
    found = decode(content, 2, options=reading("channels=3,1&range=0,4095;50,900"))
    expected = np.dstack([mapped(pixels[:, :, 2], 0, 4095), mapped(pixels[:, :, 0], 50, 900)])
    assert np.array_equal(found, expected)


def test_the_same_camera_whatever_the_container() -> None:
    """Pillow stretches 12-bit JPEG 2000 and PGM to 16 bits, and leaves TIFF as it is."""
    tifffile, imagecodecs = pytest.importorskip("tifffile"), pytest.importorskip("imagecodecs")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, TWELVE, bitspersample=12)
    lossless = imagecodecs.jpeg2k_encode(TWELVE, bitspersample=12, level=0, reversible=True)
    grey_map = b"P5\n# twelve bits\n70 50\n4095\n" + TWELVE.astype(">u2").tobytes()
    for content in (buffer.getvalue(), bytes(lossless), grey_map):
        assert np.array_equal(decode(content, 1)[:, :, 0], TWELVE >> 4)
        for text in ("range=0,4095", "range=20,700.5"):
            low, high = map(float, text.partition("=")[2].split(","))
            assert np.array_equal(decode(content, 1, options=reading(text))[:, :, 0], mapped(TWELVE, low, high))


def test_eight_bits_keep_their_own_range() -> None:
    grey = (DEEP >> 8).astype(np.uint8)
    for kind in ("PNG", "JPEG", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(grey).save(buffer, kind)
        plain = decode(buffer.getvalue(), 1)
        assert np.array_equal(decode(buffer.getvalue(), 1, options=reading("range=0,4095")), plain)


def test_transparency_of_sixteen_bits_is_not_ranged() -> None:
    alpha = np.where(np.arange(70) < 35, 0, 65535).astype(np.uint16)[np.newaxis].repeat(50, axis=0)
    content = cv2.imencode(".png", np.dstack([TWELVE, TWELVE, TWELVE, alpha]))[1].tobytes()
    found = decode(content, 3, options=reading("range=0,4095"))
    assert (found[:, :35] == 255).all()
    assert np.array_equal(found[:, 35:, 0], mapped(TWELVE, 0, 4095)[:, 35:])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("range=0,4095", {"range": "0,4095"}),
        ("range=-1000,400.5", {"range": "-1000,400.5"}),
        ("range=0,1;2,1e4", {"range": "0,1;2,10000"}),
        ("range=auto", {"range": "auto"}),
        ("channels=3, 2,DAPI&page=2&z=max", {"channels": "3,2,DAPI", "page": "2", "z": "max"}),
        ("z=5", {"z": "5"}),
    ],
)
def test_options_are_read_and_written(text: str, words: dict[str, str]) -> None:
    found = reading(text)
    assert found.words() == words
    assert reading("&".join(f"{name}={value}" for name, value in words.items())) == found
    written = with_options("dir?seed=1&range=9,10&z=mean", found)
    assert written == "dir?seed=1&" + "&".join(f"{name}={value}" for name, value in words.items())


NO_VALUES = {
    "range": ["4095", "1,0", "0,0", "a,b", "0,inf", "nan,1", "", "0,1;"],
    "channels": ["", "0", "1,,2"],
    "page": ["0", "-1", "x", "1.5"],
    "z": ["0", "min"],
}


@pytest.mark.parametrize("name", NO_VALUES)
def test_what_is_no_option_is_refused(name: str) -> None:
    for value in NO_VALUES[name]:
        with pytest.raises(UserError) as error:
            reading(f"{name}={value}")
        assert f"{name}={value}" in error.value.problem
        assert error.value.hint.startswith("It is ")
