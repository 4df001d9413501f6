"""`layergraft embed`: features of every image as a Parquet file, or as arrays."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from layergraft.data.first_look import look_at, remarks_on_files
from layergraft.data.reading import settle
from layergraft.data.sources.open import open_source
from layergraft.data.sources.parquet import arrow_package
from layergraft.encoders.checkpoint import load_encoder
from layergraft.errors import UserError
from layergraft.evaluation.cache import features_of
from layergraft.evaluation.features import Array, check_block, features_named
from layergraft.runs.announce import announce
from layergraft.runs.atomic import write_bytes
from layergraft.runs.readable import counted

_OTHERS = (".csv", ".tsv", ".txt", ".json", ".npy")  # endings of files that are something else


def embed_command(*, encoder: str, data: str, out: Path, pooling: str, block: int | None) -> Path:
    """Write `key` (sample key), `name`, `label` (the class's name, or null) and `feature` (D floats) of each image.

    A `.npz` has an array of each, `label` only where there are labels. Its array `metadata`, or the schema's, says
    encoder, source, pooling and block. Unreadable images are left out, and counted.

    Raises:
        UserError: the file's ending is of another format, the encoder has no such block, its features are not finite,
            or no image can be read.
    """
    as_arrays = out.suffix.lower() == ".npz"
    if out.suffix.lower() in _OTHERS:
        raise UserError(f"Features are Parquet or .npz, not {out.suffix}.", "For instance --out FILE.npz.")
    if not as_arrays:
        arrow_package("--out FILE.npz")  # before anything is computed
    loaded = load_encoder(encoder)
    source = settle(open_source(data), loaded.in_chans, announce, loaded.reads, repr(encoder))
    announce(*source.remarks, *remarks_on_files(look_at(source, loaded.in_chans), source))
    check_block(block, loaded, repr(encoder))
    if not len(source):
        raise UserError(f"{data!r} has no image.")
    with features_named(encoder):
        features = features_of(loaded, source, [pooling], block)[pooling]
    readable = np.flatnonzero(~np.isnan(features).any(axis=1))
    if len(readable) < len(source):
        announce(f"{len(source) - len(readable)} of {len(source)} images cannot be read and are left out.")
    embedded, features = source.subset(source.keys[readable]), features[readable]
    width = features.shape[1]
    labels = None if embedded.labels is None else [_text(embedded.classes[c]) for c in embedded.selected_labels]
    names = [_text(embedded.images.name(int(key))) for key in embedded.keys]
    metadata = {
        "encoder": encoder,
        "source": data,
        "pooling": pooling,
        "block": block,
        "fingerprint": source.fingerprint,
        "read": source.options.words(),
    }
    write = _arrays if as_arrays else _parquet
    write_bytes(out, write(embedded.keys, names, labels, features, json.dumps(metadata)))
    announce(f"{counted(len(embedded), 'feature')} of {width} numbers are in {out}.")
    return out


def _text(name: str) -> str:
    """A name as Parquet's text: bytes that are not UTF-8 become the sign for what cannot be read."""
    return os.fsencode(name).decode("utf-8", "replace")


def _arrays(
    keys: npt.NDArray[np.int64], names: list[str], labels: list[str] | None, features: Array, metadata: str
) -> bytes:
    """The content of a `.npz`."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"key": keys, "name": np.array(names), "feature": features, "metadata": np.array(metadata)}
    if labels is not None:
        arrays["label"] = np.array(labels)
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _parquet(
    keys: npt.NDArray[np.int64], names: list[str], labels: list[str] | None, features: Array, metadata: str
) -> bytes:
    """The content of a Parquet file."""
    arrow = arrow_package()
    flat = arrow.array(features.reshape(-1))
    columns = {
        "key": arrow.array(keys),
        "name": arrow.array(names, arrow.string()),
        "label": arrow.array(labels if labels is not None else [None] * len(keys), type=arrow.string()),
        "feature": arrow.FixedSizeListArray.from_arrays(flat, features.shape[1]),
    }
    buffer = io.BytesIO()
    arrow.parquet.write_table(arrow.table(columns).replace_schema_metadata({"layergraft": metadata}), buffer)
    return buffer.getvalue()
