"""`layergraft predict`: the class of every image, and how sure that is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from layergraft.commands.predict.page import check_page, write_prediction_page
from layergraft.commands.predict.table import check_out, read_predictions, reasons, write_predictions
from layergraft.data.arrays import Indices, Labels
from layergraft.data.first_look import look_at, remarks_on_files
from layergraft.data.reading import settle
from layergraft.data.sources.label_file import read_labels
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.encoders.checkpoint import Checkpoint, load_encoder, open_checkpoint
from layergraft.encoders.classifier import Classifier
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.evaluation.cache import features_of
from layergraft.evaluation.conformal import check_error
from layergraft.evaluation.cross_validation import whole_files
from layergraft.evaluation.features import Array, features_named
from layergraft.evaluation.labelled_classifier import LabelledClassifier, fit_labelled
from layergraft.evaluation.prediction import Prediction, predict_all
from layergraft.evaluation.probes import load_probe
from layergraft.runs.announce import announce
from layergraft.runs.intervals import wilson
from layergraft.runs.notebook import data_frame, html_table
from layergraft.runs.readable import counted


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """The files of a prediction, and what it comes to.

    Args:
        out: a row for each image.
        page: the same to look at.
        images: how many there are.
        unreadable: of these, how many cannot be read.
        sure: how many have a single class in their set; None where no error rate can be kept.
        error: share of the sets that may miss the right class.
        classes: class -> how many images were given it.
        accuracy: of the labelled images by classifiers of the others, in percent; None without labels.
        low: lower end of its 95 % interval.
        high: its upper end.
    """

    out: Path
    page: Path
    images: int
    unreadable: int
    sure: int | None
    error: float
    classes: dict[str, int]
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None

    def sentences(self) -> list[str]:
        """What a person wants to know first."""
        said = [f"{self.images - self.unreadable:,} of {self.images:,} images are classified."]
        if self.accuracy is not None and self.low is not None and self.high is not None:
            said.append(
                f"Cross-validated accuracy of the labels: {self.accuracy:.0f} % (95 % interval {self.low:.0f} to "
                f"{self.high:.0f} %)."
            )
        if self.sure is not None:
            sure = f"{counted(self.sure, 'image')} {'is' if self.sure == 1 else 'are'} sure"
            rest = ", as far as the labelled images are like the others" if self.sure else ""
            said.append(f"{sure} at an error rate of {100 * self.error:g} %{rest}.")
        return said

    def __repr__(self) -> str:
        most = sorted(self.classes.items(), key=lambda pair: -pair[1])
        shown = ", ".join(f"{name} {count:,}" for name, count in most[:10]) + (" …" if len(most) > 10 else "")
        return "\n".join([*self.sentences(), f"  {shown}", f"  rows: {self.out}", f"  page: {self.page}"])

    def _repr_html_(self) -> str:
        return html_table(" ".join(self.sentences()), ("class", "images"), self.classes.items())

    def to_pandas(self) -> Any:
        """The rows as a data frame; raises `UserError` where pandas is missing."""
        columns, rows = read_predictions(self.out)
        return data_frame(columns, rows)


@dataclass(frozen=True, kw_only=True)
class Known:
    """A classifier and what it rests on.

    Args:
        classifier: on the features of `pooling` and `block`.
        classes: their names.
        rows: positions of the labelled images that it was fitted to; None where it came from elsewhere.
        labels: their classes.
    """

    classifier: LabelledClassifier
    classes: list[str]
    rows: Indices | None = None
    labels: Labels | None = None


def predict_command(
    *,
    encoder: str,
    data: str,
    out: Path,
    labels: str | None,
    probe: Path | None,
    head: bool,
    error: float,
    pooling: str,
) -> Predicted:
    """Write a row for each image of `data`; see `layergraft.predict`."""
    if sum((labels is not None, probe is not None, head)) != 1:
        raise UserError("What classes are there?", "Give one of --labels FILE, --probe PROBE and --head.")
    check_error(error)
    check_out(out, labels)
    check_page(out.with_suffix(".html"))
    checkpoint = open_checkpoint(encoder) if head else None
    loaded = load_encoder(encoder) if checkpoint is None else checkpoint.encoder
    source = settle(open_source(data), loaded.in_chans, announce, loaded.reads, repr(encoder))
    announce(*source.remarks, *remarks_on_files(look_at(source, loaded.in_chans), source))
    if not len(source):
        raise UserError(f"{data!r} has no image.")
    if labels is not None:
        source = read_labels(labels, source)
        features = _features(encoder, loaded, source, pooling)
        known = _of_labels(labels, source, features, error)
    elif probe is not None:
        known, features = _of_probe(encoder, loaded, probe, source)
    else:
        assert checkpoint is not None
        known, features = _of_head(encoder, checkpoint, source)
    prediction = predict_all(features, known.classes, known.classifier, known.rows)
    notes = reasons(source, prediction, loaded.in_chans)
    write_predictions(out, source, prediction, notes)
    predicted = _summary(out, prediction, known, error)
    write_prediction_page(
        predicted.page,
        source=source,
        title=f"{counted(len(source), 'image')} of {data}",
        sentences=predicted.sentences(),
        prediction=prediction,
        rows=known.rows,
        labels=known.labels,
        notes=notes,
        channels=loaded.in_chans,
    )
    announce(*predicted.sentences(), f"Rows: {out}", f"Page: {predicted.page}")
    return predicted


def _features(encoder: str, loaded: Encoder, source: Source, pooling: str, block: int | None = None) -> Array:
    """Of every image, kept as they come, so that a run that is stopped goes on."""
    with features_named(encoder):
        return features_of(loaded, source, [pooling], block)[pooling]


def _of_labels(file: str, source: Source, features: Array, error: float) -> Known:
    """The classifier of the labelled images that can be read."""
    assert source.labels is not None
    given = source.labels[source.keys]
    rows = np.flatnonzero((given >= 0) & ~np.isnan(features[:, 0]))
    unreadable = int((given >= 0).sum()) - len(rows)
    if unreadable:
        announce(f"{counted(unreadable, 'labelled image')} left out: unreadable.")
    present, labels = np.unique(given[rows], return_inverse=True)
    if len(present) < 2:
        raise UserError(
            f"{file!r} has {counted(len(rows), 'label')} of {counted(len(present), 'class')}.",
            "Label images of two classes at least.",
        )
    classes = [source.classes[number] for number in present]
    counts = np.bincount(labels)
    alone = [classes[number] for number in np.flatnonzero(counts == 1)]
    if alone:
        named = ", ".join(map(repr, alone[:5])) + (" …" if len(alone) > 5 else "")
        announce(
            f"{len(alone)} of {len(classes)} classes have one labelled image each ({named}): how sure their images "
            "are cannot be told. Label a second one."
        )
    labels = labels.astype(np.int64)
    files = whole_files(source.subset(source.keys[rows]))
    classifier = fit_labelled(features[rows], labels, len(classes), error, files)
    return Known(classifier=classifier, classes=classes, rows=rows, labels=labels)


def _of_probe(encoder: str, loaded: Encoder, file: Path, source: Source) -> tuple[Known, Array]:
    """A fitted classifier; without labels its probabilities stay as they are."""
    probe = load_probe(file)
    if probe.block is not None and not 0 <= probe.block < loaded.depth:
        raise UserError(f"{str(file)!r} is for block {probe.block}, which {encoder!r} has not.", "Use its own encoder.")
    features = _features(encoder, loaded, source, probe.pooling, probe.block)
    width = probe.weight.shape[1]
    if features.shape[1] != width:
        raise UserError(
            f"{str(file)!r} takes features of {width} numbers, {encoder!r} gives {features.shape[1]}.",
            f"It was fitted to {probe.encoder!r}.",
        )
    classifier = LabelledClassifier(
        classifier=(probe.weight.T, probe.bias), center=probe.center, normalize=probe.normalize
    )
    return Known(classifier=classifier, classes=probe.classes), features


def _of_head(encoder: str, checkpoint: Checkpoint, source: Source) -> tuple[Known, Array]:
    """The classifier that came with a checkpoint, on its features as they are."""
    announce(*checkpoint.notes)
    if "weight" not in checkpoint.classifier:
        raise UserError(f"{encoder!r} holds no classifier.", "Give --labels FILE or --probe PROBE instead.")
    head = Classifier(checkpoint.classifier)
    outputs, width = head.weight.shape
    if width != checkpoint.encoder.embed_dim:
        raise UserError(
            f"The classifier of {encoder!r} takes features of {width} numbers, its encoder gives "
            f"{checkpoint.encoder.embed_dim}.",
            "Give --labels FILE or --probe PROBE instead.",
        )
    features = _features(encoder, checkpoint.encoder, source, "cls")
    with torch.inference_mode():  # an affine map: its value at 0 is the bias, and its slope the weights
        bias = head(torch.zeros(1, width))[0]
        weights = head(torch.eye(width)) - bias
    classes = list(checkpoint.classes)
    if not classes:
        classes = [str(number) for number in range(outputs)]
        announce(
            f"{encoder} does not name its {outputs} classes: they are called by their numbers, 0 to {outputs - 1}."
        )
    classifier = LabelledClassifier(classifier=(weights, bias), center=False, normalize=False)
    return Known(classifier=classifier, classes=classes), features


def _summary(out: Path, prediction: Prediction, known: Known, error: float) -> Predicted:
    counts = Counter(prediction.label[prediction.readable].tolist())
    held_out: npt.NDArray[np.float64] | None = known.classifier.out_of_fold
    accuracy = low = high = None
    if held_out is not None and known.labels is not None:
        accuracy = 100 * float((held_out.argmax(1) == known.labels).mean())
        low, high = wilson(accuracy, len(known.labels))
    return Predicted(
        out=out,
        page=out.with_suffix(".html"),
        images=len(prediction),
        unreadable=int((~prediction.readable).sum()),
        sure=None if prediction.sure is None else int(prediction.sure.sum()),
        error=error,
        classes={name: counts.get(number, 0) for number, name in enumerate(prediction.classes)},
        accuracy=accuracy,
        low=low,
        high=high,
    )
