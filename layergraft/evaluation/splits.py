"""Few labelled images: k per class or a percentage, stratified, nested, several random splits; or a list in a file.

A file names one image a line, as published lists do (`n01440764_10074.JPEG`), with or without folder, suffix or a
label behind it. Splits are written in the same form, so that they can be given back.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from layergraft.data.randomness import Randomness
from layergraft.data.sources.source import Source
from layergraft.errors import UserError
from layergraft.runs.atomic import write_text

Rows = npt.NDArray[np.int64]


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
    rows: Rows
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
    labels: Rows, keys: Rows, classes: list[str], shots: int | str, split: int, scope: str = "shots"
) -> Rows:
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
    short = np.flatnonzero(counts < needs)
    if len(short):
        named = ", ".join(f"{classes[c]!r} ({counts[c]})" for c in short[:5])
        raise UserError(
            f"{shots} shots were asked for, but {len(short)} of {len(classes)} classes have fewer images: {named}.",
            f"Use at most {counts.min()} shots (--evaluate.shots of `train`, --shots of `evaluate`)."
            if counts.min()
            else "Every class needs an image that is not held out (data.holdout).",
        )
    order = Randomness(seed=split, scope=scope).permutation("order", keys, 0)
    own = labels[order]
    return np.sort(np.concatenate([order[own == c][: int(needs[c])] for c in range(len(classes))]))


def draw_splits(source: Source, shots: Iterable[int | str], count: int) -> list[Split]:
    """`count` random splits of each number of shots; all labels are one split."""
    labels = source.selected_labels
    return [
        Split(shots=k, number=n, rows=few_labels(labels, source.keys, source.classes, k, n))
        for k in dict.fromkeys(map(str, shots))
        for n in range(1 if parse_shots(k)[1] == 1.0 else count)
    ]


def write_splits(directory: Path, source: Source, splits: Iterable[Split]) -> None:
    """Write `<shots>-<number>.txt`, an image a line."""
    for split in splits:
        name = f"{split.shots.replace('%', 'percent')}-{split.number}.txt"
        names = [source.images.name(int(key)) for key in source.keys[split.rows]]
        write_text(directory / name, "".join(f"{one}\n" for one in names))


def _names(source: Source) -> dict[str, int]:
    """Path, file name and bare name -> row; a name that several images have -> -1."""
    found: dict[str, int] = {}
    for row, key in enumerate(source.keys):
        path = source.images.name(int(key))
        base = os.path.basename(path)
        for name in {path, base, os.path.splitext(base)[0]}:
            found[name] = -1 if name in found else row
    return found


def read_splits(files: Iterable[str | Path], source: Source) -> list[Split]:
    """Read lists of labelled images.

    Args:
        files: lists, or directories of lists (`*.txt`).
        source: the labelled images that the lists name.

    Returns:
        Splits with `shots` as the list has them: images per class if all classes have as many, else the percentage.

    Raises:
        UserError: there is no such file, it names images that the source lacks, or it leaves classes out.
    """
    paths: list[Path] = []
    for file in map(Path, files):
        paths += sorted(file.glob("*.txt")) if file.is_dir() else [file]
    names, labels, seen = _names(source), source.selected_labels, Counter[str]()
    splits = []
    for path in paths:
        if not path.is_file():
            raise UserError(f"There is no list of labelled images {str(path)!r}.", "Give a number of splits, or files.")
        rows: list[int] = []
        unknown: list[str] = []
        vague: list[str] = []
        text = path.read_text("utf-8", errors="surrogateescape")
        for line in filter(None, (line.strip() for line in text.splitlines())):
            short = line.rpartition(" ")[0]
            options = (line, short, os.path.basename(line), os.path.basename(short))
            row = next((names[option] for option in options if option in names), None)
            if row is None or row < 0:
                (unknown if row is None else vague).append(line)
            else:
                rows.append(row)
        for wrong, what in ((unknown, "are not in"), (vague, "have several namesakes in")):
            if wrong:
                raise UserError(
                    f"{len(wrong)} images of {str(path)!r} {what} {source.spec!r}: {', '.join(map(repr, wrong[:5]))}."
                )
        own = np.unique(np.array(rows, dtype=np.int64))
        counts = np.bincount(labels[own], minlength=len(source.classes))
        if not counts.min():
            left = [repr(source.classes[c]) for c in np.flatnonzero(counts == 0)]
            raise UserError(f"{str(path)!r} has no image of {len(left)} classes: {', '.join(left[:5])}.")
        shots = str(counts[0]) if (counts == counts[0]).all() else f"{100 * len(own) / len(source):.2g}%"
        splits.append(Split(shots=shots, number=seen[shots], rows=own, file=str(path)))
        seen[shots] += 1
    return splits
