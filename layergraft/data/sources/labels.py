"""What counts as no label, and that a source has labels for all its images or for none."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from layergraft.data.arrays import ClassIds
from layergraft.data.sources.columns import Columns
from layergraft.data.sources.index import Index, IndexBuilder
from layergraft.errors import UserError
from layergraft.runs.readable import counted

UNLABELLED = ""  # stands among the names of classes until `all_or_none` has looked at them

SOME_LABELLED = "Label all of them, or none; or give the folder of images as --data and this table as --labels FILE."


def label_texts(values: Iterable[object], declared: Sequence[str] = ()) -> list[str]:
    """Labels of any type as text; `UNLABELLED` for what tables write where there is none: None, NaN and blanks.

    Args:
        values: labels.
        declared: classes that the labels are numbers of, if they are; a negative number, then, is none of them.

    Raises:
        UserError: a number has no class.
    """
    return [_of_declared(value, declared) for value in values] if declared else [_as_text(value) for value in values]


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    if value is None or value != value:
        return UNLABELLED
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _of_declared(value: object, declared: Sequence[str]) -> str:
    if value is None:
        return UNLABELLED
    if not isinstance(value, int) or value >= len(declared):
        raise UserError(
            f"The labels are no numbers of the {counted(len(declared), 'class')} that come with them: {value!r}.",
            "The file may be damaged, or the names of its classes incomplete.",
        )
    return declared[value].strip() if value >= 0 else UNLABELLED


def all_or_none(place: str, classes: Collection[str]) -> bool:
    """Whether images with these labels have labels at all.

    Raises:
        UserError: some have one, and some have none.
    """
    unlabelled = UNLABELLED in classes
    if unlabelled and len(classes) > 1:
        raise UserError(f"Some images of {place!r} have a label and some have none.", SOME_LABELLED)
    return not unlabelled


def ordered_labels(index: Index) -> tuple[ClassIds | None, list[str]]:
    """Labels and classes of an index, the classes as they were declared, where they were."""
    labels, classes = index.labels(as_written=bool(index.declared))
    if labels is None or not index.declared:
        return labels, classes
    return np.array([index.declared.index(name) for name in classes], dtype=np.int32)[labels], index.declared


def settle_labels(builder: IndexBuilder, place: str, columns: Columns, declared: Sequence[str] = ()) -> None:
    """Decide, when all rows are known, whether a table has labels, and note what is to be said of its columns.

    Args:
        builder: of the index; its classes are forgotten where they are none.
        place: the table, for messages.
        columns: those that count.
        declared: names of the classes in their order, where the table's format says them.

    Raises:
        UserError: some images have a label and some have none, in a column that holds labels for sure.
    """
    remark, builder.label_hint = columns.remark, columns.hint
    if columns.label is not None and not columns.is_sure:
        reason = ""
        if UNLABELLED in builder.classes:
            reason = "is empty in some rows"
        elif any(re.fullmatch(r"-?\d*\.\d*[1-9]\d*(e-?\d+)?", name, re.IGNORECASE) for name in builder.classes):
            reason = "holds fractions"
        if reason:
            builder.classes.clear()
            builder.label_hint = (
                f"The column `{columns.label.strip()}` {reason}: fill it, or name another, ?label=COLUMN."
            )
            remark = f"{place!r}: no labels, for the column `{columns.label.strip()}` {reason}."
    if builder.classes and not all_or_none(place, builder.classes):
        builder.classes.clear()
        builder.label_hint = builder.label_hint or f"The column of labels of {place!r} is empty."
    builder.declared = [name.strip() for name in declared] if builder.classes else []  # as `label_texts`
    builder.remarks += [remark] if remark else []
