"""Hugging Face datasets: `hf:NAME[:SPLIT]`, NAME on the hub or a folder that `save_to_disk` wrote."""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa

from layergraft.data.decode import BadImage
from layergraft.data.sources.files import Place
from layergraft.data.sources.index import Index
from layergraft.data.sources.indexed import as_source
from layergraft.data.sources.labels import all_or_none, label_texts
from layergraft.data.sources.source import EncodedImages, Source
from layergraft.errors import UserError


class HubImages(EncodedImages):
    """Rows of a dataset; its Arrow files are mapped into memory."""

    def __init__(self, rows: Any, column: str) -> None:
        self.rows, self.column = rows, column

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return f"row {index}"

    def read(self, index: int) -> bytes:
        image = self.rows[index][self.column]
        if image is None:
            raise BadImage("empty row")
        return bytes(image["bytes"]) if image["bytes"] else Place(image["path"]).read()


def datasets_package() -> Any:
    """The package `datasets`, which not everyone has."""
    try:
        import datasets
    except ImportError:
        raise UserError("hf: sources need the package datasets.", "pip install 'layergraft[hf]'.") from None
    return datasets


def _load(name: str, split: str) -> Any:
    datasets = datasets_package()
    try:
        if any(os.path.exists(f"{name}/{file}") for file in ("state.json", "dataset_dict.json")):
            loaded = datasets.load_from_disk(name)
            return loaded[split] if isinstance(loaded, dict) else loaded
        return datasets.load_dataset(name, split=split)
    except (OSError, ValueError, KeyError, RuntimeError) as error:  # the last for a loading script
        raise UserError(f"The dataset {name!r}, split {split!r}, cannot be opened: {error}") from None


def declared_classes(features: Any) -> list[str] | None:
    """Names that the labels of a dataset are numbers of; [] where they are names themselves; None without labels."""
    datasets = datasets_package()
    feature = features.get("label")
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    kind = str(feature.dtype) if isinstance(feature, datasets.Value) else ""
    return [] if kind.startswith(("int", "uint", "string", "large_string")) else None


def _index(name: str, split: str, rows: Any, declared: list[str] | None) -> Index:
    """The labels of a dataset's rows, where they have some; nothing else of them is kept."""
    table, classes = pa.table({}), []
    if declared is not None:
        column = rows.select_columns(["label"]).with_format("arrow")[:].column("label").combine_chunks()
        codes = label_texts(column, declared).dictionary_encode()
        names = codes.dictionary.to_pylist()
        if all_or_none(name, names):
            table, classes = pa.table({"label": codes.indices}), names
    return Index(table=table, classes=classes, signature="", fingerprint=f"{name}:{split}:{len(rows)}")


def open_hub(spec: str, place: str) -> Source:
    """Open a dataset; sample key = row of the split."""
    datasets = datasets_package()
    name, _, split = place.removeprefix("hf:").partition(":")
    rows = _load(name, split or "train")
    columns = [key for key, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    if not columns:
        raise UserError(f"The dataset {name!r} has no column of images: {', '.join(rows.features)}.")
    declared = declared_classes(rows.features)
    index = _index(name, split, rows, declared)
    rows = rows.select_columns(columns[:1]).cast_column(columns[0], datasets.Image(decode=False))
    return as_source(spec, HubImages(rows, columns[0]), index, declared or ())
