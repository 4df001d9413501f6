"""The file of predictions: a row for each image, in the source's order."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from layergraft.config.paths import expanded
from layergraft.data.decode import BadImage
from layergraft.data.sources.parquet import arrow_package
from layergraft.data.sources.source import Source
from layergraft.errors import UserError
from layergraft.evaluation.prediction import NOTHING, Prediction
from layergraft.runs.atomic import write_file
from layergraft.runs.interruption import check

SUFFIXES = (".csv", ".parquet")
COLUMNS = ("path", "label", "probability", "second", "second_probability", "sure", "nearest")
_TYPES = dict(zip((*COLUMNS, "note"), (str, str, float, str, float, bool, str, str), strict=True))
_BLOCK = 2**16
Row = dict[str, str | float | bool | None]


def check_out(out: Path, labels: str | None = None) -> None:
    """Refuse a file of another kind, the labels, and what holds no predictions, before anything is computed."""
    if labels is not None and out.exists() and expanded(labels.partition("?")[0]).resolve() == out.resolve():
        raise UserError(f"--out is the file of labels, {str(out)!r}.", "It is kept: give another --out.")
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out is {str(out)!r}: no .csv and no .parquet.", f"For instance {out.name}.csv.")
    if out.suffix.lower() == ".parquet":
        arrow_package()
    if out.is_dir():
        raise UserError(f"--out is {str(out)!r}, a folder.", "Give a file.")
    if (out.exists() and not out.is_file()) or (out.exists() and tuple(_columns(out)[: len(COLUMNS)]) != COLUMNS):
        raise UserError(f"{str(out)!r} exists and holds no predictions.", "It is kept: give another --out.")


def _columns(out: Path) -> list[str]:
    """The columns of a file; none where it cannot be read as what its ending says."""
    if out.suffix.lower() == ".parquet":
        arrow = arrow_package()
        try:
            return list(arrow.parquet.read_schema(out).names)
        except arrow.ArrowException:
            return []
    try:
        with open(out, newline="", encoding="utf-8", errors="replace") as file:
            return next(csv.reader(file), [])
    except csv.Error:
        return []


def reasons(source: Source, prediction: Prediction, channels: int) -> dict[int, str]:
    """Why images cannot be read, by position."""
    found = {}
    for row in (~prediction.readable).nonzero()[0].tolist():
        try:
            source.images.load(int(source.keys[row]), channels)
            found[row] = "could not be read before"
        except BadImage as error:
            found[row] = str(error)
    return found


def write_predictions(out: Path, source: Source, prediction: Prediction, notes: Mapping[int, str]) -> Path:
    """Write one row an image; a column `note` stands last where an image has one.

    Args:
        out: a `.csv` or `.parquet` file; it appears whole or not at all.
        source: the images.
        prediction: of each of them.
        notes: position -> what is to be said about an image.
    """
    columns = [*COLUMNS, *(["note"] if notes else [])]

    def fill(file: BinaryIO) -> str:
        blocks = _blocks(source, prediction, notes)
        if out.suffix.lower() == ".csv":
            _write_csv(file, columns, blocks)
        else:
            _write_parquet(file, columns, blocks)
        return out.name

    return write_file(out.parent, fill)


def read_predictions(out: Path) -> tuple[list[str], list[tuple[str | float | bool | None, ...]]]:
    """(columns, rows) of a file that `write_predictions` left."""
    if out.suffix.lower() == ".parquet":
        table = arrow_package().parquet.read_table(out)
        return table.column_names, list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    with open(out, newline="", encoding="utf-8", errors="surrogateescape") as file:
        columns, *rows = csv.reader(file)
    return columns, [tuple(_value(cell, _TYPES[name]) for name, cell in zip(columns, row, strict=True)) for row in rows]


def _value(cell: str, kind: type) -> str | float | bool | None:
    if cell == "":
        return None
    if kind is float:
        return float(cell)
    return cell == "true" if kind is bool else cell


def _blocks(source: Source, prediction: Prediction, notes: Mapping[int, str]) -> Iterator[list[Row]]:
    def name(row: int) -> str:
        return source.images.name(int(source.keys[row]))

    def class_of(number: int) -> str | None:
        return None if number == NOTHING else prediction.classes[number]

    def share(value: float) -> float | None:
        return None if math.isnan(value) else value

    for start in range(0, len(prediction), _BLOCK):
        check()
        block: list[Row] = []
        for row in range(start, min(start + _BLOCK, len(prediction))):
            is_readable = row not in notes and bool(prediction.label[row] != NOTHING)
            sure = None if prediction.sure is None or not is_readable else bool(prediction.sure[row])
            near = NOTHING if prediction.nearest is None else int(prediction.nearest[row])
            block.append(
                {
                    "path": name(row),
                    "label": class_of(int(prediction.label[row])),
                    "probability": share(float(prediction.probability[row])),
                    "second": class_of(int(prediction.second[row])),
                    "second_probability": share(float(prediction.second_probability[row])),
                    "sure": sure,
                    "nearest": None if near == NOTHING else name(near),
                    "note": notes.get(row),
                }
            )
        yield block


def _cell(value: str | float | bool | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4f}" if isinstance(value, float) else value


def _write_csv(file: BinaryIO, columns: list[str], blocks: Iterator[list[Row]]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for block in blocks:
        writer.writerows([_cell(row[name]) for name in columns] for row in block)
    text.detach()


def _write_parquet(file: BinaryIO, names: list[str], blocks: Iterator[list[Row]]) -> None:
    arrow = arrow_package()
    types: dict[type, Any] = {str: arrow.string(), float: arrow.float64(), bool: arrow.bool_()}
    schema = arrow.schema([(name, types[_TYPES[name]]) for name in names])
    with arrow.parquet.ParquetWriter(file, schema) as writer:
        for block in blocks:
            columns = {}
            for one in schema:
                values = [row[one.name] for row in block]
                columns[one.name] = [_utf8(v) if isinstance(v, str) else v for v in values]
            writer.write_table(arrow.table(columns, schema=schema))


def _utf8(text: str) -> str:
    """A name as Parquet's text: bytes that are not UTF-8 become the sign for what cannot be read."""
    return os.fsencode(text).decode("utf-8", "replace")
