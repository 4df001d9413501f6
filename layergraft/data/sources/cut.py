"""From a source of large images to one of their tiles: found once, in a fixed order, kept in the index of the run."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from layergraft.data.decode import BadImage
from layergraft.data.decode.large import CutImage, open_image
from layergraft.data.decode.options import ReadOptions
from layergraft.data.decode.slide import NoScale, SlideTiles, is_slide
from layergraft.data.decode.tiling import Tiling
from layergraft.data.decode.tissue import find_tissue
from layergraft.data.sources.files import FileImages
from layergraft.data.sources.from_index import as_source
from layergraft.data.sources.index import Index, IndexBuilder, open_index
from layergraft.data.sources.source import Source
from layergraft.data.sources.tiles import OpenImages, TileImages
from layergraft.errors import UserError
from layergraft.runs.interruption import check
from layergraft.runs.readable import counted

COLUMNS = {"label": np.int32, "file": np.int32}
NAMED = 5
MOST_TILES = 2**24  # of one image: more would be a damaged size
FORMAT = 2  # of what is kept
_FAILED = " failed"  # behind the signature of an index of which not every image could be cut


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """What one image gives.

    Args:
        file: its name.
        state: of the file when it was looked at.
        steps: pixels of the image from one tile to the next, across and down.
        shape: rows and columns of tiles.
        taken: which of them are taken, row by row, as hexadecimal digits of their bits.
        series: files of one folder with the same are one image; empty for those that are one each.
        reason: why it cannot be cut; empty where it can.
    """

    file: bytes
    state: str
    steps: tuple[float, float] = (1.0, 1.0)
    shape: tuple[int, int] = (0, 0)
    taken: str = ""
    series: str = ""
    reason: str = ""

    def grid(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which tiles are taken, of shape (rows, columns)."""
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(self.taken), np.uint8), count=self.shape[0] * self.shape[1])
        return bits.reshape(self.shape).astype(bool)

    def names(self) -> list[bytes]:
        """Names of the tiles that are taken, row by row; the image's own where it cannot be cut."""
        if self.reason:
            return [self.file]
        rows, columns = np.nonzero(self.grid())
        xs, ys = np.rint(columns * self.steps[0]).astype(int), np.rint(rows * self.steps[1]).astype(int)
        return [b"%s#%d,%d" % (self.file, x, y) for x, y in zip(xs.tolist(), ys.tolist(), strict=True)]


def _state(path: str) -> str:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


