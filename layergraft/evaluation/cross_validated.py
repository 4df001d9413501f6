"""Accuracy without a test set: the labelled images of a source are classified by one another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from layergraft.config.recipe import VARIANTS, EvaluateConfig
from layergraft.data.arrays import Labels
from layergraft.data.sources.source import Source
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.evaluation.cache import features_of
from layergraft.evaluation.cross_validation import repeated_folds, whole_files
from layergraft.evaluation.examples import examples_of
from layergraft.evaluation.features import (
    Array,
    center_and_normalize,
    features_named,
    in_range,
    pixel_side,
    pixels,
)
from layergraft.evaluation.few_shot import FEW_SHOT, exact, predict
from layergraft.evaluation.frozen import Keep
from layergraft.evaluation.knn import knn_votes
from layergraft.evaluation.selection import Fold, strength_on_folds
from layergraft.evaluation.single_images import single_images, strength_without_labels
from layergraft.runs.announce import announce
from layergraft.runs.examples import write_examples
from layergraft.runs.interruption import check
from layergraft.runs.readable import counted
from layergraft.runs.results import CROSS_VALIDATION, ResultRow, features_called, summarize


def check_cross_validation(labelled: Source, config: EvaluateConfig) -> None:
    """Refuse what cross-validation cannot do, before an image is read.

    Raises:
        UserError: masks are needed, something is to be chosen on held-out images, or there are too few labels.
    """
    if "segment" in config.protocols:
        raise UserError(
            "segment learns masks, and a file of labels has classes of whole images.",
            "Leave --labels out, and give images with masks.",
        )
    several = "knn" in config.protocols and len(config.k) * len(config.temperature) > 1
    if config.keep is not None:
        raise UserError("--keep is not cross-validated.", "Give images with --test.")
    if several or "auto" in config.pooling or "holdout" in config.variant:
        raise UserError(
            "Something is to be chosen on held-out images, and cross-validation holds none out.",
            "Take the variant published, cv or label_free, one k and one pooling; or give images with --test.",
        )
    present = len(np.unique(labelled.selected_labels))
    if present < 2:
        raise UserError(
            f"{labelled.spec!r} has {counted(len(labelled), 'label')} of {counted(present, 'class')}.",
            "Label images of two classes at least.",
        )


def readable_part(labelled: Source, encoder: Encoder) -> Source:
    """The labelled images that can be read: no fold could train on the others, and all would count them as errors."""
    return _readable(labelled, pixels(labelled, encoder.img_size, encoder.in_chans, side=8))


def _readable(labelled: Source, floor: Array) -> Source:
    """Those whose pixels `floor` (N, D) are not NaN."""
    readable = ~np.isnan(floor[:, 0])
    if readable.all():
        return labelled
    announce(f"Unreadable and left out: {counted(int((~readable).sum()), 'image')} of {labelled.spec}")
    return labelled.subset(labelled.keys[readable])


def cross_validate(
    labelled: Source,
    config: EvaluateConfig,
    encoders: Mapping[str, Encoder],
    out: Path | None = None,
    keep: Keep | None = None,
) -> list[ResultRow]:
    """Measure the pixels at the size of the first encoder, then every encoder.

    Args:
        labelled: images that all have a label.
        config: protocols, of which those on frozen features are measured, and poolings; `splits` is how often the folds
            are dealt.
        encoders: `encoder` of the rows -> encoder.
        out: directory of the results, where `examples.json` goes; None keeps none.
        keep: called with rows as soon as they are there, so that a signal costs none.

    Returns:
        The rows of results.json, one for each time that the folds are dealt, and their mean and deviation.
    """
    first = next(iter(encoders.values()))
    side = pixel_side(first.img_size, first.in_chans, len(labelled))
    floor = pixels(labelled, first.img_size, first.in_chans, side)
    if len(of_readable := _readable(labelled, floor)) < len(labelled):
        labelled, floor = of_readable, floor[~np.isnan(floor[:, 0])]
        check_cross_validation(labelled, config)
    views = _views(labelled, config, first)
    of_views = None if views is None else (views, pixels(views, first.img_size, first.in_chans, side))
    rows = _measure(labelled, config, "pixels", None, floor, of_views, keep, None)
    for name, encoder in encoders.items():
        views = _views(labelled, config, encoder)
        with features_named(name):
            features = features_of(encoder, labelled, config.pooling, config.block)
            viewed = {} if views is None else features_of(encoder, views, config.pooling, config.block)
        for pooling in config.pooling:
            examples = partial(_keep_examples, labelled, encoder.in_chans, out) if out is not None else None
            called = features_called(pooling, config.block)
            of_views = None if views is None else (views, viewed[pooling])
            rows += _measure(labelled, config, name, called, features[pooling], of_views, keep, examples)
    return rows


def _views(labelled: Source, config: EvaluateConfig, encoder: Encoder) -> Source | None:
    """Views of single images at an encoder's size, where a penalty is chosen by them."""
    classes = len(np.unique(labelled.selected_labels))
    return single_images(labelled, encoder.img_size, encoder.reads, classes, 0) if config.takes_views else None


