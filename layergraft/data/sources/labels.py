"""What counts as no label, and that a source has labels for all its images or for none."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from layergraft.errors import UserError

UNLABELLED = ""  # stands among the names of classes until `all_or_none` has looked at them


def label_texts(column: pa.Array) -> pa.Array:
    """Labels of any type as text; `UNLABELLED` for what tables write where there is none: null, NaN and blanks."""
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    return pc.utf8_trim_whitespace(column.cast(pa.string()).fill_null(UNLABELLED))


def all_or_none(place: str, classes: Collection[str]) -> bool:
    """Whether images with these labels have labels at all.

    Raises:
        UserError: some have one, and some have none.
    """
    unlabelled = UNLABELLED in classes
    if unlabelled and len(classes) > 1:
        raise UserError(f"Some images of {place!r} have a label and some have none.", "Label all of them, or none.")
    return not unlabelled
