"""What is said where an encoder sees much less of the images than there is."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest

from layergraft.commands.cli import main
from layergraft.commands.pack import pack
from layergraft.data.first_look import FAR, FirstLook, look_at, remark, remarks_on_files
from layergraft.data.sources.open import open_source


def photographs(folder: Path, kind: str, colour: bool) -> Path:
    """Ten pictures of 400 × 160 pixels, and a file that is none."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(10):
        small = random.integers(0, 256, (4, 10, 3), dtype=np.uint8)
        picture = cv2.resize(small if colour else small[:, :, :1].repeat(3, axis=2), (400, 160))
        cv2.imwrite(str(folder / f"{index}.{kind}"), picture)
    (folder / "bad.png").write_bytes(b"")
    return folder


@pytest.mark.parametrize("kind", ["jpg", "png"])
@pytest.mark.parametrize("colour", [True, False])
def test_colour_and_size_are_seen(kind: str, colour: bool, tmp_path: Path) -> None:
    source = open_source(str(photographs(tmp_path / "images", kind, colour)))
    assert look_at(source) == FirstLook(images=10, coloured=10 * colour, side=160, plain=10)


def test_the_built_in_sets_fit_their_recipes() -> None:
    for spec, channels in (("builtin:fashion-canvas", 1), ("builtin:fashion-colour", 3)):
        assert remark(look_at(open_source(spec)), channels, 36, 9, None) is None


@pytest.mark.parametrize("order", ["<", ">"])
def test_dark_images_are_seen_in_either_byte_order(order: str, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    for index in range(3):
        dark = np.random.default_rng(index).integers(0, 4096, (24, 30), dtype=np.uint16)
        tifffile.imwrite(tmp_path / f"{index}.tif", dark, byteorder=order)
    seen = look_at(open_source(str(tmp_path)), 1)
    assert (seen.deep, seen.largest > 4000) == (3, True)


@pytest.mark.parametrize("kind", ["folder", "shards", "http"])
def test_a_source_far_away_is_warned_of_like_one_at_hand(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "images").mkdir()
    dark = np.random.default_rng(0).integers(0, 4096, (24, 30), dtype=np.uint16)
    for index in range(20):
        cv2.imwrite(str(tmp_path / "images" / f"{index:02d}.png"), np.roll(dark, index))
    near, far = str(tmp_path / "images"), "memory://first-look/images"
    if kind == "http":
        handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        request.addfinalizer(server.server_close)
        request.addfinalizer(server.shutdown)
        far = f"http://127.0.0.1:{server.server_port}/images"
    elif kind == "shards":
        near = pack(near, tmp_path / "packed", None, 1, 10).source
        far = near.replace(str(tmp_path / "packed"), "memory://first-look/packed")
    memory = fsspec.filesystem("memory")
    request.addfinalizer(memory.store.clear)
    for path in tmp_path.glob("*/*"):
        memory.pipe(f"/first-look/{path.relative_to(tmp_path)}", path.read_bytes())
    seen = look_at(open_source(far), 1)
    assert seen.deep == seen.images == {"folder": FAR, "http": FAR, "shards": 10}[kind]
    (said,) = remarks_on_files(seen, open_source(far))
    (at_hand,) = remarks_on_files(look_at(open_source(near), 1), open_source(near))
    assert said.endswith(at_hand.partition("of 65535")[2])
    assert "Append ?range=0,4095 or ?range=auto" in said


@pytest.mark.parametrize(
    ("look", "encoder", "start", "expected"),
    [
        ((16, 16, 36), (1, 36, 9), None, "--encoder.in_chans 3"),
        ((16, 16, 160), (1, 36, 9), None, "--encoder.in_chans 3 --encoder.img_size 90"),
        ((16, 16, 160), (3, 36, 9), None, "--encoder.img_size 90"),
        ((16, 0, 36), (3, 36, 9), None, "--encoder.in_chans 1"),
        ((16, 0, 36), (3, 36, 9), "timm:vit_tiny", None),
        ((16, 16, 480), (3, 112, 16), None, "--encoder.img_size 224"),
        ((16, 16, 4000), (3, 224, 16), None, None),
        ((16, 16, 143), (3, 36, 9), None, None),
        ((16, 3, 36), (1, 36, 9), None, None),
        ((16, 16, 36), (4, 36, 9), None, None),
        ((0, 0, 0), (1, 36, 9), None, None),
        ((0, 0, 0), (3, 36, 9), None, None),
    ],
)
def test_what_is_said(
    look: tuple[int, int, int], encoder: tuple[int, int, int], start: str | None, expected: str | None
) -> None:
    images, coloured, side = look
    line = remark(FirstLook(images=images, coloured=coloured, side=side), *encoder, start)
    assert (line is None) == (expected is None)
    if line is not None:
        assert line.endswith(f"To change it: {expected}")
        assert "\n" not in line


def test_plan_and_train_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = photographs(tmp_path / "images", "jpg", colour=True)
    words = ["--recipe", "fashion_paper", "--data", str(images), "--data.holdout", "0", "--data.max_bad", "0.5"]
    words += ["--stages.mae.batch_size", "4", "--stages.graft.batch_size", "4"]
    words += ["--encoder.embed_dim", "16", "--encoder.depth", "2", "--encoder.num_heads", "2"]
    said = "10 of 10 images looked at hold colour"
    assert main(["plan", *words, "--json", "true"]) == 0
    assert said in capsys.readouterr().err
    lengths = ["--stages.mae.epochs", "1", "--stages.graft.epochs", "1", "--analyze", "[]", "--evaluate", "null"]
    assert main(["train", *words, *lengths, "--monitor.every", "0", "--out", str(tmp_path / "run")]) == 0
    message = capsys.readouterr().err
    assert said in message
    assert "--encoder.in_chans 3 --encoder.img_size 90" in " ".join(message.split())
