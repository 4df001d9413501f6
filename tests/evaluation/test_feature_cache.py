from __future__ import annotations

import multiprocessing
import os
import shutil
import tarfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from feature_cache import CONFIG, SOURCE, use_cache

from layergraft.config import EncoderConfig
from layergraft.data.decode import BadImage
from layergraft.data.sources import file_state
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.encoders.products import OneDnnLinear, has_onednn
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.errors import UserError
from layergraft.evaluation import cache, contents, features
from layergraft.evaluation.features import POOLINGS, extract_all

TINY = EncoderConfig(
    name="vit_tiny_patch16_224", img_size=12, in_chans=3, patch_size=6, embed_dim=16, depth=1, num_heads=2
)
THEN = 1_600_000_000 * 10**9 + 1


@pytest.fixture
def encoder() -> Encoder:
    return create_encoder(CONFIG, 0)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use_cache(tmp_path / "cache", monkeypatch)


def _layer(folder: Path, seed: int, classes: tuple[str, ...] = ("a", "b")) -> Path:
    """Four BMP files of equal names, sizes and times; the seed decides their pixels."""
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (2 * len(classes), 12, 12, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        file = folder / classes[number % len(classes)] / f"{number}.bmp"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
        os.utime(file, ns=(THEN, THEN))
    return folder


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _each(root: Path, change: Callable[[Path, Path], object]) -> str:
    """Give every file of DAPI the content of its namesake in GFP; its time stays."""
    for file in _files(root / "DAPI"):
        change(file, root / "GFP" / file.relative_to(root / "DAPI"))
        os.utime(file, ns=(THEN, THEN))
    return str(root / "DAPI")


def _replace_folder(root: Path) -> str:
    (root / "DAPI").rename(root / "old")
    (root / "GFP").rename(root / "DAPI")
    return str(root / "DAPI")


def _retarget(root: Path) -> str:
    (root / "link").unlink()
    (root / "link").symlink_to(root / "GFP")
    return str(root / "link")


def _hard_link(file: Path, other: Path) -> None:
    file.unlink()
    os.link(other, file)


def _symlink(file: Path, other: Path) -> None:
    file.unlink()
    file.symlink_to(other)


def _swap(file: Path, other: Path) -> None:
    file.rename(file.with_suffix(".aside"))
    other.rename(file)
    file.with_suffix(".aside").rename(other)


def _swap_within(root: Path) -> str:
    first, second = _files(root / "DAPI")[:2]
    _swap(first, second)
    return str(root / "DAPI")


def _in_place(file: Path, other: Path) -> None:
    with open(file, "r+b") as stream:
        stream.write(other.read_bytes())


def _archive(root: Path, layer: str) -> str:
    """A layer unpacked from an archive of normalised dates, always at the same place."""
    shutil.rmtree(root / "unpacked", ignore_errors=True)
    with tarfile.open(root / "layer.tar", "w") as archive:
        archive.add(root / layer, "layer")
    with tarfile.open(root / "layer.tar") as archive:
        archive.extractall(root / "unpacked", filter="fully_trusted")
    return str(root / "unpacked" / "layer")


def _shard(root: Path, layer: str) -> str:
    """A shard that is written anew at the same place with the same time."""
    with tarfile.open(root / "shard.tar", "w") as archive:
        for file in _files(root / layer):
            archive.add(file, str(file.relative_to(root / layer)))
    os.utime(root / "shard.tar", ns=(THEN, THEN))
    return str(root / "shard.tar")


def _list(root: Path, prefix: str, name: str, header: str = "", separator: str = " ", query: str = "") -> str:
    lines = [f"{prefix}{file.relative_to(root / 'DAPI')}{separator}x" for file in _files(root / "DAPI")]
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("\n".join(filter(None, [header, *lines])) + "\n")
    os.utime(root / name, ns=(THEN, THEN))
    return f"{root / name}{query}"


def _copied(root: Path, layer: str, copy: Callable[..., object]) -> str:
    shutil.rmtree(root / "copy", ignore_errors=True)
    shutil.copytree(root / layer, root / "copy", copy_function=copy)
    return str(root / "copy")


def _subset(root: Path, seed: int) -> str:
    return f"{root / 'DAPI'}?fraction=0.5&seed={seed}"


# What is seen first, and what looks like it: 20 pairs.
PAIRS: dict[str, tuple[Callable[[Path], str], Callable[[Path], str]]] = {
    "two layers": (lambda r: str(r / "DAPI"), lambda r: str(r / "GFP")),
    "folder replaced": (lambda r: str(r / "DAPI"), _replace_folder),
    "files replaced": (lambda r: str(r / "DAPI"), lambda r: _each(r, lambda a, b: os.replace(b, a))),
    "files swapped": (lambda r: str(r / "DAPI"), lambda r: _each(r, _swap)),
    "swapped within a folder": (lambda r: str(r / "DAPI"), _swap_within),
    "copied over": (lambda r: str(r / "DAPI"), lambda r: _each(r, lambda a, b: shutil.copy2(b, a))),
    "written in place": (lambda r: str(r / "DAPI"), lambda r: _each(r, _in_place)),
    "hard links": (lambda r: str(r / "DAPI"), lambda r: _each(r, _hard_link)),
    "symbolic links": (lambda r: str(r / "DAPI"), lambda r: _each(r, _symlink)),
    "link to a folder": (lambda r: (os.symlink(r / "DAPI", r / "link"), str(r / "link"))[1], _retarget),
    "copies of folders": (
        lambda r: _copied(r, "DAPI", shutil.copy2),
        lambda r: _copied(r, "GFP", shutil.copy2),
    ),
    "unpacked archives": (lambda r: _archive(r, "DAPI"), lambda r: _archive(r, "GFP")),
    "shards": (lambda r: _shard(r, "DAPI"), lambda r: _shard(r, "GFP")),
    "lists": (lambda r: _list(r, "DAPI/", "l.txt"), lambda r: _list(r, "GFP/", "l.txt")),
    "lists beside the images": (
        lambda r: _list(r, "", "DAPI/l.txt"),
        lambda r: _list(r, "", "GFP/l.txt"),
    ),
    "a list with two roots": (
        lambda r: _list(r, "", "l.txt", query=f"?root={r / 'DAPI'}"),
        lambda r: _list(r, "", "l.txt", query=f"?root={r / 'GFP'}"),
    ),
    "a list that leaves its root": (
        lambda r: _list(r, "../DAPI/", "l.txt", query=f"?root={r / 'DAPI'}"),
        lambda r: _list(r, "../DAPI/", "GFP/l.txt"),
    ),
    "paths that leave their root": (
        lambda r: _list(r, f"{r}/DAPI/", "l.txt"),
        lambda r: _list(r, f"{r}/DAPI/", "GFP/l.txt"),
    ),
    "tables": (
        lambda r: _list(r, "DAPI/", "t.csv", "path,label", ","),
        lambda r: _list(r, "GFP/", "t.csv", "path,label", ","),
    ),
    "fractions": (lambda r: _subset(r, 0), lambda r: _subset(r, 1)),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_look_alikes_are_told_apart(pair: str, tmp_path: Path) -> None:
    _layer(tmp_path / "DAPI", 0)
    _layer(tmp_path / "GFP", 1)
    encoder = create_encoder(TINY, 0)

    def outcome(extract: Callable[..., dict[str, np.ndarray]], source: Source) -> str | bytes:
        try:
            return extract(encoder, source, ["cls"])["cls"].tobytes()
        except UserError as error:  # no image may be read
            return str(error)

    outcomes = []
    for make in PAIRS[pair]:
        source = open_source(make(tmp_path))
        first, again = (outcome(cache.features_of, source) for _ in range(2))
        assert first == again == outcome(extract_all, source)
        outcomes.append(first)
    assert isinstance(outcomes[0], bytes)
    assert outcomes[0] != outcomes[1], "the pair looks alike and is not"


def test_there_are_20_pairs() -> None:
    assert len(PAIRS) == 20


def test_copies_and_moved_folders_share_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _layer(tmp_path / "DAPI", 0)
    encoder = create_encoder(TINY, 0)
    first = cache.features_of(encoder, open_source(str(tmp_path / "DAPI")), ["cls"])["cls"]
    shutil.copytree(tmp_path / "DAPI", tmp_path / "copy", copy_function=shutil.copy)
    (tmp_path / "DAPI").rename(tmp_path / "moved")
    monkeypatch.setattr(cache, "extract_all", None)
    for place in ("copy", "moved"):
        found = cache.features_of(encoder, open_source(str(tmp_path / place)), ["cls"])["cls"]
        assert found.tobytes() == first.tobytes()


def test_a_second_look_reads_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel vouches for the files; else every byte is read again."""
    _layer(tmp_path / "DAPI", 0)
    source, encoder = open_source(str(tmp_path / "DAPI")), create_encoder(TINY, 0)
    monkeypatch.setattr(file_state, "_KEEP_CTIME", set(file_state._file_systems().values()))
    reads: list[int] = []
    read_all = contents._read
    monkeypatch.setattr(contents, "_read", lambda read, keys: (reads.append(len(keys)), read_all(read, keys))[1])
    for fresh, expected in ((0, [4]), (0, [4]), (10**12, [4, 4]), (0, [4, 4])):
        monkeypatch.setattr(file_state, "_FRESH", fresh)
        cache.features_of(encoder, source, ["cls"])
        assert reads == expected
    monkeypatch.setattr(file_state, "_KEEP_CTIME", set())
    cache.features_of(encoder, source, ["cls"])
    assert reads == [4, 4, 4], "a file system whose times prove nothing"


def test_images_that_change_meanwhile_are_not_kept(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = _layer(tmp_path / "DAPI", 0), _layer(tmp_path / "GFP", 1)
    source, encoder = open_source(str(folder)), create_encoder(TINY, 0)

    def changed(*arguments: object) -> object:
        found = extract_all(*arguments)  # type: ignore[arg-type]
        os.replace(_files(other)[0], _files(folder)[0])
        return found

    monkeypatch.setattr(cache, "extract_all", changed)
    cache.features_of(encoder, source, ["cls"])
    assert not list(directory.glob("*.features"))


@pytest.mark.parametrize("stopped", [False, True])
def test_an_image_that_failed_for_a_while_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    """Its row stayed empty for as long as the features were kept, whatever became of the package it had wanted."""
    source, encoder = open_source(str(_layer(tmp_path / "DAPI", 0))), create_encoder(TINY, 0)
    monkeypatch.setattr(features, "BATCH", 1)
    monkeypatch.setattr(cache, "PART", 2)
    plain = source.images.load

    def load(key: int, *more: object) -> object:
        if key == 0:
            raise BadImage("needs a package")
        if stopped and key == 3:
            raise KeyboardInterrupt
        return plain(key, *more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(source.images, "load", load)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt) if stopped else nullcontext():
                assert (
                    np.isnan(cache.features_of(encoder, source, ["cls"])["cls"][:, 0]).tolist() == [True] + [False] * 3
                )
    found = cache.features_of(encoder, source, ["cls"])["cls"]
    assert found.tobytes() == extract_all(encoder, source, ["cls"])["cls"].tobytes()
    monkeypatch.setattr(cache, "extract_all", None)
    assert cache.features_of(encoder, source, ["cls"])["cls"].tobytes() == found.tobytes()


def test_what_was_asked_before_changes_no_bit(encoder: Encoder) -> None:
    """The class token alone takes a shorter way through the last block."""
    source = open_source(SOURCE)
    uncached = {name: extract_all(encoder, source, [name])[name] for name in POOLINGS}
    together = extract_all(encoder, source, POOLINGS)
    for asked in (["cls"], ["mean"], ["cls", "mean"], ["last4"], list(POOLINGS), ["cls"]):
        expected = uncached if asked == ["cls"] else together
        for name, values in cache.features_of(encoder, source, asked).items():
            assert values.tobytes() == expected[name].tobytes(), (asked, name)


def test_another_number_of_threads_is_another_computation(encoder: Encoder) -> None:
    one = cache._computed_by(encoder)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert cache._computed_by(encoder) != one
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(not has_onednn(), reason="this torch has no oneDNN")
def test_other_products_are_another_computation(encoder: Encoder) -> None:
    one = cache._computed_by(encoder)
    with OneDnnLinear():
        assert cache._computed_by(encoder) != one
    assert cache._computed_by(encoder) == one


def test_cache_is_used_and_knows_what_changes(colour_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def counted(encoder: Encoder, source: object, poolings: list[str], *more: object) -> object:
        calls.append(list(poolings))
        return extract_all(encoder, source, poolings, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "extract_all", counted)
    encoder = create_encoder(TINY, 0)
    source = open_source(str(colour_folder))
    first = cache.features_of(encoder, source, ["cls", "mean"])
    again = cache.features_of(encoder, source, ["cls", "mean", "cls+mean"])
    assert calls == [["cls", "mean"], ["cls+mean"]], "one pass for what was missing"
    assert (first["cls"] == again["cls"]).all()
    cache.features_of(encoder, source, ["cls"], block=0)
    cache.features_of(encoder, source.subset(source.keys[:9]), ["cls"])
    first = cache.features_of(encoder, source, ["cls"])
    assert len(calls) == 4, "the only block is the last"
    (colour_folder / "image 3.png").write_bytes((colour_folder / "image 5.png").read_bytes())
    changed = cache.features_of(encoder, open_source(str(colour_folder)), ["cls"])
    assert not (changed["cls"] == first["cls"]).all()
    with torch.no_grad():
        encoder.vit.norm.bias += 1
    cache.features_of(encoder, source, ["cls"])
    assert len(calls) == 6


def _extract(directory: str, start: object, results: object) -> None:
    import os

    os.environ["LAYERGRAFT_CACHE"] = directory
    torch.set_num_threads(1)
    start.wait()  # type: ignore[attr-defined]
    for _ in range(5):
        found = cache.features_of(create_encoder(CONFIG, 0), open_source(SOURCE), ["cls"])["cls"]
        results.put(float(found.sum()))  # type: ignore[attr-defined]


def test_two_processes_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_extract, args=(str(tmp_path), start, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    sums = {round(results.get(timeout=120), 3) for _ in range(10)}
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(sums) == 1
    assert len(list((tmp_path / "features").iterdir())) == 1, "one file, and nothing left beside it"
