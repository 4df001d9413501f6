"""Images in arrays: .npy, .npz as MedMNIST has it, .h5 as PCam has it, Zarr: the writer's own pixels and labels."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layergraft.commands.pack import pack
from layergraft.data.decode import BadImage, ReadOptions
from layergraft.data.decode.picture import Request
from layergraft.data.decode.readers import read_picture
from layergraft.data.sources.open import default_test_source, open_source
from layergraft.data.sources.source import Source
from layergraft.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (12, 28, 30, 3), dtype=np.uint8)
GREY = RGB[..., 0]
LABELS = (np.arange(12) % 3).astype(np.uint8)


def pixels_of(source: Source, channels: int = 3) -> np.ndarray:
    return np.stack([source.images.load(key, channels) for key in source.keys.tolist()])


def classes_of(source: Source) -> list[str] | None:
    return None if source.labels is None else [source.classes[label] for label in source.selected_labels]


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> str:
    np.savez(path, **arrays)
    return str(path)


def write_packed_npz(path: Path, arrays: dict[str, np.ndarray]) -> str:
    np.savez_compressed(path, **arrays)
    return str(path)


def write_h5(path: Path, arrays: dict[str, np.ndarray]) -> str:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, chunks=(1, *array.shape[1:]), compression="gzip")
    return str(path)


def write_zarr(path: Path, arrays: dict[str, np.ndarray]) -> str:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(path), mode="w")
    for name, array in arrays.items():
        stored = group.create_array(name, shape=array.shape, chunks=(5, *array.shape[1:]), dtype=array.dtype)
        stored[:] = array
    return str(path)


WRITERS: dict[str, Callable[[Path, dict[str, Any]], str]] = {
    "stored.npz": write_npz,
    "packed.npz": write_packed_npz,
    "x.h5": write_h5,
    "x.zarr": write_zarr,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_the_layout_of_medmnist(tmp_path: Path, kind: str) -> None:
    arrays = {f"{part}_images": np.roll(RGB, n, 0) for n, part in enumerate(("train", "val", "test"))}
    arrays |= {f"{part}_labels": np.roll(LABELS, n)[:, None] for n, part in enumerate(("train", "val", "test"))}
    place = WRITERS[kind](tmp_path / kind, arrays)
    source = open_source(place, tmp_path / "index")
    assert np.array_equal(pixels_of(source), RGB)
    assert classes_of(source) == [str(label) for label in LABELS]
    assert "images from `train_images`, labels from `train_labels`; not used:" in source.remarks[0]
    test = open_source(f"{place}?images=test_images&labels=test_labels")
    assert np.array_equal(pixels_of(test), np.roll(RGB, 2, 0))
    assert classes_of(test) == [str(label) for label in np.roll(LABELS, 2)]
    assert test.fingerprint != source.fingerprint
    if kind.endswith(".npz"):
        assert default_test_source(f"{place}?mean=0.5") == f"{place}?images=test_images&labels=test_labels&mean=0.5"
        for name in ("images", "image"):
            assert default_test_source(f"{place}?{name}=val_images") is None
            assert (
                default_test_source(f"{place}?{name}=train_images") == f"{place}?images=test_images&labels=test_labels"
            )
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda key: source.images.load(key, 3), list(range(12)) * 5))
    assert np.array_equal(np.stack(rows), np.tile(RGB, (5, 1, 1, 1)))
    again = open_source(place, tmp_path / "index")
    assert (again.identity, again.stamp()) == (source.identity, source.stamp())


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("layout", ["grey", "planar", "one channel", "16 bits", "fortran"])
def test_layouts_and_depths(tmp_path: Path, kind: str, layout: str) -> None:
    stored = {
        "grey": GREY,
        "planar": np.moveaxis(RGB, 3, 1),
        "one channel": GREY[..., None],
        "16 bits": GREY.astype(">u2") * 16,
        "fortran": np.asfortranarray(RGB),
    }[layout]
    place = WRITERS[kind](tmp_path / kind, {"x": stored, "y": LABELS})
    source = open_source(place + ("?range=0,4080" if layout == "16 bits" else ""))
    colour = layout in ("planar", "fortran")
    assert np.array_equal(pixels_of(source, 3 if colour else 1), RGB if colour else GREY[..., None])
    assert classes_of(source) == [str(label) for label in LABELS]
    assert source.remarks == ()


def test_a_stack_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "stack.npy", GREY)
    source = open_source(str(tmp_path / "stack.npy"))
    assert (np.array_equal(pixels_of(source, 1)[..., 0], GREY), source.labels) == (True, None)
    before = source.stamp()
    os.utime(tmp_path / "stack.npy")
    assert open_source(str(tmp_path / "stack.npy")).stamp() != before


def test_one_image_a_file(tmp_path: Path) -> None:
    for key in range(3):
        (tmp_path / "ab"[key % 2]).mkdir(exist_ok=True)
        np.save(tmp_path / "ab"[key % 2] / f"{key}.npy", RGB[key] if key else np.moveaxis(RGB[key], 2, 0))
    source = open_source(str(tmp_path))
    assert np.array_equal(pixels_of(source), RGB[[0, 2, 1]])
    (tmp_path / "a" / "1.png").write_bytes(b"")  # beside pictures they are features, labels or the like
    beside = open_source(str(tmp_path))
    assert (beside.images.name(0), len(beside)) == ("a/1.png", 1)
    assert beside.remarks == (f"{str(tmp_path)!r}: left out by their ending: 3 .npy.",)
    np.save(tmp_path / "a" / "0.npy", RGB)
    with pytest.raises(BadImage, match="of many images give the file itself"):
        source.images.load(0, 3)
    np.save(tmp_path / "a" / "0.npy", np.array([{}], dtype=object))
    with pytest.raises(BadImage, match="Python objects"):
        source.images.load(0, 3)
    content = (tmp_path / "b" / "1.npy").read_bytes()
    for cut in (0, 8, 60, 200):
        (tmp_path / "b" / "1.npy").write_bytes(content[:cut])
        with pytest.raises(BadImage, match=r"empty|damaged|truncated"):
            source.images.load(2, 3)


def test_the_labels_of_pcam_lie_in_a_file_beside(tmp_path: Path) -> None:
    write_h5(tmp_path / "camelyonpatch_level_2_split_train_x.h5", {"x": RGB})
    write_h5(tmp_path / "camelyonpatch_level_2_split_train_y.h5", {"y": LABELS.reshape(12, 1, 1, 1)})
    source = open_source(str(tmp_path / "camelyonpatch_level_2_split_train_x.h5"))
    assert np.array_equal(pixels_of(source), RGB)
    assert classes_of(source) == [str(label) for label in LABELS]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.eye(3)[LABELS], [str(label) for label in LABELS]),
        (np.array(["cat", "dog", "a b"])[LABELS], ["cat", "dog", "a b"] * 4),
        (LABELS.astype(np.float64), [str(label) for label in LABELS]),
        (np.full(12, -1), None),
        (np.ones((12, 3)), None),
    ],
)
def test_labels(tmp_path: Path, labels: np.ndarray, expected: list[str] | None) -> None:
    source = open_source(write_npz(tmp_path / "x.npz", {"images": RGB, "labels": labels}))
    assert classes_of(source) == expected
    if labels.ndim > 1 and expected is None:
        with pytest.raises(UserError, match="3 numbers an image: one class an image is needed"):
            source.selected_labels  # noqa: B018


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    place = write_npz(tmp_path / "x.npz", {"a": RGB, "b": RGB, "c": LABELS[:5]})
    for query, words in (
        ("", "several arrays of images: it has a"),
        ("?images=d", "no array 'd'"),
        ("?images=c", "has no axes N, height and width"),
        ("?images=a&labels=c", "12 images, and labels of shape"),
        ("?images=a&labels=z", "no array 'z'"),
    ):
        with pytest.raises(UserError, match=words):
            open_source(place + query)
    np.save(tmp_path / "one.npy", RGB[0])
    with pytest.raises(UserError, match="looks like one image: put such files into a folder"):
        open_source(str(tmp_path / "one.npy"))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    with pytest.raises(UserError, match="Python objects"):
        open_source(str(tmp_path / "objects.npy"))
    np.save(tmp_path / "cut.npy", RGB)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:5000])
    with pytest.raises(UserError, match="truncated"):
        open_source(str(tmp_path / "cut.npy"))
    for name in ("bad.npz", "bad.npy", "bad.h5"):
        (tmp_path / name).write_bytes(b"nothing of the kind" * 50)
        if name == "bad.h5":
            pytest.importorskip("h5py")
        with pytest.raises(UserError, match="cannot be read as"):
            open_source(str(tmp_path / name))


def test_packing_keeps_every_number(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 200
    source = open_source(write_npz(tmp_path / "x.npz", {"images": deep, "labels": LABELS}))
    packed = open_source(pack(source.spec, tmp_path / "packed", None, 1, 5).source)
    assert classes_of(packed) == classes_of(source)
    assert packed.images.name(0) == "000000.tar:000000000.npy"
    assert [packed.images.read(key) for key in range(12)] == [source.images.read(key) for key in range(12)]
    assert default_test_source(source.spec) is None


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<u2', 'fortran_order': False, 'shape': (36, 31",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (99999999999999999999, 2), }",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (24, 20, -1), }",
        "{'descr': '<q9', 'fortran_order': False, 'shape': (36, 31), }",
        "{'descr': ",
    ],
)
def test_a_damaged_header_is_named(header: str, tmp_path: Path) -> None:
    text = header.ljust(117).encode() + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(3000)
    with pytest.raises(BadImage):
        read_picture(content, Request(channels=1, options=ReadOptions()))
    (tmp_path / "stack.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"stack\.npy"):
        open_source(str(tmp_path / "stack.npy"))


def test_damaged_packed_labels_are_named(tmp_path: Path) -> None:
    """zlib's error is none of zipfile's, and comes over the header of the array or over its numbers."""
    file = Path(write_packed_npz(tmp_path / "x.npz", {"images": GREY, "labels": np.arange(len(GREY)) * 7919 % 5003}))
    with zipfile.ZipFile(file) as archive:
        member = archive.getinfo("labels.npy")
    content = file.read_bytes()
    end = content.index(b"PK\1\2")  # its packed bytes are the last ones before the directory
    refused = []
    for place in range(end - member.compress_size, end - 2, 3):  # of the last bits some mean nothing
        file.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        with pytest.raises(UserError) as error:
            open_source(str(file))
        refused.append(error.value.problem)
    assert len(refused) > 30
    assert all("x.npz" in problem for problem in refused)


def test_labels_in_another_encoding_are_labels(tmp_path: Path) -> None:
    names = np.array(["Käse".encode("latin-1"), b"Brot"] * (len(GREY) // 2))
    source = open_source(write_npz(tmp_path / "x.npz", {"images": GREY, "labels": names}))
    assert set(source.classes) == {"K\ufffdse", "Brot"}


@pytest.mark.parametrize(
    ("version", "kind"), [(2, "<U200"), (3, "<U200"), (2, "S300"), (3, "S300"), (2, str), (3, str)]
)
@pytest.mark.filterwarnings("ignore:The data type")
def test_long_texts_of_a_zarr_store_are_labels(tmp_path: Path, version: Any, kind: Any) -> None:
    """In one chunk, not compressed: their bytes count, not those of numbers."""
    zarr = pytest.importorskip("zarr", minversion="3")
    names = [letter * 199 for letter in "ab"]
    group = zarr.open_group(str(tmp_path / "x.zarr"), mode="w", zarr_format=version)
    group.create_array("images", shape=(8000, 4, 4), chunks=(8000, 4, 4), dtype="uint8")
    labels = group.create_array("labels", shape=(8000,), chunks=(8000,), dtype=kind, compressors=None)
    labels[:] = np.array(names * 4000, dtype=object if kind is str else kind)
    assert list(open_source(str(tmp_path / "x.zarr")).classes) == names


def test_a_zarr_store_written_again_with_larger_chunks(tmp_path: Path) -> None:
    """What its chunks may have is that of the store as it is now."""
    zarr = pytest.importorskip("zarr", minversion="3")
    place, side = tmp_path / "x.zarr", 1200
    images = np.random.default_rng(0).integers(0, 256, (2, side, side), dtype=np.uint8)
    for chunk in (8, side):
        stored = zarr.create_array(
            str(place), shape=images.shape, chunks=(1, chunk, side), dtype="uint8", compressors=None, overwrite=True
        )
        stored[:] = images
        assert np.array_equal(open_source(str(place)).images.load(1, 1)[:, :, 0], images[1])


@pytest.mark.parametrize(
    ("codec", "damage"),
    [("GzipCodec", "changed"), ("GzipCodec", "cut"), ("ZstdCodec", "cut")],
)
def test_a_damaged_chunk_of_zarr_counts_as_unreadable(tmp_path: Path, codec: str, damage: str) -> None:
    """Each library behind a codec has errors of its own."""
    zarr = pytest.importorskip("zarr", minversion="3")
    place, levels = tmp_path / "x.zarr", RGB // 64
    how = getattr(zarr.codecs, codec)()
    stored = zarr.create_array(str(place), shape=RGB.shape, chunks=(4, *RGB.shape[1:]), dtype="uint8", compressors=how)
    stored[:] = levels
    chunk = sorted(path for path in place.rglob("*") if path.is_file() and path.name != "zarr.json")[1]
    content = chunk.read_bytes()
    chunk.write_bytes(content[: len(content) // 2] + (b"" if damage == "cut" else bytes(len(content) // 2)))
    source = open_source(str(place))
    for key in source.keys.tolist():
        if key in range(4, 8):
            with pytest.raises(BadImage, match="unreadable"):
                source.images.load(key, 3)
        else:
            assert np.array_equal(source.images.load(key, 3), levels[key])
