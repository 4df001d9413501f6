"""TIFF as microscopes and satellites write it, compared with what tifffile and rasterio read of the same bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from layergraft.data.decode import BadImage, ReadOptions, decode
from layergraft.data.decode.options import parse_read_options
from layergraft.data.decode.picture import Request
from layergraft.data.decode.readers import read_picture

tifffile = pytest.importorskip("tifffile")
ROWS, COLUMNS = np.mgrid[:40, :60]
GREY = ((COLUMNS + 2 * ROWS) % 251).astype(np.uint8)


def channels_of(count: int, depth: int = 257) -> np.ndarray:
    """Channels first, each another picture."""
    planes = [np.roll(GREY, 9 * number, axis=1) // (number + 1) for number in range(count)]
    return np.stack(planes).astype(np.uint16) * depth


def tiff(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def upper_bits(content: bytes, series: int = 0) -> np.ndarray:
    """tifffile's own reading, channels last, of 8 bits."""
    planes = tifffile.imread(io.BytesIO(content), series=series)
    planes = planes.astype(np.uint16) >> 8
    return np.moveaxis(planes, 0, 2) if planes.ndim == 3 else planes[:, :, np.newaxis]


def options(text: str) -> ReadOptions:
    return parse_read_options(dict(part.split("=") for part in text.split("&")), "folder")


LAYOUTS: dict[str, dict[str, Any]] = {
    "ImageJ": {"imagej": True, "metadata": {"axes": "CYX", "mode": "composite"}},
    "OME": {"ome": True, "photometric": "minisblack", "metadata": {"axes": "CYX"}},
    "pages": {"photometric": "minisblack"},
    "planes": {"photometric": "minisblack", "planarconfig": "separate"},
    "compressed pages": {"photometric": "minisblack", "compression": "zlib"},
    "tiled OME": {"ome": True, "photometric": "minisblack", "metadata": {"axes": "CYX"}, "tile": (16, 16)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [2, 3, 4, 5, 13, 64])
def test_channels_are_read_by_their_axes(layout: str, count: int) -> None:
    content = tiff(channels_of(count), **LAYOUTS[layout])
    assert np.array_equal(decode(content, count), upper_bits(content))


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if "page" not in name])
@pytest.mark.parametrize(("count", "wanted"), [(13, 3), (5, 3), (2, 3), (4, 3), (13, 5)])
def test_another_number_of_bands_is_refused_in_every_layout(layout: str, count: int, wanted: int) -> None:
    with pytest.raises(BadImage, match=f"^{count} bands instead of {wanted}$"):
        decode(tiff(channels_of(count), **LAYOUTS[layout]), wanted)


@pytest.mark.parametrize("interleave", ["band", "pixel"])
@pytest.mark.parametrize("compress", [None, "deflate"])
@pytest.mark.parametrize("wanted", [1, 3])
def test_bands_of_a_satellite(interleave: str, compress: str | None, wanted: int) -> None:
    bands = channels_of(13, 250)
    content = raster(bands, interleave=interleave, **({"compress": compress} if compress else {}))
    assert np.array_equal(decode(content, 13), np.moveaxis(bands >> 8, 0, 2))
    with pytest.raises(BadImage, match=f"13 bands instead of {wanted}"):
        decode(content, wanted)


def raster(bands: np.ndarray, names: list[str] | None = None, colours: list[str] | None = None, **how: Any) -> bytes:
    rasterio = pytest.importorskip("rasterio")
    shape = {"height": bands.shape[1], "width": bands.shape[2], "count": len(bands), "dtype": bands.dtype.name}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", **shape, **how) as file:
            file.write(bands)
            for number, name in enumerate(names or [], start=1):
                file.set_band_description(number, name)
            if colours:
                file.colorinterp = [rasterio.enums.ColorInterp[name] for name in colours]
        memory.seek(0)
        return bytes(memory.read())


def located() -> dict[str, Any]:
    transform = pytest.importorskip("rasterio").transform
    return {"transform": transform.from_origin(0, 0, 1, 1), "crs": "EPSG:32632"}


