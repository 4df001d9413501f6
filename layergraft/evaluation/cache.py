"""Features on disk, so that no image goes through the same encoder twice.

A file's name is a hash of all that decides its content to the last bit: the encoder, the images themselves, the
transform, pooling and block, and the libraries and device that computed it. It holds a checksum and raw float32
numbers. A pass over many images keeps what it has every few thousand of them (`PART`). A file that is damaged, or
cannot be read for any reason, counts as not there. It is written beside its place and renamed, so two processes may
write it at once, and whoever reads finds it whole. The files that were not used for the longest time go when there are
more than `LIMIT` bytes.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import PIL
import torch

from layergraft.config.paths import open_regular
from layergraft.data.decode import BadImage
from layergraft.data.reading import read_as_trained
from layergraft.data.sources.source import Source
from layergraft.encoders.identity import encoder_identity
from layergraft.encoders.products import OneDnnLinear
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.evaluation.contents import cache_directory, contents_of
from layergraft.evaluation.features import BATCH, Array, PatchDraw, extract_all, is_class_token_alone
from layergraft.runs.atomic import write_file
from layergraft.runs.interruption import check

TRANSFORM = "fixed_view 2"
LIMIT = 8 * 2**30
PART = 8 * BATCH  # images whose features are kept before the pass is done
_CHECKSUM = 4  # bytes
_KINDS = (".features", ".contents", ".npy", ".tmp")  # .npy is what earlier versions left


def _computed_by(encoder: Encoder) -> tuple[object, ...]:
    """What may change the last bits of a feature besides encoder and image."""
    device = encoder.device
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    attention = {getattr(module, "fused_attn", None) for module in encoder.modules()}
    libraries = (version("layergraft"), torch.__version__, cv2.__version__, PIL.__version__, version("simplejpeg"))
    settings = (torch.get_num_threads(), torch.get_float32_matmul_precision(), sorted(map(str, attention)))
    products = ("onednn",) if OneDnnLinear.entered else ()
    return (*libraries, device.type, processor, *settings, *products)


def features_of(
    encoder: Encoder,
    source: Source,
    poolings: Collection[str],
    block: int | None = None,
    patches: PatchDraw | None = None,
) -> dict[str, Array]:
    """`extract_all`, from the cache where it is there; what is missing is computed in one pass and kept."""
    source = read_as_trained(source, encoder.reads)
    directory = cache_directory()
    contents = contents_of(source, directory) if directory and len(source) else None
    if directory is None or contents is None:
        return extract_all(encoder, source, poolings, block, patches=patches)
    key = hashlib.blake2b(digest_size=16)
    alone = is_class_token_alone(encoder, poolings, block)
    last = encoder.depth - 1 if block is None else block
    transform = f"{TRANSFORM} {source.options}"
    for part in (encoder_identity(encoder), contents, transform, last, alone, _computed_by(encoder)):
        key.update(repr(part).encode())
    if patches is not None:
        key.update(repr((patches, source.keys.tobytes())).encode())
    files = {pooling: directory / f"{key.hexdigest()}-{pooling.replace('+', '-')}.features" for pooling in poolings}
    features = {pooling: array for pooling, file in files.items() if (array := _read(file, len(source))) is not None}
    if _readable_by_now(encoder, source, features):
        features = {}
    missing = [pooling for pooling in poolings if pooling not in features]
    if missing:
        computed = missing
        if is_class_token_alone(encoder, missing, block) and not alone:
            computed = ["cls", "mean"]  # the bits of the path that all poolings take together
        parts = _Parts(directory, key.hexdigest(), len(source))
        begun = parts.first(computed)
        if _readable_by_now(encoder, source, begun):
            begun = {}
        fresh = extract_all(encoder, source, computed, block, begun, parts.keep, patches)
        if contents_of(source, directory) == contents:  # else images changed meanwhile, and no one knows which are in
            for pooling in missing:
                _write(files[pooling], fresh[pooling])
        parts.remove(computed)
        features |= {pooling: fresh[pooling] for pooling in missing}
    return {pooling: features[pooling] for pooling in poolings}


def _readable_by_now(encoder: Encoder, source: Source, features: Mapping[str, Array]) -> bool:
    """Whether an image without features can be read: for want of a package or of memory, its bytes alone could be."""
    for row in sorted({row for array in features.values() for row in np.flatnonzero(np.isnan(array[:, 0])).tolist()}):
        check()
        try:
            source.images.load(int(source.keys[row]), encoder.in_chans)
        except BadImage:
            continue
        return True
    return False


class _Parts:
    """Features of the first images of a long pass, so that one that is stopped goes on.

    Args:
        directory: of the cache.
        key: of the pass.
        images: how many the whole pass has.
    """

    def __init__(self, directory: Path, key: str, images: int) -> None:
        self.directory, self.key, self.images = directory, key, images

    def _file(self, pooling: str, start: int) -> Path:
        return self.directory / f"{self.key}-{pooling.replace('+', '-')}-{start}.features"

    def first(self, poolings: Collection[str]) -> dict[str, Array]:
        """What is there from the first image on."""
        found: dict[str, list[Array]] = {pooling: [] for pooling in poolings}
        for start in range(0, self.images - PART, PART):
            parts = {pooling: _read(self._file(pooling, start), PART) for pooling in poolings}
            whole = {pooling: part for pooling, part in parts.items() if part is not None}
            if len(whole) < len(parts):
                break
            for pooling, part in whole.items():
                found[pooling].append(part)
        return {pooling: np.concatenate(parts) for pooling, parts in found.items() if parts}

    def keep(self, done: int, features: Mapping[str, Array]) -> None:
        """Write the part that ends here, if one does."""
        if done % PART == 0 and done < self.images:
            for pooling, array in features.items():
                _write(self._file(pooling, done - PART), array[done - PART : done])

    def remove(self, poolings: Collection[str]) -> None:
        """Nobody needs parts of what is whole."""
        for pooling in poolings:
            for start in range(0, self.images - PART, PART):
                with suppress(OSError):
                    self._file(pooling, start).unlink(missing_ok=True)


def _checksum(name: str, array: Array) -> bytes:
    """Of the numbers, their shape, and the name they belong to."""
    header = zlib.crc32(repr((name, array.shape)).encode())
    return zlib.crc32(array.data, header).to_bytes(_CHECKSUM, "little")


def _read(file: Path, rows: int) -> Array | None:
    """Features of shape (rows, D); None unless the file is there and whole."""
    try:
        with open_regular(file) as stream:
            checksum = stream.read(_CHECKSUM)
            numbers = np.fromfile(stream, dtype="<f4")
        array: Array = numbers.reshape(rows, -1)
    except (OSError, ValueError, MemoryError):
        return None
    if not array.size or _checksum(file.name, array) != checksum:
        return None
    with suppress(OSError):  # a cache that others may only read
        os.utime(file)
    return array


def _write(file: Path, array: Array) -> None:
    """Best effort: a full or read-only disk costs time at the next evaluation, never this one."""
    array = np.ascontiguousarray(array, dtype="<f4")

    def fill(stream: BinaryIO) -> str:
        stream.write(_checksum(file.name, array))
        stream.write(array.data)
        return file.name

    with suppress(UserError, OSError):
        write_file(file.parent, fill)
        _trim(file.parent)


def _trim(directory: Path) -> None:
    files = []
    for path in directory.iterdir():
        if path.suffix in _KINDS:
            with suppress(FileNotFoundError):  # another process removed it
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= LIMIT:
            break
        path.unlink(missing_ok=True)
        total -= size
