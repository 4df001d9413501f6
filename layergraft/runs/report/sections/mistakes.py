"""What the classifier with the fewest labels names rightly and wrongly: images, and what is mistaken for what."""

from __future__ import annotations

from typing import Any, Literal

from layergraft.runs.examples import Example, Examples
from layergraft.runs.readable import counted
from layergraft.runs.report.confusion import LARGEST_MATRIX, confusion_figure
from layergraft.runs.report.headline import find_headline
from layergraft.runs.report.run_files import RunFiles
from layergraft.runs.report.section import Notes, Picture, Section, Sheet, Table
from layergraft.runs.results import CROSS_VALIDATION

_PAIRS = 12


def mistakes(runs: list[RunFiles]) -> Section | None:
    """Examples of the first screen's measurement; nothing where several runs are compared or none were kept."""
    headline = find_headline(runs[0]) if len(runs) == 1 else None
    if headline is None:
        return None
    row = headline.few.row
    fields = ("encoder", "source", "test", "protocol", "variant", "shots", "pooling", "seed")
    kept = [one for one in runs[0].examples if all(getattr(one, name) == getattr(row, name) for name in fields)]
    if not kept:
        return None
    shown = kept[0]
    images = sum(shown.images)
    right = sum(count for one, other, count in shown.taken if one == other)
    how = (
        "the first time that the folds were dealt"
        if shown.test == CROSS_VALIDATION
        else f"a classifier of the first {shown.n_train:,} labels that were drawn"
    )
    return Section(
        name="mistakes",
        title="Right and wrong",
        short="Right and wrong",
        intro=f"What {how} made of {counted(images, 'image')}: {right:,} were named rightly "
        f"({100 * right / images:.1f} %). Other labels would make other mistakes.",
        blocks=[*_sheets(shown), *_pairs(shown)],
    )


def _sheets(shown: Examples) -> list[Sheet]:
    hits = [one for one in shown.examples if one.label == one.predicted]
    misses = [one for one in shown.examples if one.label != one.predicted]
    named: list[tuple[str, Literal["right", "wrong"], list[Example]]] = [
        ("Named rightly", "right", hits),
        ("Named wrongly", "wrong", misses),
    ]
    return [
        Sheet(title=title, pictures=[_picture(one, mark) for one in part], note="Drawn at random.")
        for title, mark, part in named
        if part
    ]


def _picture(one: Example, mark: Literal["right", "wrong"]) -> Picture:
    caption = one.label if mark == "right" else f"{one.label}, taken for {one.predicted}"
    return Picture(image=one.image, title=one.file, caption=caption, edge=mark)


def _pairs(shown: Examples) -> list[Any]:
    """The matrix, or of many classes the pairs that are mistaken most."""
    count = len(shown.classes)
    wrong = [(one, other, number) for one, other, number in shown.taken if one != other]
    if not wrong:
        return [Notes(lines=["No image was taken for another class."])]
    if count <= LARGEST_MATRIX:
        counts = [[0] * count for _ in range(count)]
        for one, other, number in shown.taken:
            counts[one][other] = number
        return [confusion_figure(shown.classes, counts)]
    rows = [
        [shown.classes[one], shown.classes[other], f"{number:,}", f"{100 * number / shown.images[one]:.0f} %"]
        for one, other, number in wrong[:_PAIRS]
    ]
    columns = ["class", "taken for", "images", "of the class"]
    return [Table(title="Mistaken most often", columns=columns, rows=rows)]