def test_infrared_is_no_transparency() -> None:
    colours = channels_of(3, 1).astype(np.uint8)
    bands = np.concatenate([colours, 250 - GREY[np.newaxis]])
    expected = np.moveaxis(colours, 0, 2)
    named = raster(bands, colours=["red", "green", "blue", "nir"])
    for content in (
        named,
        raster(bands, **located()),
        raster(bands, colours=["red", "green", "blue", "nir"], **located()),
    ):
        assert np.array_equal(decode(content, 3), expected)
        assert np.array_equal(decode(content, 4), np.moveaxis(bands, 0, 2))
    said = read_picture(raster(bands, **located()), Request(channels=3, options=ReadOptions(), whole=True)).remarks
    assert said == ("a fourth band that counts as infrared, not as transparency",)
    mask = np.where(GREY > 100, 255, 0).astype(np.uint8)
    clear = decode(raster(np.concatenate([colours, mask[np.newaxis]]), **located()), 3)
    assert np.array_equal(clear[mask > 0], expected[mask > 0])
    assert (clear[mask == 0] == 255).all()  # a mask is one: it lies on white
    opaque = raster(np.concatenate([colours, np.full_like(mask, 255)[np.newaxis]]), **located())
    found = read_picture(opaque, Request(channels=3, options=ReadOptions(), whole=True))
    assert (found.remarks, found.alpha) == ((), 3)


@pytest.mark.parametrize("kind", ["int16", "uint16", "float32"])
@pytest.mark.parametrize("fourth", [250 - GREY, np.where(GREY > 100, 255, 0)])
def test_a_fourth_band_of_any_numbers(kind: str, fourth: np.ndarray) -> None:
    colours = channels_of(3, 1).astype(kind)
    bands = np.concatenate([colours, fourth[np.newaxis].astype(kind)])
    content = raster(bands, photometric="RGB", alpha="YES", **located())
    found = decode(content, 3, options=options("range=0,255"))
    assert np.array_equal(found, np.moveaxis(colours, 0, 2).astype(np.uint8))


def test_numbers_as_the_file_declares_them() -> None:
    deep = GREY.astype(np.uint16) * 16
    twelve = raster(deep[np.newaxis], nbits=12)
    assert np.array_equal(decode(twelve, 1)[:, :, 0], GREY)
    signed = tiff((GREY.astype(int) - 128).astype(np.int8))
    for kind in (np.int8, np.int16, np.int32, np.uint32, np.float16, np.float32, np.float64):
        with pytest.raises(BadImage, match=f"^{np.dtype(kind).name} pixels, whose range no one knows: give "):
            decode(tiff(GREY.astype(kind)), 1)
    assert np.array_equal(decode(signed, 1, options=options("range=-128,127"))[:, :, 0], GREY)
    for pixels in (GREY.astype(np.float32), np.dstack([GREY] * 3).astype(np.float64)):
        count, kinds = (1 if pixels.ndim == 2 else 3), {1: "minisblack", 3: "rgb"}
        found = decode(tiff(pixels, photometric=kinds[count]), count, options=options("range=0,255"))
        assert np.array_equal(found, pixels.reshape(40, 60, count).astype(np.uint8))


def test_channels_by_number_and_name() -> None:
    bands = channels_of(5)
    names = ["DAPI", "GFP", "TRITC", "CY5", "BF"]
    ome = tiff(bands, ome=True, photometric="minisblack", metadata={"axes": "CYX", "Channel": {"Name": names}})
    imagej = tiff(bands, imagej=True, metadata={"axes": "CYX", "Labels": names})
    gdal = raster(bands, names=names)
    for content in (ome, imagej, gdal):
        for text, positions in (("3,1", [2, 0]), ("GFP,BF,DAPI", [1, 4, 0]), ("CY5", [3])):
            found = decode(content, len(positions), options=options(f"channels={text}"))
            assert np.array_equal(found, np.moveaxis(bands[positions] >> 8, 0, 2))
        with pytest.raises(BadImage, match="no channel 'RED': its channels are DAPI, GFP, TRITC, CY5, BF"):
            decode(content, 1, options=options("channels=RED"))
        with pytest.raises(BadImage, match="no channel 6: it has 5"):
            decode(content, 1, options=options("channels=6"))
    plain = tiff(bands, photometric="minisblack")
    assert np.array_equal(decode(plain, 2, options=options("channels=5,2")), np.moveaxis(bands[[4, 1]] >> 8, 0, 2))
    photograph = io.BytesIO()
    Image.fromarray(np.moveaxis(bands[:3] >> 8, 0, 2).astype(np.uint8)).save(photograph, "PNG")
    found = decode(photograph.getvalue(), 1, options=options("channels=2"))
    assert np.array_equal(found[:, :, 0], bands[1] >> 8)


