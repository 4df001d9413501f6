"""A CSV or Parquet table: a column of paths or of the files themselves, and one of labels if any (see `columns`).

A Hugging Face dataset may mix both: where a row holds no file, its path is taken.
"""

from __future__ import annotations

import codecs
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from layergraft.data.decode import BadImage
from layergraft.data.sources.columns import USUAL, Chosen, Columns, find_columns, one_column_a_class, one_hot_hint
from layergraft.data.sources.files import FileImages, Place
from layergraft.data.sources.folder import SCHEMA
from layergraft.data.sources.from_index import as_source
from layergraft.data.sources.index import Index, IndexBuilder, open_index
from layergraft.data.sources.labels import declared_classes, label_ids, label_texts, settle_labels
from layergraft.data.sources.source import EncodedImages, Source
from layergraft.errors import UserError

EMBEDDED = pa.schema([("image", pa.large_binary()), ("outside", pa.bool_()), ("label", pa.int32())])
FORMAT = 3  # of the index; one that an earlier version left is made again
ROWS = 1024
HEADER = 2**16  # bytes in which the first line of a table ends
# Arrow would take signals while it reads CSV and end the reading with an error of its own, which says nothing of them.
pa.enable_signal_handlers(False)


class EmbeddedImages(EncodedImages):
    """Image files in a column of a mapped table.

    Args:
        files: by a path each, which is the file itself but for those outside.
        outside: whether a file is outside the table.
        keep: what must live as long as this.
    """

    def __init__(self, files: FileImages, outside: pa.ChunkedArray, keep: object = None) -> None:
        self.files, self.outside, self.keep = files, outside, keep

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return f"row {index}"

    def size(self, index: int) -> int | None:
        # The bytes of a file inside the table are part of the fingerprint.
        return self.files.size(index) if self.outside[index].as_py() else None

    def start(self, index: int, count: int) -> bytes:
        return self.files.start(index, count)

    def read(self, index: int) -> bytes:
        if self.outside[index].as_py():
            return self.files.read(index)
        content = self.files.paths[index]
        if not content:
            raise BadImage("empty row")
        return content


@contextmanager
def explained(file: Place) -> Iterator[None]:
    """What fails inside, fails because of this file."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:  # the last one in names of columns
        is_encoding = isinstance(error, UnicodeDecodeError) or "UTF8" in str(error)
        hint = "Save it as UTF-8 (`CSV UTF-8` in a spreadsheet)." if is_encoding else "Mend it, or write it again."
        raise UserError(f"{file.path!r} cannot be read as a table: {error}.", hint) from None


def _is_text(file: Place) -> bool:
    return not file.name.lower().endswith(".parquet")


def text_layout(stream: BinaryIO) -> dict[str, Any]:
    """How a text table is written, as Arrow's options; the stream is back at its start.

    Spreadsheets of many countries write semicolons, and PowerShell UTF-16, whatever the ending is.
    """
    start = stream.read(HEADER)
    stream.seek(0)
    encoding = "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    header = start.decode(encoding, "replace").partition("\n")[0]
    names = re.sub(r'"[^"]*"', "", header)
    delimiter = next((sign for sign in "\t;" if sign in names and "," not in names), ",")
    return {
        "read_options": pyarrow.csv.ReadOptions(encoding=encoding),
        "parse_options": pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
    }


def table_schema(file: Place) -> pa.Schema:
    """Columns and their types; in CSV all is text."""
    with explained(file), file.open() as stream:
        if _is_text(file):
            names = pyarrow.csv.open_csv(stream, **text_layout(stream)).schema.names
            return pa.schema([(name, pa.string()) for name in names])
        return pyarrow.parquet.ParquetFile(stream).schema_arrow


def table_batches(file: Place, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some of the columns; what lies in others may be anything."""
    with file.open() as stream:
        if _is_text(file):
            kinds = dict.fromkeys(columns, pa.string())
            options = pyarrow.csv.ConvertOptions(include_columns=columns, column_types=kinds)
            yield from pyarrow.csv.open_csv(stream, convert_options=options, **text_layout(stream))
        else:
            yield from pyarrow.parquet.ParquetFile(stream).iter_batches(batch_size=ROWS, columns=list(columns))


