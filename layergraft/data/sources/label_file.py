"""Labels that lie in a file of their own: `path,label` rows for some images of a source, whatever kind it is."""

from __future__ import annotations

import hashlib
import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np

from layergraft.config.paths import expanded
from layergraft.data.sources.columns import Chosen
from layergraft.data.sources.files import FileImages, Place
from layergraft.data.sources.index import are_numbers
from layergraft.data.sources.labels import UNLABELLED, label_texts
from layergraft.data.sources.shards import RemoteShardImages, ShardImages
from layergraft.data.sources.source import Source, file_of
from layergraft.data.sources.table import read_table
from layergraft.data.sources.tabular import explained, table_columns
from layergraft.data.sources.tiles import TileImages
from layergraft.errors import UserError, nearest
from layergraft.runs.announce import announce
from layergraft.runs.readable import counted

_NAMED = 5  # examples in a message
_MEANS_NOTHING = (
    "NA",
    "N/A",
    "#N/A",
    "NaN",
    "nan",
    "NULL",
    "null",
    "None",
    "?",
)  # what programs write; `none` is a class
PREDICTED = {"second", "second_probability"}  # columns of a file of predictions, beside `label`


def read_labels(file: str | Path, source: Source) -> Source:
    """Give some images of a source the labels that a file has for them; what it had before does not count.

    A path of the file is relative to the source, as its images' names are. One with the source's own folder in front
    (`photos/a.jpg`, or from the root of the disk), or without the folders inside or the shard (`a.jpg` for
    `cats/a.jpg` or `000.tar:a.jpg`, if no other image is called so), is found as well, however its accents are encoded.
    Labels are text: `007` stays `007`. A blank is no label.

    Args:
        file: a `.csv` or `.parquet` with the columns `path` and `label`, or other usual names (`columns`); any others
            are named behind it, `labels.csv?image=COLUMN&label=COLUMN`.
        source: the images.

    Returns:
        All images; `labels` is -1 where the file has none, and `Source.labelled` are the others.

    Raises:
        UserError: there is no such file or column, it names what the source lacks, or one image has two labels.
    """
    text = str(file)
    rows, remarks = _read(text)
    announce(*remarks)
    key_of = match_paths(text, [path for path, _ in rows], source)
    label_of: dict[int, str] = {}
    twice: dict[str, None] = {}
    for path, label in rows:
        for key in key_of[path]:
            if label_of.setdefault(key, label) != label:
                twice[f"{path!r} ({label_of[key]!r} and {label!r})"] = None
    if twice:
        raise UserError(
            f"{text!r} gives {counted(len(twice), 'image')} two labels: {_some(twice)}.", "Keep one of them."
        )
    classes = ordered_classes(label_of.values())
    index = {name: number for number, name in enumerate(classes)}
    labels = np.full(len(source.images), -1, dtype=np.int32)
    for key, label in label_of.items():
        labels[key] = index[label]
    # Other labels make other images of them, wherever work that was done before is looked for.
    digest = hashlib.blake2b(repr((source.fingerprint, classes)).encode(errors="surrogateescape"), digest_size=8)
    digest.update(labels.tobytes())
    spec = f"{source.spec} labelled by {text}"
    return replace(source, spec=spec, labels=labels, masks=None, classes=classes, fingerprint=digest.hexdigest())


def ordered_classes(labels: Collection[str]) -> list[str]:
    """Names of classes in their order: by number where all are numbers."""
    names = set(labels)
    numbers = are_numbers(names)
    return sorted(names, key=lambda name: (int(name) if numbers else 0, name))


def read_label_rows(file: str) -> list[tuple[str, str]]:
    """Read (path, label) of each row of a label file that has both.

    Args:
        file: its path, perhaps with `?image=COLUMN&label=COLUMN`.

    Raises:
        UserError: there is no such file or column, or a row has a label and no path.
    """
    return _read(file)[0]


def _read(file: str) -> tuple[list[tuple[str, str]], list[str]]:
    """(rows with a label, what is to be said about them)."""
    name, _, options = file.partition("?")
    query = dict(parse_qsl(options, keep_blank_values=True))
    for key in query:
        if key not in ("image", "label"):
            raise UserError(f"{file!r} has an unknown option {key!r}.", nearest(key, ("image", "label")))
    place = Place(name)
    if not place.exists():
        raise UserError(f"There is no label file {name!r}.", "It is a table with the columns `path` and `label`.")
    if not name.lower().endswith((".csv", ".tsv", ".parquet")):
        raise UserError(
            f"The label file {name!r} is no .csv and no .parquet.",
            "Write `path,label` a line; spreadsheets save as CSV.",
        )
    table = read_table(place)
    columns = table_columns(place, table, Chosen(image=query.get("image"), label=query.get("label")))
    if columns.label is None:
        raise UserError(f"{file!r} has no column `label`.", columns.hint)
    names: list[str] = []
    texts: list[str] = []
    with explained(place):
        for batch in table.batches([columns.image, columns.label]):
            names += ["" if cell is None else str(cell) for cell in batch[columns.image]]
            texts += label_texts(batch[columns.label])
    rows = list(zip(names, texts, strict=True))
    nameless = sum(not path.strip() and label != UNLABELLED for path, label in rows)
    if nameless:
        raise UserError(f"{counted(nameless, 'row')} of {file!r} have a label and no path.", "Say which images.")
    rows = [(path, label) for path, label in rows if label != UNLABELLED]
    remarks = [columns.remark, *_doubts(file, Counter(label for _, label in rows))]
    if columns.label == "label" and set(table.names) >= PREDICTED:
        remarks.append(f"{file!r} is a file of predictions: what rests on its labels is surer than it should be.")
    return rows, list(filter(None, remarks))


