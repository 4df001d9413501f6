"""What is labelled, what comes next, and what the page shows of it; the labels themselves are in their file alone."""

from __future__ import annotations

import hashlib
import math
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from layergraft.commands.label.estimate import Advice, Point
from layergraft.commands.label.labels_file import LabelsFile, can_be_written, check_label
from layergraft.data.arrays import Indices, Labels
from layergraft.data.sources.source import Source
from layergraft.evaluation.features import Array

SHOWN = 12  # cards
RULE = (
    "More labels have stopped helping when the last doubling of their number gained less than 1 point, and at most 5 "
    "points at the upper end of its 95 % interval. What it gained is measured by cross-validation: each labelled image "
    "is classified by a classifier of all other labels, and by one of half of them."
)


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """What the classifier takes each image for.

    Args:
        classes: names.
        label: class of each image, of shape (N,).
        certainty: its probability, of shape (N,).
        sure: whether the set that the error rate allows is a single class, of shape (N,); None where nothing tells.
        calibrated: whether the probabilities are; else they say nothing.
        labels: how many the classifier was fitted to.
    """

    classes: list[str]
    label: Labels
    certainty: Array
    sure: npt.NDArray[np.bool_] | None
    calibrated: bool
    labels: int


@dataclass(frozen=True, kw_only=True)
class Known:
    """The labels at one time.

    Args:
        revision: changes with them.
        rows: positions of labelled images, in the order of the file.
        labels: their classes, numbers in `classes`.
        classes: names, all of which occur.
    """

    revision: int
    rows: Indices
    labels: Labels
    classes: list[str]


class Conflict(Exception):
    """Another tab or program has given the image another label; the text is that label."""


@dataclass
class _Shown:
    """What background work has found.

    Args:
        guesses: of each image; None before two classes have labels.
        points: number of labels -> estimated accuracy.
        advice: whether more labels help.
        exhausted: whether no image is left to pick.
        notes: work -> what went wrong with it last.
    """

    guesses: Guesses | None = None
    points: dict[int, Point] = field(default_factory=dict)
    advice: Advice | None = None
    exhausted: bool = False
    notes: dict[str, str] = field(default_factory=dict)


