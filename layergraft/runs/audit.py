"""What an audit of images finds, and audit.json, which keeps it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from layergraft.runs.atomic import write_text
from layergraft.runs.json_files import read_json_as
from layergraft.runs.notebook import data_frame, html_table
from layergraft.runs.readable import counted

_SHOWN, _SHOWN_ROWS = 3, 50
_COLUMNS = ("finding", "path", "other", "value")


@dataclass(frozen=True, kw_only=True)
class Near:
    """Two images that show one picture.

    Args:
        first: path of one; of a leak, of the test image.
        second: path of the other.
        likeness: correlation of their pixels, 1 for the same.
    """

    first: str
    second: str
    likeness: float


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Test images that are among the training images.

    Args:
        test: the test images' SOURCE.
        images: how many there are.
        exact: (test image, training image) of the same bytes or pixels.
        near: of one picture; the likest for each test image.
    """

    test: str
    images: int
    exact: list[tuple[str, str]]
    near: list[Near]


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """An image far from all others.

    Args:
        path: of the image.
        distance: mean distance to its ten nearest neighbours.
        usual: the median of that distance over all images.
    """

    path: str
    distance: float
    usual: float


@dataclass(frozen=True, kw_only=True)
class LabelError:
    """A label that is likely wrong.

    Args:
        path: of the image.
        label: the class it is labelled.
        suggested: the class that a classifier is confident of.
        probability: of the label, by a classifier that never saw it.
    """

    path: str
    label: str
    suggested: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class TwoLabels:
    """One picture that has two labels: one of them is wrong.

    Args:
        first: path of an image.
        second: path of a copy or near-duplicate of it.
        label: of the first.
        other: label of the second.
    """

    first: str
    second: str
    label: str
    other: str


@dataclass(frozen=True, kw_only=True)
class AlikeClasses:
    """Two classes that are told apart no better than by chance, or worse than all others.

    Args:
        first: name of a class.
        second: name of the other.
        accuracy: share of their labelled images on the right side, in percent.
        chance: accuracy of always naming the larger of both.
        images: how many labelled images they have.
        alike: whether 95 % of such counts would leave it open that it is chance.
    """

    first: str
    second: str
    accuracy: float
    chance: float
    images: int
    alike: bool


