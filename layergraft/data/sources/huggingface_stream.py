"""`hf:NAME[:SPLIT]?streaming=true`: a Hugging Face dataset that stays where it is.

Its Parquet files are read a row group at a time, in an order of row groups; the footers say how many rows there are, so
any step of any epoch can be found without reading what comes before. Its tar files are shards like any others.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from layergraft.data.decode import BadImage
from layergraft.data.sources.blocks import FETCHERS, BlockImages
from layergraft.data.sources.columns import USUAL, Chosen
from layergraft.data.sources.files import Place
from layergraft.data.sources.from_index import as_source
from layergraft.data.sources.huggingface import dataset_columns, datasets_package, hub_errors
from layergraft.data.sources.index import Index, IndexBuilder, open_index
from layergraft.data.sources.labels import label_texts, settle_labels
from layergraft.data.sources.parquet import arrow_package, cells, encoded_files
from layergraft.data.sources.shards import open_shards
from layergraft.data.sources.source import Source
from layergraft.data.sources.tabular import explained
from layergraft.errors import UserError

COLUMNS = {"file": np.int32, "group": np.int32, "label": np.int32}
FORMAT = 3  # of the index; one that an earlier version left is made again


class RowGroupImages(BlockImages):
    """Rows of Parquet files; a block is a row group.

    Args:
        files: all of them.
        column: the one that holds the images.
        index: name, file and row group of each row.
    """

    def __init__(self, files: list[Place], column: str, index: Index) -> None:
        self._file, self._group = (index.columns[name] for name in ("file", "group"))
        fresh = (np.diff(self._file) != 0) | (np.diff(self._group) != 0)
        super().__init__(np.concatenate(([0], np.flatnonzero(fresh) + 1)), len(index.names))
        self.files, self.column, self._names = files, column, index.names
        self._footers: dict[int, Any] = {}

    def name(self, index: int) -> str:
        return os.fsdecode(self._names[index])

    def fetch(self, block: int) -> list[bytes | Place | None]:
        first = int(self.starts[block])
        number, group = int(self._file[first]), int(self._group[first])
        arrow = arrow_package()
        try:
            with self.files[number].open() as stream:
                file = arrow.parquet.ParquetFile(stream, metadata=self._footers.get(number), pre_buffer=True)
                self._footers[number] = file.metadata
                column = file.read_row_group(group, columns=[self.column]).column(self.column)
        except arrow.ArrowException as error:
            raise BadImage(f"damaged ({type(error).__name__})") from None
        files: list[bytes | Place | None] = []
        for chunk in column.chunks:
            rows = zip(*(column.to_pylist() for column in encoded_files(chunk)), strict=True)
            files += [Place(os.fsdecode(file)) if outside else file or None for file, outside in rows]
        return files


def _files_of(name: str, split: str) -> list[str]:
    """Paths or URLs of a split's files."""
    datasets = datasets_package()
    with hub_errors(name):
        files = datasets.load_dataset_builder(name).config.data_files or {}
    if split not in files:
        raise UserError(f"The dataset {name!r} has no split {split!r}.", f"It has {', '.join(map(str, files))}.")
    return [str(file) for file in files[split]]


def _rows(file: Place, column: str | None, declared: list[str]) -> tuple[list[int], list[str]]:
    """(row group of each row, its label as text)."""
    with explained(file), file.open() as stream:
        parquet = arrow_package().parquet.ParquetFile(stream)
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        labels = [None] * sum(sizes)
        if column is not None:
            labels = cells(parquet.read(columns=[column]).column(column))
        return np.repeat(np.arange(len(sizes)), sizes).tolist(), label_texts(labels, declared)


def _build(name: str, files: list[Place], chosen: Chosen, signature: list[Any], path: Path | None) -> Index:
    datasets = datasets_package()
    with explained(files[0]), files[0].open() as stream:
        features = datasets.Features.from_arrow_schema(arrow_package().parquet.ParquetFile(stream).schema_arrow)
    columns, declared = dataset_columns(name, features, chosen)
    builder = IndexBuilder(COLUMNS, path)
    with ThreadPoolExecutor(FETCHERS, thread_name_prefix="layergraft-index") as pool:
        for number, (groups, texts) in enumerate(
            pool.map(partial(_rows, column=columns.label, declared=declared), files)
        ):
            names = [f"{files[number].name}:{row}".encode() for row in range(len(groups))]
            labels = builder.class_ids(texts)
            builder.add(names, {"file": [number] * len(groups), "group": groups, "label": labels})
    settle_labels(builder, name, columns, declared)
    return builder.finish(json.dumps([FORMAT, *signature, columns.image]))


def _open_parquet(spec: str, name: str, urls: list[str], chosen: Chosen, index_directory: Path | None) -> Source:
    files = [Place(url) for url in urls]
    # A URL of the hub names the revision; files of this machine may change under their names.
    signature = [urls, [None if file.remote else file.signature() for file in files]]
    index = open_index(
        index_directory,
        spec,
        lambda old: bool(json.loads(old)[:-1] == [FORMAT, *signature]),
        partial(_build, name, files, chosen, signature),
    )
    images = RowGroupImages(files, json.loads(index.signature)[-1], index)
    return as_source(spec, images, index, blocks=images)


def open_stream(spec: str, place: str, index_directory: Path | None, chosen: Chosen = USUAL) -> Source:
    """Open a dataset as a stream; sample key = row of the split, or place among its tar files' images."""
    name, _, split = place.removeprefix("hf:").partition(":")
    urls = _files_of(name, split or "train")
    if all(url.endswith(".parquet") for url in urls):
        return _open_parquet(spec, name, urls, chosen, index_directory)
    if all(url.endswith(".tar") for url in urls):
        return open_shards(spec, spec, [Place(url) for url in urls], index_directory)
    raise UserError(
        f"The files of {name!r} are neither all Parquet nor all tar: {urls[0]!r}, …",
        "Leave out streaming=true, or use the Parquet files that the hub keeps of it.",
    )