class Session:
    """Everything that the tabs of one server share. `changed` guards it, and is told of every change.

    Args:
        source: the images.
        features: of each, prepared, of shape (N, D); NaN for an image that cannot be read.
        file: of the labels.
        goal: how many images are to have a label.
        error: share of the images whose set of classes may miss the right one; sure are those whose set is one class.
    """

    def __init__(self, source: Source, features: Array, file: LabelsFile, goal: int, error: float = 0.1) -> None:
        self.source, self.features, self.file, self.goal = source, features, file, goal
        self.error = error
        self.changed = threading.Condition()
        self.closed = False
        self.version = 0  # of all that the page shows
        self.revision = 0  # of labels and of what is skipped
        self.skipped: dict[int, None] = {}
        self.answered: dict[str, str] = {}  # path -> label, the last one last: what can be undone
        self.classes: list[str] = []  # in the order of their keys
        self.shown = _Shown()
        self.position = {int(key): row for row, key in enumerate(source.keys)}
        names = [source.images.name(int(key)) for key in source.keys]
        self.usable = ~np.isnan(features[:, 0]) & np.array([can_be_written(name) for name in names], dtype=np.bool_)
        self.queue = [row for key in file.blank if self.usable[row := self.position[key]]]
        identity = f"{file.path}\0{source.identity}"
        self.project = hashlib.blake2b(identity.encode(errors="surrogateescape"), digest_size=8).hexdigest()
        self._note_classes()

    def answer(self, path: str, label: str, before: str) -> None:
        """Give an image a label, or take it away.

        The same answer twice is one. It is what a tab sends again that has heard nothing.

        Args:
            path: name of the image.
            label: its class; blank takes it away.
            before: the label that the tab believes it to have.

        Raises:
            Conflict: it has another by now; nothing is changed.
            UserError: the label or the file is one that cannot be written; nothing is changed.
        """
        text = check_label(label)
        with self.changed, self.file.held():
            if self.closed:
                raise Conflict("")
            key = self.file.named[path][0]
            now = self.file.labels.get(key, "")
            if now != text:
                if now != before.strip():
                    raise Conflict(now)
                self.shown.notes = self.shown.notes | {"disk": self.file.set_label(path, text)}
            self.answered.pop(path, None)
            if text:
                self.answered[path] = text
            else:
                self._next(self.position[key])
            self._changed()

    def skip(self, path: str, back: bool) -> None:
        """Leave an image out until the server ends, or take that back."""
        with self.changed:
            row = self.position[self.file.named[path][0]]
            if back:
                self.skipped.pop(row, None)
                self._next(row)
            else:
                self.skipped[row] = None
            self._changed()

    def _next(self, row: int) -> None:
        self.queue = [row, *(one for one in self.queue if one != row)]

    def _changed(self) -> None:
        self._note_classes()
        self.revision += 1
        self.publish()

    def publish(self, **found: Any) -> None:
        """Set attributes of `shown`, and wake whoever waits for a change."""
        with self.changed:
            for name, value in found.items():
                setattr(self.shown, name, value)
            self.version += 1
            self.changed.notify_all()

    def _note_classes(self) -> None:
        """Append new classes, and drop those at the end that have no label: so that no class changes its key."""
        counts = Counter(self.file.labels.values())
        self.classes += [name for name in counts if name not in self.classes]
        while self.classes and not counts[self.classes[-1]]:
            self.classes.pop()

    def known(self) -> Known:
        """The labels of images that can be read."""
        with self.changed:
            pairs = [(self.position[key], label) for key, label in self.file.labels.items() if key in self.position]
            pairs = [(row, label) for row, label in pairs if self.usable[row]]
            classes = [name for name in self.classes if any(label == name for _, label in pairs)]
            number = {name: index for index, name in enumerate(classes)}
            return Known(
                revision=self.revision,
                rows=np.array([row for row, _ in pairs], dtype=np.int64),
                labels=np.array([number[label] for _, label in pairs], dtype=np.int64),
                classes=classes,
            )

    def waiting(self) -> list[int]:
        """Positions of the images to label next, as far as they are picked."""
        with self.changed:
            done = {self.position[key] for key in self.file.labels if key in self.position}
            return [row for row in self.queue if row not in done and row not in self.skipped]

    def state(self) -> dict[str, Any]:
        """What the page shows."""
        with self.changed:
            labels = self.file.labels
            counts, guesses = Counter(labels.values()), self.shown.guesses
            shares = {}
            free = self.usable.copy()
            free[[self.position[key] for key in labels if key in self.position]] = False
            sure = None
            if guesses is not None:
                sure = None if guesses.sure is None else int(guesses.sure[free].sum())
                numbers = np.bincount(guesses.label[free], minlength=len(guesses.classes))
                shares = dict(zip(guesses.classes, numbers.tolist(), strict=True))
            return {
                "version": self.version,
                "project": self.project,
                "file": str(self.file.path),
                "classes": [
                    {"name": name, "labels": counts[name], "guesses": shares.get(name)} for name in self.classes
                ],
                "labelled": len(labels),
                "fitted": 0 if guesses is None else guesses.labels,
                "images": int(self.usable.sum()),
                "others": int(free.sum()),
                "sure": sure,
                "error": self.error,
                "least": math.ceil(1 / self.error - 1e-9) - 1,  # labels before which no image can be sure
                "goal": self.goal,
                "skipped": len(self.skipped),
                "cards": [self._card(row) for row in self.waiting()[:SHOWN]],
                "answered": list(self.answered.items())[-SHOWN:],
                "exhausted": self.shown.exhausted,
                "curve": [
                    {"labels": number, "accuracy": point.accuracy, "low": point.low, "high": point.high}
                    for number, point in sorted(self.shown.points.items())
                    if number <= len(labels)
                ],
                "advice": "" if self.shown.advice is None else self.shown.advice.sentence(),
                "enough": self.shown.advice is not None and self.shown.advice.enough,
                "note": " ".join(filter(None, self.shown.notes.values())),
            }

    def _card(self, row: int) -> dict[str, Any]:
        guesses = self.shown.guesses
        card: dict[str, Any] = {"row": row, "path": self.source.images.name(int(self.source.keys[row]))}
        if guesses is not None:
            card["guess"] = guesses.classes[int(guesses.label[row])]
            if guesses.calibrated:
                card["certainty"] = round(float(guesses.certainty[row]), 3)
        return card

    def wait(self, version: int, seconds: float) -> dict[str, Any]:
        """The state as soon as it is another than a tab has; after some time in any case."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self.version != version, seconds)
            return self.state()

    def close(self) -> None:
        """Take no more answers; the one that is being written is written first."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
