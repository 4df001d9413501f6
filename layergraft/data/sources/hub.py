"""Hugging Face datasets: `hf:NAME[:SPLIT]`, NAME on the hub or a folder that `save_to_disk` wrote."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from layergraft.data.decode import BadImage
from layergraft.data.sources.files import Place
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


def _load(name: str, split: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError("hf: sources need the package datasets.", "pip install 'layergraft[hf]'.") from None
    try:
        if any(os.path.exists(f"{name}/{file}") for file in ("state.json", "dataset_dict.json")):
            loaded = datasets.load_from_disk(name)
            return loaded[split] if isinstance(loaded, dict) else loaded
        return datasets.load_dataset(name, split=split)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"The dataset {name!r}, split {split!r}, cannot be opened: {error}") from None


def open_hub(spec: str, place: str) -> Source:
    """Open a dataset; sample key = row of the split."""
    import datasets

    name, _, split = place.removeprefix("hf:").partition(":")
    rows = _load(name, split or "train")
    columns = [key for key, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    if not columns:
        raise UserError(f"The dataset {name!r} has no column of images: {', '.join(rows.features)}.")
    labels, classes = None, []
    if isinstance(rows.features.get("label"), datasets.ClassLabel):
        labels, classes = np.asarray(rows["label"], dtype=np.int32), list(rows.features["label"].names)
    rows = rows.select_columns(columns[:1]).cast_column(columns[0], datasets.Image(decode=False))
    return Source(
        spec=spec,
        images=HubImages(rows, columns[0]),
        keys=np.arange(len(rows), dtype=np.int64),
        labels=labels,
        classes=classes,
        fingerprint=f"{name}:{split}:{len(rows)}",
    )
