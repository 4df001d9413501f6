"""A list: one "path label" a line, the label optional, paths with spaces allowed; # begins a comment."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from layergraft.data.arrays import ClassIds
from layergraft.data.decode.slide import SLIDE_SUFFIXES
from layergraft.data.sources.byte_strings import ByteStrings
from layergraft.data.sources.files import FileImages, Place
from layergraft.data.sources.folder import COLUMNS
from layergraft.data.sources.from_index import as_source
from layergraft.data.sources.index import Index, IndexBuilder, open_index
from layergraft.data.sources.labels import all_or_none
from layergraft.data.sources.source import IMAGE_SUFFIXES, Source
from layergraft.errors import UserError

BLOCK = 32 << 20
_SUFFIXES = [np.frombuffer(suffix.encode(), dtype=np.uint8) for suffix in (*IMAGE_SUFFIXES, *SLIDE_SUFFIXES, ".zarr")]
_LONGEST = max(map(len, _SUFFIXES))
_SPACE = ord(" ")
_TAB = ord("\t")
_LINE = ord("\n")
_COMMENT = ord("#")
_IS_BLANK = np.isin(np.arange(256), list(b" \t\r"))
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
Offsets = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


def _slices(content: Bytes, starts: Offsets, ends: Offsets) -> ByteStrings:
    """Substrings of a buffer, one behind the other, without the gaps between them."""
    lengths = ends - starts
    inside = np.zeros(len(content) + 1, dtype=np.int8)  # 1 where a substring begins, -1 behind its end
    inside[starts[lengths > 0]] += 1
    inside[ends[lengths > 0]] -= 1
    kept = content[np.cumsum(inside[:-1], dtype=np.int8).view(bool)]
    return ByteStrings(np.concatenate(([0], np.cumsum(lengths))).astype(np.int64), kept.tobytes())


def _past_blanks(content: Bytes, places: Offsets, limits: Offsets, step: int) -> Offsets:
    """Starts (step 1) or ends (step -1) of strings, moved over blanks, up to a limit each."""
    back = int(step < 0)
    moving = np.flatnonzero(_IS_BLANK[content[places - back]] & (places != limits))
    places = places.copy()
    while len(moving):
        places[moving] += step
        at = places[moving]
        moving = moving[_IS_BLANK[content[at - back]] & (at != limits[moving])]
    return places


def _are_pictures(content: Bytes, starts: Offsets, ends: Offsets) -> npt.NDArray[np.bool_]:
    """Which strings end as an image file does."""
    are_pictures = np.zeros(len(ends), dtype=bool)
    # The last letters of each, in lower case; those before a short one do not count.
    tail = [content[np.maximum(ends - back, 0)] | 0x20 for back in range(1, _LONGEST + 1)]
    for suffix in _SUFFIXES:
        same = ends - starts >= len(suffix)
        for letter, letters in zip(suffix[::-1], tail, strict=False):
            same &= letters == letter
        are_pictures |= same
    return are_pictures


def split_lines(content: Bytes) -> tuple[ByteStrings, ByteStrings]:
    """(paths, labels) of a block's lines, without empty ones and comments; a label is empty where a line has none.

    A line that ends as an image file does is a path; else what follows its first tab is the label, or its last word.
    All lines are cut at once; of the line

        a b.jpg  3
        ^      ^ ^^
        |      | |end
        |      | word
        start  cut

    the path is `content[start:cut]` and the label `content[word:end]`.
    """
    if len(content) == 0 or content[-1] != _LINE:
        content = np.append(content, np.uint8(_LINE))
    # Lines without the blanks around them; empty ones are left out.
    ends = np.flatnonzero(content == _LINE).astype(np.int64)
    starts = np.concatenate(([0], ends[:-1] + 1)).astype(np.int64)
    ends = _past_blanks(content, ends, starts, -1)
    starts = _past_blanks(content, starts, ends, 1)
    kept = ends > starts
    starts, ends = starts[kept], ends[kept]
    bare = _are_pictures(content, starts, ends)
    # Cut at the last space of a line, or at its first tab, which comes later here and so wins; else not at all.
    cuts = ends.copy()
    for blank in (_SPACE, _TAB):
        blanks = np.flatnonzero(content == blank).astype(np.int64)
        if not len(blanks) or bare.all():
            continue
        near = np.searchsorted(blanks, ends) - 1 if blank == _SPACE else np.searchsorted(blanks, starts)
        cut = blanks[np.clip(near, 0, len(blanks) - 1)]
        cuts = np.where(~bare & (cut > starts) & (cut < ends), cut, cuts)
    # The label begins behind the blanks of the cut, the path ends before them.
    words = _past_blanks(content, np.minimum(cuts + 1, ends), ends, 1)
    cuts = _past_blanks(content, cuts, starts, -1)
    # A line that begins with # is a comment, unless its path is a picture's.
    if (marked := content[starts] == _COMMENT).any():
        kept = ~marked | _are_pictures(content, starts, cuts)
        starts, cuts = starts[kept], cuts[kept]
        words, ends = words[kept], ends[kept]
    return _slices(content, starts, cuts), _slices(content, words, ends)


def _synset(path: bytes) -> bytes:
    """The class of a bare ImageNet name: n01440764_10026.JPEG -> n01440764."""
    head = path.partition(b"_")[0]
    return head if len(head) == 9 and head[:1] == b"n" and head[1:].isdigit() and b"/" not in path else b""


def _imagenet(builder: IndexBuilder, names: list[bytes], flat: bool) -> tuple[list[bytes], ClassIds]:
    """Bare names, with the folder that ImageNet keeps them in unless all lie in one, and their classes."""
    synsets = [_synset(name) for name in names]
    pairs = zip(synsets, names, strict=True)
    paths = names if flat else [synset + b"/" + name if synset else name for synset, name in pairs]
    return paths, builder.class_ids([synset.decode() for synset in synsets])


def _blocks(file: Place) -> Iterator[bytes]:
    """The file in blocks of whole lines, as UTF-8."""
    with file.reached(), file.open() as stream:
        rest = stream.read(len(_BYTE_ORDER_MARK)).removeprefix(_BYTE_ORDER_MARK)
        recode = None
        if rest.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # PowerShell's > writes it
            recode = codecs.getincrementaldecoder("utf-16")(errors="replace")
            rest = recode.decode(rest).encode()
        while block := stream.read(BLOCK):
            if recode is None and 3 * block[:256].count(0) > len(block[:256]):
                raise UserError(f"The list {file.path!r} is UTF-16 without a byte order mark.", "Save it as UTF-8.")
            block = recode.decode(block).encode() if recode else block
            cut = block.rfind(b"\n") + 1
            if cut:
                yield rest + block[:cut]
                rest = block[cut:]
            else:
                rest += block
    yield rest


def _build(file: Place, root: Place, path: Path | None) -> Index:
    builder = IndexBuilder(COLUMNS, path)
    signature = file.signature()
    total, flat = 0, None
    for block in _blocks(file):
        paths, words = split_lines(np.frombuffer(block, dtype=np.uint8))
        if not len(paths):
            continue
        total += len(paths)
        if not words.content and _synset(paths[0]):
            if flat is None:  # the first file tells of all
                flat = (root / os.fsdecode(paths[0])).exists()
            names, labels = _imagenet(builder, paths.tolist(), flat)
            builder.add(names, {"label": labels})
        else:
            listed = words.tolist()
            text_of = {word: word.decode("utf-8", "surrogateescape") for word in dict.fromkeys(listed)}
            labels = builder.class_ids(map(text_of.__getitem__, listed))
            builder.add(paths, {"label": labels})
    if total == 0:
        raise UserError(f"The list {file.path!r} is empty.", "It needs one path a line.")
    if not all_or_none(file.path, builder.classes):
        builder.classes.clear()
    return builder.finish(signature)


def open_list(spec: str, file: Place, root: Place | None, index_directory: Path | None) -> Source:
    """Open a list; sample key = number of the line. Paths are relative to the list or to `root`."""
    root = root or file.parent
    index = open_index(
        index_directory,
        f"{file.path} {root.path}",  # where bare names lie depends on the root
        lambda old: old == file.signature(),
        partial(_build, file, root),
    )
    images = FileImages(root, index.names)
    return as_source(spec, images, index)
