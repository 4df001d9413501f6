"""Ranges found in the images, taken over from an encoder, and kept for a run that goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layergraft.commands.cli import main
from layergraft.config.loading import dump_recipe, load_recipe
from layergraft.data.cache import CachedImages, MemoryStore
from layergraft.data.decode import ReadOptions
from layergraft.data.decode.picture import spread_numbers
from layergraft.data.first_look import look_at, remarks_on_files
from layergraft.data.reading import read_as_trained, settle
from layergraft.data.sources.open import default_test_source, open_source
from layergraft.encoders.checkpoint import load_encoder, save_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError
from layergraft.evaluation.features import extract_all
from layergraft.training.run_data import read_as_begun

tifffile = pytest.importorskip("tifffile")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve grey images of 12 bits in 16."""
    random = np.random.default_rng(0)
    (tmp_path / "train").mkdir()
    for number in range(12):
        pixels = random.integers(100, 3000, (36, 36)).astype(np.uint16)
        tifffile.imwrite(tmp_path / "train" / f"{number}.tif", pixels)
    return tmp_path / "train"


def quiet(_: str) -> None:
    """Say nothing."""


def test_a_range_is_found_and_said(folder: Path) -> None:
    said: list[str] = []
    source = settle(open_source(f"{folder}?range=auto&seed=3"), 1, said.append)
    numbers = np.concatenate([tifffile.imread(file).ravel() for file in sorted(folder.iterdir())])
    low, high = np.percentile(numbers, (0.1, 99.9))
    assert source.options.range == ((np.floor(low), np.ceil(high)),)
    assert source.spec == f"{folder}?seed=3&range={np.floor(low):g},{np.ceil(high):g}"
    assert len(said) == 1
    assert source.spec.partition("range=")[2] in said[0]
    again = settle(open_source(source.spec), 1, quiet)
    assert np.array_equal(again.images.load(0, 1), source.images.load(0, 1))
    assert source.images.load(0, 1).max() == 255
    (folder.parent / "test").mkdir()
    assert default_test_source(source.spec) == f"{folder.parent / 'test'}?{source.options}"


def test_bands_have_ranges_of_their_own(tmp_path: Path) -> None:
    bands = np.stack([np.arange(1600).reshape(40, 40) * factor for factor in (1, 7)]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "0.tif", bands, imagej=True, metadata={"axes": "CYX"})
    found = settle(open_source(f"{tmp_path}?range=auto"), 2, quiet).options.fixed_range
    assert found is not None
    assert len(found) == 2
    assert found[1][1] == pytest.approx(7 * found[0][1], rel=0.01)


def test_a_range_is_of_the_channel_that_is_read(tmp_path: Path) -> None:
    bands = np.stack([np.arange(1600).reshape(40, 40) * factor for factor in (1, 7)]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "0.tif", bands, imagej=True, metadata={"axes": "CYX"})
    for options, factor in (("range=auto", 1), ("range=auto&channels=1", 1), ("range=auto&channels=2", 7)):
        (found,) = settle(open_source(f"{tmp_path}?{options}"), 1, quiet).options.fixed_range or ()
        assert found == pytest.approx((factor, factor * 1598), abs=factor)


def test_a_band_that_is_left_out_has_no_part_in_a_range(tmp_path: Path) -> None:
    bands = np.dstack([np.arange(1600).reshape(40, 40) * factor for factor in (1, 1, 1, 30)]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "0.tif", bands, photometric="rgb", extrasamples=[0])
    (found,) = settle(open_source(f"{tmp_path}?range=auto"), 3, quiet).options.fixed_range or ()
    assert found == pytest.approx((1, 1598), abs=1)
    (found,) = settle(open_source(f"{tmp_path}?range=auto"), 4, quiet).options.fixed_range or ()
    assert found[1] > 30_000