def _keep_examples(labelled: Source, channels: int, out: Path, row: ResultRow, predicted: Labels) -> None:
    """Keep what the labelled images were taken for, `predicted` (N,) among the classes that have labels."""
    present, truth = np.unique(labelled.selected_labels, return_inverse=True)
    classes = [labelled.classes[index] for index in present]
    kept = examples_of(row, labelled, classes, truth.astype(np.int64), predicted, channels)
    write_examples(out / "examples.json", kept)


def _measure(
    labelled: Source,
    config: EvaluateConfig,
    encoder: str,
    pooling: str | None,
    features: Array,
    of_views: tuple[Source, Array] | None,
    keep: Keep | None,
    keep_examples: Callable[[ResultRow, Labels], None] | None,
) -> list[ResultRow]:
    """All protocols on one set of features of shape (N, D); examples are of the first that fits a classifier.

    A penalty that is chosen by views of single images is that of features (M, D) of all images, without their labels.
    """
    present, labels = np.unique(labelled.selected_labels, return_inverse=True)
    labels, classes = labels.astype(np.int64), len(present)
    dealt = repeated_folds(labels, config.splits, whole_files(labelled))
    how = {"folds": len(dealt[0]), "dealt": len(dealt)}
    raw = torch.from_numpy(in_range(features))
    prepared = exact(torch.from_numpy(center_and_normalize(features)))
    shown = next((name for name in config.frozen_protocols if name in FEW_SHOT), config.frozen_protocols[0])
    rows: list[ResultRow] = []
    for protocol in dict.fromkeys(config.frozen_protocols):
        for variant in _variants(config, protocol):
            part, strength, chosen = [], None, how
            if variant == "label_free":
                assert of_views is not None
                viewed = exact(torch.from_numpy(center_and_normalize(of_views[1])))
                shots = max(1, round(len(dealt[0][0][0]) / classes))
                strength, by = strength_without_labels(FEW_SHOT[protocol], of_views[0], viewed, shots)
                chosen = how | by
            for number, folds in enumerate(dealt):
                check()
                began = time.perf_counter()
                predicted = (
                    _by_neighbours(raw, labels, classes, folds, config)
                    if protocol == "knn"
                    else _by_classifier(protocol, variant, strength, prepared, labels, classes, folds)
                )
                part.append(
                    ResultRow(
                        encoder=encoder,
                        source=labelled.spec,
                        test=CROSS_VALIDATION,
                        protocol=protocol,
                        variant=variant,
                        shots="100%",
                        split=str(number),
                        pooling=pooling,
                        metric="top1",
                        value=100 * float((predicted == labels).mean()),
                        n_train=len(folds[0][0]),
                        n_test=len(labels),
                        chosen=chosen,
                        seconds=time.perf_counter() - began,
                        seed=0,
                    ).with_interval()
                )
                if keep_examples is not None and number == 0 and protocol == shown:
                    keep_examples(part[0], predicted)
                    keep_examples = None
            part += summarize(part)
            rows += part
            if keep is not None:
                keep(part)
    return rows


def _variants(config: EvaluateConfig, protocol: str) -> Sequence[str | None]:
    """Those that were asked for, else the first that needs no held-out images."""
    if protocol not in VARIANTS:
        return (None,)
    possible = [variant for variant in VARIANTS[protocol] if variant != "holdout"]
    return [variant for variant in config.variant if variant in possible] or possible[:1]


def _by_classifier(
    protocol: str,
    variant: str | None,
    strength: float | None,
    features: Tensor,
    labels: Labels,
    classes: int,
    folds: Sequence[Fold],
) -> Labels:
    """Class of each row by a linear classifier that was fitted to the other folds, of shape (N,)."""
    fitting, targets = FEW_SHOT[protocol], torch.from_numpy(labels)
    predicted = np.empty(len(labels), dtype=np.int64)
    for fitted, tested in folds:
        check()
        rows = features[fitted]
        penalty = fitting.fixed if strength is None else strength
        if variant == "cv":
            penalty = strength_on_folds(fitting, rows, labels[fitted], classes)[0]
        classifier = fitting.fit_path(rows, targets[fitted], classes, [penalty])
        predicted[tested] = predict(classifier, features[tested])[0].numpy()
    return predicted


def _by_neighbours(
    features: Tensor, labels: Labels, classes: int, folds: Sequence[Fold], config: EvaluateConfig
) -> Labels:
    """Class of each row by votes of the other folds, of shape (N,)."""
    k, temperature = config.k[0], config.temperature[0]
    predicted = np.empty(len(labels), dtype=np.int64)
    for fitted, tested in folds:
        targets = torch.from_numpy(labels[fitted])
        votes = knn_votes(features[fitted], targets, features[tested], [k], [temperature], classes)
        predicted[tested] = votes[k, temperature].argmax(1).numpy()
    return predicted