def table_columns(file: Place, schema: pa.Schema, chosen: Chosen) -> Columns:
    """The columns that count."""
    fractions = pa.types.is_floating
    unfit = [field.name for field in schema if pa.types.is_nested(field.type) or fractions(field.type)]
    columns = find_columns(file.path, schema.names, chosen, unfit)
    if columns.label is not None:
        return columns
    others = [field.name for field in schema if field.name != columns.image and not pa.types.is_nested(field.type)]
    with explained(file):
        first = next(iter(table_batches(file, others)), None) if others else None
    classes = one_column_a_class(first.slice(0, ROWS).to_pydict()) if first else []
    if not classes:
        return columns
    hint = one_hot_hint(file.path, classes)
    return replace(columns, remark=f"No labels: {hint}", hint=hint)


def _holds_files(file: Place, schema: pa.Schema, name: str) -> bool:
    """Whether the column of images holds the files themselves, not their paths."""
    kind, types = schema.field(name).type, pa.types
    if types.is_struct(kind) and {"bytes", "path"} & set(kind.names):
        return True
    if any(is_kind(kind) for is_kind in (types.is_binary, types.is_large_binary, types.is_binary_view)):
        return True
    text = kind.value_type if types.is_dictionary(kind) else kind
    if any(is_kind(text) for is_kind in (types.is_string, types.is_large_string, types.is_string_view)):
        return False
    raise UserError(
        f"The column `{name}` of {file.path!r} holds {kind}: neither paths nor image files.",
        "Use text for paths; for files binary, or a struct of `bytes` and `path` as Hugging Face datasets have it.",
    )


def encoded_files(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """(image files or, where the column holds only that, their paths; which ones are paths). An empty row is b"".

    Args:
        column: binary, or the struct of `bytes` and `path` that Hugging Face datasets write.
    """
    if not pa.types.is_struct(column.type):
        files = column.cast(pa.large_binary())
        return files.fill_null(b""), pa.array(np.zeros(len(files), dtype=bool))
    nothing = pa.nulls(len(column), pa.large_binary())
    files, paths = (
        pc.struct_field(column, name).cast(pa.large_binary()) if name in column.type.names else nothing
        for name in ("bytes", "path")
    )
    return pc.coalesce(files, paths, b""), pc.and_(files.is_null(), paths.is_valid())


def _rows(
    file: Place, columns: Columns, embedded: bool, declared: Sequence[str]
) -> Iterator[tuple[dict[str, pa.Array], pa.Array]]:
    """(columns of the index, labels as text), a batch at a time."""
    # A blank behind each comma of a file stands before the names, too.
    trim = _is_text(file) and columns.image != columns.image.strip()
    with explained(file):
        for batch in table_batches(file, [columns.image, *([columns.label] if columns.label is not None else [])]):
            column = batch.column(columns.image)
            if embedded:
                parts = dict(zip(("image", "outside"), encoded_files(column), strict=True))
            else:
                paths = column.cast(pa.large_string())
                paths = pc.utf8_trim_whitespace(paths) if trim else paths
                parts = {"path": paths.cast(pa.large_binary()).fill_null(b"")}
            labels = pa.nulls(len(batch)) if columns.label is None else batch.column(columns.label)
            yield parts, label_texts(labels, declared)


def _signature(file: Place) -> str:
    return f"{FORMAT} {file.signature()}"


def _build(file: Place, chosen: Chosen, path: Path | None) -> Index:
    signature = _signature(file)
    schema = table_schema(file)
    columns = table_columns(file, schema, chosen)
    embedded = _holds_files(file, schema, columns.image)
    declared = declared_classes(schema, columns.label)
    builder = IndexBuilder(EMBEDDED if embedded else SCHEMA, path, "image" if embedded else "path")
    total = 0
    for parts, texts in _rows(file, columns, embedded, declared):
        builder.add({**parts, "label": pa.array(label_ids(builder, texts))})
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
    embedded = "image" in index.table.column_names
    files = FileImages(root or file.parent, index.names("image" if embedded else "path"))
    images = EmbeddedImages(files, index.table.column("outside"), temporary) if embedded else files
    return as_source(spec, images, index)
