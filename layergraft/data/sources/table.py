"""A CSV or Parquet table: a column of paths or of the files themselves, and one of labels if any (see `columns`).

A Hugging Face dataset may mix both: where a row holds no file, its path is taken.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from layergraft.data.decode import BadImage
from layergraft.data.sources.byte_strings import ByteStrings
from layergraft.data.sources.columns import USUAL, Chosen, Columns
from layergraft.data.sources.files import FileImages, Place
from layergraft.data.sources.folder import COLUMNS
from layergraft.data.sources.from_index import as_source
from layergraft.data.sources.index import Index, IndexBuilder, open_index
from layergraft.data.sources.labels import label_texts, settle_labels
from layergraft.data.sources.parquet import ParquetTable
from layergraft.data.sources.source import EncodedImages, Source
from layergraft.data.sources.tabular import Table, explained, table_columns
from layergraft.data.sources.text_table import TextTable
from layergraft.errors import UserError

EMBEDDED = {"outside": np.bool_, "label": np.int32}  # of the index of files in a table
FORMAT = 4  # of the index; one that an earlier version left is made again


def read_table(file: Place) -> Table:
    """The table in a file, which its ending tells."""
    return ParquetTable(file) if file.name.lower().endswith(".parquet") else TextTable(file)


class EmbeddedImages(EncodedImages):
    """Image files in a column of a mapped table.

    Args:
        files: by a path each, which is the file itself but for those outside.
        outside: whether a file is outside the table.
        keep: what must live as long as this.
    """

    def __init__(self, files: FileImages, outside: npt.NDArray[np.bool_], keep: object = None) -> None:
        self.files, self.outside, self.keep = files, outside, keep

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return f"row {index}"

    def size(self, index: int) -> int | None:
        # The bytes of a file inside the table are part of the fingerprint.
        return self.files.size(index) if self.outside[index] else None

    def start(self, index: int, count: int) -> bytes:
        return self.files.start(index, count)

    def read(self, index: int) -> bytes:
        if self.outside[index]:
            return self.files.read(index)
        content = self.files.paths[index]
        if not content:
            raise BadImage("empty row")
        return content


def _rows(
    file: Place, table: Table, columns: Columns, declared: Sequence[str]
) -> Iterator[tuple[ByteStrings | list[bytes], Mapping[str, npt.NDArray[np.bool_]], list[str]]]:
    """(names or files, columns of the index, labels as text), a batch at a time."""
    # A blank behind each comma of a file stands before the names, too.
    trim = isinstance(table, TextTable) and columns.image != columns.image.strip()
    with explained(file):
        if isinstance(table, ParquetTable) and table.holds_files(columns.image):
            for files, outside, labels in table.files(columns.image, columns.label):
                yield files, {"outside": outside}, label_texts(labels, declared)
            return
        for batch in table.batches([columns.image, *([] if columns.label is None else [columns.label])]):
            paths = [(path.strip() if trim else path).encode() if path else b"" for path in batch[columns.image]]
            labels = [None] * len(paths) if columns.label is None else batch[columns.label]
            yield paths, {}, label_texts(labels, declared)


def _signature(file: Place) -> str:
    return f"{FORMAT} {file.signature()}"


def _build(file: Place, chosen: Chosen, path: Path | None) -> Index:
    signature = _signature(file)
    table = read_table(file)
    columns = table_columns(file, table, chosen)
    declared = table.declared(columns.label)
    builder = IndexBuilder(EMBEDDED if table.holds_files(columns.image) else COLUMNS, path)
    total = 0
    for names, numbers, texts in _rows(file, table, columns, declared):
        builder.add(names, {**numbers, "label": builder.class_ids(texts)})
        total += len(texts)
    if total == 0:
        raise UserError(f"The table {file.path!r} has no row.")
    settle_labels(builder, file.path, columns, declared)
    return builder.finish(signature)


def open_table(
    spec: str, file: Place, root: Place | None, index_directory: Path | None, chosen: Chosen = USUAL
) -> Source:
    """Open a table; sample key = row. Embedded images are copied once into a mapped file beside the run.

    Without a run the copy lies in a temporary folder, which goes when the source does.
    """
    temporary = None if index_directory else tempfile.TemporaryDirectory(prefix="layergraft-")
    directory = index_directory or Path(temporary.name if temporary else "")
    index = open_index(
        directory,
        f"{file.path}{chosen}",
        lambda old: old == _signature(file),
        lambda path: _build(file, chosen, path),
    )
    files = FileImages(root or file.parent, index.names)
    outside = index.columns.get("outside")
    images = files if outside is None else EmbeddedImages(files, outside, temporary)
    return as_source(spec, images, index)
