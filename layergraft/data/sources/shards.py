"""Tar shards in the WebDataset convention; see `shard_members` for what is an image of theirs.

Shards are indexed once, by their headers. On this machine they are then read at random, so the whole set is permuted as
any other source; remote ones are read in blocks of neighbouring members. Nothing is ever unpacked; members that are
links or devices are no images, wherever they point.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from layergraft.data.arrays import Labels
from layergraft.data.decode import BadImage
from layergraft.data.sources.blocks import FETCHERS, BlockImages
from layergraft.data.sources.columns import USUAL, Chosen
from layergraft.data.sources.file_state import Stamp, stamp_files
from layergraft.data.sources.files import Place
from layergraft.data.sources.from_index import as_source
from layergraft.data.sources.index import Columns, Index, IndexBuilder, copy_index, open_index, read_index
from layergraft.data.sources.shard_members import Member, members_of
from layergraft.data.sources.source import IMAGE_SUFFIXES, EncodedImages, Source
from layergraft.errors import UserError
from layergraft.runs.interruption import check

COLUMNS: Columns = {"shard": np.int32, "offset": np.int64, "size": np.int64, "label": np.int32}
PACKED = "shards.index"
CHECKED = 4  # samples of a shard that a packed index is compared with
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_DIGITS = 6  # of the most shards that braces may stand for
_ARCHIVES = ("zip://", "tar://", "libarchive://")
_BATCH = 65536
SHOWN = 8  # endings in a remark
BLOCK_BYTES = 4 << 20  # of a remote shard in one request, if no image alone is larger


def shard_paths(place: str) -> list[str]:
    """`a.tar::b{0..1}.tar`, as WebDataset joins shards -> `a.tar`, `b0.tar`, `b1.tar`.

    With anything else before the `::` it is a chain of fsspec's (`simplecache::s3://bucket/a.tar`).
    """
    parts = place.split("::")
    are_shards = all(part.lower().endswith(".tar") and not part.startswith(_ARCHIVES) for part in parts)
    return [path for part in (parts if are_shards else [place]) for path in expand_braces(part)]


def expand_braces(place: str) -> list[str]:
    """`a{08..10}.tar` -> `a08.tar`, `a09.tar`, `a10.tar`."""
    braces = _BRACES.search(place)
    if not braces:
        return [place]
    first, last = braces.groups()
    ends = _BRACES.findall(place)
    too_long = any(len(end) > _DIGITS for pair in ends for end in pair)
    if too_long or prod(max(1, int(stop) - int(start) + 1) for start, stop in ends) > 10**_DIGITS:
        raise UserError(f"{place!r} stands for more than {10**_DIGITS:,} shards.", "Name those that there are.")
    width = len(first) if first.startswith("0") else 0
    numbers = range(int(first), int(last) + 1)
    if not numbers:
        raise UserError(f"{braces.group()} in {place!r} counts backwards.", f"Write {{{last}..{first}}}.")
    head, tail = place[: braces.start()], place[braces.end() :]
    return [path for n in numbers for path in expand_braces(f"{head}{n:0{width}d}{tail}")]


class ShardImages(EncodedImages):
    """Members of tar files, read where they lie."""

    def __init__(self, shards: list[Place], index: Index) -> None:
        self.shards, self._names = shards, index.names
        self._shard, self._offset, self._size = (index.columns[name] for name in ("shard", "offset", "size"))

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return f"{self.shards[self._shard[index]].name}:{os.fsdecode(self._names[index])}"

    def stamp(self, keys: Labels) -> Stamp | None:
        if self.shards[0].remote:
            return None
        shards = stamp_files(os.fsencode(shard.path) for shard in self.shards)
        members = hashlib.blake2b(shards.text.encode(), digest_size=16)
        for column in (self._shard, self._offset, self._size):
            members.update(column[keys].tobytes())
        return replace(shards, text=members.hexdigest())

    def size(self, index: int) -> int | None:
        return int(self._size[index])

    def start(self, index: int, count: int) -> bytes:
        offset = int(self._offset[index])
        shard: Place = self.shards[self._shard[index]]
        return shard.read(offset, offset + count)

    def read(self, index: int) -> bytes:
        return self.start(index, int(self._size[index]))


def block_starts(index: Index) -> Labels:
    """The first image of each block: neighbours in one shard, of up to `BLOCK_BYTES` in all."""
    shard, offset, size = (index.columns[name] for name in ("shard", "offset", "size"))
    starts = [0]
    fresh = set((np.flatnonzero(np.diff(shard)) + 1).tolist())
    for row, end in enumerate((offset + size).tolist()):
        if row and (row in fresh or end - offset[starts[-1]] > BLOCK_BYTES):
            starts.append(row)
    return np.array(starts, dtype=np.int64)


class RemoteShardImages(BlockImages):
    """Members of remote tar files: a block is one request, and so is an image that nobody announced."""

    def __init__(self, shards: list[Place], index: Index) -> None:
        super().__init__(block_starts(index), len(index.names))
        self.members = ShardImages(shards, index)
        self._shard, self._offset, self._size = (index.columns[name] for name in ("shard", "offset", "size"))

    def name(self, index: int) -> str:
        return self.members.name(index)

    def read_one(self, index: int) -> bytes:
        return self.members.read(index)

    def fetch(self, block: int) -> list[bytes | None]:
        first = int(self.starts[block])
        stop = int(self.starts[block + 1]) if block + 1 < len(self.starts) else len(self)
        offsets, sizes = (column[first:stop].tolist() for column in (self._offset, self._size))
        shard = self.members.shards[self._shard[first]]
        content = shard.read(offsets[0], offsets[-1] + sizes[-1])
        return [content[at - offsets[0] : at - offsets[0] + size] for at, size in zip(offsets, sizes, strict=True)]


def _samples(shard: Place, unused: set[str], chosen: Chosen) -> Iterator[Member]:
    """`members_of` a shard."""
    with shard.reached(), shard.open() as file:
        try:
            archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - it holds nothing but the file
        except tarfile.TarError as error:
            raise UserError(f"{shard.path!r} is no tar file, or is compressed: {error}.", "Use plain tars.") from None
        try:
            yield from members_of(archive, unused, chosen)
            file.seek(archive.offset)
            if len(file.read(tarfile.BLOCKSIZE)) % tarfile.BLOCKSIZE:  # tarfile takes part of a header for the end
                raise tarfile.ReadError("unexpected end of data")
        except tarfile.TarError as error:
            raise UserError(f"The shard {shard.path!r} is truncated or damaged: {error}.", "Copy it again.") from None


def _states(shards: list[Place]) -> dict[str, tuple[int | None, ...]]:
    """Path -> size of what lies where the shards should, and its time of change on this machine.

    Of remote ones a folder is listed in one request; the listing is never compared with a later one.
    """
    if shards[0].remote:
        folders = {shard.parent.path: shard.parent for shard in shards}
        return {path: (size,) for folder in folders.values() for path, size in folder.sizes().items()}
    states = {shard.path: os.stat(shard.path) for shard in shards if os.path.exists(shard.path)}
    return {path: (status.st_size, status.st_mtime_ns) for path, status in states.items()}


def signature_of(shards: list[Place]) -> str:
    """Changes when a shard does: name and state of each."""
    states = _states(shards)
    for shard in shards:
        if shard.path not in states:
            raise UserError(f"There is no shard {shard.path!r}.", "Check the numbers in the braces.")
    return json.dumps([(shard.name, *states[shard.path]) for shard in shards])


def _all_samples(shards: list[Place], unused: set[str], chosen: Chosen) -> Iterator[tuple[int, Iterable[Member]]]:
    """(number of a shard, its images): of remote shards several are read at a time."""
    if not shards[0].remote:
        yield from enumerate(_samples(shard, unused, chosen) for shard in shards)
        return
    with ThreadPoolExecutor(FETCHERS, thread_name_prefix="layergraft-index") as pool:
        yield from enumerate(pool.map(lambda shard: list(_samples(shard, unused, chosen)), shards))


def build_index(shards: list[Place], path: Path | None, chosen: Chosen = USUAL) -> Index:
    """Index the images of shards, into a file where one is given."""
    signature = signature_of(shards)  # as it was before: what changes meanwhile is noticed by the next start
    builder = IndexBuilder(COLUMNS, path)
    rows: list[tuple[int, Member]] = []
    unused: set[str] = set()
    labelled, bare = False, ""  # whether there is any class; an image without one

    def flush() -> None:
        builder.add(
            [os.fsencode(member.name) for _, member in rows],
            {
                "shard": [number for number, _ in rows],
                "offset": [member.offset for _, member in rows],
                "size": [member.size for _, member in rows],
                "label": builder.class_ids(member.label or "" for _, member in rows),
            },
        )
        rows.clear()

    for number, samples in _all_samples(shards, unused, chosen):
        check()
        for member in samples:
            labelled |= member.label is not None
            if not member.name:
                continue
            rows.append((number, member))
            bare = bare or (member.name if member.label is None else "")
            if len(rows) == _BATCH:
                flush()
    if rows:
        flush()
    if not builder.classes:
        raise UserError(f"There is no image in {shards[0].path!r}.", f"Looked for {' '.join(IMAGE_SUFFIXES)}.")
    if labelled and bare:
        raise UserError(
            f"Some images of {shards[0].parent.path!r} have a label and some have none: {bare!r}.",
            "Label all images, or none. A label is a member right before or behind its image: x.png, x.cls.",
        )
    if bare:
        builder.classes.clear()
        builder.label_hint = (
            "In shards the class is a member beside its image, x.png and x.cls; or name it, ?label=txt."
        )
    if unused:
        named = ", ".join(sorted(unused)[:SHOWN]) + (", …" if len(unused) > SHOWN else "")
        builder.remarks.append(f"{shards[0].path!r}: members {named} are not used.")
    return builder.finish(signature)


def _describes(index: Index, shards: list[Place], signature: str) -> bool:
    """Whether an index is of these shards, wherever they were copied to.

    Times of change do not survive copying, and tars are padded: one of the same size may hold something else. So a few
    samples of each shard are read and must be what the index says.
    """
    if {name: column.dtype for name, column in index.columns.items()} != COLUMNS:
        return False
    if [state[:2] for state in json.loads(index.signature)] != [state[:2] for state in json.loads(signature)]:
        return False
    shard, offset, size, label = (index.columns[name] for name in COLUMNS)
    if not ((shard >= 0) & (shard < len(shards)) & (label < max(1, len(index.classes)))).all():
        return False

    def same(row: int) -> bool:
        """From the header of a sample's image to that of the next one is a tar file of its own."""
        last = row + 1 == len(shard) or shard[row + 1] != shard[row]
        stop = None if last else int(offset[row + 1]) - tarfile.BLOCKSIZE
        try:
            content = shards[shard[row]].read(int(offset[row]) - tarfile.BLOCKSIZE, stop)
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
                member = next(members_of(archive, set()), None)
        except (BadImage, tarfile.TarError):
            return False
        indexed = index.classes[label[row]] if index.classes else None
        name = os.fsdecode(index.names[row])
        if member is None or member[:3] != (name, tarfile.BLOCKSIZE, size[row]):
            return False
        return indexed in (None, member[3])

    firsts = np.flatnonzero(np.diff(shard, prepend=-1))
    spans = zip(firsts, [*firsts[1:], len(shard)], strict=True)
    rows = sorted({int(row) for first, stop in spans for row in np.linspace(first, stop - 1, CHECKED)})
    with ThreadPoolExecutor(FETCHERS, thread_name_prefix="layergraft-index") as pool:
        return all(pool.map(same, rows))


