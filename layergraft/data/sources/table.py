"""A CSV or Parquet table: `path` or `image` with paths, or `image` with the files themselves; `label` if any.

A Hugging Face dataset may mix both: where a row holds no file, its path is taken.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from layergraft.data.decode import BadImage
from layergraft.data.sources.files import FileImages, Place
from layergraft.data.sources.folder import SCHEMA
from layergraft.data.sources.index import Index, IndexBuilder, open_index
from layergraft.data.sources.indexed import as_source
from layergraft.data.sources.labels import all_or_none, label_ids, label_texts
from layergraft.data.sources.source import EncodedImages, Source
from layergraft.errors import UserError

EMBEDDED = pa.schema([("image", pa.large_binary()), ("outside", pa.bool_()), ("label", pa.int32())])
FORMAT = 2  # of the index; one that an earlier version left is made again
ROWS = 1024
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
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{file.path!r} cannot be read as a table: {error}.", "Mend it, or write it again.") from None


def _schema(file: Place) -> pa.Schema:
    """Columns and their types; in CSV all is text."""
    with explained(file), file.open() as stream:
        if file.name.endswith(".csv"):
            return pa.schema([(name, pa.string()) for name in pyarrow.csv.open_csv(stream).schema.names])
        return pyarrow.parquet.ParquetFile(stream).schema_arrow


def _batches(file: Place, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Some of the columns; what lies in others may be anything."""
    with file.open() as stream:
        if file.name.endswith(".csv"):
            kinds = dict.fromkeys(columns, pa.string())
            options = pyarrow.csv.ConvertOptions(include_columns=columns, column_types=kinds)
            yield from pyarrow.csv.open_csv(stream, convert_options=options)
        else:
            yield from pyarrow.parquet.ParquetFile(stream).iter_batches(batch_size=ROWS, columns=columns)


def _image_column(file: Place, schema: pa.Schema) -> tuple[str, bool]:
    """(name of the column of images, whether it holds the files themselves)."""
    name = next((name for name in ("image", "path") if name in schema.names), None)
    if name is None:
        raise UserError(
            f"{file.path!r} has no column `path` or `image`: it has {', '.join(schema.names)}.", "Rename the column."
        )
    kind, types = schema.field(name).type, pa.types
    if types.is_struct(kind) and {"bytes", "path"} & set(kind.names):
        return name, True
    if any(is_kind(kind) for is_kind in (types.is_binary, types.is_large_binary, types.is_binary_view)):
        return name, True
    text = kind.value_type if types.is_dictionary(kind) else kind
    if any(is_kind(text) for is_kind in (types.is_string, types.is_large_string, types.is_string_view)):
        return name, False
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


def _rows(file: Place, name: str, embedded: bool, labelled: bool) -> Iterator[tuple[dict[str, pa.Array], pa.Array]]:
    """(columns of the index, labels as text), a batch at a time."""
    with explained(file):
        for batch in _batches(file, [name, "label"] if labelled else [name]):
            column = batch.column(name)
            if embedded:
                columns = dict(zip(("image", "outside"), encoded_files(column), strict=True))
            else:
                columns = {"path": column.cast(pa.large_string()).cast(pa.large_binary()).fill_null(b"")}
            yield columns, label_texts(batch.column("label") if labelled else pa.nulls(len(batch)))


def _signature(file: Place) -> str:
    return f"{FORMAT} {file.signature()}"


def _build(file: Place, path: Path | None) -> Index:
    signature = _signature(file)
    schema = _schema(file)
    name, embedded = _image_column(file, schema)
    builder = IndexBuilder(EMBEDDED if embedded else SCHEMA, path, "image" if embedded else "path")
    total = 0
    for columns, texts in _rows(file, name, embedded, "label" in schema.names):
        builder.add({**columns, "label": pa.array(label_ids(builder, texts))})
        total += len(texts)
    if total == 0:
        raise UserError(f"The table {file.path!r} has no row.")
    if not all_or_none(file.path, builder.classes):
        builder.classes.clear()
    return builder.finish(signature)


def open_table(spec: str, file: Place, root: Place | None, index_directory: Path | None) -> Source:
    """Open a table; sample key = row. Embedded images are copied once into a mapped file beside the run.

    Without a run the copy lies in a temporary folder, which goes when the source does.
    """
    temporary = None if index_directory else tempfile.TemporaryDirectory(prefix="layergraft-")
    directory = index_directory or Path(temporary.name if temporary else "")
    index = open_index(directory, file.path, lambda old: old == _signature(file), lambda path: _build(file, path))
    embedded = "image" in index.table.column_names
    files = FileImages(root or file.parent, index.names("image" if embedded else "path"))
    images = EmbeddedImages(files, index.table.column("outside"), temporary) if embedded else files
    return as_source(spec, images, index)