class _Memory:
    """What was found of each image, a line each, so that a start that was stopped goes on; see `_Cut`.

    Args:
        file: None keeps nothing.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.known: dict[bytes, _Cut] = {}
        for line in file.read_bytes().splitlines() if file and file.is_file() else []:
            try:
                cut = msgspec.json.decode(line, type=_Cut)
            except (msgspec.MsgspecError, UnicodeError):
                continue  # a kill cut it off
            self.known[cut.file] = cut

    def add(self, cut: _Cut) -> None:
        """Keep what was found; processes that find the same write the same."""
        if self.known.get(cut.file) == cut:  # it failed again
            return
        self.known[cut.file] = cut
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with open(self.file, "ab", buffering=0) as stream:
                stream.write(b"\n" + msgspec.json.encode(asdict(cut)) + b"\n")


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What is to be cut.

    Args:
        source: the large images.
        images: likewise, as files.
        tiling: how they are cut.
        options: which picture of a file with several is meant.
        directory: where images go that are decoded once.
        begun: whether a run trains on what was found: then nothing joins it.
    """

    source: Source
    images: FileImages
    tiling: Tiling
    options: ReadOptions
    directory: Path
    begun: bool

    def path(self, file: str) -> str:
        """Where a file lies."""
        return os.path.join(self.images.root.path, file)

    def states(self) -> Iterator[tuple[str, str]]:
        """Name and state of each file."""
        for key in self.source.keys.tolist():
            name = self.images.name(key)
            yield name, _state(self.path(name))

    def signature(self) -> str:
        """Changes when an image comes, goes or is replaced, and with labels and tiling."""
        digest = hashlib.blake2b(
            f"{FORMAT} {self.tiling} {self.options.page} {self.options.z} {self.source.classes}".encode(),
            digest_size=16,
        )
        if self.source.labels is not None:
            digest.update(self.source.labels.tobytes())
        for name, state in self.states():
            digest.update(f"{name}\0{state}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def holds(self, signature: str) -> bool:
        """Whether an index is still what would be found; what failed is tried again where no run has begun with it."""
        before, _, failed = signature.partition(" ")
        return before == self.signature() and (self.begun or not failed)

    def is_known(self, memory: _Memory, file: str, state: str) -> bool:
        """Whether a file was cut, or failed for good."""
        known = memory.known.get(os.fsencode(file))
        # What failed is tried again: the cause may have been a full disk, or a package that is there now.
        return known is not None and known.state == state != "" and (self.begun or not known.reason)

    def open(self, path: str) -> SlideTiles | CutImage:
        """One of the images, to be read tile by tile."""
        if self.tiling.scaled and not os.path.isdir(path):
            return SlideTiles(path, self.tiling)
        return open_image(path, self.tiling, self.options, self.directory)


def _scales(tile: int) -> str:
    return f"?tile={tile}&mpp=0.5 (micrometres a pixel: 20x), or ?tile={tile}&level=0 (pixels as they were scanned)"


def _check_scales(work: _Work, files: list[str]) -> None:
    """Refuse slides that need a scale, or do not say theirs, before anything is looked for in others."""
    unscaled, slides = [], []
    for file in files:
        check()
        path = work.path(file)
        if not work.tiling.scaled:
            if is_slide(path):
                slides.append(file)
            continue
        try:
            work.open(path)
        except NoScale:
            unscaled.append(file)
        except BadImage:
            continue  # is noted where it is cut
    for listed, problem, hint in (
        (slides, "are whole slides, whose tiles need a scale", f"Give {_scales(work.tiling.tile)}."),
        (
            unscaled,
            "do not say how many micrometres a pixel is",
            f"Give ?tile={work.tiling.tile}&level=0, which takes pixels as they were scanned, or leave them out.",
        ),
    ):
        if listed:
            files_of = f"{len(listed)} of {len(work.source)} files of {work.source.spec!r}"
            raise UserError(f"{files_of} {problem}: {_listed(listed)}.", hint)


def _cut(work: _Work, file: str, state: str) -> _Cut:
    """Find the tiles of one image."""
    try:
        tiles = work.open(work.path(file))
        if tiles.rows * tiles.columns > MOST_TILES:
            raise BadImage(f"{tiles.rows * tiles.columns} tiles, which no image has")
        if work.tiling.tissue:
            grid = find_tissue(tiles, work.tiling.tissue)
        else:
            grid = np.ones((tiles.rows, tiles.columns), dtype=bool)
    except BadImage as error:
        return _Cut(file=os.fsencode(file), state=state, reason=str(error))
    taken = np.packbits(grid).tobytes().hex()
    return _Cut(
        file=os.fsencode(file), state=state, steps=tiles.steps, shape=grid.shape, taken=taken, series=tiles.series
    )


def _cuts(work: _Work, path: Path | None) -> list[_Cut | None]:
    """What each image gives; None for a file of an image that another file stands for."""
    memory = _Memory(path.with_suffix(".tiles.jsonl") if path else None)
    states = dict(work.states())
    _check_scales(work, [file for file, state in states.items() if not work.is_known(memory, file, state)])
    seen: set[tuple[str, str]] = set()
    cuts: list[_Cut | None] = []
    for key in work.source.keys.tolist():
        file = work.images.name(key)
        if not work.is_known(memory, file, states[file]):
            memory.add(_cut(work, file, states[file]))
        cut = memory.known[os.fsencode(file)]
        group = (os.path.dirname(file), cut.series)
        cuts.append(None if cut.series and group in seen else cut)
        seen.add(group)
    return cuts


def _build(work: _Work, path: Path | None) -> Index:
    """Find all tiles, image by image, and list them."""
    signature, source = work.signature(), work.source
    cuts = _cuts(work, path)
    remark = _remark(work, [cut for cut in cuts if cut is not None])
    builder = IndexBuilder(COLUMNS, path)
    for number, (key, cut) in enumerate(zip(source.keys.tolist(), cuts, strict=True)):
        names = cut.names() if cut else []
        ids = np.zeros(len(names), dtype=np.int32)
        if source.labels is not None:
            ids = builder.class_ids([source.classes[int(source.labels[key])]] * len(names))
        file = np.full(len(names), -1 if cut and cut.reason else number, dtype=np.int32)
        builder.add(names, {"label": ids, "file": file})
    builder.declared = [name for name in source.classes if name in builder.classes]
    builder.remarks = [*source.remarks, remark]
    builder.label_hint = source.label_hint
    return builder.finish(signature + _FAILED * any(cut.reason for cut in cuts if cut))


def _remark(work: _Work, cuts: list[_Cut]) -> str:
    """What was cut, in a sentence.

    Raises:
        UserError: there is no tile.
    """
    spec, tiling = work.source.spec, work.tiling
    good = [cut for cut in cuts if not cut.reason]
    counts = [int(cut.grid().sum()) for cut in good]
    total = sum(cut.shape[0] * cut.shape[1] for cut in good)
    if not sum(counts):
        if len(good) < len(cuts):
            reasons = Counter(cut.reason for cut in cuts if cut.reason)
            listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
            raise UserError(
                f"None of the images of {spec!r} can be cut into tiles: {listed}.", "Mend or leave them out."
            )
        if total:
            raise UserError(
                f"No tile of {spec!r} holds {tiling.tissue:.0%} of tissue, which is found by its colour.",
                "Give ?tissue=0 for all tiles, or a smaller share: ?tissue=0.1.",
            )
        raise UserError(f"All images of {spec!r} are smaller than a tile.", "Give a smaller ?tile=.")
    scale = f" at {tiling.mpp:g} micrometres a pixel" if tiling.mpp is not None else ""
    scale = f" of level {tiling.level}" if tiling.level is not None else scale
    taken = f", the {sum(counts)} with tissue of {total}" if tiling.tissue else ""
    images = f"{len(good)} image{'s' * (len(good) != 1)}"
    said = f"{spec}: {images} cut into {counted(sum(counts), 'tile')} of {tiling.tile} pixels{scale}{taken}."
    empty = [os.fsdecode(cut.file) for cut, count in zip(good, counts, strict=True) if not count]
    failed = [os.fsdecode(cut.file) for cut in cuts if cut.reason]
    said += f" {len(empty)} without a tile: {_listed(empty)}." if empty else ""
    return said + (f" {len(failed)} cannot be cut and count as one image each: {_listed(failed)}." if failed else "")


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:NAMED])) + (" …" if len(names) > NAMED else "")