def test_stacks_and_series() -> None:
    stack = channels_of(7)
    volume = tiff(stack, imagej=True, metadata={"axes": "ZYX"})
    found = read_picture(volume, Request(channels=1, options=ReadOptions(), whole=True))
    assert found.remarks == ("7 slices; the first is taken (?z=max, ?z=mean or ?z=N)",)
    for text, expected in (
        ("z=3", stack[2]),
        ("z=max", stack.max(axis=0)),
        ("z=mean", np.rint(stack.mean(axis=0)).astype(np.uint16)),
    ):
        assert np.array_equal(decode(volume, 1, options=options(text))[:, :, 0], expected >> 8)
    assert np.array_equal(decode(volume, 1)[:, :, 0], stack[0] >> 8)
    with pytest.raises(BadImage, match="1 band instead of 7"):
        decode(volume, 7)
    with pytest.raises(BadImage, match="no slice 8: it has 7"):
        decode(volume, 1, options=options("z=8"))
    hyper = np.stack([channels_of(12)[3 * number : 3 * number + 3] for number in range(4)])
    film = tiff(hyper, imagej=True, metadata={"axes": "TCYX"})
    assert np.array_equal(decode(film, 3, options=options("page=3")), np.moveaxis(hyper[2] >> 8, 0, 2))
    deep = tiff(hyper, ome=True, photometric="minisblack", metadata={"axes": "ZCYX"})
    found = decode(deep, 3, options=options("z=max"))
    assert np.array_equal(found, np.moveaxis(hyper.max(axis=0) >> 8, 0, 2))
    assert np.array_equal(
        decode(deep, 2, options=options("z=2&channels=3,1")), np.moveaxis(hyper[1, [2, 0]] >> 8, 0, 2)
    )


@pytest.mark.parametrize(("axes", "called"), [("ZYX", "slices"), ("TYX", "pages")])
@pytest.mark.parametrize("count", [3, 5])
def test_slices_and_times_are_no_channels_however_many(axes: str, called: str, count: int) -> None:
    stack = channels_of(count)
    for how in ({"imagej": True}, {"ome": True, "photometric": "minisblack"}):
        content = tiff(stack, metadata={"axes": axes}, **how)
        found = read_picture(content, Request(channels=count, options=ReadOptions()))
        assert found.remarks[0].startswith(f"{count} {called}; the first is taken")
        assert np.array_equal(found.array[:, :, 0], stack[0])
        assert found.array.shape[2] == 1
    assert np.array_equal(decode(tiff(stack, photometric="minisblack"), count), np.moveaxis(stack >> 8, 0, 2))


def test_pages_that_are_not_channels_are_said() -> None:
    pages = tiff(channels_of(7), photometric="minisblack")
    found = read_picture(pages, Request(channels=3, options=ReadOptions(), whole=True))
    assert found.remarks == ("7 pages; the first is taken (?page=N takes another)",)
    assert np.array_equal(decode(pages, 1, options=options("page=4"))[:, :, 0], channels_of(7)[3] >> 8)
    with pytest.raises(BadImage, match="no page 8: it has 7"):
        decode(pages, 1, options=options("page=8"))
    three = tiff(channels_of(3), **LAYOUTS["ImageJ"])
    found = read_picture(three, Request(channels=1, options=ReadOptions(), whole=True))
    assert found.remarks == ("3 channels; the first is taken (?channels=N takes another)",)
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:  # a slide's label behind its picture
        for size in (1, 7):
            writer.write(np.dstack([GREY[::size, ::size]] * 3), photometric="rgb", metadata=None)
    assert decode(buffer.getvalue(), 3).shape == (40, 60, 3)
    assert decode(buffer.getvalue(), 3, options=options("page=2")).shape == (6, 9, 3)
    with pytest.raises(BadImage, match="no page 7: it has 2"):
        decode(buffer.getvalue(), 3, options=options("page=7"))


def test_a_thumbnail_before_its_picture_is_said() -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for size in (4, 1):
            writer.write(np.dstack([GREY[::size, ::size]] * 3), photometric="rgb", metadata=None)
    found = read_picture(buffer.getvalue(), Request(channels=3, options=ReadOptions(), whole=True))
    assert found.array.shape == (10, 15, 3)
    said = "the first page, of 10 by 15 pixels, is taken, and page 2 has 40 by 60 (?page=2 takes it)"
    assert found.remarks == (said,)
    assert decode(buffer.getvalue(), 3, options=options("page=2")).shape == (40, 60, 3)


