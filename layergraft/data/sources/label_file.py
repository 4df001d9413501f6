"""Labels that lie in a file of their own: `path,label` rows for some images of a source, whatever kind it is."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pyarrow as pa

from layergraft.config.paths import expanded
from layergraft.data.sources.columns import Chosen
from layergraft.data.sources.files import FileImages, Place
from layergraft.data.sources.index import are_numbers
from layergraft.data.sources.labels import UNLABELLED, label_texts
from layergraft.data.sources.source import Source, file_of
from layergraft.data.sources.table import explained, table_batches, table_columns, table_schema
from layergraft.data.sources.tiles import TileImages
from layergraft.errors import UserError, nearest
from layergraft.runs.announce import announce
from layergraft.runs.readable import counted

_NAMED = 5  # examples in a message


def read_labels(file: str | Path, source: Source) -> Source:
    """Give some images of a source the labels that a file has for them; what it had before does not count.

    A path of the file is relative to the source, as its images' names are. One with the source's own folder in front
    (`photos/a.jpg`, or from the root of the disk), or without the folders inside (`a.jpg` for `cats/a.jpg`, if no
    other image is called so), is found as well. Labels are text: `007` stays `007`. A blank is no label.

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
    rows, remark = _read(text)
    announce(*filter(None, [remark]))
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


def _read(file: str) -> tuple[list[tuple[str, str]], str]:
    """(rows with a label, what was assumed about the columns)."""
    name, _, options = file.partition("?")
    query = dict(parse_qsl(options, keep_blank_values=True))
    for key in query:
        if key not in ("image", "label"):
            raise UserError(f"{file!r} has an unknown option {key!r}.", nearest(key, ("image", "label")))
    place = Place(name)
    if not place.exists():
        raise UserError(f"There is no label file {name!r}.", "It is a table with the columns `path` and `label`.")
    if not name.lower().endswith((".csv", ".tsv", ".parquet")):
        raise UserError(f"The label file {name!r} is no .csv and no .parquet.", "Write `path,label` a line.")
    columns = table_columns(place, table_schema(place), Chosen(image=query.get("image"), label=query.get("label")))
    if columns.label is None:
        raise UserError(f"{file!r} has no column `label`.", columns.hint)
    names: list[str] = []
    texts: list[str] = []
    with explained(place):
        for batch in table_batches(place, [columns.image, columns.label]):
            names += batch.column(columns.image).cast(pa.string()).fill_null("").to_pylist()
            texts += label_texts(batch.column(columns.label)).to_pylist()
    rows = list(zip(names, texts, strict=True))
    nameless = sum(not path.strip() and label != UNLABELLED for path, label in rows)
    if nameless:
        raise UserError(f"{counted(nameless, 'row')} of {file!r} have a label and no path.", "Say which images.")
    return [(path, label) for path, label in rows if label != UNLABELLED], columns.remark


def _some(texts: Collection[str]) -> str:
    return ", ".join(list(texts)[:_NAMED]) + (" …" if len(texts) > _NAMED else "")


@dataclass(kw_only=True)
class _Names:
    """The names of a source's images.

    Args:
        root: the folder that they are relative to, where they are files of this machine.
        keys: name -> sample keys of the images that are called so.
        by_base: file name -> names that end in it; filled when it is first needed.
    """

    root: str | None
    keys: dict[str, list[int]] = field(default_factory=dict)
    by_base: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Source) -> _Names:
        images = source.images
        root = images.root if isinstance(images, FileImages | TileImages) else None
        names = cls(root=None if root is None or root.remote else root.path)
        for key in source.keys.tolist():
            name = images.name(key)
            names.keys.setdefault(name, []).append(key)
            # A slide's label is that of its tiles.
            if isinstance(images, TileImages) and (file := file_of(name)) != name:
                names.keys.setdefault(file, []).append(key)
        return names

    def ending_in(self, path: str) -> list[str]:
        """Names of images whose last parts are a path."""
        if not self.by_base:
            for name in self.keys:
                self.by_base.setdefault(posixpath.basename(name), []).append(name)
        return [name for name in self.by_base.get(posixpath.basename(path), []) if name.endswith(f"/{path}")]


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
    for path in dict.fromkeys(paths):
        name = next((one for one in _spellings(path, names.root, folders) if one in names.keys), None)
        if name is None:
            several = names.ending_in(_plain(path))
            if len(several) != 1:
                (vague if several else unknown)[repr(path)] = None
                continue
            name = several[0]
        keys_of[path] = names.keys[name]
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
