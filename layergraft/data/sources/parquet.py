"""A table as Parquet, which Arrow reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from layergraft.data.sources.byte_strings import ByteStrings
from layergraft.data.sources.files import Place
from layergraft.data.sources.tabular import ROWS, explained
from layergraft.errors import UserError


@cache
def arrow_package(instead: str = "use CSV") -> Any:
    """The package `pyarrow`, which not everyone has.

    Args:
        instead: what does without it.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "Parquet needs the package pyarrow.", f"pip install 'layergraft[parquet]', or {instead}."
        ) from None
    return pyarrow


class ParquetTable:
    """A Parquet file; see `Table`.

    Args:
        file: where it lies.
    """

    def __init__(self, file: Place) -> None:
        self._file, self._arrow = file, arrow_package()
        with explained(file), file.open() as stream:
            self._schema: Any = self._arrow.parquet.ParquetFile(stream).schema_arrow
            types = self._arrow.types
            self.names: list[str] = self._schema.names
            self.nested = [one.name for one in self._schema if types.is_nested(one.type)]
            self.unfit = [*self.nested, *(one.name for one in self._schema if types.is_floating(one.type))]

    def declared(self, column: str | None) -> list[str]:
        """Names that a column's labels are numbers of, as Hugging Face datasets write them into the schema."""
        try:
            features = json.loads((self._schema.metadata or {})[b"huggingface"])["info"]["features"]
            feature = features[column]
            names = feature["names"] if feature["_type"] == "ClassLabel" else []
        except (KeyError, TypeError, ValueError):
            return []
        is_number = self._arrow.types.is_integer(self._schema.field(column).type)
        return [str(name) for name in names] if is_number else []

    def holds_files(self, column: str) -> bool:
        """Whether a column holds image files themselves, not their paths."""
        kind, types = self._schema.field(column).type, self._arrow.types
        if types.is_struct(kind) and {"bytes", "path"} & set(kind.names):
            return True
        if any(is_kind(kind) for is_kind in (types.is_binary, types.is_large_binary, types.is_binary_view)):
            return True
        text = kind.value_type if types.is_dictionary(kind) else kind
        if any(is_kind(text) for is_kind in (types.is_string, types.is_large_string, types.is_string_view)):
            return False
        raise UserError(
            f"The column `{column}` of {self._file.path!r} holds {kind}: neither paths nor image files.",
            "Use text for paths; for files binary, or a struct of `bytes` and `path` as Hugging Face datasets have it.",
        )

    def _read(self, columns: Sequence[str]) -> Iterator[Any]:
        with self._file.open() as stream:
            wanted = list(dict.fromkeys(columns))
            yield from self._arrow.parquet.ParquetFile(stream).iter_batches(batch_size=ROWS, columns=wanted)

    def first_rows(self, columns: Sequence[str]) -> dict[str, list[object]]:
        """See `Table`."""
        first = next(self._read(columns), None)
        return {} if first is None else first.slice(0, ROWS).to_pydict()

    def batches(self, columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
        """See `Table`."""
        for batch in self._read(columns):
            yield {name: cells(batch.column(name)) for name in columns}

    def files(self, column: str, label: str | None) -> Iterator[tuple[ByteStrings, npt.NDArray[np.bool_], list[Any]]]:
        """(image files or their paths, which ones are paths, labels), a batch of rows at a time.

        Args:
            column: of the files.
            label: of the labels, if there is one.
        """
        for batch in self._read([column, *([] if label is None else [label])]):
            files, outside = encoded_files(batch.column(column))
            labels = [None] * len(files) if label is None else cells(batch.column(label))
            yield _byte_strings(files), np.asarray(outside.to_numpy(zero_copy_only=False), dtype=bool), labels


def cells(column: Any) -> list[Any]:
    """A column of Arrow as text, whole numbers, truth values, or None where there is nothing or NaN."""
    arrow = arrow_package()
    types = arrow.types
    if types.is_integer(column.type) or types.is_boolean(column.type) or types.is_null(column.type):
        return list(column.to_pylist())
    if types.is_floating(column.type):
        column = arrow.compute.if_else(arrow.compute.is_nan(column), None, column)
    return list(column.cast(arrow.string()).to_pylist())


def encoded_files(column: Any) -> tuple[Any, Any]:
    """(image files or, where the column holds only that, their paths; which ones are paths). An empty row is b"".

    Args:
        column: of Arrow: binary, or the struct of `bytes` and `path` that Hugging Face datasets write.
    """
    arrow = arrow_package()
    compute = arrow.compute
    if not arrow.types.is_struct(column.type):
        files = column.cast(arrow.large_binary())
        return files.fill_null(b""), arrow.array(np.zeros(len(files), dtype=bool))
    nothing = arrow.nulls(len(column), arrow.large_binary())
    files, paths = (
        compute.struct_field(column, name).cast(arrow.large_binary()) if name in column.type.names else nothing
        for name in ("bytes", "path")
    )
    return compute.coalesce(files, paths, b""), compute.and_(files.is_null(), paths.is_valid())


def _byte_strings(column: Any) -> ByteStrings:
    """A large_binary column of Arrow without nulls, where it lies."""
    if not len(column):
        return ByteStrings.of([])
    _, places, content = column.buffers()
    offsets = np.frombuffer(places, dtype=np.int64)[column.offset : column.offset + len(column) + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    return ByteStrings(offsets - first, memoryview(content)[first:last] if content else b"")
