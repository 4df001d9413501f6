"""Work that goes on while a person labels: guesses after each answer, then how good they are, and what comes next."""

from __future__ import annotations

import math
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from layergraft.commands.label.estimate import LEAST, Point, advise
from layergraft.commands.label.session import SHOWN, Guesses, Known, Session
from layergraft.data.arrays import Labels
from layergraft.data.sources.label_file import ordered_classes
from layergraft.errors import Stopped
from layergraft.evaluation.cross_validation import unparted
from layergraft.evaluation.features import Array
from layergraft.evaluation.few_shot import FEW_SHOT, exact
from layergraft.evaluation.labelled_classifier import STRENGTH, fit_labelled
from layergraft.evaluation.picking.methods import pick_rows, resolved
from layergraft.runs.intervals import wilson

_CALM = 0.3  # seconds without an answer after which slow work begins
_POINTS = 20  # of the curve, at most, when a file with labels is opened
_BLOCK = 2**15
_PATIENCE = 60.0  # seconds that clusters of many images may take
_READY = 2 * SHOWN  # picks below which more are made; of 100,000 images that takes some seconds


@dataclass(frozen=True, kw_only=True)
class _Calibration:
    """What out-of-fold predictions have set.

    Args:
        strength: lambda * n of the classifier.
        temperature: its logits are divided by it; None where nothing tells.
        threshold: probability from which on a class belongs to the set of an image; None where nothing tells.
    """

    strength: float = STRENGTH
    temperature: float | None = None
    threshold: float | None = None


def guess(
    features: Array, known: Known, strength: float, temperature: float | None, threshold: float | None = None
) -> Guesses:
    """Fit the classifier to all labels, and classify every image in one product.

    Args:
        features: prepared, of shape (N, D).
        known: labels of two classes at least.
        strength: lambda * n of the classifier.
        temperature: of its probabilities; None where nothing tells.
        threshold: see `_Calibration`.
    """
    x, y = exact(torch.from_numpy(features[known.rows])), torch.from_numpy(known.labels)
    weights, bias = (part.float() for part in FEW_SHOT["logistic"].fit_path(x, y, len(known.classes), [strength])[0])
    label: Labels = np.empty(len(features), dtype=np.int64)
    certainty: Array = np.empty(len(features), dtype=np.float32)
    sure = None if threshold is None else np.empty(len(features), dtype=np.bool_)
    least = math.log(threshold) if threshold else -math.inf
    for start in range(0, len(features), _BLOCK):
        part = slice(start, start + _BLOCK)
        logits = torch.addmm(bias, torch.from_numpy(features[part]), weights) / (temperature or 1.0)
        top, best = logits.max(1)
        label[part] = best.numpy()
        total = logits.logsumexp(1)
        certainty[part] = (top - total).exp().numpy()
        if sure is not None:
            sure[part] = ((logits >= (total + least)[:, None]).sum(1) == 1).numpy()
    return Guesses(
        classes=known.classes,
        label=label,
        certainty=certainty,
        sure=sure,
        calibrated=temperature is not None,
        labels=len(known.rows),
    )


