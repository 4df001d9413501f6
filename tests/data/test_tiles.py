"""Whole slides as sources of tiles, compared with what OpenSlide itself reads."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from slide_files import tissue, write_dicom_slide, write_slide

from layergraft.data.decode import BadImage, ReadOptions
from layergraft.data.decode import tissue as finding
from layergraft.data.decode.options import with_options
from layergraft.data.decode.picture import Request
from layergraft.data.decode.slide import SlideTiles
from layergraft.data.decode.tiling import Tiling
from layergraft.data.sources import cut
from layergraft.data.sources.label_file import read_labels
from layergraft.data.sources.open import default_test_source, open_source
from layergraft.data.sources.source import Source
from layergraft.errors import UserError

openslide = pytest.importorskip("openslide")
pytest.importorskip("imagecodecs")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes: a slide as Aperio writes it, and a TIFF pyramid; beside them one that is damaged."""
    root = tmp_path_factory.mktemp("slides")
    write_slide(root / "benign" / "a.svs", tissue())
    write_slide(root / "tumour" / "b.tif", tissue(radius=130), aperio=False)
    (root / "tumour" / "c.svs").write_bytes(b"II*\0nothing")
    return root


def names(source: Source) -> list[str]:
    return [source.images.name(int(key)) for key in source.keys]


def test_tiles_are_those_of_openslide(slides: Path) -> None:
    source = open_source(f"{slides}?tile=256&mpp=0.5&tissue=0")
    assert source.classes == ["benign", "tumour"]
    corners = [(x, y) for y in (0, 256, 512) for x in (0, 256, 512, 768)]
    files = ("benign/a.svs", "tumour/b.tif")
    assert names(source) == [f"{file}#{x},{y}" for file in files for x, y in corners] + ["tumour/c.svs"]
    assert source.selected_labels.tolist() == [0] * 12 + [1] * 13
    for key, name in enumerate(names(source)[:-1]):
        file, _, corner = name.partition("#")
        slide = openslide.OpenSlide(slides / file)
        region = slide.read_region(tuple(map(int, corner.split(","))), 0, (256, 256))
        assert np.array_equal(source.images.load(key, 3), np.asarray(region.convert("RGB")))
    with pytest.raises(BadImage, match="no kind of slide"):
        source.images.load(24, 3)


@pytest.mark.parametrize(("query", "extent", "level"), [("mpp=1", 256, 0), ("mpp=2", 128, 1), ("level=1", 128, 1)])
def test_scale_is_reached_from_the_coarsest_level_that_is_fine_enough(
    slides: Path, query: str, extent: int, level: int
) -> None:
    source = open_source(f"{slides / 'benign'}?tile=128&{query}&tissue=0")
    slide = openslide.OpenSlide(slides / "benign" / "a.svs")
    region = np.asarray(slide.read_region((0, 0), level, (extent, extent)).convert("RGB"))
    assert np.array_equal(source.images.load(0, 3), cv2.resize(region, (128, 128), interpolation=cv2.INTER_AREA))


