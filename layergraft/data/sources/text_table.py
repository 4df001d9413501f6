"""A table as text: CSV, or what spreadsheets take for it."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from layergraft.data.sources.files import Place
from layergraft.data.sources.tabular import ROWS, TableError, explained
from layergraft.runs.readable import counted

HEADER = 2**16  # bytes in which the first line of a table ends
_LONGEST = 2**31 - 1  # letters of a cell; csv's own limit is lower
_BATCH = 2**14


@dataclass(frozen=True)
class Layout:
    """How a table is written.

    Args:
        encoding: `utf-8` or `utf-16`.
        delimiter: between two cells.
    """

    encoding: str
    delimiter: str


def text_layout(stream: BinaryIO) -> Layout:
    """How a table is written; the stream is back at its start.

    Spreadsheets of many countries write semicolons, and PowerShell UTF-16, whatever the ending is.
    """
    start = stream.read(HEADER)
    stream.seek(0)
    encoding = "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    header = start.decode(encoding, "replace").partition("\n")[0]
    names = re.sub(r'"[^"]*"', "", header)
    return Layout(encoding, next((sign for sign in "\t;" if sign in names and "," not in names), ","))


class TextTable:
    """A table whose cells are all text; see `Table`.

    Args:
        file: where it lies.
    """

    def __init__(self, file: Place) -> None:
        self._file = file
        self.nested: list[str] = []
        self.unfit: list[str] = []
        with explained(file):
            self.names = next(self._lines(), [])
            if not self.names:
                raise TableError("it is empty")
            _check_text("its first line", self.names)

    def _lines(self) -> Iterator[list[str]]:
        """Cells of each line that is not empty."""
        csv.field_size_limit(_LONGEST)
        with self._file.open() as stream:
            layout = text_layout(stream)
            encoding = "utf-8-sig" if layout.encoding == "utf-8" else layout.encoding
            text = io.TextIOWrapper(stream, encoding, errors="surrogateescape", newline="")
            lines = csv.reader(text, delimiter=layout.delimiter, strict=True)
            width = 0
            for cells in filter(None, lines):
                width = width or len(cells)
                if len(cells) != width:
                    raise TableError(
                        f"its line {lines.line_num} has {counted(len(cells), 'cell')} and the first one {width}"
                    )
                yield cells

    def declared(self, column: str | None) -> list[str]:
        """None: text is not numbers."""
        return []

    def holds_files(self, column: str) -> bool:
        """Text holds paths."""
        return False

    def first_rows(self, columns: Sequence[str]) -> dict[str, list[str]]:
        """See `Table`."""
        rows = list(islice(self._lines(), 1, ROWS + 1))
        return {name: [row[self.names.index(name)] for row in rows] for name in columns} if rows else {}

    def batches(self, columns: Sequence[str]) -> Iterator[dict[str, list[str]]]:
        """See `Table`."""
        for name in columns:
            if self.names.count(name) != 1:
                raise TableError(f"it has {self.names.count(name)} columns {name!r}")
        lines = islice(self._lines(), 1, None)
        while rows := list(islice(lines, _BATCH)):
            batch = {name: [row[self.names.index(name)] for row in rows] for name in columns}
            for name, cells in batch.items():
                _check_text(f"its column {name!r}", cells)
            yield batch


def _check_text(where: str, cells: Sequence[str]) -> None:
    """Refuse bytes that are not the text they should be; those of columns that nobody asked for do not matter."""
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        raise TableError(f"{where} is not UTF8") from None
