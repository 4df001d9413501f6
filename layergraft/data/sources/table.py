"""A CSV or Parquet table: `path` or `image` with paths, or `image` with the files themselves; `label` if any."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from layergraft.data.decode import BadImage
from layergraft.data.sources.files import FileImages, Place
from layergraft.data.sources.folder import SCHEMA
from layergraft.data.sources.index import Index, IndexBuilder, open_index
from layergraft.data.sources.labels import all_or_none, label_ids
from layergraft.data.sources.source import EncodedImages, Images, Source
from layergraft.errors import UserError

EMBEDDED = pa.schema([("image", pa.large_binary()), ("label", pa.int32())])
ROWS = 1024


class EmbeddedImages(EncodedImages):
    """Image files in a column of a mapped table."""

    def __init__(self, column: pa.ChunkedArray, keep: object = None) -> None:
        self.column, self.keep = column, keep

    def __len__(self) -> int:
        return len(self.column)

    def name(self, index: int) -> str:
        return f"row {index}"

    def read(self, index: int) -> bytes:
        content = self.column[index].as_py()
        if content is None:
            raise BadImage("empty row")
        return bytes(content)


def _batches(file: Place) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    try:
        if file.name.endswith(".csv"):
            kinds = pyarrow.csv.ConvertOptions(column_types={"label": pa.string(), "path": pa.string()})
            reader = pyarrow.csv.open_csv(file.open(), convert_options=kinds)
            return reader.schema, iter(reader)
        parquet = pyarrow.parquet.ParquetFile(file.open())
        wanted = [name for name in parquet.schema_arrow.names if name in ("path", "image", "label")]
        return parquet.schema_arrow, parquet.iter_batches(batch_size=ROWS, columns=wanted)
    except pa.ArrowInvalid as error:
        raise UserError(f"{file.path!r} is no table: {error}.") from None


def _column(file: Place, schema: pa.Schema) -> str:
    for name in ("image", "path"):
        if name in schema.names:
            return name
    raise UserError(
        f"{file.path!r} has no column `path` or `image`: it has {', '.join(schema.names)}.", "Rename the column."
    )


def encoded_files(column: pa.Array) -> pa.Array:
    """Bytes of a column: binary, or the struct of `bytes` and `path` that Hugging Face datasets write."""
    if pa.types.is_struct(column.type):
        column = column.field("bytes")
    return column.cast(pa.large_binary())


def _is_embedded(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _build(file: Place, path: Path | None) -> Index:
    signature = file.signature()
    schema, batches = _batches(file)
    name = _column(file, schema)
    embedded = _is_embedded(schema.field(name).type)
    builder = IndexBuilder(EMBEDDED if embedded else SCHEMA, path, "image" if embedded else "path")
    labelled, total = "label" in schema.names, 0
    for batch in batches:
        column = batch.column(name)
        names = encoded_files(column) if embedded else column.cast(pa.large_string()).cast(pa.large_binary())
        if not embedded and names.null_count:
            names = names.fill_null(b"")
        labels = np.zeros(len(batch), dtype=np.int32)
        if labelled:
            labels = label_ids(builder, batch.column("label"))
        builder.add({"image" if embedded else "path": names, "label": pa.array(labels)})
        total += len(batch)
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
    index = open_index(directory, file.path, lambda old: old == file.signature(), lambda path: _build(file, path))
    labels, classes = index.labels()
    images: Images
    if "image" in index.table.column_names:
        images = EmbeddedImages(index.table.column("image"), temporary)
    else:
        images = FileImages(root or file.parent, index.names("path"))
    return Source(
        spec=spec,
        images=images,
        keys=np.arange(len(images), dtype=np.int64),
        labels=labels,
        classes=classes,
        fingerprint=index.fingerprint,
    )
