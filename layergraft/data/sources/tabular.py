"""What a table is, however it is written, and which of its columns count."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from layergraft.data.sources.columns import Chosen, Columns, find_columns, one_column_a_class, one_hot_hint
from layergraft.data.sources.files import Place
from layergraft.errors import UserError

ROWS = 1024


class TableError(ValueError):
    """A table is not what it should be."""


class Table(Protocol):
    """The columns of a file; what lies in those that nobody asks for may be anything."""

    names: list[str]
    nested: list[str]  # columns whose cells have parts
    unfit: list[str]  # columns that cannot hold labels unless they are called so

    def declared(self, column: str | None) -> list[str]:
        """Names that a column's labels are numbers of, where the file says them; else none."""
        ...

    def holds_files(self, column: str) -> bool:
        """Whether a column holds image files themselves, not their paths."""
        ...

    def first_rows(self, columns: Sequence[str]) -> Mapping[str, Sequence[object]]:
        """Up to `ROWS` rows of some columns, as they are."""
        ...

    def batches(self, columns: Sequence[str]) -> Iterator[Mapping[str, list[Any]]]:
        """Some columns, a batch of rows at a time: text, numbers, or None."""
        ...


def _failures() -> tuple[type[Exception], ...]:
    """What goes wrong in tables; who has no Arrow meets none of its errors."""
    arrow = sys.modules.get("pyarrow")
    ours = (TableError, csv.Error, OSError, KeyError, UnicodeDecodeError)  # the last one in names of columns
    return (*ours, arrow.ArrowException) if arrow else ours


@contextmanager
def explained(file: Place) -> Iterator[None]:
    """What fails inside, fails because of this file."""
    try:
        yield
    except _failures() as error:
        is_encoding = isinstance(error, UnicodeDecodeError) or "UTF8" in str(error)
        hint = "Save it as UTF-8 (`CSV UTF-8` in a spreadsheet)." if is_encoding else "Mend it, or write it again."
        raise UserError(f"{file.path!r} cannot be read as a table: {error}.", hint) from None


def table_columns(file: Place, table: Table, chosen: Chosen) -> Columns:
    """The columns that count."""
    columns = find_columns(file.path, table.names, chosen, table.unfit)
    if columns.label is not None:
        return columns
    others = [name for name in table.names if name != columns.image and name not in table.nested]
    with explained(file):
        classes = one_column_a_class(table.first_rows(others)) if others else []
    if not classes:
        return columns
    hint = one_hot_hint(file.path, classes)
    return replace(columns, remark=f"No labels: {hint}", hint=hint)
