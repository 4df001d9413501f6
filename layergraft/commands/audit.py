"""`layergraft audit`: what is wrong with a set of images, its labels, and its test images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from layergraft.data.arrays import Indices, Labels
from layergraft.data.first_look import look_at, remarks_on_files
from layergraft.data.reading import read_alike, settle, shown_channels
from layergraft.data.sources.label_file import read_labels
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.encoders.checkpoint import load_encoder
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.evaluation.auditing.alike_classes import compare_classes
from layergraft.evaluation.auditing.label_errors import find_label_errors
from layergraft.evaluation.auditing.near import likeness_threshold, near_pairs
from layergraft.evaluation.auditing.outliers import neighbour_distances, outliers
from layergraft.evaluation.auditing.pictures import Pictures, read_pictures
from layergraft.evaluation.cache import features_of
from layergraft.evaluation.cross_validation import whole_files
from layergraft.evaluation.features import Array, center_and_normalize, features_named
from layergraft.evaluation.labelled_classifier import fit_labelled
from layergraft.runs.announce import announce
from layergraft.runs.audit import AlikeClasses, Audit, LabelError, Leak, Near, Outlier, TwoLabels, write_audit
from layergraft.runs.layout import run_directory
from layergraft.runs.lock import locked
from layergraft.runs.report.page import write_report

ERROR = 0.1  # of prediction sets, which an audit makes no use of
PAIRS = 20  # of classes that are kept
Mask = npt.NDArray[np.bool_]


def audit_command(*, encoder: str, data: str, test: str | None, labels: str | None, out: Path | None) -> Audit:
    """See `layergraft.audit`."""
    found = run_directory(encoder)
    out = out or (found[0] if found else None)
    source = open_source(data)
    if not len(source):
        raise UserError(f"{data!r} has no image.")
    labelled = read_labels(labels, source) if labels else source
    tested = open_source(test) if test else None
    loaded = load_encoder(encoder)
    source = settle(source, loaded.in_chans, announce, loaded.reads, repr(encoder))
    announce(*source.remarks, *remarks_on_files(look_at(source, loaded.in_chans), source))
    if tested is not None:
        tested = read_alike(tested, source)
        announce(*tested.remarks)
    with locked(out, announce) if out is not None else nullcontext():
        audit = _audit(loaded, encoder, data, labels, source, labelled, tested)
        if out is not None:
            write_audit(out / "audit.json", audit)
            if (out / "recipe.yaml").is_file():
                write_report([out])
    print(audit)
    if out is not None:
        announce(f"All findings: {out / 'audit.json'}")
    return audit


def _audit(
    loaded: Encoder,
    encoder: str,
    data: str,
    labels: str | None,
    source: Source,
    labelled: Source,
    tested: Source | None,
) -> Audit:
    """Look at the images once for their features and once for their pixels."""
    names = [source.images.name(int(key)) for key in source.keys]
    with features_named(encoder):
        features = center_and_normalize(features_of(loaded, source, ["cls"])["cls"])
    channels = shown_channels(source, loaded.in_chans)
    pictures = read_pictures(source, channels)
    threshold = likeness_threshold(source, channels=channels)
    readable = ~np.isnan(features[:, 0])
    same_bytes = _groups(pictures.files)
    same_pixels = [rows for rows in _groups(pictures.pixels) if len({pictures.files[row] for row in rows}) > 1]
    singles = _first_of_each(pictures, readable)
    pairs, likeness = near_pairs((features[singles], pictures.small[singles]), None, threshold)
    distances = neighbour_distances(features[singles])
    usual = float(np.median(distances)) if len(distances) else 0.0
    about_labels = _labels(labelled, features, readable, names)
    return Audit(
        encoder=encoder,
        data=data,
        labels=labels,
        images=len(source),
        unreadable=[names[row] for row in np.flatnonzero(~readable)],
        same_bytes=[[names[row] for row in rows] for rows in same_bytes],
        same_pixels=[[names[row] for row in rows] for rows in same_pixels],
        near=[
            Near(first=names[singles[one]], second=names[singles[other]], likeness=round(float(value), 4))
            for (one, other), value in zip(pairs.tolist(), likeness, strict=True)
        ],
        threshold=round(threshold, 4),
        outliers=[
            Outlier(path=names[singles[row]], distance=round(float(distances[row]), 4), usual=round(usual, 4))
            for row in outliers(distances).tolist()
        ],
        labelled=about_labels.labelled,
        label_errors=about_labels.errors,
        estimated_errors=about_labels.estimated,
        agreement=about_labels.agreement,
        classes=about_labels.classes,
        leak=_leak(loaded, tested, pictures, features, singles, names, threshold) if tested is not None else None,
        two_labels=_two_labels(labelled, _groups(pictures.pixels), singles[pairs], names),
    )


def _two_labels(source: Source, copies: list[list[int]], near: Indices, names: list[str]) -> list[TwoLabels]:
    """Pairs of one picture whose labels differ: of many copies, each that differs beside one with their usual label.

    Args:
        source: with labels of some images, or none.
        copies: groups of rows with the same pixels.
        near: rows of near-duplicates, of shape (P, 2), where one row of a group stands for all.
        names: of the rows.
    """
    if source.labels is None:
        return []
    given, classes = source.labels[source.keys].tolist(), source.classes
    pairs: list[tuple[int, int]] = []
    stands_for: dict[int, int] = {}
    for rows in copies:
        usual = Counter(given[row] for row in rows if given[row] >= 0).most_common(1)
        if usual:
            first = next(row for row in rows if given[row] == usual[0][0])
            stands_for |= dict.fromkeys(rows, first)
            pairs += [(min(first, row), max(first, row)) for row in rows]
    pairs += [(stands_for.get(one, one), stands_for.get(other, other)) for one, other in near.tolist()]
    return [
        TwoLabels(first=names[one], second=names[other], label=classes[given[one]], other=classes[given[other]])
        for one, other in pairs
        if given[one] != given[other] and min(given[one], given[other]) >= 0
    ]


def _groups(digests: Sequence[bytes]) -> list[list[int]]:
    """Rows of the same digest, where there are several."""
    rows: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        if digest:
            rows.setdefault(digest, []).append(row)
    return [group for group in rows.values() if len(group) > 1]


def _first_of_each(pictures: Pictures, readable: Mask) -> Labels:
    """Rows of readable images, of those with the same pixels the first."""
    first: dict[bytes, int] = {}
    for row, digest in enumerate(pictures.pixels):
        if digest and readable[row]:
            first.setdefault(digest, row)
    return np.array(sorted(first.values()), dtype=np.int64)


def _leak(
    loaded: Encoder,
    tested: Source,
    pictures: Pictures,
    features: Array,
    singles: Labels,
    names: list[str],
    threshold: float,
) -> Leak:
    """Test images that are among the others."""
    test_features = center_and_normalize(features_of(loaded, tested, ["cls"])["cls"])
    test_pictures = read_pictures(tested, shown_channels(tested, loaded.in_chans))
    test_names = [tested.images.name(int(key)) for key in tested.keys]
    row_of = {digest: row for row, digest in enumerate(pictures.pixels) if digest}
    exact = [(row, row_of[digest]) for row, digest in enumerate(test_pictures.pixels) if digest in row_of]
    others = np.setdiff1d(np.flatnonzero(~np.isnan(test_features[:, 0])), [row for row, _ in exact])
    pairs, likeness = near_pairs(
        (test_features[others], test_pictures.small[others]), (features[singles], pictures.small[singles]), threshold
    )
    near: dict[int, Near] = {}
    for (one, other), value in zip(pairs.tolist(), likeness, strict=True):
        row = int(others[one])
        near.setdefault(
            row,
            Near(first=test_names[row], second=names[int(singles[other])], likeness=round(float(value), 4)),
        )
    return Leak(
        test=tested.spec,
        images=len(tested),
        exact=[(test_names[row], names[other]) for row, other in exact],
        near=list(near.values()),
    )


@dataclass(frozen=True, kw_only=True)
class _AboutLabels:
    """What is said about labels; see `Audit`."""

    labelled: int = 0
    errors: list[LabelError] = field(default_factory=list)
    estimated: float | None = None
    agreement: float | None = None
    classes: list[AlikeClasses] = field(default_factory=list)


def _labels(source: Source, features: Array, readable: Mask, names: list[str]) -> _AboutLabels:
    """Compare labels with what a classifier says that was fitted to the others."""
    if source.labels is None:
        return _AboutLabels()
    given = source.labels[source.keys].astype(np.int64)
    labelled = int((given >= 0).sum())
    counts = np.bincount(given[(given >= 0) & readable], minlength=len(source.classes))
    rows = np.flatnonzero((given >= 0) & readable & (counts[np.maximum(given, 0)] > 1))
    present, ids = np.unique(given[rows], return_inverse=True)
    if len(present) < 2:
        announce("Nothing is said about labels: two classes with two images each are needed.")
        return _AboutLabels(labelled=labelled)
    ids = ids.astype(np.int64)
    files = whole_files(source.subset(source.keys[rows]))
    probabilities = fit_labelled(features[rows], ids, len(present), ERROR, files).out_of_fold
    assert probabilities is not None
    class_names = [source.classes[number] for number in present]
    found = find_label_errors(probabilities, ids)
    return _AboutLabels(
        labelled=labelled,
        errors=[
            LabelError(
                path=names[rows[row]],
                label=class_names[ids[row]],
                suggested=class_names[found.suggested[row]],
                probability=round(float(probabilities[row, ids[row]]), 4),
            )
            for row in found.order.tolist()
            if found.flagged[row]
        ],
        estimated=round(found.estimated, 1),
        agreement=round(100 * float((probabilities.argmax(1) == ids).mean()), 1),
        classes=[
            AlikeClasses(
                first=class_names[pair.first],
                second=class_names[pair.second],
                accuracy=round(pair.accuracy, 1),
                chance=round(pair.chance, 1),
                images=pair.images,
                alike=pair.alike,
            )
            for pair in compare_classes(probabilities, ids)[:PAIRS]
        ],
    )
