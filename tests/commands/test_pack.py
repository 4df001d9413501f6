"""Shards hold what their source holds, and what cannot be packed is said."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from broken import SMOOTH, save
from conftest import two_classes
from PIL import Image, features

from layergraft.commands.cli import main
from layergraft.commands.pack import pack
from layergraft.data.sources.open import open_source
from layergraft.errors import Stopped

KINDS = ["GIF", "AVIF", "JPEG2000", "PNG", "BMP", "WEBP", "TIFF", "BigTIFF"]


def file_of(kind: str) -> bytes:
    if kind == "BigTIFF":
        buffer = io.BytesIO()
        pytest.importorskip("tifffile").imwrite(buffer, SMOOTH, bigtiff=True, photometric="rgb")
        return buffer.getvalue()
    return save(Image.fromarray(SMOOTH), kind)


def test_every_readable_file_is_packed_whatever_its_name(tmp_path: Path) -> None:
    """A file called .jpg is often none."""
    kinds = [kind for kind in KINDS if kind != "AVIF" or features.check("avif")]
    folder = tmp_path / "images"
    folder.mkdir()
    for kind in kinds:
        (folder / f"{kind}.jpg").write_bytes(file_of(kind))
    (folder / "broken.jpg").write_bytes(b"nothing")
    (folder / "vanished.jpg").symlink_to(folder / "nowhere.jpg")
    before = open_source(str(folder))
    packed = pack(str(folder), tmp_path / "packed", None, 3, 4)
    after = open_source(packed.source)
    assert (packed.images, packed.skipped, len(after)) == (len(kinds) + 1, 1, len(kinds) + 1)
    names = sorted(before.images.name(key) for key in range(len(before)))
    for key, name in enumerate(name for name in names if name != "vanished.jpg"):
        if name != "broken.jpg":
            assert np.array_equal(after.images.load(key, 3), before.images.load(names.index(name), 3)), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resize", "20", "--channels", "4"], "colour (3) or grey (1)"),
        (["--resize", "20", "--channels", "2"], "colour (3) or grey (1)"),
        (["--resize", "-5"], "--resize is -5"),
        (["--resize", "0"], "--resize is 0"),
        (["--shard-images", "0"], "--shard-images is 0"),
        (["--out", "{file}"], "is a file"),
        (["--out", "{file}/below"], "Cannot write to"),
    ],
)
def test_what_cannot_be_is_explained(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    file = tmp_path / "images" / "red.png"
    file.write_bytes(save(Image.new("RGBA", (40, 40), (255, 0, 0, 128)), "PNG"))
    chosen = [option.format(file=file) for option in options]
    out = [] if "--out" in options else ["--out", str(tmp_path / "packed")]
    assert main(["pack", "--data", str(file.parent), *out, *chosen]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "packed").exists()


def test_shrunk_images_keep_their_colour(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "red.png").write_bytes(save(Image.new("RGB", (40, 40), "red"), "PNG"))
    for channels, expected in ((3, (255, 0, 0)), (1, (76,))):
        source = open_source(pack(str(tmp_path / "images"), tmp_path / str(channels), 20, channels, 10).source)
        assert np.abs(source.images.load(0, channels).astype(int) - expected).max() <= 2


def test_files_replaced_before_an_unfinished_pack_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = two_classes(tmp_path / "images", 6), tmp_path / "out"
    words = ["pack", "--data", str(images), "--out", str(out), "--shard-images", "2"]

    def stops(*arguments: object) -> None:
        raise Stopped("a signal")

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["layergraft.commands.pack"], "build_index", stops)
        assert main(words) == 75
    file = images / "a" / "00.png"
    before = file.read_bytes()
    file.write_bytes((images / "b" / "01.png").read_bytes())
    assert main(words) == 2
    assert "unfinished pack of other images" in capsys.readouterr().err
    file.write_bytes(before)
    assert main(words) == 0
