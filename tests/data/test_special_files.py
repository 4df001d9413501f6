"""Pipes and devices that are called like images: named as unreadable, and nobody waits for them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from broken import SMOOTH

from layergraft.commands.ablate.vary import read_vary
from layergraft.commands.predict.page import check_page
from layergraft.commands.predict.table import check_out
from layergraft.config.paths import read_regular
from layergraft.data.decode import BadImage, large
from layergraft.data.masks import FolderMasks
from layergraft.data.sources.index import read_index
from layergraft.data.sources.open import open_source
from layergraft.encoders.safe_load import read_file, read_noted
from layergraft.errors import UserError
from layergraft.runs.json_files import read_json, read_json_lines
from layergraft.runs.lock import LOCK, is_held
from layergraft.training.checkpoints import read_state


def within_seconds(work: Callable[[], object]) -> Exception | None:
    """What a call raises; a thread that waits for ever is left behind, and fails the test."""
    raised: list[Exception | None] = []

    def call() -> None:
        try:
            work()
            raised.append(None)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(5)
    assert raised, "still waiting after 5 seconds"
    return raised[0]


def test_a_pipe_or_device_is_no_image(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), SMOOTH)
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    os.mkfifo(tmp_path / "c.png")
    (tmp_path / "d.png").symlink_to("/dev/zero")
    source = open_source(str(tmp_path))
    assert [source.images.name(key) for key in range(4)] == ["a.png", "b.png", "c.png", "d.png"]
    assert np.array_equal(source.images.load(0, 3), source.images.load(1, 3))
    for key in (2, 3):
        error = within_seconds(lambda key=key: source.images.load(key, 3))
        assert isinstance(error, BadImage)
        assert str(error) == "unreadable: No regular file"


SOURCES = ["list.txt", "table.csv", "shard.tar", "a.npy", "a.npz", "a.h5", "a.png?tile=16", "a.tif?tile=16"]


@pytest.mark.parametrize("name", [*SOURCES, "a.svs?tile=16&level=0"])
def test_a_pipe_is_no_source(tmp_path: Path, name: str) -> None:
    library = {"a.h5": "h5py", "a.svs": "openslide", "a.tif": "tifffile"}.get(name.partition("?")[0])
    if library:
        pytest.importorskip(library)
    os.mkfifo(tmp_path / name.partition("?")[0])
    assert isinstance(within_seconds(lambda: open_source(str(tmp_path / name))), UserError)


@pytest.mark.parametrize("ending", [".json", ".npy"])
def test_a_pipe_in_place_of_a_decoded_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.setattr(large, "DECODED", 1)
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.tile(SMOOTH, (4, 4, 1)))
    spec, index = f"{tmp_path / 'images'}?tile=16", tmp_path / "index"
    before = open_source(spec, index).images.load(0, 3)
    (file,) = index.glob("*.decoded" + ending)
    file.unlink()
    os.mkfifo(file)
    pixels: list[object] = []
    assert within_seconds(lambda: pixels.append(open_source(spec, index).images.load(0, 3))) is None
    assert np.array_equal(np.array(pixels[0]), before)


@pytest.mark.parametrize("what", ["pipe", "device", "endless", "zarr.json", ".zattrs"])
@pytest.mark.parametrize("ome", [True, False])
def test_what_stands_in_place_of_a_file_of_a_zarr_store(tmp_path: Path, what: str, ome: bool) -> None:
    zarr = pytest.importorskip("zarr", minversion="3")
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2 if what == ".zattrs" else 3)
    shape = (2, 1, 8, 8, 8) if ome else (2, 8, 8)
    array = group.create_array("0", shape=shape, chunks=(1, *shape[1:]), dtype="uint8")
    array[:] = 7
    if ome:
        said = {"multiscales": [{"axes": [{"name": axis} for axis in "tczyx"], "datasets": [{"path": "0"}]}]}
        group.attrs.update({"ome": said} if group.metadata.zarr_format == 3 else said)
    chunk = tmp_path / "a.zarr" / "0" / "c" / "/".join("0" for _ in shape)
    file = chunk if what in ("pipe", "device", "endless") else tmp_path / "a.zarr" / what
    assert what not in ("pipe", "device", "endless") or file.is_file()
    file.unlink(missing_ok=True)
    if what == "device":
        file.symlink_to("/dev/zero")
    elif what == "endless":
        with open(file, "wb") as stream:
            stream.truncate(2**40)
    else:
        os.mkfifo(file)
    query = "?page=1&z=1" if ome else ""

    def load() -> None:
        source = open_source(str(tmp_path / "a.zarr") + query)
        source.images.load(0, 1)

    error = within_seconds(load)
    assert isinstance(error, UserError if file.name == what else BadImage), error


def test_a_pipe_is_no_mask(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert isinstance(within_seconds(lambda: FolderMasks(tmp_path, ("a.png",)).load(0)), UserError)


def test_a_pipe_in_a_run_or_cache_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "model.safetensors"
    os.mkfifo(pipe)
    out = tmp_path / "predictions.csv"
    os.mkfifo(out)
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / LOCK)
    refused: list[Callable[[], object]] = [
        lambda: read_json(pipe),
        lambda: read_json_lines(pipe, bool),
        lambda: read_file(pipe),
        lambda: read_noted(pipe, "probe", dict, ""),
        lambda: read_vary(pipe),
        lambda: check_out(out),
        lambda: check_page(out),
        lambda: read_state(pipe),
    ]
    for read in refused:
        assert isinstance(within_seconds(read), UserError)
    assert within_seconds(lambda: read_index(pipe)) is None
    assert within_seconds(lambda: is_held(tmp_path / "run")) is None
    assert isinstance(within_seconds(lambda: read_regular(pipe)), OSError)