def test_tiles_with_tissue_are_those_inside_the_disc(slides: Path) -> None:
    source = open_source(f"{slides / 'benign'}?tile=64&mpp=0.5")
    rows, columns = np.mgrid[:768, :1024]
    inside = (rows - 384) ** 2 + (columns - 512) ** 2 < 220**2
    share = inside.reshape(12, 64, 16, 64).mean(axis=(1, 3))
    expected = {f"a.svs#{64 * column},{64 * row}" for row, column in np.argwhere(share >= 0.5)}
    differing = expected ^ set(names(source))
    assert all(abs(share[int(y) // 64, int(x) // 64] - 0.5) < 0.1 for x, y in (n[6:].split(",") for n in differing))
    assert len(differing) <= 4
    assert "with tissue of 192" in source.remarks[0]
    some = open_source(f"{slides / 'benign'}?tile=64&mpp=0.5&tissue=0.01")
    assert set(names(source)) < set(names(some))


def test_glass_alone_holds_no_tissue(tmp_path: Path) -> None:
    write_slide(tmp_path / "glass.svs", np.full((512, 512, 3), 240, np.uint8))
    with pytest.raises(UserError, match="holds 50% of tissue"):
        open_source(f"{tmp_path}?tile=128&mpp=0.5")
    assert len(open_source(f"{tmp_path}?tile=128&mpp=0.5&tissue=0")) == 16


def test_unscanned_and_black_is_no_tissue() -> None:
    class Half:
        rows, columns = 1, 4

        def at_once(self, side: int) -> int:
            return 2

        def thumbnail(self, row: int, column: int, rows: int, columns: int, side: int) -> np.ndarray:
            pixels = np.zeros((side, 4 * side, 4), np.uint8)
            pixels[:, : 2 * side] = (180, 90, 150, 255)
            pixels[:, side : 2 * side, 3] = 0  # tissue that no scanner saw
            pixels[:, 2 * side : 3 * side] = (20, 0, 0, 255)
            pixels[:, 3 * side :] = (240, 240, 240, 255)
            return pixels[:, column * side : (column + columns) * side]

    assert finding.find_tissue(Half(), 0.5).tolist() == [[True, False, False, False]]


def test_a_scale_that_a_slide_lacks_is_asked_for(tmp_path: Path, slides: Path) -> None:
    write_slide(tmp_path / "plain.tif", tissue(), mpp=None)
    with pytest.raises(UserError, match=r"do not say how many micrometres.*plain\.tif") as error:
        open_source(f"{tmp_path}?tile=256&mpp=0.5")
    assert "?tile=256&level=0" in error.value.hint
    assert len(open_source(f"{tmp_path}?tile=256&level=0&tissue=0")) == 12
    with pytest.raises(UserError, match=r"coarser than mpp=0\.1"):
        open_source(f"{slides / 'benign'}?tile=256&mpp=0.1")
    with pytest.raises(UserError, match="no level 2: it has 0 to 1"):
        open_source(f"{slides / 'benign'}?tile=256&level=2")


def test_a_slide_without_tile_is_refused_with_what_to_add(slides: Path, tmp_path: Path) -> None:
    for place in (slides / "benign", slides / "benign" / "a.svs"):
        with pytest.raises(UserError) as error:
            open_source(str(place))
        assert f"{place}?tile=256&mpp=0.5" in error.value.hint
    with pytest.raises(UserError, match="need a scale") as error:
        open_source(f"{slides / 'benign'}?tile=256")
    assert "?tile=256&mpp=0.5" in error.value.hint
    (tmp_path / "list.txt").write_text(f"{slides}/benign/a.svs")
    with pytest.raises(BadImage, match=r"\?tile=256&mpp=0\.5"):
        open_source(f"{tmp_path / 'list.txt'}?root=/").images.load(0, 3)
    assert "2 .svs. Whole slides are cut" in open_source(str(slides)).remarks[0]


@pytest.mark.parametrize(
    "query", ["mpp=0.5", "tile=8", "tile=256&mpp=0", "tile=256&mpp=1&level=1", "tile=256&tissue=2"]
)
def test_odd_options_are_refused(slides: Path, query: str) -> None:
    with pytest.raises(UserError):
        open_source(f"{slides}?{query}")


@pytest.mark.parametrize("kind", ["file", "list", "table"])
def test_files_lists_and_tables_name_slides(slides: Path, tmp_path: Path, kind: str) -> None:
    whole = open_source(f"{slides}?tile=256&mpp=0.5&tissue=0")
    if kind == "file":
        source = open_source(f"{slides / 'benign' / 'a.svs'}?tile=256&mpp=0.5&tissue=0")
        assert names(source)[0] == "a.svs#0,0"
        assert source.labels is None
        return
    place = tmp_path / ("slides.txt" if kind == "list" else "slides.csv")
    rows = [("benign/a.svs", "benign"), ("tumour/b.tif", "tumour"), ("tumour/c.svs", "tumour")]
    sign = " " if kind == "list" else ","
    lines = ([] if kind == "list" else ["path,label"]) + [sign.join(row) for row in rows]
    place.write_text("\n".join(lines) + "\n")
    source = open_source(f"{place}?tile=256&mpp=0.5&tissue=0&root={slides}")
    assert names(source) == names(whole)
    assert source.selected_labels.tolist() == whole.selected_labels.tolist()


def test_a_label_file_names_slides_or_tiles(slides: Path, tmp_path: Path) -> None:
    source = open_source(f"{slides}?tile=256&mpp=0.5&tissue=0")
    (tmp_path / "labels.csv").write_text("path,label\na.svs,1\nb.tif,0\ntumour/c.svs,0\n")
    assert read_labels(tmp_path / "labels.csv", source).selected_labels.tolist() == [1] * 12 + [0] * 13
    (tmp_path / "labels.csv").write_text('path,label\n"benign/a.svs#256,0",x\n"b.tif#0,0",y\n')
    labelled = read_labels(tmp_path / "labels.csv", source).labelled
    assert names(labelled) == ["benign/a.svs#256,0", "tumour/b.tif#0,0"]


def test_tissue_is_looked_for_once_and_again_where_a_slide_changed(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []

    def find(*words: object) -> object:
        looked.append(words)
        if len(looked) == 2:
            raise KeyboardInterrupt  # the start that is stopped
        return finding.find_tissue(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(cut, "find_tissue", find)
    spec = f"{slides}?tile=128&mpp=0.5"
    with pytest.raises(KeyboardInterrupt):
        open_source(spec, tmp_path)
    assert list(tmp_path.glob("*.part")) == []
    first = open_source(spec, tmp_path)
    assert len(looked) == 3  # the first slide is known by then
    again = open_source(spec, tmp_path)
    assert len(looked) == 3
    assert names(again) == names(first)
    assert (again.identity, again.remarks) == (first.identity, first.remarks)
    os.utime(slides / "tumour" / "b.tif", ns=(1, 1))
    assert names(open_source(spec, tmp_path)) == names(first)
    assert len(looked) == 4


def test_another_scale_is_another_set(slides: Path) -> None:
    one, other = (open_source(f"{slides / 'benign'}?tile=256&{q}&tissue=0") for q in ("mpp=0.5", "mpp=0.4999"))
    assert names(one)[0] == names(other)[0]
    assert one.identity != other.identity


def slide_with_a_damaged_tile(path: Path) -> Path:
    """A slide whose tile at (256, 256) holds zeros."""
    import tifffile

    write_slide(path, tissue())
    with tifffile.TiffFile(path) as file:
        start, count = file.pages[0].dataoffsets[5], file.pages[0].databytecounts[5]  # row 1, column 1
    content = bytearray(path.read_bytes())
    content[start : start + count] = bytes(count)
    path.write_bytes(content)
    return path


def test_a_damaged_tile_costs_no_other(tmp_path: Path) -> None:
    path = slide_with_a_damaged_tile(tmp_path / "a.svs")
    source = open_source(f"{path}?tile=256&mpp=0.5&tissue=0")
    whole = openslide.OpenSlide(write_slide(tmp_path / "whole" / "a.svs", tissue()))
    for key, name in enumerate(names(source)):
        x, y = map(int, name.partition("#")[2].split(","))
        if (x, y) == (256, 256):
            with pytest.raises(BadImage, match="damaged"):
                source.images.load(key, 3)
        else:
            region = np.asarray(whole.read_region((x, y), 0, (256, 256)).convert("RGB"))
            assert np.array_equal(source.images.load(key, 3), region)


def test_a_damaged_tile_costs_no_other_thread_a_tile(tmp_path: Path) -> None:
    path = slide_with_a_damaged_tile(tmp_path / "a.svs")
    tiles = SlideTiles(str(path), Tiling(tile=256, mpp=0.5))
    request = Request(channels=3, options=ReadOptions())
    whole, done = tiles.picture(0, 0, request).array, threading.Event()

    def fail() -> int:
        failures = 0
        while not done.is_set():
            with pytest.raises(BadImage, match="damaged"):
                tiles.picture(256, 256, request)
            failures += 1
        return failures

    with ThreadPoolExecutor(2) as pool:
        failing = [pool.submit(fail) for _ in range(2)]
        try:
            read = [tiles.picture(0, 0, request).array for _ in range(200)]
        finally:
            done.set()
    assert all(np.array_equal(pixels, whole) for pixels in read)
    assert all(thread.result() for thread in failing)


def test_the_file_of_a_tile_holds_its_pixels(slides: Path) -> None:
    source = open_source(f"{slides}?tile=64&mpp=0.5")
    content = np.frombuffer(source.images.read(3), np.uint8)
    assert np.array_equal(cv2.imdecode(content, cv2.IMREAD_COLOR_RGB), source.images.load(3, 3))


def test_what_cannot_be_cut_is_refused(tmp_path: Path, slides: Path) -> None:
    for place in ("builtin:fashion-canvas", "hf:some/set", str(tmp_path / "a.tar"), "s3://bucket/folder"):
        with pytest.raises(UserError, match="cuts image files"):
            open_source(f"{place}?tile=256&mpp=0.5")
    with pytest.raises(UserError, match="There is no folder or file"):
        open_source(f"{tmp_path / 'nowhere'}?tile=256&mpp=0.5")
    with pytest.raises(UserError, match="smaller than a tile"):
        open_source(f"{slides / 'benign'}?tile=2048&mpp=0.5")


def test_test_slides_are_cut_as_training_slides_are(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    spec = f"{tmp_path / 'train'}?tile=256&mpp=0.5&fraction=0.1"
    assert default_test_source(spec) == f"{tmp_path / 'test'}?tile=256&mpp=0.5"


def test_a_line_of_the_memory_that_was_cut_off_is_found_again(slides: Path, tmp_path: Path) -> None:
    spec = f"{slides}?tile=128&mpp=0.5"
    first = names(open_source(spec, tmp_path))
    (memory,) = tmp_path.glob("*.jsonl")
    lines = memory.read_bytes().splitlines(keepends=True)
    memory.write_bytes(b"".join(lines[:2]) + lines[3][:20])
    assert json.loads(lines[1])["shape"] == [6, 8]
    for file in tmp_path.glob("*.index"):
        file.unlink()
    assert names(open_source(spec, tmp_path)) == first


def test_a_range_that_is_found_leaves_the_level_of_tiles(slides: Path) -> None:
    source = open_source(f"{slides / 'benign'}?tile=64&level=1&tissue=0")
    assert source.options.level is None
    spec = with_options(source.spec, ReadOptions(range=((0.0, 9.0),)))
    assert spec.endswith("?tile=64&level=1&tissue=0&range=0,9")
    assert with_options("a.zarr?level=1", ReadOptions(level=2)) == "a.zarr?level=2"


def test_levels_of_a_dicom_slide_are_one_slide(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    pixels = tissue()
    for name in "ab":
        write_dicom_slide(tmp_path / name, pixels)
    source = open_source(f"{tmp_path}?tile=128&mpp=0.5&tissue=0")
    assert len(source) == 2 * 48
    assert (names(source)[0], names(source)[-1]) == ("a/0.dcm#0,0", "b/0.dcm#896,640")
    assert np.array_equal(source.images.load(9, 3), pixels[128:256, 128:256])
    with pytest.raises(BadImage, match=r"\?tile=256&mpp=0\.5"):
        open_source(str(tmp_path / "a")).images.load(0, 3)
    with pytest.raises(UserError, match="need a scale"):
        open_source(f"{tmp_path}?tile=256")


def _digests(source: Source) -> list[str]:
    return [hashlib.sha256(source.images.load(int(key), 3)).hexdigest() for key in source.keys]


def test_threads_and_forked_processes_read_the_same(slides: Path) -> None:
    source = open_source(f"{slides / 'benign'}?tile=64&mpp=0.7&tissue=0")
    alone = _digests(source)
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda _: _digests(source), range(4)))
    assert together == [alone] * 4
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # reads while its parent does
        try:
            os.write(writing, hashlib.sha256("".join(_digests(source)).encode()).digest())
            os._exit(0)
        finally:
            os._exit(1)
    assert _digests(source) == alone
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(reading, 32) == hashlib.sha256("".join(alone).encode()).digest()


def test_a_damaged_size_of_the_scans_own_tiles_is_named(tmp_path: Path) -> None:
    """OpenSlide ended the process: it asked for half a terabyte."""
    import tifffile

    path = write_slide(tmp_path / "a.svs", tissue())
    with tifffile.TiffFile(path) as file:
        start = file.pages[0].tags["TileWidth"].offset
    content = bytearray(path.read_bytes())
    content[start + 2 : start + 12] = (4).to_bytes(2, "little") + (1).to_bytes(4, "little") + bytes([0, 0, 0, 30])
    path.write_bytes(content)
    with pytest.raises(UserError, match="tiles of 503316480 by 256"):
        open_source(f"{tmp_path}?tile=256&mpp=0.5")


def test_what_no_scanner_has_seen_does_not_darken_what_lies_beside_it(tmp_path: Path) -> None:
    """Glass that is shrunk across the edge of a scan stays as bright as glass is."""
    file = write_slide(tmp_path / "a.svs", np.full((512, 768, 3), 242, dtype=np.uint8))
    tiles = SlideTiles(str(file), Tiling(tile=64, mpp=1.0))
    across = tiles.picture(
        768 - 65, 512 - 65, Request(channels=3, options=ReadOptions())
    ).array  # of 128 pixels, 63 of which are nowhere
    assert across.shape == (64, 64, 3)
    assert across.min() >= 235
    assert across[-1, -1].min() == 255
