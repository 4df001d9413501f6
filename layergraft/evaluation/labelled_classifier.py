"""The classifier of a few labelled rows, whose probabilities are calibrated on those same rows, out of fold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layergraft.data.arrays import Labels
from layergraft.evaluation.calibration import USUAL, cross_entropies, fit_temperature
from layergraft.evaluation.conformal import Probabilities, set_threshold
from layergraft.evaluation.cross_validation import deal_folds, out_of_fold
from layergraft.evaluation.features import Array, center_and_normalize
from layergraft.evaluation.few_shot import FEW_SHOT, LinearClassifier, exact

FOLDS = 10
STRENGTH = 2.5e-3
"""lambda * n of the penalty unless the labels speak for another: chosen, as the next, where `calibration.USUAL` was."""
_CERTAIN = 2  # standard errors that another penalty must be better by
_ROWS = 2**14  # that are classified at once


@dataclass(frozen=True, kw_only=True)
class LabelledClassifier:
    """A linear classifier on prepared features, and what is known about its errors.

    Args:
        classifier: (weights of shape (D, C), bias of shape (C,)).
        temperature: the logits are divided by it.
        threshold: probability from which on a class belongs to the set of a row; None where nothing is known.
        center: whether each feature's own mean is subtracted from it first.
        normalize: whether it is L2-normalised then.
        strength: lambda * n of the classifier; None where it came with its weights.
        out_of_fold: probabilities of the labelled rows, of shape (n, C); None where there are none.
    """

    classifier: LinearClassifier
    temperature: float = 1.0
    threshold: float | None = None
    center: bool = True
    normalize: bool = True
    strength: float | None = None
    out_of_fold: Probabilities | None = None

    def probabilities(self, features: Array) -> Probabilities:
        """Of every class for each row, (N, D) -> (N, C)."""
        weights, bias = (part.double().cpu() for part in self.classifier)
        parts = []
        for start in range(0, len(features), _ROWS):
            rows = torch.from_numpy(self.prepared(features[start : start + _ROWS])).double()
            parts.append(torch.softmax((rows @ weights + bias) / self.temperature, dim=1).numpy())
        return np.concatenate(parts) if parts else np.empty((0, len(bias)))

    def prepared(self, features: Array) -> Array:
        """Features as the classifier takes them."""
        if self.center and self.normalize:
            return center_and_normalize(features)
        if self.center:
            features = features - features.mean(axis=1, keepdims=True)
        if self.normalize:
            features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        return features


def fit_labelled(
    features: Array, labels: Labels, classes: int, error: float, files: Labels | None = None
) -> LabelledClassifier:
    """Fit logistic regression to labelled rows; penalty, temperature and sets come from out-of-fold predictions.

    Thirty labels choose a penalty by chance, and worse than none: so it is `STRENGTH` unless another one's out-of-fold
    cross-entropy, each at its own temperature, is lower by two standard errors of the difference. A row that is alone
    in its class cannot be foreseen by the others, so it does not count for that.

    Args:
        features: of shape (n, D), as an encoder gives them.
        labels: of shape (n,), below `classes`, all of which occur.
        classes: number of classes.
        error: share of the sets that may miss the right class.
        files: which file each row was cut from, where folds are not to part one (`cross_validation.whole_files`).
    """
    protocol = FEW_SHOT["logistic"]
    x, y = exact(torch.from_numpy(center_and_normalize(features))), torch.from_numpy(labels)
    foreseen = torch.from_numpy(np.bincount(labels, minlength=classes)[labels] > 1)
    if not foreseen.any():
        fitted = protocol.fit_path(x, y, classes, [STRENGTH])[0]
        return LabelledClassifier(classifier=fitted, temperature=USUAL, strength=STRENGTH)
    strengths = [strength for strength in protocol.cv_strengths if strength >= protocol.fixed]
    logits = out_of_fold(protocol, x, labels, classes, deal_folds(labels, FOLDS, 0, files), strengths).double()
    temperatures = [fit_temperature(one[foreseen], y[foreseen]) for one in logits]
    pairs = zip(logits, temperatures, strict=True)
    losses = torch.stack([cross_entropies(one[foreseen], y[foreseen], temperature) for one, temperature in pairs])
    chosen = _choose(losses, strengths.index(STRENGTH))
    held_out = torch.softmax(logits[chosen] / temperatures[chosen], dim=1)
    right = held_out.gather(1, y[:, None])[:, 0]
    return LabelledClassifier(
        classifier=protocol.fit_path(x, y, classes, [strengths[chosen]])[0],
        temperature=temperatures[chosen],
        threshold=set_threshold(right.numpy(), error),
        strength=strengths[chosen],
        out_of_fold=held_out.numpy(),
    )


def _choose(losses: Tensor, usual: int) -> int:
    """The number of the penalty to take.

    Args:
        losses: out-of-fold cross-entropy of each row for each penalty, of shape (S, n).
        usual: number of the penalty that is taken unless another one is certainly better.
    """
    best = int(losses.mean(1).argmin())
    gain = losses[usual] - losses[best]
    if len(gain) < 2 or float(gain.mean()) <= _CERTAIN * float(gain.std()) / len(gain) ** 0.5:
        return usual
    return best


def nearest_labelled(queries: Array, labelled: Array, never: Labels) -> Labels:
    """The labelled row nearest to each query by cosine similarity, of shape (N,).

    Args:
        queries: features of shape (N, D).
        labelled: features of shape (n, D).
        never: a labelled row that each query must not be given, itself; -1 where there is none.
    """
    bank = _directions(labelled)
    nearest = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), _ROWS):
        part = slice(start, start + _ROWS)
        similarity = _directions(queries[part]) @ bank.T
        labelled_queries = np.flatnonzero(never[part] >= 0)
        similarity[torch.from_numpy(labelled_queries), torch.from_numpy(never[part][labelled_queries])] = -2.0
        nearest[part] = similarity.argmax(1).numpy()
    return nearest


def _directions(features: Array) -> Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(features).double(), dim=1)
