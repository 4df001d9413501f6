"""The labels file while it is filled in: all its rows and columns stay, and one label is set at a time."""

from __future__ import annotations

import codecs
import csv
import fcntl
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl

from layergraft.data.sources.columns import Chosen
from layergraft.data.sources.files import Place
from layergraft.data.sources.label_file import match_paths, read_label_rows, read_labels
from layergraft.data.sources.source import Source
from layergraft.data.sources.table import read_table
from layergraft.data.sources.tabular import table_columns
from layergraft.data.sources.text_table import text_layout
from layergraft.errors import UserError
from layergraft.runs.atomic import Unconfirmed, write_bytes

LONGEST = 200  # letters of a label


def can_be_written(name: str) -> bool:
    """Whether a path can stand in a labels file: UTF-8 in one line."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return bool(name.strip()) and not any(sign in name for sign in "\r\n\0")


def check_label(label: str) -> str:
    """A label without the blanks around it; a blank one is none.

    Raises:
        UserError: it would not be read as it was written.
    """
    text = label.strip()
    if text and (len(text) > LONGEST or not text.isprintable() or not can_be_written(text)):
        raise UserError(f"The label {text[:40]!r} cannot be written.", f"Use one line of at most {LONGEST} letters.")
    return text


@dataclass(kw_only=True)
class _Content:
    """What the file holds, and how it is written.

    Args:
        rows: cells of each row, the header first.
        image: number of the column of paths.
        label: number of the column of labels.
        delimiter: between two cells.
        line_end: behind a row.
        encoding: of the text.
        mark: bytes in front of it.
        keys: sample keys of the image of each row but the header.
        added: first sample keys of the images whose row was added here, and goes when its label does.
    """

    rows: list[list[str]]
    image: int = 0
    label: int = 1
    delimiter: str = ","
    line_end: str = "\n"
    encoding: str = "utf-8"
    mark: bytes = b""
    keys: list[list[int]] = field(default_factory=list)
    added: set[int] = field(default_factory=set)

    def to_bytes(self) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=self.delimiter, lineterminator=self.line_end).writerows(self.rows)
        return self.mark + text.getvalue().encode(self.encoding)


class LabelsFile:
    """A file of labels of some images of a source; it is read again whenever another program has written it.

    Args:
        file: a .csv or .tsv, perhaps with `?image=COLUMN&label=COLUMN`; it need not be there yet.
        source: the images.

    Raises:
        UserError: the file cannot be read, or not be kept as it is: then it is never written.
    """

    def __init__(self, file: str, source: Source) -> None:
        self.file, self.source = file, source
        name, _, options = file.partition("?")
        if not name.lower().endswith((".csv", ".tsv")):
            raise UserError(f"`layergraft label` writes a .csv, and --labels is {file!r}.", "For instance labels.csv.")
        self.options = dict(parse_qsl(options))
        self.path = Path(name).expanduser().resolve()
        self.named: dict[str, list[int]] = {}
        for key in source.keys.tolist():
            self.named.setdefault(source.images.name(key), []).append(key)
        self._state: object = None
        self._content = _Content(rows=[])
        self._renew()

    @property
    def labels(self) -> dict[int, str]:
        """Sample key -> label, in the order of the file."""
        content = self._content
        rows = zip(content.rows[1:], content.keys, strict=True)
        return {key: row[content.label].strip() for row, keys in rows for key in keys if row[content.label].strip()}

    @property
    def blank(self) -> list[int]:
        """Sample keys of images that have a row and no label, in the order of the file: somebody picked them."""
        rows = zip(self._content.rows[1:], self._content.keys, strict=True)
        return [key for row, keys in rows for key in keys[:1] if not row[self._content.label].strip()]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other servers from writing meanwhile, and know what they have written.

        Raises:
            UserError: the file has become one that cannot be read.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._renew()
            yield
        finally:
            os.close(descriptor)

    def set_label(self, path: str, label: str) -> str:
        """Write one label, whole or not at all.

        Args:
            path: name of the image in the source.
            label: its class; blank takes it away.

        Returns:
            What the disk did not confirm of a label that is written; else empty.

        Raises:
            UserError: it cannot be written; nothing is changed.
        """
        key, before = self.named[path][0], self._content
        content = replace(before, rows=list(before.rows), keys=list(before.keys), added=set(before.added))
        numbers = [number for number, keys in enumerate(content.keys, 1) if key in keys]
        if not numbers:
            row = ["" for _ in content.rows[0]]
            row[content.image] = path
            numbers = [len(content.rows)]
            content.rows.append(row)
            content.keys.append(self.named[path])
            content.added.add(key)
        for number in numbers:
            row = list(content.rows[number])  # that of `before` stays as it is
            row[content.label] = label
            content.rows[number] = row
        if not label and key in content.added:
            del content.rows[numbers[0]], content.keys[numbers[0] - 1]
            content.added.remove(key)
        self._state = None  # if writing fails, what is on the disk counts
        mode = self.path.stat().st_mode if self.path.exists() else None
        unconfirmed = ""
        try:
            write_bytes(self.path, content.to_bytes())
        except Unconfirmed as error:
            unconfirmed = str(error)
        self._content = content  # only now: what could not be written is not shown as saved
        if mode is not None:
            with suppress(OSError):  # of another user
                self.path.chmod(mode)
        with suppress(OSError):  # then it is read again
            self._state = self._now()
        return unconfirmed

    def _now(self) -> object:
        """Changes when somebody writes the file."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return "missing"
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _renew(self) -> None:
        """Read the file if it has changed; one that cannot be read leaves all as it was, so the next call refuses, too.

        Raises:
            UserError: it cannot be read, or not be kept as it is.
        """
        state = self._now()  # before reading: what is written meanwhile makes another
        if state != self._state:
            content = self._read(missing=state == "missing")
            self._state, self._content = state, content

    def _read(self, missing: bool) -> _Content:
        if missing:
            return _Content(rows=[[self.options.get("image", "path"), self.options.get("label", "label")]])
        read_labels(self.file, self.source)  # says what is wrong with it, if anything is
        place = Place(str(self.path))
        raw = self.path.read_bytes()
        with place.open() as stream:
            layout = text_layout(stream)
        mark = codecs.BOM_UTF8 if raw.startswith(codecs.BOM_UTF8) else b""
        content = _Content(
            rows=[],
            delimiter=layout.delimiter,
            encoding=layout.encoding,
            mark=mark,
        )
        text = raw[len(mark) :].decode(content.encoding)
        content.line_end = "\r\n" if text.partition("\n")[0].endswith("\r") else "\n"
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=content.delimiter)
        content.rows = [row for row in lines if row]
        chosen = Chosen(image=self.options.get("image"), label=self.options.get("label"))
        columns = table_columns(place, read_table(place), chosen)
        header = content.rows[0]
        if columns.label is None or header.count(columns.image) != 1 or header.count(columns.label) != 1:
            raise self._cannot_be_kept()
        content.image, content.label = header.index(columns.image), header.index(columns.label)
        if any(len(row) != len(header) for row in content.rows):
            raise self._cannot_be_kept()
        pairs = [(row[content.image], row[content.label].strip()) for row in content.rows[1:]]
        if [pair for pair in pairs if pair[1]] != read_label_rows(self.file):
            raise self._cannot_be_kept()
        key_of = match_paths(self.file, [path for path, _ in pairs], self.source)
        content.keys = [key_of[path] for path, _ in pairs]
        return content

    def _cannot_be_kept(self) -> UserError:
        return UserError(
            f"{str(self.path)!r} is written in a way that could not be kept.", "Give another --labels, or mend it."
        )
