"""Features on disk, so that no image goes through the same encoder twice.

A file's name is a hash of all that decides its content: the encoder's weights, the images with their state on the disk,
the transform, pooling and block. It is written beside its place and renamed, so two processes may write it at once, and
whoever reads finds it whole. The oldest files go when there are more than `LIMIT` bytes.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Collection
from pathlib import Path

import numpy as np

from layergraft.data.sources.source import Source
from layergraft.encoders.identity import encoder_identity
from layergraft.encoders.vit import Encoder
from layergraft.evaluation.features import Array, extract_all

TRANSFORM = "fixed_view 1"
LIMIT = 8 * 2**30


def cache_directory() -> Path | None:
    """`$LAYERGRAFT_CACHE`, or `~/.cache/layergraft`; None where the variable is `off`."""
    given = os.environ.get("LAYERGRAFT_CACHE")
    if given == "off":
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "layergraft"
    return (Path(given) if given else home) / "features"


def features_of(
    encoder: Encoder, source: Source, poolings: Collection[str], block: int | None = None
) -> dict[str, Array]:
    """`extract_all`, from the cache where it is there; what is missing is computed in one pass and kept."""
    directory, stamp = cache_directory(), source.stamp()
    if directory is None or stamp is None:
        return extract_all(encoder, source, poolings, block)
    shared = hashlib.blake2b(digest_size=16)
    for part in (encoder_identity(encoder), stamp, TRANSFORM, encoder.img_size, encoder.in_chans, block):
        shared.update(repr(part).encode())
    shared.update(source.keys.tobytes())
    files = {pooling: directory / f"{shared.hexdigest()}-{pooling.replace('+', '-')}.npy" for pooling in poolings}
    found = {pooling: array for pooling, file in files.items() if (array := _read(file, len(source))) is not None}
    missing = [pooling for pooling in poolings if pooling not in found]
    if missing:
        made = extract_all(encoder, source, missing, block)
        for pooling, array in made.items():
            _write(files[pooling], array)
        found |= made
    return found


def _read(file: Path, rows: int) -> Array | None:
    try:
        array: Array = np.load(file)
        os.utime(file)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.ndim == 2 and len(array) == rows else None


def _write(file: Path, array: Array) -> None:
    """Best effort: a full or read-only disk costs time at the next evaluation, never this one."""
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as place:
            np.save(place, array)
        os.replace(temporary, file)
        _trim(file.parent)
    except OSError:
        temporary.unlink(missing_ok=True)


def _trim(directory: Path) -> None:
    files = []
    for path in directory.glob("*.npy"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # another process removed it
        files.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= LIMIT:
            break
        path.unlink(missing_ok=True)
        total -= size
