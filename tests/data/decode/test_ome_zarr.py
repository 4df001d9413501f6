"""OME-Zarr, written by ome-zarr-py and ngff-zarr, compared with what ngff-zarr and zarr themselves read."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layergraft.data.decode import BadImage
from layergraft.data.sources.label_file import read_labels
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.errors import UserError

numcodecs = pytest.importorskip("numcodecs")
zarr = pytest.importorskip("zarr")
writer = pytest.importorskip("ome_zarr.writer")
formats = pytest.importorskip("ome_zarr.format")

CELLS = np.random.default_rng(0).integers(0, 4000, (2, 3, 4, 64, 80)).astype(np.uint16)
VERSIONS = {"0.4": "FormatV04", "0.5": "FormatV05"}
NAMES = ("DAPI", "GFP", "RFP")


def write(path: Path, pixels: np.ndarray[Any, Any] = CELLS, axes: str = "tczyx", version: str = "0.5") -> Path:
    how = getattr(formats, VERSIONS[version])()
    group = zarr.open_group(str(path), mode="w", zarr_format=how.zarr_format)
    writer.write_image(pixels, group, axes=axes, fmt=how)
    channels = [{"label": name, "color": "FF0000", "active": True} for name in NAMES]
    if version == "0.4":
        group.attrs["omero"] = {"channels": channels}
    else:
        group.attrs["ome"] = {**group.attrs["ome"], "omero": {"channels": channels}}
    return path


@pytest.fixture(scope="module", params=VERSIONS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("ome") / "cells.ome.zarr", version=request.param)


def levels(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Grey levels of channels first, through the range 0 to 4000."""
    return np.rint(np.clip(np.moveaxis(pixels, 0, -1) / 4000, 0, 1) * 255).astype(np.uint8)


def names(source: Source) -> list[str]:
    return [source.images.name(int(key)) for key in source.keys]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", CELLS[0, :, 0]),
        ("z=3&page=2", CELLS[1, :, 2]),
        ("z=max", CELLS[0].max(axis=1)),
        ("z=mean&page=2", np.rint(CELLS[1].mean(axis=1)).astype(np.uint16)),
        ("channels=3,1,2", CELLS[0, [2, 0, 1], 0]),
        ("channels=RFP,DAPI,GFP", CELLS[0, [2, 0, 1], 0]),
    ],
)
def test_axes_are_read_as_those_of_ome_tiff(store: Path, query: str, expected: np.ndarray[Any, Any]) -> None:
    source = open_source(f"{store}?range=0,4000&{query}")
    assert names(source) == ["cells.ome.zarr"]
    assert np.array_equal(source.images.load(0, 3), levels(expected))


def test_a_level_is_chosen(store: Path) -> None:
    source = open_source(f"{store}?range=0,4000&level=1")
    part = zarr.open_group(str(store), mode="r")["s1"][0, :, 0]
    assert np.array_equal(source.images.load(0, 3), levels(part))
    with pytest.raises(BadImage, match="no level 9: it has 0 to"):
        open_source(f"{store}?level=9").images.load(0, 3)
    with pytest.raises(BadImage, match="no page 3: it has 2"):
        open_source(f"{store}?page=3").images.load(0, 3)