def _packed(shards: list[Place], signature: str, path: Path | None) -> Index | None:
    """The index that `layergraft pack` left beside the shards, if it is of these very ones.

    Args:
        shards: all of them.
        signature: theirs.
        path: where a remote index is copied to, if anywhere.
    """
    packed = shards[0].parent / PACKED
    if not packed.exists():
        return None
    try:
        content = packed.read() if packed.remote else Path(packed.path)
    except BadImage:
        return None
    index = read_index(content)
    if not index or not _describes(index, shards, signature):
        return None
    return copy_index(content, path) if path and isinstance(content, bytes) else index


def _open_index(place: str, shards: list[Place], directory: Path | None, chosen: Chosen) -> Index:
    if shards[0].remote:  # a listing is taken as it was: nothing is asked of the server
        names = [shard.name for shard in shards]

        def build(path: Path | None) -> Index:
            packed = _packed(shards, signature_of(shards), path) if chosen == USUAL else None
            return packed or build_index(shards, path, chosen)

        return open_index(directory, place, lambda old: [name for name, *_ in json.loads(old)] == names, build)
    signature = signature_of(shards)
    packed = _packed(shards, signature, None) if chosen == USUAL else None
    return packed or open_index(
        directory, place, lambda old: old == signature, lambda path: build_index(shards, path, chosen)
    )


def open_shards(
    spec: str, place: str, shards: list[Place], index_directory: Path | None, chosen: Chosen = USUAL
) -> Source:
    """Open tar shards; sample key = place among all images, shard after shard.

    Args:
        spec: what the user wrote.
        place: what tells these shards from others.
        shards: all of them, of one file system.
        index_directory: where the index goes, or None.
        chosen: see `members_of`.
    """
    if any(shard.fs != shards[0].fs for shard in shards):
        raise UserError(f"The shards of {spec!r} lie on several file systems.", "Copy them to one.")
    index = _open_index(f"{place}{chosen}", shards, index_directory, chosen)
    blocks = RemoteShardImages(shards, index) if shards[0].remote else None
    images = blocks or ShardImages(shards, index)
    return as_source(spec, images, index, blocks=blocks)
