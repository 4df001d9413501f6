"""Hugging Face datasets: `hf:NAME[:SPLIT]`, NAME on the hub or a folder that `save_to_disk` wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from layergraft.data.decode import BadImage
from layergraft.data.sources.columns import IMAGE_FIRST, USUAL, Chosen, Columns, find_columns, plain, shown
from layergraft.data.sources.files import Place
from layergraft.data.sources.from_index import as_source
from layergraft.data.sources.index import Index, IndexBuilder
from layergraft.data.sources.labels import label_texts, settle_labels
from layergraft.data.sources.parquet import arrow_package, cells
from layergraft.data.sources.source import EncodedImages, Source
from layergraft.errors import UserError, nearest

LABELS = {"label": np.int32}


class HubImages(EncodedImages):
    """Rows of a dataset; its Arrow files are mapped into memory."""

    def __init__(self, rows: Any, column: str) -> None:
        self.rows, self.column = rows, column

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return f"row {index}"

    def read(self, index: int) -> bytes:
        try:
            image = self.rows[index][self.column]
        except (
            OSError,
            LookupError,
            TypeError,
            ValueError,
            arrow_package().ArrowException,
        ) as error:  # damaged, or cut
            raise BadImage(f"damaged ({type(error).__name__})") from None
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


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turns what goes wrong while `datasets` opens something into `UserError`.

    The package lets through whatever its readers raise on the files that it finds, and those errors have no class in
    common. A pipe or device among the files would block them for ever.
    """
    for folder, _, files in os.walk(name):
        for file in files:
            path = os.path.join(folder, file)
            if os.path.exists(path) and not os.path.isfile(path):
                raise UserError(f"{path!r} is no regular file.", "Remove it from the dataset.")
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = error.__cause__ or error
        raise UserError(f"The dataset {name!r} cannot be opened: {reason or type(reason).__name__}") from None


def _load(name: str, split: str) -> Any:
    datasets = datasets_package()
    with hub_errors(name):
        if any(os.path.exists(f"{name}/{file}") for file in ("state.json", "dataset_dict.json")):
            loaded = datasets.load_from_disk(name)
            if isinstance(loaded, dict) and split not in loaded:
                raise UserError(f"The dataset {name!r} has no split {split!r}.", f"It has {', '.join(loaded)}.")
            return loaded[split] if isinstance(loaded, dict) else loaded
        return datasets.load_dataset(name, split=split)


def dataset_columns(name: str, features: Any, chosen: Chosen) -> tuple[Columns, list[str]]:
    """(the columns of a dataset that count, the names that its labels are numbers of).

    Raises:
        UserError: there is no column of images.
    """
    datasets = datasets_package()
    images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    if not images:  # Parquet that another program wrote
        images = [key for key, feature in features.items() if plain(key) in IMAGE_FIRST and _holds_files(feature)]
    if not images:
        raise UserError(f"The dataset {name!r} has no column of images: {', '.join(features)}.")
    if chosen.image is not None and chosen.image not in images:
        raise UserError(f"{chosen.image!r} is no column of images of {name!r}.", nearest(chosen.image, images))
    image = chosen.image or images[0]
    others = [key for key in features if key not in images]
    unfit = {key for key in others if not _may_be_labels(features[key])}
    # A `label` that holds no classes (boxes, fractions) is none; one that the user names is.
    offered = [key for key in others if key not in unfit or key == chosen.label]
    columns = find_columns(name, [image, *offered], replace(chosen, image=image))
    if len(images) > 1 and chosen.image is None:
        remark = f"{name!r}: images from the column `{image}`, not {shown(images[1:])}. {columns.remark}".rstrip()
        columns = replace(columns, remark=remark)
    feature = features.get(columns.label)
    return columns, list(feature.names) if isinstance(feature, datasets.ClassLabel) else []


def _holds_files(feature: Any) -> bool:
    if isinstance(feature, dict):
        return bool({"bytes", "path"} & set(feature))
    return str(getattr(feature, "dtype", "")) in ("binary", "large_binary")


def _may_be_labels(feature: Any) -> bool:
    datasets = datasets_package()
    if isinstance(feature, datasets.ClassLabel):
        return True
    kind = str(feature.dtype) if isinstance(feature, datasets.Value) else ""
    return kind.startswith(("int", "uint", "string", "large_string"))


def _index(name: str, split: str, rows: Any, columns: Columns, declared: list[str]) -> Index:
    """The labels of a dataset's rows, where they have some; nothing else of them is kept."""
    builder = IndexBuilder(LABELS, None)
    if columns.label is not None:
        column = rows.select_columns([columns.label]).with_format("arrow")[:].column(columns.label).combine_chunks()
        texts = label_texts(cells(column), declared)
        builder.add([b""] * len(texts), {"label": builder.class_ids(texts)})
    settle_labels(builder, name, columns, declared)
    return replace(builder.finish(""), fingerprint=f"{name}:{split}:{len(rows)}")


def open_hub(spec: str, place: str, chosen: Chosen = USUAL) -> Source:
    """Open a dataset; sample key = row of the split."""
    datasets = datasets_package()
    name, _, split = place.removeprefix("hf:").partition(":")
    rows = _load(name, split or "train")
    columns, declared = dataset_columns(name, rows.features, chosen)
    index = _index(name, split, rows, columns, declared)
    rows = rows.select_columns([columns.image]).cast_column(columns.image, datasets.Image(decode=False))
    return as_source(spec, HubImages(rows, columns.image), index)
