"""Few labelled images: k per class or a percentage, stratified, nested, several random splits; or a list in a file.

A file names one image a line, as published lists do (`n01440764_10074.JPEG`), with or without folder, suffix or a
label behind it. Splits are written in the same form, so that they can be given back.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from layergraft.data.arrays import Indices, Labels
from layergraft.data.randomness import Randomness
from layergraft.data.sources.source import Source
from layergraft.errors import UserError
from layergraft.runs.atomic import write_text
from layergraft.runs.readable import counted

_WRITERS = 8  # each waits for the disk most of the time


@dataclass(frozen=True, kw_only=True)
class Split:
    """The labelled images of one few-shot task.

    Args:
        shots: `"5"`, `"1%"`, `"100%"`.
        number: which of the splits with as many shots.
        rows: indices of the labelled images within their source.
        file: the list they come from, or None where they were drawn.
    """

    shots: str
    number: int
    rows: Indices
    file: str | None = None


def parse_shots(shots: int | str) -> tuple[int | None, float]:
    """`5` -> (5, 0); `"1%"` -> (None, 0.01)."""
    text = str(shots)
    try:
        if text.endswith("%"):
            fraction = float(text[:-1]) / 100
            if 0 < fraction <= 1:
                return None, fraction
        elif int(text) > 0:
            return int(text), 0.0
    except ValueError:
        pass
    raise UserError(f"{shots!r} is no number of shots.", "Use images per class (5) or a percentage (1%).")


def few_labels(
    labels: Labels, keys: Indices, classes: list[str], shots: int | str, split: int, scope: str = "shots"
) -> Indices:
    """Indices of the labelled images of one split; fewer shots are a subset of more.

    Args:
        labels: class of each image, of shape (N,).
        keys: sample key of each image, of shape (N,).
        classes: names of the classes.
        shots: images per class, or a percentage.
        split: number of the split.
        scope: another scope draws other images.

    Raises:
        UserError: classes have fewer images than shots.
    """
    count, fraction = parse_shots(shots)
    if fraction == 1.0:
        return np.arange(len(labels))
    counts = np.bincount(labels, minlength=len(classes))
    needs = np.full(len(classes), count) if count is not None else np.maximum(1, np.rint(fraction * counts))
    too_small = np.flatnonzero(counts < needs)
    if len(too_small):
        listed = ", ".join(f"{classes[c]!r} ({counts[c]})" for c in too_small[:5])
        raise UserError(
            f"{shots} shots were asked for, but {len(too_small)} of {len(classes)} classes have fewer images: "
            f"{listed}.",
            f"Use at most {counted(counts.min(), 'shot')} (--evaluate.shots of `train`, --shots of `evaluate`)."
            if counts.min()
            else "Every class needs an image that is not held out (data.holdout).",
        )
    order = Randomness(seed=split, scope=scope).permutation("order", keys, 0)
    shuffled_labels = labels[order]
    by_class = [order[shuffled_labels == c][: int(needs[c])] for c in range(len(classes))]
    return np.sort(np.concatenate(by_class))


def draw_splits(source: Source, shots: Iterable[int | str], count: int) -> list[Split]:
    """`count` random splits of each number of shots; all labels are one split."""
    splits = []
    for k in dict.fromkeys(map(str, shots)):
        for number in range(1 if parse_shots(k)[1] == 1.0 else count):
            rows = few_labels(source.selected_labels, source.keys, source.classes, k, number)
            splits.append(Split(shots=k, number=number, rows=rows))
    return splits


def write_splits(directory: Path, source: Source, splits: Iterable[Split]) -> None:
    """Write `<shots>-<number>.txt`, an image a line."""

    def write(split: Split) -> None:
        file = directory / f"{split.shots.replace('%', 'percent')}-{split.number}.txt"
        names = [source.images.name(int(key)) for key in source.keys[split.rows]]
        write_text(file, "".join(f"{name}\n" for name in names))

    with ThreadPoolExecutor(_WRITERS, thread_name_prefix="layergraft-splits") as pool:
        list(pool.map(write, splits))  # which gives what one of them raises


def _rows_by_name(source: Source) -> dict[str, int]:
    """Path, file name and bare name -> row; a name that several images have -> -1."""
    rows: dict[str, int] = {}
    for row, key in enumerate(source.keys):
        path = source.images.name(int(key))
        base = os.path.basename(path)
        for name in {path, base, os.path.splitext(base)[0]}:
            rows[name] = -1 if name in rows else row
    return rows


def read_splits(files: Iterable[str | Path], source: Source) -> list[Split]:
    """Read lists of labelled images.

    Args:
        files: lists, or directories of lists (`*.txt`).
        source: the labelled images that the lists name.

    Returns:
        Splits with `shots` as the list has them: images per class if all classes have as many, else the percentage.

    Raises:
        UserError: there is no such file, or none in a directory; it names images that the source lacks, or it leaves
            classes out.
    """
    paths: list[Path] = []
    for file in map(Path, files):
        listed = sorted(file.glob("*.txt")) if file.is_dir() else [file]
        if not listed:
            raise UserError(
                f"There is no list of labelled images (*.txt) in {str(file)!r}.", "Give files, or a number."
            )
        paths += listed
    row_by_name = _rows_by_name(source)
    labels = source.selected_labels
    splits_with_shots = Counter[str]()
    splits = []
    for path in paths:
        if not path.is_file():
            raise UserError(f"There is no list of labelled images {str(path)!r}.", "Give a number of splits, or files.")
        named_rows: list[int] = []
        unknown: list[str] = []
        ambiguous: list[str] = []
        text = path.read_text("utf-8", errors="surrogateescape")
        for line in filter(None, (line.strip() for line in text.splitlines())):
            unlabelled = line.rpartition(" ")[0]
            spellings = (line, unlabelled, os.path.basename(line), os.path.basename(unlabelled))
            row = next((row_by_name[name] for name in spellings if name in row_by_name), None)
            if row is None or row < 0:
                (unknown if row is None else ambiguous).append(line)
            else:
                named_rows.append(row)
        for lines, fault in ((unknown, "are not in"), (ambiguous, "have several namesakes in")):
            if lines:
                raise UserError(
                    f"{counted(len(lines), 'image')} of {str(path)!r} {fault} {source.spec!r}: "
                    f"{', '.join(map(repr, lines[:5]))}."
                )
        rows = np.unique(np.array(named_rows, dtype=np.int64))
        counts = np.bincount(labels[rows], minlength=len(source.classes))
        if not counts.min():
            absent = [repr(source.classes[c]) for c in np.flatnonzero(counts == 0)]
            raise UserError(f"{str(path)!r} has no image of {counted(len(absent), 'class')}: {', '.join(absent[:5])}.")
        shots = str(counts[0]) if (counts == counts[0]).all() else f"{100 * len(rows) / len(source):.2g}%"
        splits.append(Split(shots=shots, number=splits_with_shots[shots], rows=rows, file=str(path)))
        splits_with_shots[shots] += 1
    return splits
