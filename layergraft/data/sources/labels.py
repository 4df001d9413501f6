"""What counts as no label, and that a source has labels for all its images or for none."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from layergraft.data.arrays import ClassIds
from layergraft.data.sources.index import Index, IndexBuilder
from layergraft.errors import UserError

UNLABELLED = ""  # stands among the names of classes until `all_or_none` has looked at them


def label_texts(column: pa.Array, declared: Collection[str] = ()) -> pa.Array:
    """Labels of any type as text; `UNLABELLED` for what tables write where there is none: null, NaN and blanks.

    Args:
        column: labels.
        declared: classes that the labels are numbers of, if they are; a negative number, then, is none of them.
    """
    if declared:
        numbers = column.cast(pa.int64())
        column = pa.array(declared, pa.string()).take(pc.if_else(pc.less(numbers, 0), None, numbers))
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    return pc.utf8_trim_whitespace(column.cast(pa.string()).fill_null(UNLABELLED))


def label_ids(builder: IndexBuilder, texts: pa.Array) -> ClassIds:
    """Numbers of the classes that a part of a source's labels, as text, names."""
    codes = texts.dictionary_encode()
    ids: ClassIds = builder.class_ids(codes.dictionary.to_pylist())[codes.indices.to_numpy()]
    return ids


def all_or_none(place: str, classes: Collection[str]) -> bool:
    """Whether images with these labels have labels at all.

    Raises:
        UserError: some have one, and some have none.
    """
    unlabelled = UNLABELLED in classes
    if unlabelled and len(classes) > 1:
        raise UserError(f"Some images of {place!r} have a label and some have none.", "Label all of them, or none.")
    return not unlabelled


def ordered_labels(index: Index, declared: Sequence[str]) -> tuple[ClassIds | None, list[str]]:
    """Labels and classes of an index, the classes as they were declared, where they were."""
    labels, classes = index.labels(as_written=bool(declared))
    if labels is None or not declared:
        return labels, classes
    return np.array([declared.index(name) for name in classes], dtype=np.int32)[labels], list(declared)
