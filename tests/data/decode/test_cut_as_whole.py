"""Tiles, packed files and stacks hold the pixels that the whole image has, whatever its depth, turn and alpha."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layergraft.data.shrink import shrunk
from layergraft.data.sources.open import open_source

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")
RANDOM = np.random.default_rng(0)
SIDE = 64


@pytest.mark.parametrize("kind", ["page", "pages", "array", "tile"])
def test_one_bit_is_black_or_white(kind: str, tmp_path: Path) -> None:
    """It was 0 and 1 of 255, but for single pages, which Pillow reads."""
    pixels = RANDOM.integers(0, 2, (2, SIDE, SIDE)).astype(bool)
    if kind == "array":
        np.save(tmp_path / "x.npy", pixels[0])
    else:
        tifffile.imwrite(tmp_path / "x.tif", pixels if kind == "pages" else pixels[0], photometric="minisblack")
    source = open_source(f"{tmp_path}{f'?tile={SIDE}' if kind == 'tile' else ''}")
    assert np.unique(source.images.load(0, 1)).tolist() == [0, 255]


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_tiles_of_one_strip_are_those_of_a_tiled_file(turn: int, tmp_path: Path) -> None:
    """Bands of rows were turned one by one, and then put together as they lie."""
    pixels = RANDOM.integers(0, 256, (1100, 256, 3)).astype(np.uint8)
    found = []
    for name, how in (("strip", {"rowsperstrip": 1100}), ("tiles", {"tile": (64, 64)})):
        tag = [(274, "H", 1, turn, True)]
        (tmp_path / name).mkdir()
        file = tmp_path / name / "x.tif"
        tifffile.imwrite(file, pixels, photometric="rgb", compression="zlib", extratags=tag, **how)
        source = open_source(f"{tmp_path / name}?tile={SIDE}")
        found.append([source.images.load(key, 3) for key in range(len(source))])
    assert len(found[0]) == len(found[1]) == 17 * 4
    assert all(np.array_equal(strip, tile) for strip, tile in zip(*found, strict=True))


def rgba(file: Path, dtype: type, **how: Any) -> None:
    """An image whose colours are multiplied by their alpha."""
    most = np.iinfo(dtype).max
    pixels = RANDOM.integers(most // 2, most, (256, 256, 4)).astype(dtype)
    pixels[:, :, :3] = pixels[:, :, :3].astype(np.float64) * pixels[:, :, 3:] / most
    tifffile.imwrite(file, pixels, photometric="rgb", extrasamples=["assocalpha"], **how)


def test_colours_multiplied_by_alpha_are_cut_as_they_are_read_whole(tmp_path: Path) -> None:
    rgba(tmp_path / "x.tif", np.uint8, compression="zlib", rowsperstrip=256)
    whole, cut = open_source(str(tmp_path)), open_source(f"{tmp_path}?tile={SIDE}")
    expected = whole.images.load(0, 3)[:SIDE, :SIDE].astype(int)
    assert np.abs(cut.images.load(0, 3) - expected).max() <= 1


def test_packed_16_bit_colours_are_not_multiplied_twice(tmp_path: Path) -> None:
    rgba(tmp_path / "x.tif", np.uint16)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "x.tif").write_bytes(shrunk(open_source(str(tmp_path)), 0, 3, 256))
    stored = tifffile.imread(tmp_path / "x.tif").astype(np.float64)
    on_white = (stored[:, :, :3] + 65535 - stored[:, :, 3:]) / 257
    # Colour and opacity are rounded to 8 bits, and their sum on white: half a level each.
    assert np.abs(open_source(str(tmp_path / "packed")).images.load(0, 3) - on_white).max() <= 1.5


def test_packing_keeps_an_infrared_band_of_8_bits(tmp_path: Path) -> None:
    pixels = RANDOM.integers(0, 256, (SIDE, SIDE, 4)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="rgb", extrasamples=["unspecified"])
    source = open_source(str(tmp_path))
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "x.tif").write_bytes(shrunk(source, 0, 4, SIDE))
    assert np.array_equal(open_source(str(tmp_path / "packed")).images.load(0, 4), pixels)


def test_tissue_is_looked_for_on_the_page_that_is_cut(tmp_path: Path) -> None:
    """It was looked for on the first, which may be of another size."""
    glass, tissue = np.full((128, 128, 3), 240, np.uint8), np.full((256, 128, 3), (200, 60, 120), np.uint8)
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(glass, photometric="rgb")
        file.write(tissue, photometric="rgb")
    assert len(open_source(f"{tmp_path}?tile={SIDE}&tissue=0.5&page=2")) == 8


def test_an_image_that_could_not_be_cut_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cause may have been a package that was not there, or a full disk."""
    from layergraft.data.sources import cut
    from layergraft.errors import UserError

    tifffile.imwrite(tmp_path / "x.tif", RANDOM.integers(0, 256, (128, 128, 3)).astype(np.uint8), photometric="rgb")

    def no_room(*_: object) -> object:
        raise cut.BadImage("no room")

    spec, index = f"{tmp_path}?tile={SIDE}", tmp_path / "index"
    with monkeypatch.context() as patch:
        patch.setattr(cut, "open_image", no_room)
        with pytest.raises(UserError, match="no room"):
            open_source(spec, index)
    assert len(open_source(spec, index)) == 4


@pytest.mark.parametrize("begun", [False, True])
def test_a_failed_cut_is_tried_again_until_a_run_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """A finished index kept it for good; for a run that trains on the rest it must stay as it is."""
    from layergraft.data.sources import cut

    root, index = tmp_path / "images", tmp_path / "index"
    root.mkdir()
    for name in ("x", "y"):
        pixels = RANDOM.integers(0, 256, (128, 128, 3)).astype(np.uint8)
        tifffile.imwrite(root / f"{name}.tif", pixels, photometric="rgb")
    plain = cut.open_image

    def no_room_for_one(path: str, *more: Any) -> object:
        if path.endswith("y.tif"):
            raise cut.BadImage("no room")
        return plain(path, *more)

    spec = f"{root}?tile={SIDE}"
    with monkeypatch.context() as patch:
        patch.setattr(cut, "open_image", no_room_for_one)
        first = open_source(spec, index)
        assert len(first) == len(open_source(spec, index)) == 5
        assert "1 cannot be cut and count as one image each: 'y.tif'" in first.remarks[0]
    (memory,) = index.glob("*.tiles.jsonl")
    assert memory.read_bytes().count(b"no room") == 1, "the same failure is noted once"
    if begun:
        next(index.glob("*.index")).write_bytes(b"damaged")
    again = open_source(spec, index, begun=begun)
    assert len(again) == (5 if begun else 8)
    assert (again.identity == first.identity) == begun
    assert len(open_source(spec, index)) == 8


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_says_whether_it_has_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    from layergraft.config import load_recipe
    from layergraft.training import run_data

    told: list[bool] = []

    class Told(Exception):
        """The source is not opened."""

    def note(spec: str, index: Path, begun: bool) -> None:
        told.append(begun)
        raise Told

    monkeypatch.setattr(run_data, "open_source", note)
    if begun:
        (tmp_path / run_data.IMAGES).write_text("{}")
    with pytest.raises(Told):
        run_data.load_data(load_recipe("fashion_paper"), tmp_path)
    assert told == [begun]
