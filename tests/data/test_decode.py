"""Formats as people have them, and files that are none. Expected pixels are Pillow's or the ones written."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from broken import SMOOTH, broken_files, save
from PIL import Image

from layergraft.data.decode import BadImage, decode
from layergraft.data.sources.open import open_source
from layergraft.errors import UserError


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_formats(kind: str) -> None:
    content = save(Image.fromarray(SMOOTH), kind)
    expected = Image.open(io.BytesIO(content))
    assert np.array_equal(decode(content, 3), np.asarray(expected.convert("RGB")))
    # A colour JPEG read as grey is its luma plane; Pillow converts what it has turned into RGB.
    worst = np.abs(decode(content, 1)[:, :, 0].astype(int) - np.asarray(expected.convert("L"))).max()
    assert worst <= (2 if kind == "JPEG" else 0)


def test_sixteen_bits() -> None:
    deep = (SMOOTH.astype(np.uint16) << 8) + 77
    for suffix in (".png", ".tif"):
        for pixels, channels in ((deep[:, :, ::-1], 3), (deep[:, :, 0], 1)):
            content = cv2.imencode(suffix, pixels)[1].tobytes()
            assert np.array_equal(decode(content, channels), SMOOTH[:, :, :channels])


def test_palette_cmyk_and_transparency() -> None:
    image = Image.fromarray(SMOOTH)
    palette = image.quantize(16)
    assert np.array_equal(decode(save(palette, "PNG"), 3), np.asarray(palette.convert("RGB")))
    cmyk = save(image.convert("CMYK"), "JPEG", quality=100)
    assert np.abs(decode(cmyk, 3).astype(int) - SMOOTH).max() <= 6
    alpha = np.dstack([SMOOTH, np.zeros((40, 60), np.uint8)])
    alpha[:, 30:, 3] = 255
    content = save(Image.fromarray(alpha), "PNG")
    assert (decode(content, 3)[:, :30] == 255).all()  # on white
    assert np.array_equal(decode(content, 3)[:, 30:], SMOOTH[:, 30:])
    assert np.array_equal(decode(content, 4), alpha)


def test_grey_with_transparency_and_rare_modes() -> None:
    grey = SMOOTH[:, :, 0]
    alpha = np.where(np.arange(60) < 30, 0, 255).astype(np.uint8)[None].repeat(40, axis=0)
    content = save(Image.fromarray(np.dstack([grey, alpha]), "LA"), "PNG")
    for channels in (1, 3):
        assert (decode(content, channels)[:, :30] == 255).all()
        assert (decode(content, channels)[:, 30:] == grey[:, 30:, None]).all()
    assert np.array_equal(decode(content, 2), np.dstack([grey, alpha]))
    clear = Image.fromarray(SMOOTH).quantize(16)
    content = save(clear, "PNG", transparency=bytes(16))  # every colour of the palette
    assert (decode(content, 3) == 255).all()
    lab = save(Image.fromarray(SMOOTH).convert("RGB"), "TIFF"), save(Image.new("LAB", (8, 8)), "TIFF")
    assert [decode(one, 1).shape for one in lab] == [(40, 60, 1), (8, 8, 1)]
    assert np.array_equal(decode(save(Image.fromarray(grey > 99), "PNG"), 1)[:, :, 0], 255 * (grey > 99))
    for kind, word in ((np.int32, "int32"), (np.float32, "float32")):
        with pytest.raises(BadImage, match=word):
            decode(save(Image.fromarray(grey.astype(kind)), "TIFF"), 1)


def upright(orientation: int) -> np.ndarray:
    """How `SMOOTH` stands after a turn."""
    transposed = SMOOTH.transpose(1, 0, 2)
    turned = [SMOOTH, SMOOTH[:, ::-1], SMOOTH[::-1, ::-1], SMOOTH[::-1]]
    turned += [transposed, transposed[:, ::-1], transposed[::-1, ::-1], transposed[::-1]]
    return turned[orientation - 1]


def exif_of(orientation: int, tag: int, kind: int, count: int, value: bytes) -> bytes:
    """An Exif segment with a second tag that need not be what the standard says."""
    rows = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0), struct.pack("<HHI", tag, kind, count)
    place = struct.pack("<I", 38) if len(value) > 4 else value.ljust(4, b"\0")  # behind both rows and a last pointer
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + rows[0] + rows[1] + place + bytes(4) + value


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = upright(orientation)
    content = save(Image.fromarray(SMOOTH), "JPEG", quality=100, subsampling=0, exif=exif)
    found = decode(content, 3)
    assert np.abs(found.astype(int) - expected).max() <= 4
    assert decode(content, 1).shape == (*expected.shape[:2], 1)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decode(save(Image.fromarray(SMOOTH), kind, exif=exif), 3), expected)
    asked = []
    decode(content, 3, lambda height, width: asked.append((height, width)) or 1)
    assert asked == [expected.shape[:2]]  # crops are chosen of the upright image


@pytest.mark.parametrize(
    ("tag", "kind", "count", "value"),
    [
        (0x0213, 2, 2, b"1\0"),  # positions of chroma as text
        (0x0128, 11, 1, struct.pack("<f", 2)),  # a unit as a float
        (0x011A, 10, 1, struct.pack("<ii", -72, 1)),  # a negative resolution
        (0x011A, 2, 3, b"72\0"),  # a resolution as text
        (0x011A, 2, 2, b"7\0"),
    ],
)
def test_odd_exif_costs_no_image(tag: int, kind: int, count: int, value: bytes) -> None:
    exif = exif_of(6, tag, kind, count, value)
    image = Image.fromarray(SMOOTH)
    found = decode(save(image, "JPEG", quality=100, subsampling=0, exif=exif), 3)
    assert np.abs(found.astype(int) - upright(6)).max() <= 4
    assert np.array_equal(decode(save(image, "PNG", exif=exif), 3), upright(6))


def test_unreadable_exif_costs_no_image() -> None:
    for exif in (b"Exif\0\0no tags at all", b"Exif\0\0", exif_of(9, 0x0128, 3, 1, b"\2\0")):
        for kind in ("JPEG", "PNG"):
            assert decode(save(Image.fromarray(SMOOTH), kind, exif=exif), 3).shape == SMOOTH.shape


@pytest.mark.parametrize("before", [b"\xff\xfe\x13\x88" + bytes(4998), b"\xff\xe2\x20\x00" + bytes(8190), b"\xff"])
def test_orientation_behind_a_long_segment(before: bytes) -> None:
    """A comment, a colour profile, or a fill byte."""
    exif = exif_of(6, 0x0128, 3, 1, b"\2\0")
    content = save(Image.fromarray(SMOOTH), "JPEG", quality=100, subsampling=0, exif=exif)
    found = decode(content[:2] + before + content[2:], 3)
    assert np.abs(found.astype(int) - upright(6)).max() <= 4


BANDS = np.concatenate([SMOOTH, SMOOTH[::-1]], axis=2)


def tiff(planes: np.ndarray, photometric: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    pytest.importorskip("tifffile").imwrite(buffer, planes, photometric=photometric, **options)
    return buffer.getvalue()


def deep(pixels: np.ndarray) -> np.ndarray:
    return (pixels.astype(np.uint16) << 8) + 77


def test_many_channels() -> None:
    for stored in (BANDS, deep(BANDS)):
        for content in (
            tiff(stored, "minisblack", planarconfig="contig"),
            tiff(stored.transpose(2, 0, 1), "minisblack", planarconfig="separate"),
            tiff(stored.transpose(2, 0, 1), "minisblack"),  # a stack of six images
        ):
            assert np.array_equal(decode(content, 6), BANDS)
            with pytest.raises(BadImage):
                decode(content, 5)


@pytest.mark.parametrize("count", [5, 6, 40])
def test_many_channels_are_turned(count: int) -> None:
    bands = np.concatenate([BANDS] * 7, axis=2)[:, :, :count]
    for orientation, expected in ((2, bands[:, ::-1]), (6, bands.transpose(1, 0, 2)[:, ::-1])):
        turn = [(0x0112, 3, 1, orientation, True)]
        content = tiff(bands, "minisblack", planarconfig="contig", extratags=turn)
        assert np.array_equal(decode(content, count), expected)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_bands_that_are_no_colours(channels: int) -> None:
    expected = BANDS[:, :, :channels]
    for stored in (expected, deep(expected)):
        assert np.array_equal(decode(tiff(stored, "minisblack", planarconfig="contig"), channels), expected)
        assert np.array_equal(
            decode(tiff(stored.transpose(2, 0, 1), "minisblack", planarconfig="separate"), channels), expected
        )


def test_infrared_is_no_transparency() -> None:
    for stored in (BANDS[:, :, :4], deep(BANDS[:, :, :4])):
        for options in ({}, {"bigtiff": True}, {"byteorder": ">"}):
            content = tiff(stored, "rgb", extrasamples=("unspecified",), **options)
            assert np.array_equal(decode(content, 4), BANDS[:, :, :4])
            assert np.array_equal(decode(content, 3), SMOOTH)
    alpha = tiff(BANDS[:, :, :4], "rgb", extrasamples=("unassalpha",))
    assert np.array_equal(decode(alpha, 4), BANDS[:, :, :4])
    assert not np.array_equal(decode(alpha, 3), SMOOTH)  # on white


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_sixteen_bits_that_pillow_gets_wrong(compression: str | None) -> None:
    """Planes one after the other, and grey whose 0 is white."""
    grey = np.asarray(Image.fromarray(SMOOTH).convert("L"))[:, :, None]
    planes = tiff(deep(SMOOTH).transpose(2, 0, 1), "rgb", planarconfig="separate", compression=compression)
    assert np.array_equal(decode(planes, 3), SMOOTH)
    assert np.array_equal(decode(planes, 1), grey)
    four = {"planarconfig": "separate", "extrasamples": ("unspecified",), "compression": compression}
    infrared = tiff(deep(BANDS[:, :, :4]).transpose(2, 0, 1), "rgb", **four)
    assert np.array_equal(decode(infrared, 4), BANDS[:, :, :4])
    if compression is None:
        assert np.array_equal(decode(infrared, 3), SMOOTH)
    six = tiff(deep(BANDS).transpose(2, 0, 1), "rgb", planarconfig="separate", extrasamples=(1, 2, 1))
    with pytest.raises(BadImage, match="6 bands instead of 3"):
        decode(six, 3)
    white = tiff(65535 - deep(grey[:, :, 0]), "miniswhite", compression=compression)
    assert np.array_equal(decode(white, 1), grey)
    assert np.array_equal(decode(white, 3), grey.repeat(3, axis=2))
    eight = tiff(255 - grey[:, :, 0], "miniswhite", compression=compression)
    assert np.array_equal(decode(eight, 1), grey)


def test_bands_need_tifffile(monkeypatch: pytest.MonkeyPatch) -> None:
    infrared = tiff(BANDS[:, :, :4], "rgb", extrasamples=("unspecified",))
    colours = tiff(SMOOTH, "rgb")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UserError, match="needs tifffile to be read as 4 channels"):
        decode(infrared, 4)
    for channels in (1, 2, 3, 4):
        assert decode(colours, channels).shape == (40, 60, channels)
    for broken in (infrared[:8], infrared[:40], b"II*\0", b"II+\0"):
        with pytest.raises(BadImage, match="not an image"):
            decode(broken, 4)


@pytest.mark.parametrize("channels", [3, 6])
def test_a_bomb_of_bands_is_not_decoded(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far less than the real limit, so that the old code could not fill the memory."""
    tifffile = pytest.importorskip("tifffile")
    monkeypatch.setattr("layergraft.data.decode.picture.MAX_PIXELS", 2399)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda *_, **__: pytest.fail("decoded"))
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", lambda *_, **__: pytest.fail("decoded"))
    stored = BANDS[:, :, :channels]
    for content in (
        tiff(stored, "minisblack", planarconfig="contig"),
        tiff(stored.transpose(2, 0, 1), "minisblack", planarconfig="separate"),
    ):
        with pytest.raises(BadImage, match=r"megapixels: give \?tile=256"):
            decode(content, channels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("progressive", "frame"), [(False, b"\xff\xc0"), (True, b"\xff\xc2")])
