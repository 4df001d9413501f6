"""Which layer holds the classes? Nearest neighbours and ridge regression on each layer's feature."""

from __future__ import annotations

import torch
from torch import Tensor

from layergraft.analysis.charts import by_layer
from layergraft.analysis.subject import NotApplicable, Subject, layer_features, layer_names
from layergraft.data.sources.source import Source
from layergraft.evaluation.knn import knn_accuracy
from layergraft.runs.figure import ChartRows
from layergraft.runs.findings import Findings

BANK, QUERIES = 4000, 1000
STRENGTHS = tuple(10.0**e for e in range(-6, 2))


def ridge_scores(train: Tensor, labels: Tensor, test: Tensor, classes: int) -> tuple[Tensor, float]:
    """Class scores of a ridge classifier whose strength is chosen by leave-one-out on the training images.

    Least squares to +1 and -1 with an intercept on centred features; all strengths come from one decomposition.

    Args:
        train: of shape (N, D), float64.
        labels: of shape (N,).
        test: of shape (M, D).
        classes: how many there are.

    Returns:
        (scores of shape (M, classes), the chosen strength, relative to the mean eigenvalue).
    """
    target = 2.0 * torch.nn.functional.one_hot(labels, classes).double() - 1
    middle, offset = train.mean(0), target.mean(0)
    x, y = train - middle, target - offset
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    unit = s.square().mean().clamp(min=1e-30)  # constant features: the scores are those of the classes' shares
    best, chosen = -1.0, (torch.zeros(0), 0.0)
    for strength in STRENGTHS:
        shrink = s.square() / (s.square() + strength * unit)
        leverage = (u.square() * shrink).sum(1) + 1 / len(x)  # the intercept uses 1/n of each image
        fitted = (u * shrink) @ (u.T @ y)
        left_out = y - (y - fitted) / (1 - leverage.clamp(max=1 - 1e-9))[:, None] + offset
        accuracy = float((left_out.argmax(1) == labels).double().mean())
        if accuracy > best:
            weights = vh.T @ ((shrink / s.clamp(min=1e-30))[:, None] * (u.T @ y))
            best, chosen = accuracy, ((test - middle) @ weights + offset, strength)
    return chosen


def layer_probe(subject: Subject) -> Findings:
    """Accuracy of both by layer; neighbours and training images come from the bank, the queries trained nothing."""
    if subject.bank.labels is None:
        raise NotApplicable("it needs images with labels")
    subject.check_queries()
    bank, queries = subject.sample(BANK, subject.bank), subject.sample(QUERIES, subject.queries)
    classes = len(bank.classes)

    def labels(source: Source) -> Tensor:
        return torch.from_numpy(source.selected_labels)

    data: ChartRows = []
    for name, encoder in subject.encoders.items():
        for layer, train, test in zip(
            layer_names(encoder), layer_features(encoder, bank), layer_features(encoder, queries), strict=True
        ):
            pair = [part.float().numpy() for part in (train, test)]
            knn = knn_accuracy(pair[0], bank.selected_labels, pair[1], queries.selected_labels)
            scores, _ = ridge_scores(train, labels(bank), test, classes)
            ridge = 100 * float((scores.argmax(1) == labels(queries)).double().mean())
            data += [
                {"encoder": name, "layer": layer, "probe": probe, "top1": value}
                for probe, value in (("kNN", knn), ("ridge", ridge))
            ]
    figure = by_layer(
        "layer-probe",
        "Which layer holds the classes?",
        "Top-1 accuracy of two probes on the feature of each layer; the class token knows nothing at embed.",
        data,
        "top1",
        color="probe",
        label="top-1 (%)",
        shown=".1f",
    )
    note = (
        f"{len(bank)} labelled images, {len(queries)} others are classified; feature after the final norm; kNN: k = "
        "20; ridge: strength by leave-one-out on the labelled images. Not a test result: no test image is used."
    )
    return Findings(numbers={"layers": data}, figures=[figure], notes=[note], compares=True)
