"""`pack --resize` keeps the depth and the channels of what is no picture of 8 bits."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from field_files import KINDS, PICTURE

from layergraft.commands.pack import pack
from layergraft.data.decode.picture import Picture, Request
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import AS_THEY_ARE, EncodedImages, Source

tifffile = pytest.importorskip("tifffile")
SMOOTH = cv2.resize(np.random.default_rng(0).integers(0, 4096, (4, 5, 5)).astype(np.uint16), (80, 60))


@pytest.mark.parametrize(
    ("pixels", "how"),
    [
        (SMOOTH[:, :, 0], {}),
        (SMOOTH[:, :, 0], {"bitspersample": 12}),
        (SMOOTH[:, :, :3], {"photometric": "rgb"}),
        (SMOOTH.transpose(2, 0, 1), {"imagej": True, "metadata": {"axes": "CYX"}}),
        (SMOOTH.astype(np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}),
        (SMOOTH[:, :, 0].astype(np.float32) - 1000, {}),
        (SMOOTH[:, :, 0].astype(np.int16) - 1000, {}),
    ],
)
def test_depth_and_channels_stay(tmp_path: Path, pixels: np.ndarray, how: dict[str, object]) -> None:
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "0.tif", pixels, **how)
    packed = pack(str(tmp_path / "images"), tmp_path / "packed", 30, 3, 10)
    images = open_source(packed.source).images
    assert isinstance(images, EncodedImages)
    found = images.picture(0, Request(channels=5, options=AS_THEY_ARE, whole=True))
    last = pixels if pixels.ndim == 2 or pixels.shape[2] <= 5 else pixels.transpose(1, 2, 0)
    last = last.reshape(60, 80, -1).astype(np.float64)
    expected = np.stack([band.reshape(30, 2, 40, 2).mean(axis=(1, 3)) for band in np.moveaxis(last, 2, 0)], axis=2)
    assert found.array.dtype == pixels.dtype
    assert found.depth() == how.get("bitspersample", 8 * pixels.dtype.itemsize)
    assert np.abs(found.array - expected).max() <= 0.51


def test_photographs_stay_jpeg(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "0.png"), (SMOOTH[:, :, :3] >> 4).astype(np.uint8))
    packed = pack(str(tmp_path / "images"), tmp_path / "packed", 30, 3, 10)
    content = open_source(packed.source).images.read(0)
    assert content.startswith(b"\xff\xd8\xff")
    assert cv2.imdecode(np.frombuffer(io.BytesIO(content).getvalue(), np.uint8), cv2.IMREAD_COLOR).shape == (30, 40, 3)


def of_every_kind(folder: Path) -> dict[str, str]:
    """Write a file of each kind; name -> kind."""
    folder.mkdir()
    names = {f"{number:03d}{kind.suffix}": name for number, (name, kind) in enumerate(KINDS.items())}
    names = {name: kind for name, kind in names.items() if KINDS[kind].suffix != ".npy"}
    for name, kind in names.items():
        (folder / name).write_bytes(KINDS[kind].write(PICTURE))
    return names


def picture_of(source: Source, key: int) -> Picture:
    assert isinstance(source.images, EncodedImages)
    return source.images.picture(key, Request(channels=5, options=AS_THEY_ARE, whole=True))


@pytest.mark.parametrize("short", [None, 1000])
def test_every_kind_keeps_its_depth_and_channels_or_is_refused(
    short: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = of_every_kind(tmp_path / "images")
    before = open_source(str(tmp_path / "images"))
    packed = pack(str(tmp_path / "images"), tmp_path / "packed", short, 3, 1000)
    after = open_source(packed.source)
    refused = 0
    files = {int(Path(after.images.name(key).rpartition(":")[2]).name[:9]): key for key in after.keys.tolist()}
    for key in before.keys.tolist():
        kind, old = names[before.images.name(key)], picture_of(before, key)
        if short is None:
            assert after.images.read(files[key]) == before.images.read(key), kind
            continue
        if old.range is not None:
            refused += 1
            assert key not in files, kind
            continue
        new = picture_of(after, files[key])
        types = [picture.array.dtype.newbyteorder("=") for picture in (new, old)]
        assert (types[0], new.depth()) == (types[1], old.depth()), kind
        if old.array.dtype == np.uint8 and old.colours:
            assert new.array.shape[:2] == old.array.shape[:2], kind  # a JPEG
        else:
            assert np.array_equal(new.array, old.array), kind
    assert packed.skipped == refused
    if refused:
        assert "a window of its own, which a smaller file does not hold" in capsys.readouterr().err


def test_only_what_is_still_to_be_chosen_is_to_be_appended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "0.tif", SMOOTH.transpose(2, 0, 1), imagej=True, metadata={"axes": "CYX"})
    chosen = f"{tmp_path / 'images'}?channels=5,2&range=0,4095"
    small = pack(chosen, tmp_path / "small", 30, 3, 10)
    assert "append ?range=0,4095 to the packed SOURCE" in " ".join(capsys.readouterr().err.split())
    assert open_source(f"{small.source}?range=0,4095").images.load(0, 2).shape == (30, 40, 2)
    pack(chosen, tmp_path / "whole", None, 3, 10)
    assert "append ?range=0,4095&channels=5,2 to" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("kind", ["npy", "npz", "h5"])
@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [1, 5])
def test_stacks_keep_their_numbers(kind: str, dtype: str, bands: int, tmp_path: Path) -> None:
    stack = np.stack([np.roll(SMOOTH[:, :, :bands], number) for number in range(6)]).astype(dtype)
    stack = stack[:, :, :, 0] if bands == 1 else stack
    file = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(file, stack)
    elif kind == "npz":
        np.savez(file, images=stack)
    else:
        with pytest.importorskip("h5py").File(file, "w") as opened:
            opened["images"] = stack
    for short in (None, 1000):
        packed = open_source(
            pack(f"{file}{'?images=images' * (kind != 'npy')}", tmp_path / f"{short}", short, 3, 4).source
        )
        found = np.stack([picture_of(packed, key).array for key in packed.keys.tolist()])
        assert found.dtype == dtype
        assert np.array_equal(found, stack.reshape(6, 60, 80, bands))
