"""The page beside a file of predictions: a contact sheet for each class, and what is mistaken for what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from layergraft.config.paths import read_regular
from layergraft.data.arrays import Indices, Labels
from layergraft.data.decode import BadImage
from layergraft.data.sources.files import FileImages
from layergraft.data.sources.source import Source
from layergraft.data.thumbnails import address
from layergraft.errors import UserError
from layergraft.evaluation.prediction import Prediction
from layergraft.runs.figure import Figure
from layergraft.runs.interruption import check
from layergraft.runs.readable import counted
from layergraft.runs.report.confusion import LARGEST_MATRIX, confusion_figure
from layergraft.runs.report.page import write_page
from layergraft.runs.report.section import Notes, Picture, Section, Sheet, Table

ON_A_SHEET, PICTURES = 24, 480  # of a class, and of all of them
PAIRS, EXAMPLES = 6, 8
FIRST = "What they are"  # the first section's title
_THUMBNAIL = 112


def check_page(page: Path) -> None:
    """Refuse to write over anything but a page of predictions, before anything is computed."""
    try:
        content = read_regular(page)
    except FileNotFoundError:
        return
    except OSError:  # a folder, a pipe, a file of another user
        content = b""
    if FIRST.encode() not in content:
        raise UserError(f"The page of predictions would replace {str(page)!r}.", "It is kept: give another --out.")


def write_prediction_page(
    out: Path,
    *,
    source: Source,
    title: str,
    sentences: list[str],
    prediction: Prediction,
    rows: Indices | None,
    labels: Labels | None,
    notes: Mapping[int, str],
    channels: int,
) -> Path:
    """Write one file that opens offline.

    Args:
        out: the file.
        source: the images.
        title: headline.
        sentences: what it comes to.
        prediction: of each image; of labelled ones without their own label.
        rows: positions of the labelled images, or None.
        labels: their classes.
        notes: position -> why an image cannot be read.
        channels: of the pictures' pixels; grey or RGB are shown.
    """
    pictures = _Pictures(source, prediction, channels if channels in (1, 3) else 3)
    sections = [_overview(prediction, rows, labels, sentences), _sheets(prediction, pictures)]
    if rows is not None and labels is not None:
        sections.append(_confusions(prediction, rows, labels, pictures))
    if notes:
        named = [[source.images.name(int(source.keys[row])), reason] for row, reason in list(notes.items())[:200]]
        table = Table(title=f"{counted(len(notes), 'image')}", columns=["path", "reason"], rows=named)
        sections.append(Section(name="unreadable", title="Unreadable", blocks=[table]))
    return write_page(title=title, subtitles=[], sections=sections, out=out)


class _Pictures:
    """Images of a source as small pictures with their path.

    Args:
        source: the images.
        prediction: says what stands below them.
        channels: of their pixels.
    """

    def __init__(self, source: Source, prediction: Prediction, channels: int) -> None:
        self.source, self.prediction, self.channels = source, prediction, channels
        images = source.images
        self.root = Path(images.root.path) if isinstance(images, FileImages) and not images.root.remote else None
        self.made: dict[int, str] = {}

    def _image(self, row: int) -> str | None:
        if row not in self.made:
            check()
            try:
                pixels = self.source.images.load(int(self.source.keys[row]), self.channels, _reduction)
            except BadImage:
                return None
            self.made[row] = address(pixels, _THUMBNAIL)
        return self.made[row]

    def of(self, rows: list[int], caption: Mapping[int, str] | None = None) -> list[Picture]:
        """Pictures of images, with what was predicted below them unless a caption says more."""
        found = []
        for row in rows:
            image = self._image(row)
            if image is None:
                continue
            name = self.source.images.name(int(self.source.keys[row]))
            found.append(
                Picture(
                    image=image,
                    title=name.encode("utf-8", "replace").decode(),
                    address=(self.root / name).as_uri() if self.root is not None else "",
                    caption=caption[row] if caption and row in caption else self._says(row),
                    marked=self.prediction.sure is not None and not self.prediction.sure[row],
                )
            )
        return found

    def _says(self, row: int) -> str:
        one = self.prediction
        text = f"{100 * one.probability[row]:.0f} %"
        return text if one.second[row] < 0 else f"{text}, {one.classes[one.second[row]]} {_percent(one, row)}"


def _percent(prediction: Prediction, row: int) -> str:
    return f"{100 * prediction.second_probability[row]:.0f} %"


def _reduction(height: int, width: int) -> int:
    """By how much a JPEG may be reduced for a picture of twice the shown size."""
    return next((factor for factor in (8, 4, 2) if max(height, width) >= 2 * _THUMBNAIL * factor), 1)


def _overview(prediction: Prediction, rows: Indices | None, labels: Labels | None, sentences: list[str]) -> Section:
    """Each class in numbers."""
    columns = ["class", "images", *(["of these sure"] if prediction.sure is not None else []), "mean probability"]
    columns += ["labels", "of these found"] if rows is not None else []
    table = []
    for number, name in enumerate(prediction.classes):
        of_class = prediction.label == number
        count = int(of_class.sum())
        cells = [name, f"{count:,}"]
        cells += [f"{int(prediction.sure[of_class].sum()):,}"] if prediction.sure is not None else []
        cells += [f"{100 * float(prediction.probability[of_class].mean()):.0f} %" if count else ""]
        if rows is not None and labels is not None:
            own = rows[labels == number]
            cells += [f"{len(own):,}", f"{int((prediction.label[own] == number).sum()):,}"]
        table.append(cells)
    blocks: list[Notes | Table] = [Table(title="Classes", columns=columns, rows=table, note=_note(rows))]
    return Section(name="overview", title=FIRST, intro=" ".join(sentences), blocks=[*blocks])


def _note(rows: Indices | None) -> str:
    if rows is None:
        return "Probabilities are the classifier's own: without labels nothing tells whether they are too high."
    return "Labelled images are classified by classifiers that were fitted without them."


def _sheets(prediction: Prediction, pictures: _Pictures) -> Section:
    """The images of each class, least sure first."""
    present = [number for number in range(len(prediction.classes)) if (prediction.label == number).any()]
    count = max(4, min(ON_A_SHEET, PICTURES // max(1, len(present))))
    sheets = []
    for number in present[:PICTURES]:
        of_class = np.flatnonzero(prediction.label == number)
        order = of_class[np.argsort(prediction.probability[of_class], kind="stable")]
        shown = pictures.of(order[:count].tolist())
        note = f"The {len(shown)} least sure of {len(of_class):,}." if len(of_class) > count else ""
        sheets.append(Sheet(title=prediction.classes[number], pictures=shown, note=note))
    intro = "Least sure first: the probability, and the class that comes second."
    if prediction.sure is not None:
        intro += " A frame marks images that are not sure."
    return Section(name="classes", title="Class by class", intro=intro, blocks=[*sheets])


def _confusions(prediction: Prediction, rows: Indices, labels: Labels, pictures: _Pictures) -> Section:
    """What is mistaken for what, counted on the labelled images."""
    classes, predicted = prediction.classes, prediction.label[rows]
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (labels, predicted), 1)
    blocks: list[Figure | Sheet | Notes] = []
    if len(classes) <= LARGEST_MATRIX:
        blocks.append(confusion_figure(classes, counts.tolist()))
    both = np.triu(counts + counts.T, 1)
    pairs = [divmod(int(flat), len(classes)) for flat in np.argsort(-both, axis=None, kind="stable")[:PAIRS]]
    for one, other in pairs:
        if both[one, other]:
            blocks.append(_pair(prediction, rows, labels, pictures, (one, other), int(both[one, other])))
    if not both.any():
        blocks.append(Notes(lines=["No labelled image was taken for another class."]))
    return Section(
        name="confusions",
        title="What is mistaken for what",
        intro=f"Counted on the {len(rows)} labelled images, each by classifiers that were fitted without it.",
        blocks=[*blocks],
    )


def _pair(
    prediction: Prediction, rows: Indices, labels: Labels, pictures: _Pictures, pair: tuple[int, int], count: int
) -> Sheet:
    """Labelled images of two classes that were mistaken, then the others that are closest to being."""
    one, other = pair
    predicted = prediction.label[rows]
    mistaken = rows[((labels == one) & (predicted == other)) | ((labels == other) & (predicted == one))].tolist()
    label_of = dict(zip(rows.tolist(), labels.tolist(), strict=True))
    captions = {
        row: f"labelled {prediction.classes[label_of[row]]}, taken for {prediction.classes[prediction.label[row]]}"
        for row in mistaken
    }
    between = ((prediction.label == one) & (prediction.second == other)) | (
        (prediction.label == other) & (prediction.second == one)
    )
    between[rows] = False
    close = np.flatnonzero(between)
    margin = prediction.probability[close] - prediction.second_probability[close]
    for row in close[np.argsort(margin, kind="stable")][:EXAMPLES].tolist():
        captions[row] = (
            f"{prediction.classes[prediction.label[row]]} {100 * prediction.probability[row]:.0f} %, "
            f"{prediction.classes[prediction.second[row]]} {_percent(prediction, row)}"
        )
    shown = [*mistaken[:EXAMPLES], *(row for row in captions if row not in label_of)]
    labelled = int(((labels == one) | (labels == other)).sum())
    return Sheet(
        title=f"{prediction.classes[one]} and {prediction.classes[other]}",
        pictures=pictures.of(shown, captions),
        note=f"{count} of their {labelled} labelled images were mistaken for one another. Behind these, images between "
        "the two.",
    )