def test_a_jpeg_cannot_claim_more_pixels_than_its_bytes_hold(channels: int, progressive: bool, frame: bytes) -> None:
    """libjpeg fills what is missing with grey: 4 million pixels here, 174 million as easily."""
    content = bytearray(save(Image.fromarray(SMOOTH), "JPEG", progressive=progressive))
    start = content.find(frame)
    content[start + 5 : start + 9] = struct.pack(">HH", 2000, 2000)
    with pytest.raises(BadImage, match="claims more pixels than the file can hold"):
        decode(bytes(content), channels)


@pytest.mark.parametrize("progressive", [False, True])
def test_the_smallest_jpeg_of_its_size_is_read(progressive: bool) -> None:
    for options in ({"quality": 1, "optimize": True}, {"quality": 100}):
        content = save(Image.new("L", (3000, 3000), 128), "JPEG", progressive=progressive, **options)
        assert decode(content, 1).shape == (3000, 3000, 1)


def test_reduced_jpeg_has_the_size_and_look_of_the_whole() -> None:
    large = cv2.resize(SMOOTH, (601, 399), interpolation=cv2.INTER_CUBIC)
    content = save(Image.fromarray(large), "JPEG", quality=95)
    for factor in (2, 4, 8):
        found = decode(content, 3, lambda height, width, factor=factor: factor)
        assert found.shape[:2] == (-(-399 // factor), -(-601 // factor))
        whole = cv2.resize(large, found.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(found.astype(int) - whole).mean() < 2


def test_broken_files_have_reasons(tmp_path: Path) -> None:
    expected = broken_files(tmp_path)
    source = open_source(str(tmp_path))
    assert len(source) == 10
    for key in range(10):
        with pytest.raises(BadImage) as error:
            source.images.load(key, 3)
        assert str(error.value) == expected[source.images.name(key)], source.images.name(key)