@pytest.mark.parametrize("how", [{}, {"bigtiff": True}, {"byteorder": ">"}])
@pytest.mark.parametrize("back_to", [0, 1])
def test_pages_in_a_circle_are_refused(how: dict[str, Any], back_to: int) -> None:
    content = bytearray(tiff(channels_of(3), photometric="minisblack", metadata=None, **how))
    order, size = "big" if how.get("byteorder") else "little", 8 if how.get("bigtiff") else 4
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        pages = file.pages
        entries = len(pages[2].tags) if hasattr(pages[2], "tags") else len(pages[0].tags)
        last, back = pages._offsets[2], pages._offsets[back_to]
    at = last + (8 + 20 * entries if size == 8 else 2 + 12 * entries)
    assert content[at : at + size] == bytes(size)
    content[at : at + size] = back.to_bytes(size, order)
    with pytest.raises(BadImage, match="its pages run in a circle"):
        decode(bytes(content), 5)


def test_channels_have_the_names_of_their_own_image() -> None:
    bands, buffer = channels_of(4), io.BytesIO()
    with tifffile.TiffWriter(buffer, ome=True) as writer:
        for first, names in ((0, ["DAPI", "GFP"]), (2, ["GFP", "CY5"])):
            described = {"axes": "CYX", "Channel": {"Name": names}}
            writer.write(bands[first : first + 2], photometric="minisblack", metadata=described)
    for text, position in (
        ("channels=GFP", 1),
        ("page=1&channels=GFP", 1),
        ("page=2&channels=GFP", 2),
        ("page=2&channels=CY5", 3),
    ):
        assert np.array_equal(decode(buffer.getvalue(), 1, options=options(text))[:, :, 0], bands[position] >> 8)
    with pytest.raises(BadImage, match="no channel 'DAPI': its channels are GFP, CY5"):
        decode(buffer.getvalue(), 1, options=options("page=2&channels=DAPI"))


@pytest.mark.parametrize("compression", ["webp", "lerc", "jpeg2000", "jpegxl"])
@pytest.mark.parametrize("channels", [1, 3])
def test_compressions_that_pillow_lacks(compression: str, channels: int) -> None:
    pytest.importorskip("imagecodecs")
    pixels = np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])
    stored = pixels if channels == 3 or compression == "webp" else GREY
    lossless = {"compressionargs": {"lossless": True}} if compression in ("webp", "jpegxl") else {}
    level = {"compressionargs": {"level": 0}} if compression == "jpeg2000" else {}
    content = tiff(
        stored, photometric="rgb" if stored.ndim == 3 else "minisblack", compression=compression, **lossless, **level
    )
    expected = tifffile.imread(io.BytesIO(content))
    found = decode(content, 3 if stored.ndim == 3 else 1)
    assert np.array_equal(found, expected.reshape(found.shape))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_an_array_written_with_its_channels_last(dtype: str) -> None:
    """tifffile makes (40, 30, 12) to 40 pages of 30 rows and 12 columns, unless it is told that 12 are samples."""
    array = np.random.default_rng(0).integers(0, 250, (40, 30, 12)).astype(dtype)
    file = io.BytesIO()
    tifffile.imwrite(file, array)
    request = Request(channels=12, options=ReadOptions())
    assert np.array_equal(read_picture(file.getvalue(), request).array, array)
    other = read_picture(file.getvalue(), Request(channels=1, options=ReadOptions()))
    assert np.array_equal(other.array[:, :, 0], array[0])
    assert "40 pages" in other.remarks[0]


def test_nothing_is_printed_of_what_libtiff_finds_odd(capfd: pytest.CaptureFixture[str]) -> None:
    colours = np.dstack([GREY] * 3)
    decode(tiff(colours, photometric="rgb", compression="webp", compressionargs={"level": 101}), 3)
    for interleave in ("band", "pixel"):
        with pytest.raises(BadImage, match="13 bands instead of 3"):
            decode(raster(channels_of(13), interleave=interleave, compress="deflate"), 3)
    assert capfd.readouterr() == ("", "")