class Background:
    """Three threads, so that none of them makes an answer wait.

    Args:
        session: what they work for.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.calibration = _Calibration()
        self._guessed = -1  # revision
        self._points: dict[int, tuple[bytes, Point]] = {}  # number of labels -> (which, accuracy)
        self._threads = [
            threading.Thread(target=self._loop, args=(work,), name=f"layergraft-{work.__name__}", daemon=True)
            for work in (self.guess_all, self.pick, self.judge)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until they have ended, once the session is closed: a process that ends amid their C code may crash."""
        for thread in self._threads:
            thread.join(timeout=_PATIENCE)

    def _loop(self, work: Callable[[], None]) -> None:
        seen, session = -1, self.session
        while True:
            with session.changed:
                while not session.closed and session.revision == seen:
                    session.changed.wait()
                if session.closed:
                    return
                seen = session.revision
            note = ""
            try:
                work()
            except Stopped:
                return
            except Exception as error:  # a page without guesses still takes labels
                traceback.print_exc()
                note = f"{error} Labels are taken all the same."
            with session.changed:
                if note != session.shown.notes.get(work.__name__, ""):
                    session.publish(notes=session.shown.notes | {work.__name__: note})

    def guess_all(self) -> None:
        """Classify every image anew."""
        session, calibration = self.session, self.calibration
        known = session.known()
        guesses = None
        if len(known.classes) > 1:
            guesses = guess(
                session.features, known, calibration.strength, calibration.temperature, calibration.threshold
            )
        with session.changed:
            if known.revision >= self._guessed:  # else another thread knew more
                self._guessed = known.revision
                session.publish(guesses=guesses)

    def pick(self) -> None:
        """Pick what comes next; what is about to be shown stays, the rest is picked anew as labels come."""
        session = self.session
        waiting = session.waiting()
        if len(waiting) >= _READY:
            return
        known = session.known()
        taken = np.array(sorted({*known.rows.tolist(), *waiting, *session.skipped}), dtype=np.int64)
        usable = np.flatnonzero(session.usable)
        among = np.searchsorted(usable, taken)
        features = session.features[usable]
        picked = pick_rows(features, _READY, resolved("auto"), among)
        with session.changed:
            waiting = session.waiting()  # anew: picking took a while, and an answer may have been undone
            new = usable[picked].tolist()
            session.queue = [*waiting, *(row for row in new if row not in waiting)]
            session.publish(exhausted=len(new) == 0)

    def _calm(self, revision: int) -> bool:
        """Wait a little; whether no answer came."""
        with self.session.changed:
            self.session.changed.wait_for(lambda: self.session.closed or self.session.revision != revision, _CALM)
            return not self.session.closed and self.session.revision == revision

    def judge(self) -> None:
        """Calibrate the probabilities, estimate the accuracy, and say whether more labels help."""
        session, known = self.session, self.session.known()
        if not self._calm(known.revision):
            return
        if len(known.classes) < 2:
            session.publish(points={}, advice=None)
            return
        classes, features = len(known.classes), session.features[known.rows]
        self._point(known, len(known.rows))
        self.guess_all()
        if session.closed or session.revision != known.revision:
            return  # the new answer's guesses come first, and then this again
        advice = None
        if len(known.rows) >= LEAST:
            advice = advise(features, known.labels, classes, self.calibration.strength)
        session.publish(advice=advice)
        step = 5 * max(1, -(-len(known.rows) // (5 * _POINTS)))
        for number in range(LEAST, len(known.rows), step):
            if session.closed or session.revision != known.revision:
                return
            self._point(known, number)

    def _point(self, known: Known, number: int) -> None:
        """The accuracy of the first labels; the calibration is that of all of them."""
        session = self.session
        which = known.rows[:number].tobytes() + known.labels[:number].tobytes()
        last = number == len(known.rows)
        if self._points.get(number, (b"",))[0] != which or last:
            present, labels = np.unique(known.labels[:number], return_inverse=True)
            if len(present) < 2:
                return
            order = np.argsort(known.rows[:number])  # as `predict` has them, for folds are dealt by rows and classes
            names = ordered_classes([known.classes[label] for label in present])
            place = np.array([names.index(known.classes[label]) for label in present], dtype=np.int64)
            rows, labels, source = known.rows[:number][order], place[labels[order]], session.source
            files = None if source.files is None else source.files[source.keys[rows]].astype(np.int64)
            whole = None if files is None else unparted(labels, files)
            fitted = fit_labelled(session.features[rows], labels, len(present), session.error, whole)
            if fitted.out_of_fold is None:  # each class has one label
                return
            accuracy = 100 * float((fitted.out_of_fold.argmax(1) == labels).mean())
            low, high = wilson(accuracy, number)
            self._points[number] = (which, Point(accuracy=accuracy, low=low, high=high))
            if last:
                self.calibration = _Calibration(
                    strength=fitted.strength or self.calibration.strength,
                    temperature=fitted.temperature,
                    threshold=fitted.threshold,
                )
        valid = {
            count: point
            for count, (rows, point) in self._points.items()
            if count >= LEAST and rows == known.rows[:count].tobytes() + known.labels[:count].tobytes()
        }
        session.publish(points=valid)
