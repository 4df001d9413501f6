"""A list: one "path label" a line, the label optional, paths with spaces allowed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from layergraft.data.sources.files import FileImages, Place
from layergraft.data.sources.folder import SCHEMA
from layergraft.data.sources.index import Index, IndexBuilder, open_index
from layergraft.data.sources.labels import all_or_none
from layergraft.data.sources.source import IMAGE_SUFFIXES, Source
from layergraft.errors import UserError

BLOCK = 32 << 20
_SUFFIXES = [np.frombuffer(suffix.encode(), dtype=np.uint8) for suffix in IMAGE_SUFFIXES]
_SPACE, _TAB, _LINE, _RETURN = b" \t\n\r"
Offsets = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


def _slices(content: Bytes, starts: Offsets, ends: Offsets) -> pa.LargeBinaryArray:
    """Substrings of a buffer as one Arrow array.

    Strings that follow each other share offsets, so the gaps between them are strings too; every second one is ours.
    """
    offsets = np.stack((starts, ends), axis=1).ravel()
    both = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(content)]
    )
    return both.take(pa.array(np.arange(0, len(offsets), 2)))


def split_lines(content: Bytes) -> tuple[pa.LargeBinaryArray, pa.LargeBinaryArray]:
    """(paths, labels) of the non-empty lines of a block; a label is empty where a line has none.

    A line that ends as an image file does is a path; else its last word is the label.
    """
    if len(content) == 0 or content[-1] != _LINE:
        content = np.append(content, np.uint8(_LINE))
    ends = np.flatnonzero(content == _LINE).astype(np.int64)
    starts = np.concatenate(([0], ends[:-1] + 1)).astype(np.int64)
    padded = np.concatenate((np.zeros(8, dtype=np.uint8), content))  # so that looking back never leaves the buffer
    for blank in (_RETURN, _SPACE, _TAB):
        while len(ends):
            trailing = (padded[ends + 7] == blank) & (ends > starts)
            if not trailing.any():
                break
            ends = ends - trailing
    kept = ends > starts
    starts, ends = starts[kept], ends[kept]
    bare = np.zeros(len(ends), dtype=bool)
    tail = [padded[ends + 8 - back] | 0x20 for back in range(1, 6)]  # the last letters of each line, in lower case
    for suffix in _SUFFIXES:
        same = ends - starts >= len(suffix)
        for letter, own in zip(suffix[::-1], tail, strict=False):
            same &= own == letter
        bare |= same
    blanks = np.flatnonzero((content == _SPACE) | (content == _TAB)).astype(np.int64)
    cuts = ends.copy()
    if len(blanks) and not bare.all():
        last = blanks[np.maximum(np.searchsorted(blanks, ends) - 1, 0)]
        cuts = np.where(~bare & (last > starts) & (last < ends), last, ends)
    return _slices(content, starts, cuts), _slices(content, np.minimum(cuts + 1, ends), ends)


def _synset(path: bytes) -> bytes:
    """The class of a bare ImageNet name: n01440764_10026.JPEG -> n01440764."""
    head = path.partition(b"_")[0]
    return head if len(head) == 9 and head[:1] == b"n" and head[1:].isdigit() and b"/" not in path else b""


def _imagenet(builder: IndexBuilder, names: list[bytes]) -> tuple[pa.Array, npt.NDArray[np.int32]]:
    """Bare names with the folder that ImageNet keeps them in, and their classes."""
    synsets = [_synset(name) for name in names]
    paths = [synset + b"/" + name if synset else name for synset, name in zip(synsets, names, strict=True)]
    return pa.array(paths, pa.large_binary()), builder.class_ids([synset.decode() for synset in synsets])


def _build(file: Place, path: Path | None) -> Index:
    builder = IndexBuilder(SCHEMA, path, "path")
    signature = file.signature()
    rest, total = b"", 0
    with file.open() as stream:
        while True:
            block = stream.read(BLOCK)
            cut = block.rfind(b"\n") + 1 if block else 0
            content = rest + (block[:cut] if block else b"")
            rest = block[cut:] if cut else rest + block if block else b""
            if content:
                paths, words = split_lines(np.frombuffer(content, dtype=np.uint8))
                total += len(paths)
                codes = words.dictionary_encode()
                names = [word.decode("utf-8", "surrogateescape") for word in codes.dictionary.to_pylist()]
                if names == [""] and len(paths) and _synset(paths[0].as_py()):
                    paths, labels = _imagenet(builder, paths.to_pylist())
                else:
                    labels = builder.class_ids(names)[codes.indices.to_numpy()]
                builder.add({"path": paths, "label": pa.array(labels)})
            if not block:
                break
    if total == 0:
        raise UserError(f"The list {file.path!r} is empty.", "It needs one path a line.")
    if not all_or_none(file.path, builder.classes):
        builder.classes.clear()
    return builder.finish(signature)


def open_list(spec: str, file: Place, root: Place | None, index_directory: Path | None) -> Source:
    """Open a list; sample key = number of the line. Paths are relative to the list or to `root`."""
    index = open_index(index_directory, file.path, lambda old: old == file.signature(), lambda path: _build(file, path))
    labels, classes = index.labels()
    images = FileImages(root or file.parent, index.names("path"))
    return Source(
        spec=spec,
        images=images,
        keys=np.arange(len(images), dtype=np.int64),
        labels=labels,
        classes=classes,
        fingerprint=index.fingerprint,
    )
