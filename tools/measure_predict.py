"""What the probabilities of `layergraft predict` are worth, and what it takes beside `embed`: the table of the docs.

    python tools/measure_predict.py ENC [--draws 20] [--source builtin:fashion-canvas:test] [--times 3] [--picked 2000]

Labels are drawn at random, 30 and 100 of all images; the others are the test. Rows: how often the class is right; the
expected calibration error (15 bins) of `predict`, and of classifiers that nobody calibrates: the same without its
temperature, protocol `logistic` with the penalty that folds over the labels get most right with, and as published; and
with the penalty of the least cross-entropy over folds, which weakens the classifier until it is as sure as it is right;
how many sets at 90 % hold the right class, over the draws.
A test image of a class that no label names counts as an error of both. With `--picked N` the labels are those of
`pick`'s default from N images drawn at random, and its other images are the test.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from layergraft.data.randomness import Randomness
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.encoders.checkpoint import load_encoder
from layergraft.evaluation.cache import features_of
from layergraft.evaluation.calibration import calibration_error, cross_entropies
from layergraft.evaluation.conformal import sets
from layergraft.evaluation.cross_validation import deal_folds, out_of_fold
from layergraft.evaluation.features import Array, center_and_normalize
from layergraft.evaluation.few_shot import FEW_SHOT, exact
from layergraft.evaluation.labelled_classifier import FOLDS, LabelledClassifier, fit_labelled
from layergraft.evaluation.picking.methods import pick_rows
from layergraft.evaluation.selection import strongest_of_the_best

ERROR = 0.1
NUMBERS = (30, 100)
UNCALIBRATED = ("ece_same_classifier", "ece_cv", "ece_published")
SHRUNK = "ece_cross_entropy"  # calibrated by its penalty, as far as that goes: not one of those that nobody calibrates
MEASURED = ("accuracy", "ece", *UNCALIBRATED, SHRUNK, "coverage", "set_size", "sure", "accuracy_sure")


def one_draw(features: Array, truth: np.ndarray, number: int, seed: int, picked: int = 0) -> dict[str, float]:
    """Label `number` images, at random or as they are picked from `picked` ones, and measure on the others."""
    order = Randomness(seed=seed, scope="measure predict").permutation("draw", np.arange(len(truth)), 0)
    if picked:
        order = order[:picked]
        first = pick_rows(center_and_normalize(features[order]), number)
        order = np.concatenate([order[first], np.delete(order, first)])
    rows, rest = order[:number], order[number:]
    present, labels = np.unique(truth[rows], return_inverse=True)
    labels = labels.astype(np.int64)
    fitted = fit_labelled(features[rows], labels, len(present), ERROR)
    uncalibrated = (replace(fitted, temperature=1.0), *_uncalibrated(features[rows], labels, len(present)))
    right = np.searchsorted(present, truth[rest]).clip(0, len(present) - 1)
    right[present[right] != truth[rest]] = -1
    known = fitted.probabilities(features[rest])
    correct = known.argmax(1) == right
    held = sets(known, fitted.threshold or 0.0)
    sure = held.sum(1) == 1
    covered = held[np.arange(len(right)), right] & (right >= 0)
    errors = {}
    for name, one in zip((*UNCALIBRATED, SHRUNK), uncalibrated, strict=True):
        others = one.probabilities(features[rest])
        errors[name] = calibration_error(others.max(1), others.argmax(1) == right)
    return errors | {
        "accuracy": float(correct.mean()),
        "ece": calibration_error(known.max(1), correct),
        "coverage": float(covered.mean()),
        "set_size": float(held.sum(1).mean()),
        "sure": float(sure.mean()),
        "accuracy_sure": float(correct[sure].mean()) if sure.any() else float("nan"),
    }


def _uncalibrated(features: Array, labels: np.ndarray, classes: int) -> list[LabelledClassifier]:
    """Protocol `logistic` with a penalty chosen by accuracy, that of the literature, and one by cross-entropy."""
    logistic = FEW_SHOT["logistic"]
    rows = exact(torch.from_numpy(center_and_normalize(features)))
    logits = out_of_fold(logistic, rows, labels, classes, deal_folds(labels, FOLDS, 0), logistic.cv_strengths)
    strengths = (strength_by_hits(logits, labels), logistic.fixed, strength_by_cross_entropy(logits, labels))
    fitted = [logistic.fit_path(rows, torch.from_numpy(labels), classes, [s])[0] for s in strengths]
    return [LabelledClassifier(classifier=one) for one in fitted]


def strength_by_hits(logits: torch.Tensor, labels: np.ndarray) -> float:
    """The penalty with which ten folds over the labels get most right; of equally good ones the strongest."""
    right = (logits.argmax(2) == torch.from_numpy(labels)).double().mean(1)
    return strongest_of_the_best(FEW_SHOT["logistic"].cv_strengths, right.numpy())


def strength_by_cross_entropy(logits: torch.Tensor, labels: np.ndarray) -> float:
    """The penalty with the least cross-entropy over ten folds, of rows whose class the others have."""
    y = torch.from_numpy(labels)
    foreseen = torch.from_numpy(np.bincount(labels)[labels] > 1)
    if not foreseen.any():
        return FEW_SHOT["logistic"].fixed
    losses = [float(cross_entropies(one[foreseen].double(), y[foreseen], 1.0).mean()) for one in logits]
    return FEW_SHOT["logistic"].cv_strengths[int(np.argmin(losses))]


def measure(encoder: str, source: Source, draws: int, picked: int = 0) -> dict[int, list[dict[str, float]]]:
    """All draws of each number of labels."""
    features = features_of(load_encoder(encoder), source, ["cls"])["cls"]
    truth = source.selected_labels
    return {number: [one_draw(features, truth, number, seed, picked) for seed in range(draws)] for number in NUMBERS}


def cpu_seconds(words: list[str], cache: str) -> float:
    """What a command takes of the processor, which other work on the machine changes little; features are not kept."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"LAYERGRAFT_CACHE": cache}
    command = [sys.executable, "-m", "layergraft", *words]
    subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)  # noqa: S603 - of our own words
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare_times(encoder: str, spec: str, times: int) -> list[tuple[float, float]]:
    """Seconds of `embed` and of `predict` with 100 labels, in turn, each with an empty cache."""
    source = open_source(spec)
    rows = Randomness(seed=0, scope="measure predict").permutation("draw", np.arange(len(source)), 0)[:100]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        labels = Path(folder) / "labels.csv"
        with open(labels, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "label"))
            for row in rows:
                name, label = source.images.name(int(source.keys[row])), source.classes[source.selected_labels[row]]
                writer.writerow((name, label))
        shared = ["--encoder", encoder, "--data", spec]
        embed = ["embed", *shared, "--out", f"{folder}/e.parquet"]
        predict = ["predict", *shared, "--labels", str(labels), "--out", f"{folder}/p.csv"]
        for number in range(times):
            pair = [cpu_seconds(words, f"{folder}/{number}-{words[0]}") for words in (embed, predict)]
            found.append((pair[0], pair[1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--source", default="builtin:fashion-canvas:test")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--picked", type=int, default=0, metavar="N", help="pick from N images; 0 draws the labels")
    arguments = parser.parse_args()
    found = measure(arguments.encoder, open_source(arguments.source), arguments.draws, arguments.picked)
    print("| labels | " + " | ".join(MEASURED) + " |")
    print("|---" * (len(MEASURED) + 1) + "|")
    for number, draws in found.items():
        cells = []
        for name in MEASURED:
            values = np.array([draw[name] for draw in draws])
            cells.append(f"{np.nanmean(values):.3f} ± {np.nanstd(values, ddof=1):.3f}")
        print(f"| {number} | " + " | ".join(cells) + " |")
    times = compare_times(arguments.encoder, arguments.source, arguments.times) if arguments.times else []
    for embed, predict in times:
        print(f"embed {embed:.2f} s, predict {predict:.2f} s of the processor: {predict / embed:.3f}")


if __name__ == "__main__":
    main()
