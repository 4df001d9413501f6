"""Large images that are no pyramids, cut into tiles: compared with what the field's own reader gives of the whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from layergraft.data.decode import BadImage, large, picture
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.errors import UserError
from layergraft.runs.atomic import is_leftover

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (150, 260, 3)).astype(np.uint8)
BANDS = RANDOM.integers(0, 4000, (13, 150, 260)).astype(np.uint16)
SIDE = 64
TIFFS: dict[str, tuple[Any, dict[str, Any], str, int]] = {  # pixels (H, W, C), how to write them, options, channels
    "raw strips": (RGB, {}, "", 3),
    "raw tiles": (RGB, {"tile": (48, 32)}, "", 3),
    "deflated strips": (RGB, {"compression": "zlib", "predictor": True, "rowsperstrip": 7}, "", 3),
    "deflated tiles": (RGB, {"compression": "zlib", "tile": (32, 48)}, "", 3),
    "JPEG": (RGB, {"compression": "jpeg", "tile": (32, 48)}, "", 3),
    "big-endian": (RGB, {"byteorder": ">"}, "", 3),
    "BigTIFF": (RGB, {"bigtiff": True, "tile": (32, 32)}, "", 3),
    "13 planes": (BANDS, {"planarconfig": "separate"}, "range=0,4000", 13),
    "13 deflated planes": (BANDS, {"planarconfig": "separate", "compression": "zlib"}, "range=0,4000", 13),
    "bands of choice": (BANDS, {"planarconfig": "separate", "tile": (32, 32)}, "channels=4,3,2&range=0,4000", 3),
    "channels as pages": (BANDS[:5], {"imagej": True, "metadata": {"axes": "CYX"}}, "range=0,4000", 5),
    "channels as deflated pages": (BANDS[:5], {"ome": True, "metadata": {"axes": "CYX"}, "compression": "zlib"}, "", 5),
}


def corner(source: Source, key: int) -> tuple[int, int]:
    x, y = source.images.name(key).rpartition("#")[2].split(",")
    return int(x), int(y)


@pytest.mark.parametrize("kind", TIFFS)
def test_tiles_of_a_tiff_are_parts_of_the_whole(tmp_path: Path, kind: str) -> None:
    pixels, how, options, channels = TIFFS[kind]
    photometric = "rgb" if pixels is RGB else "minisblack"
    tifffile.imwrite(tmp_path / "scene.tif", pixels, photometric=photometric, **how)
    whole = np.asarray(tifffile.imread(tmp_path / "scene.tif"))
    whole = whole if pixels is RGB else whole.transpose(1, 2, 0)
    if "channels" in options:
        whole = whole[:, :, [3, 2, 1]]
    if "range" in options:
        whole = np.rint(np.clip(whole / 4000, 0, 1) * 255).astype(np.uint8)
    elif whole.dtype == np.uint16:
        whole = (whole >> 8).astype(np.uint8)
    source = open_source(f"{tmp_path / 'scene.tif'}?tile={SIDE}&{options}")
    assert [corner(source, key) for key in range(len(source))] == [
        (x, y) for y in range(0, 150 - SIDE + 1, SIDE) for x in range(0, 260 - SIDE + 1, SIDE)
    ]
    for key in range(len(source)):
        x, y = corner(source, key)
        assert np.array_equal(source.images.load(key, channels), whole[y : y + SIDE, x : x + SIDE])


def test_no_more_is_decoded_than_a_tile_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", tile=(32, 32), compression="zlib")
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda *_, **__: pytest.fail("all of it"))
    source = open_source(f"{tmp_path}?tile=32")
    assert np.array_equal(source.images.load(9, 3), RGB[32:64, 32:64])
    assert list(tmp_path.iterdir()) == [tmp_path / "a.tif"]


def test_a_satellite_scene_of_rasterio(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    profile = {"driver": "GTiff", "count": 13, "height": 150, "width": 260, "dtype": "uint16", "tiled": True}
    profile |= {"blockxsize": 128, "blockysize": 64, "compress": "deflate", "interleave": "pixel"}
    with rasterio.open(tmp_path / "scene.tif", "w", **profile) as file:
        file.write(BANDS)
    source = open_source(f"{tmp_path}?tile=64&channels=4,3,2&range=0,3000")
    with rasterio.open(tmp_path / "scene.tif") as file:
        window = rasterio.windows.Window(64, 64, 64, 64)
        part = file.read([4, 3, 2], window=window).transpose(1, 2, 0)
    key = next(key for key in range(len(source)) if corner(source, key) == (64, 64))
    assert np.array_equal(source.images.load(key, 3), np.rint(np.clip(part / 3000, 0, 1) * 255).astype(np.uint8))


@pytest.mark.parametrize("kind", ["png", "deep.png", "one strip.tif", "npy"])
def test_an_image_without_parts_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(large, "DECODED", 2)
    file, index = tmp_path / "images" / f"a.{kind}", tmp_path / "index"
    file.parent.mkdir()
    expected, channels = RGB, 3
    if kind == "png":
        Pillow.fromarray(RGB).save(file)
    elif kind == "npy":
        np.save(file, RGB)
    elif kind == "deep.png":
        Pillow.fromarray(BANDS[0]).save(file)
        expected, channels = (BANDS[0] >> 8).astype(np.uint8)[:, :, np.newaxis], 1
    else:
        tifffile.imwrite(file, RGB, photometric="rgb", compression="zlib", rowsperstrip=150)
    monkeypatch.setattr(large, "_ROWS", 40)
    spec = f"{file.parent}?tile={SIDE}"
    for number in range(2):  # made, and found
        source = open_source(spec, index)
        if number:
            monkeypatch.setattr(large.DecodedTiles, "_decode", lambda *_: pytest.fail("decoded again"))
        for key in range(len(source)):
            x, y = corner(source, key)
            assert np.array_equal(source.images.load(key, channels), expected[y : y + SIDE, x : x + SIDE])
    assert len(list(index.glob("*.decoded.npy"))) == 1
    assert list(index.glob("*.part")) == []


def test_more_pixels_than_an_image_may_have_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pillow.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(picture, "MAX_PIXELS", RGB.shape[0] * RGB.shape[1] - 1)
    with pytest.raises(BadImage, match=r"megapixels: give \?tile=256"):
        open_source(str(tmp_path)).images.load(0, 3)
    assert len(open_source(f"{tmp_path}?tile=64")) == 8
    monkeypatch.setattr(picture, "MAX_PIXELS", RGB.shape[0] * RGB.shape[1] // 2 - 1)
    with pytest.raises(UserError, match="write it as a TIFF file in tiles"):
        open_source(f"{tmp_path}?tile=64")


def test_tissue_of_a_plain_image_and_of_none(tmp_path: Path) -> None:
    glass = np.full((128, 128, 3), 240, np.uint8)
    glass[:64, 64:] = (180, 90, 150)
    Pillow.fromarray(glass).save(tmp_path / "a.png")
    source = open_source(f"{tmp_path}?tile=64&tissue=0.5")
    assert [source.images.name(key) for key in range(len(source))] == ["a.png#64,0"]
    (tmp_path / "deep").mkdir()
    np.save(tmp_path / "deep" / "a.npy", BANDS[0])
    with pytest.raises(UserError, match=r"give \?tissue=0"):
        open_source(f"{tmp_path / 'deep'}?tile=64&tissue=0.5")


def test_a_damaged_tile_of_a_tiff_costs_no_other(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        start = file.pages[0].dataoffsets[0]
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[start : start + 60] = bytes(60)
    (tmp_path / "a.tif").write_bytes(content)
    source = open_source(f"{tmp_path}?tile=64")
    with pytest.raises(BadImage, match="damaged"):
        source.images.load(0, 3)
    assert np.array_equal(source.images.load(1, 3), RGB[:64, 64:128])


@pytest.mark.parametrize(("tag", "value", "reason"), [(322, 0, "damaged"), (323, 0, "damaged"), (257, 2**31, "tiles")])
def test_a_damaged_size_of_a_tiff_is_named(tmp_path: Path, tag: int, value: int, reason: str) -> None:
    """Width or length of its tiles, or length of the image; each stopped the command, or filled the memory."""
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        start = file.pages[0].tags[tag].offset
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[start + 2 : start + 4] = (4).to_bytes(2, "little")  # 32 bits
    content[start + 8 : start + 12] = value.to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(UserError, match=reason):
        open_source(f"{tmp_path}?tile=16")


@pytest.mark.parametrize("refused", ["posix_fallocate", "replace", "mkdir"])
def test_a_full_disk_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """It must not count as a damaged image; and a map of a file without room behind it ends the process."""
    Pillow.fromarray(np.tile(RGB, (5, 5, 1))).save(tmp_path / "x.png")
    names: list[str] = []

    def full(file: object, *_: object, **more: object) -> None:
        names.extend(path.name for path in (tmp_path / "index").glob("*.part"))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(large.os, refused, full)
        with pytest.raises(UserError, match="No space left"):
            open_source(f"{tmp_path}?tile={SIDE}", tmp_path / "index")
    assert [name for name in names if not is_leftover(name)] == [], "what a kill leaves is cleared"
    assert not [path for path in tmp_path.rglob("*.part") if path.stat().st_size > RGB.size]
    assert len(open_source(f"{tmp_path}?tile={SIDE}", tmp_path / "index")) == 11 * 20