def _doubts(file: str, counts: Mapping[str, int]) -> Iterator[str]:
    """What looks like a slip in the names of classes: programs write `NA`, and people write one name in two ways."""
    for label in counts:
        if label in _MEANS_NOTHING:
            yield (
                f"{file!r} labels {counted(counts[label], 'image')} {label!r}, which is a class like any other: leave "
                "blank what has no label."
            )
    ways: dict[str, list[str]] = {}
    for label in counts:
        ways.setdefault(" ".join(unicodedata.normalize("NFKC", label).casefold().split()), []).append(label)
    for same in ways.values():
        if len(same) > 1:
            named = ", ".join(f"{label!r} ({counts[label]:,})" for label in same)
            yield f"{file!r} writes a class in several ways, which are classes of their own: {named}."


def _some(texts: Collection[str]) -> str:
    return ", ".join(list(texts)[:_NAMED]) + (" …" if len(texts) > _NAMED else "")


@dataclass(kw_only=True)
class _Names:
    """The names of a source's images.

    Args:
        root: the folder that they are relative to, where they are files of this machine.
        joints: what stands before the last part of a name: `/`, and `:` behind a shard.
        keys: name -> sample keys of the images that are called so.
        by_base: file name -> names that end in it; filled when it is first needed.
    """

    root: str | None
    joints: str = "/"
    keys: dict[str, list[int]] = field(default_factory=dict)
    by_base: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Source) -> _Names:
        images = source.images
        root = images.root if isinstance(images, FileImages | TileImages) else None
        is_shard = isinstance(images, ShardImages | RemoteShardImages)
        names = cls(root=None if root is None or root.remote else root.path, joints="/:" if is_shard else "/")
        for key in source.keys.tolist():
            name = images.name(key)
            names.keys.setdefault(name, []).append(key)
            # A slide's label is that of its tiles.
            if isinstance(images, TileImages) and (file := file_of(name)) != name:
                names.keys.setdefault(file, []).append(key)
        return names

    def _base(self, name: str) -> str:
        return name[1 + max(name.rfind(joint) for joint in self.joints) :]

    def ending_in(self, path: str) -> list[str]:
        """Names of images whose last parts are a path."""
        if not self.by_base:
            for name in self.keys:
                self.by_base.setdefault(self._base(name), []).append(name)
        endings = tuple(joint + path for joint in self.joints)
        return [name for name in self.by_base.get(self._base(path), []) if name.endswith(endings)]

    def meant(self, path: str, folders: Collection[str]) -> list[str]:
        """Names that a path may stand for; one, if it is clear."""
        name = next((one for one in _spellings(path, self.root, folders) if one in self.keys), None)
        return self.ending_in(_plain(path)) if name is None else [name]


class _Composed:
    """Names whose accents are one letter each (Unicode's NFC): a Mac writes two, and what looks alike is meant alike.

    Args:
        names: as they are written.
    """

    def __init__(self, names: _Names) -> None:
        self.written: dict[str, list[str]] = {}
        for name in names.keys:
            self.written.setdefault(_composed(name), []).append(name)
        root = None if names.root is None else _composed(names.root)
        self.names = _Names(root=root, joints=names.joints, keys={name: [] for name in self.written})

    def meant(self, path: str, folders: Collection[str]) -> list[str]:
        """As `_Names.meant`."""
        found = self.names.meant(_composed(path), [_composed(folder) for folder in folders])
        return [name for composed in found for name in self.written[composed]]


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _plain(path: str) -> str:
    """A path as this package writes it: no blanks around it, no `./`, and no Windows."""
    return posixpath.normpath(path.strip().replace("\\", "/"))


def _spellings(path: str, root: str | None, folders: Collection[str]) -> Iterator[str]:
    """What a path may be called relative to the source's folder, the likeliest first."""
    yield path
    plain = _plain(path)
    yield plain
    if root is None:
        return
    for folder in folders:
        yield os.path.relpath(os.path.join(folder, plain), root)
    parts, above = plain.split("/"), root.strip("/").split("/")
    for count in range(1, min(len(parts), len(above) + 1)):
        if parts[:count] == above[-count:]:
            yield "/".join(parts[count:])


def match_paths(file: str, paths: Collection[str], source: Source) -> dict[str, list[int]]:
    """Path of a label file -> sample keys of its image, which may be listed several times; see `read_labels`.

    Args:
        file: the label file, perhaps with options behind it.
        paths: what it holds.
        source: the images.

    Raises:
        UserError: the source has no such image, or several.
    """
    names = _Names.of(source)
    place = file.partition("?")[0]
    folders = (os.path.dirname(os.path.abspath(expanded(place))), os.getcwd())
    keys_of: dict[str, list[int]] = {}
    unknown: dict[str, None] = {}
    vague: dict[str, None] = {}
    composed: _Composed | None = None
    for path in dict.fromkeys(paths):
        meant = names.meant(path, folders)
        if not meant and not path.isascii():
            composed = composed or _Composed(names)
            meant = composed.meant(path, folders)
        if len(meant) == 1:
            keys_of[path] = names.keys[meant[0]]
        else:
            (vague if meant else unknown)[repr(path)] = None
    if unknown:
        first = repr(next(iter(names.keys), ""))
        raise UserError(
            f"{counted(len(unknown), 'path')} of {file!r} name no image of {source.spec!r}: {_some(unknown)}.",
            f"Paths are relative to the source; its first image is {first}. Mend or remove these rows.",
        )
    if vague:
        raise UserError(
            f"{counted(len(vague), 'path')} of {file!r} fit several images of {source.spec!r}: {_some(vague)}.",
            "Give the folders in front of the file's name as well.",
        )
    return keys_of
