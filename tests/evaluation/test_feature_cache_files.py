"""Features that were kept are checked, and what cannot be kept costs time alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from feature_cache import CONFIG, SOURCE, use_cache

from layergraft.data.sources.open import open_source
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.evaluation import cache
from layergraft.evaluation.contents import cache_directory
from layergraft.evaluation.features import extract_all


@pytest.fixture
def encoder() -> Encoder:
    return create_encoder(CONFIG, 0)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use_cache(tmp_path / "cache", monkeypatch)


def _damage(file: Path, other: Path) -> dict[str, Callable[[], object]]:
    """Ways a file of features ends up as something else."""
    whole, rows = file.read_bytes(), len(file.read_bytes()) // 2
    npz = file.with_name("archive.npz")
    np.savez(npz, np.zeros(3))
    archive = npz.read_bytes()
    npz.unlink()
    return {
        "cut": lambda: file.write_bytes(whole[:500]),
        "empty": lambda: file.write_bytes(b""),
        "longer": lambda: file.write_bytes(whole + bytes(4 * rows)),
        "narrower": lambda: file.write_bytes(whole[: len(whole) // 2]),
        "one bit": lambda: file.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]),
        "one bit of the checksum": lambda: file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:]),
        "another file's": lambda: file.write_bytes(other.read_bytes()),
        "a header of no shape": lambda: file.write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4', ("),
        "a zip": lambda: file.write_bytes(archive),
        "a cut zip": lambda: file.write_bytes(archive[:40]),
        "a folder": lambda: (file.unlink(), file.mkdir()),
        "a link to nothing": lambda: (file.unlink(), file.symlink_to("nowhere")),
    }


def test_damaged_files_are_made_again(encoder: Encoder, directory: Path) -> None:
    source = open_source(SOURCE)
    first = cache.features_of(encoder, source, ["cls", "cls+mean"])["cls"]
    file, other = (next(directory.glob(f"*-{name}.features")) for name in ("cls", "cls-mean"))
    for how, damage in _damage(file, other).items():
        damage()
        assert cache.features_of(encoder, source, ["cls", "mean"])["cls"].tobytes() == first.tobytes(), how
        if file.is_dir():
            file.rmdir()
        cache.features_of(encoder, source, ["cls", "mean"])
        assert cache._read(file, len(source)) is not None, how
    for kept in directory.glob("*.contents"):
        kept.write_bytes(b"\xff damaged")
    assert cache.features_of(encoder, source, ["cls", "mean"])["cls"].tobytes() == first.tobytes()


def test_no_place_for_a_cache_is_no_cache(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(SOURCE)
    expected = extract_all(encoder, source, ["cls"])["cls"].tobytes()
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "readonly").mkdir(mode=0o500)
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "readonly", Path("/proc/nowhere")):
        monkeypatch.setenv("LAYERGRAFT_CACHE", str(place))
        assert cache.features_of(encoder, source, ["cls"])["cls"].tobytes() == expected
    monkeypatch.delenv("LAYERGRAFT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "relative")
    assert cache_directory() is None
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # a user that the password file does not know
    assert cache_directory() is None
    assert cache.features_of(encoder, source, ["cls"])["cls"].tobytes() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "readonly"]


def test_a_cache_that_may_only_be_read_is_used(
    encoder: Encoder, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(SOURCE)
    first = cache.features_of(encoder, source, ["cls"])["cls"]

    def refuse(*arguments: object, **named: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(cache, "extract_all", refuse)
    assert cache.features_of(encoder, source, ["cls"])["cls"].tobytes() == first.tobytes()


def test_the_oldest_files_go(encoder: Encoder, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.mkdir(parents=True)
    for name in ("old.npy", ".7-8.tmp", "of someone else"):
        (directory / name).write_bytes(bytes(1000))
        os.utime(directory / name, (1, 1))
    monkeypatch.setattr(cache, "LIMIT", 100)
    cache.features_of(encoder, open_source(SOURCE), ["cls"])
    assert [path.name for path in directory.iterdir()] == ["of someone else"]
