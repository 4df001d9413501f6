"""Which columns of a table hold images and labels: those that the user names, or the ones with a usual name."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from layergraft.errors import UserError, nearest

# Letters and digits of names, in lower case. Those of the first row are taken whatever else a table has, the first one
# first; of the second row only one that stands alone.
IMAGE_FIRST = ("image", "path")
IMAGE_USUAL = (
    *("img", "images", "picture", "photo", "file", "files", "filename", "filepath", "imagepath", "imgpath"),
    *("imagename", "imgname", "imagefile", "imagefilename", "imageindex", "paths", "filenames"),
)
LABEL_FIRST = ("label",)
LABEL_USUAL = (
    *("labels", "class", "classname", "classlabel", "classes", "target", "targets", "category", "categoryname"),
    *("diagnosis", "dx", "finelabel", "labelname", "imagelabel", "groundtruth", "gt", "species", "y"),
)
_NO_LABEL = ("", "unnamed0", "index", "id")  # what programs number rows by
SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The columns that the user names for images and labels (`?image=…&label=…`), if any."""

    image: str | None = None
    label: str | None = None

    def __str__(self) -> str:
        """Tells what is made of one choice from what is made of another; empty where there is none."""
        names = {"image": self.image, "label": self.label}
        return "".join(f"?{option}={name}" for option, name in names.items() if name is not None)


USUAL = Chosen()


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a table that count, under the names that it has for them.

    Args:
        image: holds images, or their paths.
        label: holds labels; None where no column is one for sure.
        is_sure: whether the user names the column of labels, or it is called `label`.
        remark: what was assumed, or why there are no labels; empty where there is nothing to say.
        hint: how to get labels where there are none.
    """

    image: str
    label: str | None
    is_sure: bool = False
    remark: str = ""
    hint: str = ""


def plain(name: str) -> str:
    """A column's name without its blanks, signs and capitals: ` File_Name` and `fileName` are `filename`."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def is_label(name: str) -> bool:
    """Whether a column is called `label`, and so holds labels for sure."""
    return plain(name) in LABEL_FIRST


def shown(names: Sequence[str]) -> str:
    """Names of columns for a message."""
    listed = ", ".join(name.strip() or "(no name)" for name in names[:SHOWN])
    return f"{listed}, … ({len(names)} in all)" if len(names) > SHOWN else listed


def _named(place: str, names: Sequence[str], option: str, chosen: str) -> str:
    """The column that the user names; its blanks and, where nothing else fits, its capitals do not count."""
    for same in (lambda name: name == chosen, lambda name: plain(name) == plain(chosen) != ""):
        fitting = [name for name in names if same(name)]
        if len(fitting) == 1:
            return fitting[0]
    raise UserError(
        f"{place!r} has no column {chosen!r} for ?{option}=: it has {shown(names)}.",
        nearest(chosen, [name.strip() for name in names]),
    )


def _usual(names: Sequence[str], first: Sequence[str], usual: Sequence[str]) -> list[str]:
    """Columns by their names: one that is sure, or all that may be meant."""
    for wanted in first:
        # `label` before `Label`, where a table has both.
        exact = [name for name in names if name == wanted]
        fitting = exact or [name for name in names if plain(name) == wanted]
        if fitting:
            return fitting
    return [name for name in names if plain(name) in usual]


def find_columns(place: str, names: Sequence[str], chosen: Chosen = USUAL, unfit: Collection[str] = ()) -> Columns:
    """Find the columns of images and labels.

    Args:
        place: the table, for messages.
        names: of all its columns.
        chosen: what the user names.
        unfit: columns that cannot hold labels, unless they are called `label`.

    Raises:
        UserError: no column is one of images for sure, or there is none of the name that the user gives.
    """
    image, label = chosen.image, chosen.label
    if image is not None:
        images = [_named(place, names, "image", image)]
    else:
        images = _usual([name for name in names if name != label], IMAGE_FIRST, IMAGE_USUAL)
    if len(images) != 1:
        which = f"several columns that may hold images, {shown(images)}" if images else "no column `path` or `image`"
        all_of_them = "" if images else f": it has {shown(names)}"
        hint = "Name it: ?image=COLUMN." if images else "Its first line names the columns; name the one: ?image=COLUMN."
        raise UserError(f"{place!r} has {which}{all_of_them}.", hint)
    others = [name for name in names if name != images[0]]
    said = (
        [f"images from the column `{images[0].strip()}`"]
        if image is None and plain(images[0]) not in IMAGE_FIRST
        else []
    )
    if label is not None:
        labels = [_named(place, others, "label", label)]
    else:
        labels = [name for name in _usual(others, LABEL_FIRST, LABEL_USUAL) if is_label(name) or name not in unfit]
    if len(labels) == 1:
        is_sure = label is not None or is_label(labels[0])
        said += [] if is_sure else [f"labels from the column `{labels[0].strip()}`"]
        return Columns(image=images[0], label=labels[0], is_sure=is_sure, remark=_remark(place, said))
    hint = f"Name the column of {place!r} that holds them, ?label=COLUMN: it has {shown(others)}."
    if labels:
        said.append(f"no labels, for several columns may hold them, {shown(labels)}. Name one: ?label=COLUMN")
    elif any(plain(name) not in _NO_LABEL for name in others):
        said.append(f"no labels, for no column is called so; it has {shown(others)}. Name one: ?label=COLUMN")
    else:
        hint = f"{place!r} has no other column: give it a column `label`."
    return Columns(image=images[0], label=None, remark=_remark(place, said), hint=hint)


def _remark(place: str, said: Sequence[str]) -> str:
    return f"{place!r}: {', '.join(said)}." if said else ""


def one_column_a_class(rows: Mapping[str, Sequence[object]]) -> list[str]:
    """Columns of which each row has a 1 in one and a 0 in all others; none unless there are two of them.

    Args:
        rows: some rows of a table by column, as text or numbers.
    """
    binary = {name: numbers for name, values in rows.items() if (numbers := _zeros_and_ones(values)) is not None}
    sums = [sum(row) for row in zip(*binary.values(), strict=True)]
    return list(binary) if len(binary) > 1 and sums and set(sums) == {1} else []


def _zeros_and_ones(values: Sequence[object]) -> list[float] | None:
    numbers = []
    for value in values:
        try:
            number = float(str(value)) if not isinstance(value, bool) else float(value)
        except ValueError:
            return None
        if math.isnan(number) or number not in (0, 1):
            return None
        numbers.append(number)
    return numbers


def one_hot_hint(place: str, classes: Sequence[str]) -> str:
    """How to get labels from columns that are classes."""
    listed = ", ".join(repr(name.strip()) for name in classes[:3]) + (", …" if len(classes) > 3 else "")
    return (
        f"{place!r} has a column for each class ({shown(classes)}). Write their names into one, with pandas: "
        f"table['label'] = table[[{listed}]].idxmax(axis=1)."
    )