@pytest.mark.parametrize("level", [0, 1])
def test_tiles_read_the_chunks_that_they_need(store: Path, level: int) -> None:
    source = open_source(f"{store}?tile=16&level={level}&tissue=0&range=0,4000&z=2")
    whole = levels(zarr.open_group(str(store), mode="r")[f"s{level}"][0, :, 1])
    assert len(source) == (whole.shape[0] // 16) * (whole.shape[1] // 16)
    for key, name in enumerate(names(source)):
        x, y = map(int, name.removeprefix("cells.ome.zarr#").split(","))
        assert np.array_equal(source.images.load(key, 3), whole[y : y + 16, x : x + 16])
    with pytest.raises(UserError, match=r"give \?tile=16&level=0"):
        open_source(f"{store}?tile=16&mpp=0.5&tissue=0")


def test_a_folder_of_stores(tmp_path: Path, store: Path) -> None:
    for name in ("treated/b.zarr", "control/a.ome.zarr"):
        shutil.copytree(store, tmp_path / "set" / name)
    zarr.save(str(tmp_path / "set" / "control" / "array.zarr"), np.zeros((4, 4)))
    source = open_source(f"{tmp_path / 'set'}?range=0,4000", tmp_path / "index")
    assert names(source) == ["control/a.ome.zarr", "treated/b.zarr"]
    assert (source.classes, source.selected_labels.tolist()) == (["control", "treated"], [0, 1])
    assert "1 .zarr" in source.remarks[0]
    assert np.array_equal(source.images.load(1, 3), levels(CELLS[0, :, 0]))
    content = np.load(io.BytesIO(source.images.read(0)))
    assert np.array_equal(content, np.moveaxis(CELLS[0, :, 0], 0, -1))
    (tmp_path / "list.txt").write_text("set/control/a.ome.zarr one\nset/treated/b.zarr two\n")
    listed = open_source(f"{tmp_path / 'list.txt'}?range=0,4000")
    assert np.array_equal(listed.images.load(1, 3), source.images.load(1, 3))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plate_gives_its_fields(tmp_path: Path, version: str) -> None:
    how = getattr(formats, VERSIONS[version])()
    root = zarr.open_group(str(tmp_path / "plate.zarr"), mode="w", zarr_format=how.zarr_format)
    wells = ["A/1", "B/2"]
    writer.write_plate_metadata(root, ["A", "B"], ["1", "2"], wells, fmt=how)
    for well in wells:
        row = root.require_group(well)
        writer.write_well_metadata(row, ["0", "1"], fmt=how)
        for field in ("0", "1"):
            writer.write_image(CELLS[0, :, 0], row.require_group(field), axes="cyx", fmt=how)
            labels = row.require_group(f"{field}/labels/nuclei")
            writer.write_image(CELLS[0, 0, 0], labels, axes="yx", fmt=how)  # is no image of the set
    source = open_source(str(tmp_path / "plate.zarr"))
    assert names(source) == [f"plate.zarr/{well}/{field}" for well in wells for field in "01"]
    assert source.labels is None
    assert names(open_source(str(tmp_path))) == names(source)
    assert open_source(str(tmp_path)).labels is None
    table = tmp_path / "labels.csv"
    table.write_text("path,label\n" + "".join(f"{name},{number % 2}\n" for number, name in enumerate(names(source))))
    assert read_labels(table, source).selected_labels.tolist() == [0, 1, 0, 1]


def test_a_damaged_image_is_named(tmp_path: Path, store: Path) -> None:
    shutil.copytree(store, tmp_path / "a.zarr")
    for file in (tmp_path / "a.zarr" / "s0").rglob("*"):
        if file.is_file() and file.name[0] != "." and file.name != "zarr.json":
            file.write_bytes(b"nothing")
    with pytest.raises(BadImage, match="damaged"):
        open_source(str(tmp_path)).images.load(0, 3)
    shutil.rmtree(tmp_path / "a.zarr" / "s0")
    with pytest.raises(BadImage, match="damaged"):
        open_source(str(tmp_path / "a.zarr")).images.load(0, 3)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("group", [False, True])
def test_a_chunk_that_is_cut_short_is_damage(tmp_path: Path, zarr_format: int, group: bool) -> None:
    """Blosc's decoder would give other pixels, or end the process."""
    images = (np.arange(4 * 32 * 32) // 7 % 251).astype(np.uint8).reshape(4, 32, 32)
    blosc = numcodecs.Blosc() if zarr_format == 2 else zarr.codecs.BloscCodec()
    folder = tmp_path / "x.zarr"
    more = {"name": "images"} if group else {}
    array = zarr.create_array(
        str(folder), shape=images.shape, chunks=(1, 32, 32), dtype="uint8", zarr_format=zarr_format,
        compressors=blosc, **more,
    )  # fmt: skip
    array[:] = images
    assert np.array_equal(open_source(str(folder)).images.load(1, 1)[..., 0], images[1])
    chunk = folder / ("images" if group else "") / ("1.0.0" if zarr_format == 2 else "c/1/0/0")
    chunk.write_bytes(chunk.read_bytes()[:-5])
    source = open_source(str(folder))
    with pytest.raises(BadImage, match="damaged"):
        source.images.load(1, 1)
    assert np.array_equal(source.images.load(2, 1)[..., 0], images[2])


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_what_ngff_zarr_writes_is_what_it_reads(tmp_path: Path, version: str) -> None:
    ngff = pytest.importorskip("ngff_zarr")
    image = ngff.to_multiscales(ngff.to_ngff_image(CELLS, dims=list("tczyx")), scale_factors=[])
    window = ngff.OmeroWindow(min=0, max=65535, start=0, end=4000)
    channels = [ngff.OmeroChannel(color="FF0000", window=window, label=name) for name in NAMES]
    image.metadata.omero = ngff.Omero(channels=channels)
    path = tmp_path / "a.ome.zarr"
    ngff.to_ngff_zarr(str(path), image, version=version)
    theirs = ngff.from_ngff_zarr(str(path))
    assert tuple(theirs.images[0].dims) == tuple("tczyx")
    pixels = np.asarray(theirs.images[0].data)[1, ::-1, 2]
    source = open_source(f"{path}?range=0,4000&page=2&z=3&channels=RFP,GFP,DAPI")
    assert np.array_equal(source.images.load(0, 3), levels(pixels))