@pytest.mark.parametrize("shape", [(4096, 4096), (2048, 4096), (987, 1597), (1, 50_000), (50_000, 2), (256, 300)])
def test_numbers_are_spread_over_rows_and_columns_of_any_size(shape: tuple[int, int]) -> None:
    """Of stripes one, 2 and 16 pixels wide, along rows and columns, as many numbers are taken as of any others."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    for axis, line in ((0, rows), (1, columns)):
        size = shape[axis]
        for stripes in (line % 2, line // 2 % 2, line // 16 % 2, line * 4 // size):
            expected = stripes.mean()
            striped = np.broadcast_to(stripes, shape)[:, :, np.newaxis]
            taken = spread_numbers(striped, 4096)
            assert taken.shape == (4096, 1)
            assert taken.mean() == pytest.approx(expected, abs=0.06)


def test_a_range_is_of_all_columns_of_a_large_image(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(4096, dtype=np.uint16), (4096, 4096))
    tifffile.imwrite(tmp_path / "0.tif", ramp)
    (found,) = settle(open_source(f"{tmp_path}?range=auto"), 1, quiet).options.fixed_range or ()
    assert found == pytest.approx((4, 4091), abs=4)


def test_dark_images_are_warned_of(folder: Path) -> None:
    source = open_source(str(folder))
    (line,) = remarks_on_files(look_at(source, 1), source)
    assert "nearly black" in line
    assert "?range=0,4095" in line
    ranged = source.read_by(ReadOptions(range=((0, 4095),)))
    assert remarks_on_files(look_at(ranged, 1), ranged) == []


def test_the_range_travels_with_the_encoder(folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe("fashion_paper")
    encoder = create_encoder(recipe.encoder, 0)
    encoder.reads = ReadOptions(range=((0, 4095),), channels=(1,))
    save_encoder(encoder, tmp_path / "encoder", {"stage": "mae"})
    loaded = load_encoder(tmp_path / "encoder")
    assert loaded.reads == encoder.reads
    source = open_source(str(folder))
    said: list[str] = []
    settled = settle(source, 1, said.append, loaded.reads, "'encoder'")
    assert settled.options == loaded.reads
    assert said == [f"{folder} is read as 'encoder' was trained: range=0,4095&channels=1."]
    found = extract_all(loaded, source, ["cls"])["cls"]
    assert np.array_equal(found, extract_all(loaded, settled, ["cls"])["cls"])
    plain = load_encoder(tmp_path / "encoder")
    plain.reads = ReadOptions()
    assert not np.allclose(found, extract_all(plain, source, ["cls"])["cls"])
    said.clear()
    other = settle(open_source(f"{folder}?range=0,900"), 1, said.append, loaded.reads, "'encoder'")
    assert other.options.range == ((0, 900),)
    assert "range=0,900, but 'encoder' was trained with range=0,4095" in said[0]
    with pytest.raises(UserError, match="names 2 channels, and 1 are wanted"):
        settle(open_source(f"{folder}?channels=1,2"), 1, quiet)


def test_a_run_goes_on_with_the_range_that_it_found(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    begun = f"{folder}?range=3,2999"
    (out / "recipe.yaml").write_text(dump_recipe(load_recipe("fashion_paper", {"data.source": begun})))
    for spec, expected in (
        (f"{folder}?range=auto", begun),
        (str(folder), begun),
        (begun, begun),
        (f"{folder}?range=0,1", f"{folder}?range=0,1"),  # which is refused as another run
        (f"{folder}?range=auto&seed=1", f"{folder}?range=auto&seed=1"),
    ):
        assert read_as_begun(load_recipe("fashion_paper", {"data.source": spec}), out).data.source == expected


def test_cached_images_are_those_of_the_range(folder: Path) -> None:
    source = open_source(f"{folder}?range=0,3000")
    cached = CachedImages(source.images, MemoryStore(lambda: 2**40))
    for _ in range(2):
        assert np.array_equal(cached.load(0, 1), source.images.load(0, 1))
    assert read_as_trained(source, ReadOptions(range=((0, 1),))) is source


def measured(row: dict[str, Any]) -> dict[str, Any]:
    """A row of results.json without the names of its sources and its time."""
    return {key: value for key, value in row.items() if key not in ("source", "test", "seconds")}


@pytest.mark.slow
def test_encoders_of_different_ranges_are_each_measured_by_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 6)):
        for number in range(2 * count):
            kind = number % 2
            (tmp_path / part / "ab"[kind]).mkdir(parents=True, exist_ok=True)
            bands = random.integers(0, 900 + 25 * kind, (2, 36, 36)).astype(np.uint16)
            tifffile.imwrite(
                tmp_path / part / "ab"[kind] / f"{number}.tif", bands, imagej=True, metadata={"axes": "CYX"}
            )
    reads = {
        "one": ReadOptions(range=((0, 4095),), channels=(1,)),
        "two": ReadOptions(range=((0, 900),), channels=(2,)),
    }
    for seed, (name, options) in enumerate(reads.items()):
        encoder = create_encoder(load_recipe("fashion_paper").encoder, seed)
        encoder.reads = options
        save_encoder(encoder, tmp_path / name, {"stage": "mae"})
    common = ["--shots", "3", "--splits", "2", "--protocols", "knn", "prototype", "--pooling", "cls"]
    places = [str(tmp_path / name) for name in reads]
    rows = {}
    for name, words in {
        "both": [places[0], "--against", places[1], "--data", str(tmp_path / "train")],
        "one": [places[0], "--data", f"{tmp_path / 'train'}?range=0,4095&channels=1"],
        "two": [places[1], "--data", f"{tmp_path / 'train'}?range=0,900&channels=2"],
    }.items():
        assert main(["evaluate", "--encoder", *words, *common, "--out", str(tmp_path / f"out-{name}")]) == 0
        rows[name] = json.loads((tmp_path / f"out-{name}" / "results.json").read_text())
        if name == "both":
            said = " ".join(capsys.readouterr().err.split())
            for place, options in zip(places, reads.values(), strict=True):
                assert f"is read as '{place}' was trained: {options}" in said
            assert f"The pixels beside them are read as '{places[0]}' was trained." in said
    for name, place in zip(reads, places, strict=True):
        together = [measured(row) for row in rows["both"] if row["encoder"] == place]
        assert together == [measured(row) for row in rows[name] if row["encoder"] == place] != []
    pixels = [measured(row) for row in rows["both"] if row["encoder"] == "pixels"]
    assert pixels == [measured(row) for row in rows["one"] if row["encoder"] == "pixels"]
    assert pixels != [measured(row) for row in rows["two"] if row["encoder"] == "pixels"]


@pytest.mark.slow
def test_twelve_bits_classify_as_the_eight_that_they_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The built-in images times 16, with noise below, against themselves."""
    random = np.random.default_rng(0)
    for part, name, count in (("train", "builtin:fashion-canvas", 200), ("test", "builtin:fashion-canvas:test", 1000)):
        source = open_source(name)
        assert source.labels is not None
        for key in source.keys[:count].tolist():
            pixels, label = source.images.load(key, 1)[:, :, 0], f"{source.labels[key]}"
            deep = pixels.astype(np.uint16) * 16 + random.integers(0, 16, pixels.shape).astype(np.uint16)
            for kind, stored in (("eight", pixels), ("twelve", deep)):
                folder = tmp_path / kind / part / label
                folder.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(folder / f"{key}.tif", stored)
    save_encoder(create_encoder(load_recipe("fashion_paper").encoder, 0), tmp_path / "encoder", {"stage": "mae"})
    found = {}
    for kind, query in (("eight", ""), ("twelve", "?range=auto"), ("twelve", "")):
        words = ["--encoder", str(tmp_path / "encoder"), "--data", f"{tmp_path / kind / 'train'}{query}"]
        words += [
            "--shots",
            "5",
            "--protocols",
            "prototype",
            "--pooling",
            "mean",
            "--out",
            str(tmp_path / f"{kind}{query}"),
        ]
        assert main(["evaluate", *words]) == 0
        dark = "they are nearly black. Append ?range=0,4095" in " ".join(capsys.readouterr().err.split())
        assert dark == (kind == "twelve" and not query)
        rows = json.loads((tmp_path / f"{kind}{query}" / "results.json").read_text())
        found[kind + query] = np.mean([row["value"] for row in rows if row["encoder"] != "pixels"])
    assert abs(found["eight"] - found["twelve?range=auto"]) <= 0.5, found