def no_files(spec: str) -> UserError:
    """What to say of a source whose images are not cut."""
    return UserError(f"{spec!r}: `tile` cuts image files of this machine.", "Give a folder, a file, a list or a table.")


def cut_into_tiles(
    source: Source, tiling: Tiling, options: ReadOptions, directory: Path | None, begun: bool = False
) -> Source:
    """Make each tile of a source's images an image; sample key = place in the order of files, rows, columns.

    Args:
        source: its images are files of this machine.
        tiling: how they are cut.
        options: which picture of a file with several is meant.
        directory: of index files, and of images that are decoded once; without one those lie in a temporary folder,
            which goes when the source does.
        begun: whether a run has begun with what the index holds. Before, what could not be cut is tried again.

    Raises:
        UserError: the images are no such files, are slides of unknown scale, or give no tile.
    """
    images = source.images
    if not isinstance(images, FileImages) or images.root.remote:
        raise no_files(source.spec)
    temporary = None if directory else tempfile.TemporaryDirectory(prefix="layergraft-")
    decoded = directory or Path(temporary.name if temporary else "")
    work = _Work(source=source, images=images, tiling=tiling, options=options, directory=decoded, begun=begun)
    place = f"{source.spec.partition('?')[0]} {tiling} {options.page} {options.z}"
    index = open_index(directory, place, work.holds, partial(_build, work))
    digest = hashlib.blake2b(f"{index.fingerprint} {tiling}".encode(), digest_size=8)
    index = replace(index, fingerprint=digest.hexdigest())
    tiles = TileImages(images.root, index.names, tiling, OpenImages(work.open), temporary)
    return replace(as_source(source.spec, tiles, index), files=index.columns["file"])