@dataclass(frozen=True, kw_only=True)
class Audit:
    """One element of audit.json.

    Args:
        encoder: the ENC as given.
        data: the images' SOURCE.
        labels: the labels' file, or None.
        images: how many images there are.
        unreadable: paths of those that cannot be read.
        same_bytes: groups of images whose files are the same.
        same_pixels: groups of images whose pixels are the same, though their files are not all.
        near: pairs of one picture, the likest first.
        threshold: likeness from which a pair is taken for one picture.
        outliers: the farthest first.
        labelled: how many images have a label.
        label_errors: the likeliest first.
        estimated_errors: how many labels are wrong, by the joint distribution of given and true labels; None without.
        agreement: share of the labels that a classifier which never saw them gives, too, in percent; None without.
        classes: pairs of classes, those told apart worst first.
        leak: of `--test`, or None.
        two_labels: pairs of copies and near-duplicates whose labels differ.
    """

    encoder: str
    data: str
    labels: str | None
    images: int
    unreadable: list[str]
    same_bytes: list[list[str]]
    same_pixels: list[list[str]]
    near: list[Near]
    threshold: float
    outliers: list[Outlier]
    labelled: int
    label_errors: list[LabelError] = field(default_factory=list)
    estimated_errors: float | None = None
    agreement: float | None = None
    classes: list[AlikeClasses] = field(default_factory=list)
    leak: Leak | None = None
    two_labels: list[TwoLabels] = field(default_factory=list)

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes two audits the same."""
        return self.encoder, self.data, self.labels, self.leak.test if self.leak else None

    def rows(self) -> Iterator[dict[str, Any]]:
        """All findings, one a row: `finding`, `path`, `other` (image, label or class) and `value`."""
        for name, groups in (("same bytes", self.same_bytes), ("same pixels", self.same_pixels)):
            for group in groups:
                yield from (_row(name, path, group[0], 1.0) for path in group[1:])
        yield from (_row("near-duplicate", pair.first, pair.second, pair.likeness) for pair in self.near)
        if self.leak is not None:
            yield from (_row("leak, exact", test, train, 1.0) for test, train in self.leak.exact)
            yield from (_row("leak, near", pair.first, pair.second, pair.likeness) for pair in self.leak.near)
        yield from (_row("outlier", one.path, "", one.distance) for one in self.outliers)
        yield from (_row("two labels", one.first, one.second, 1.0) for one in self.two_labels)
        yield from (_row("label error", one.path, one.suggested, one.probability) for one in self.label_errors)
        yield from (
            _row("classes alike", pair.first, pair.second, pair.accuracy) for pair in self.classes if pair.alike
        )
        yield from (_row("unreadable", path, "", 0.0) for path in self.unreadable)

    def to_pandas(self) -> Any:
        """`rows` as a data frame; raises `UserError` where pandas is missing."""
        return data_frame(_COLUMNS, self._cells())

    def _repr_html_(self) -> str:
        return html_table(" ".join(self.lines()), _COLUMNS, itertools.islice(self._cells(), _SHOWN_ROWS))

    def _cells(self) -> Iterator[list[Any]]:
        return ([row.get(name) for name in _COLUMNS] for row in self.rows())

    def __repr__(self) -> str:
        return "\n".join(
            [f"Audit of {counted(self.images, 'image')} of {self.data}:", *(f"  {line}" for line in self.lines())]
        )

    def lines(self) -> list[str]:
        """A line for each question, with the first examples."""
        copies = sum(len(group) - 1 for group in self.same_bytes)
        again = sum(len(group) - 1 for group in self.same_pixels)
        lines = [
            _line(
                "copy of another file", "copies of other files", copies, [" = ".join(g[:2]) for g in self.same_bytes]
            ),
            _line(
                "image with the pixels of another",
                "images with the pixels of another",
                again,
                [" = ".join(group[:2]) for group in self.same_pixels],
            ),
            _line(
                "near-duplicate pair",
                "near-duplicate pairs",
                len(self.near),
                [f"{pair.first} ~ {pair.second}" for pair in self.near],
            ),
        ]
        if self.leak is not None:
            images = len({test for test, _ in self.leak.exact} | {pair.first for pair in self.leak.near})
            examples = [f"{test} = {train}" for test, train in self.leak.exact]
            examples += [f"{pair.first} ~ {pair.second}" for pair in self.leak.near]
            share = f" ({100 * images / max(1, self.leak.images):.1f} %)"
            said = f"of {counted(self.leak.images, 'test image')}"
            lines.append(_line(f"{said} is among them{share}", f"{said} are among them{share}", images, examples))
        lines.append(_line("outlier", "outliers", len(self.outliers), [one.path for one in self.outliers]))
        if self.two_labels:
            examples = [f"{one.first} ({one.label}) ~ {one.second} ({one.other})" for one in self.two_labels]
            one_pair, pairs = "pair of copies has two labels", "pairs of copies have two labels"
            lines.append(_line(one_pair, pairs, len(self.two_labels), examples))
        if self.agreement is not None:
            examples = [f"{one.path} ({one.label}: {one.suggested}?)" for one in self.label_errors]
            by = f"doubted by a classifier that gets {self.agreement:.0f} % right"
            of_all = f"of {counted(self.labelled, 'label')}"
            lines.append(_line(f"{of_all} is {by}", f"{of_all} are {by}", len(self.label_errors), examples))
            alike = [f"{pair.first} and {pair.second}" for pair in self.classes if pair.alike]
            said = "not told apart" if self.classes else "looked at: it takes two classes of five labels each"
            lines.append(_line(f"pair of classes is {said}", f"pairs of classes are {said}", len(alike), alike))
        if self.unreadable:
            lines.append(_line("image cannot be read", "images cannot be read", len(self.unreadable), self.unreadable))
        return lines


def _row(finding: str, path: str, other: str, value: float) -> dict[str, Any]:
    return {"finding": finding, "path": path, "other": other, "value": value}


def _line(one: str, several: str, count: int, examples: list[str]) -> str:
    """`3 outliers: a.jpg, b.jpg, c.jpg …`."""
    more = " …" if len(examples) > _SHOWN else ""
    return f"{count:,} {one if count == 1 else several}" + (
        f": {', '.join(examples[:_SHOWN])}{more}" if examples else ""
    )


def read_audits(path: Path) -> list[Audit]:
    """The audits of an audit.json; none where there is no file.

    Raises:
        UserError: it was not written by this version.
    """
    return read_json_as(path, list[Audit], "Move it away and run `layergraft audit` again.") if path.exists() else []


def write_audit(path: Path, audit: Audit) -> None:
    """Add an audit behind the others; one with the same identity goes."""
    audits = [*(one for one in read_audits(path) if one.identity != audit.identity), audit]
    write_text(path, json.dumps([asdict(one) for one in audits], indent=1) + "\n")
