"""Ridge and prototypes against scikit-learn; what is chosen, and on what."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import assert_close
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid

from layergraft.analysis.layer_probe import ridge_scores
from layergraft.data.sources.open import open_source
from layergraft.errors import UserError
from layergraft.evaluation import few_shot, logistic, prototype, ridge
from layergraft.evaluation.few_shot import FEW_SHOT, predict
from layergraft.evaluation.knn import knn_accuracy, knn_votes
from layergraft.evaluation.selection import (
    holdout_tasks,
    ridge_accuracy,
    scores,
    shot_folds,
    strongest_of_the_best,
)


def _rows(n: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, width, generator=generator, dtype=torch.float64), torch.arange(n) % 4


@pytest.mark.parametrize(("n", "width"), [(200, 16), (24, 60)])
def test_ridge_path_is_scikit_learns(n: int, width: int) -> None:
    x, y = _rows(n, width)
    strengths = (100.0, 1.0, 0.01)
    for strength, (weights, bias) in zip(strengths, ridge.fit_path(x, y, 4, strengths), strict=True):
        model = Ridge(alpha=strength).fit(x.numpy(), np.eye(4)[y.numpy()])
        assert_close(weights, torch.from_numpy(model.coef_.T), 1e-9)
        assert_close(bias, torch.from_numpy(model.intercept_), 1e-9)


def test_prototypes_are_scikit_learns_nearest_centroid() -> None:
    x, y = _rows(80, 12)
    queries = torch.randn(500, 12, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    expected = NearestCentroid().fit(x.numpy(), y.numpy()).predict(queries.numpy())
    (found,) = predict([prototype.fit(x, y, 4)], queries)
    assert (found.numpy() == expected).all()


def test_folds_are_stratified_and_one_shot_leaves_none() -> None:
    labels = np.repeat(np.arange(3), 7)
    folds = shot_folds(labels, 3)
    assert len(folds) == 5
    assert sorted(np.concatenate([tested for _, tested in folds])) == list(range(21))
    for fitted, tested in folds:
        assert not np.intersect1d(fitted, tested).size
        assert set(np.bincount(labels[tested], minlength=3)) <= {1, 2}
    assert len(shot_folds(np.repeat(np.arange(3), 3), 3)) == 3
    assert shot_folds(np.arange(3), 3) == []


def test_strongest_of_equally_good_penalties() -> None:
    """Classes at the ends of orthogonal axes are told apart at any penalty."""
    x, y = torch.eye(3, dtype=torch.float64).repeat(4, 1), np.tile(np.arange(3), 4)
    protocol = FEW_SHOT["logistic"]
    found = scores(protocol, protocol.cv_strengths, x, y, 3, shot_folds(y, 3))
    assert found.min() == 100
    assert strongest_of_the_best(protocol.cv_strengths, found) == 2.5
    assert protocol.cv_strengths == tuple(sorted(protocol.cv_strengths, reverse=True))


def test_tasks_of_held_out_images() -> None:
    holdout = open_source("builtin:fashion-canvas?shots=6")
    shots, tasks = holdout_tasks(holdout, 50)
    assert shots == 3
    for fitted, tested in tasks:
        assert len(fitted) == 30
        assert sorted([*fitted, *tested]) == list(range(60))
    assert len({tuple(fitted) for fitted, _ in tasks}) == len(tasks)
    with pytest.raises(UserError, match="10 classes have fewer than two"):
        holdout_tasks(open_source("builtin:fashion-canvas?shots=1"), 1)


def test_ridge_while_training() -> None:
    """Against scikit-learn with the same folds and penalties."""
    x, y = _rows(200, 16)
    x[torch.arange(200), y] += 1.5
    rows, queries, labels = x[:120], x[120:], y.numpy()
    prepared = [part - part.mean(1, keepdim=True) for part in (rows, queries)]
    a, b = (part / part.norm(dim=1, keepdim=True) for part in prepared)
    targets = np.eye(4)[labels[:120]]
    hits = {}
    for strength in FEW_SHOT["ridge"].strengths:
        hits[strength] = sum(
            (Ridge(alpha=strength).fit(a[f].numpy(), targets[f]).predict(a[t].numpy()).argmax(1) == labels[t]).sum()
            for f, t in shot_folds(labels[:120], 4)
        )
    best = max(s for s, n in hits.items() if n == max(hits.values()))
    model = Ridge(alpha=best).fit(a.numpy(), targets)
    expected = 100 * (model.predict(b.numpy()).argmax(1) == labels[120:]).mean()
    found = ridge_accuracy(rows.float().numpy(), labels[:120], queries.float().numpy(), labels[120:], 4)
    assert found == pytest.approx(expected)
    assert 50 < found < 100


def test_several_classifiers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of rows that do not divide them, as each would by itself."""
    monkeypatch.setattr(few_shot, "_LOGITS", 100)
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(53, 12, generator=generator, dtype=torch.float64)
    fits = [
        (torch.randn(12, 4, generator=generator, dtype=torch.float64), torch.randn(4, generator=generator).double())
        for _ in range(3)
    ]
    found = predict(fits, queries)
    assert found.shape == (3, 53)
    for own, (weights, bias) in zip(found, fits, strict=True):
        assert (own == (queries @ weights + bias).argmax(1)).all()


ROWS = 60
SETTINGS = [(4, 7), (4, 80), (30, 7)]  # classes, features: both preconditioners, more rows than features and fewer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("classes", "width"), SETTINGS)
@pytest.mark.parametrize("value", [0.0, 1.0, 1e-8])
def test_features_that_are_all_alike_predict_the_largest_class(
    value: float, classes: int, width: int, dtype: torch.dtype
) -> None:
    """A collapsed encoder says nothing: not a crash, and not a class by rounding errors."""
    labels = torch.arange(ROWS) % classes
    labels[: ROWS // 4] = 2
    row = value * torch.randn(width, generator=torch.Generator().manual_seed(0), dtype=dtype)
    rows, queries = row.repeat(ROWS, 1), row.repeat(3, 1)
    for name, protocol in FEW_SHOT.items():
        fits = protocol.fit_path(rows, labels, classes, protocol.strengths)
        assert len(fits) == len(protocol.strengths)
        assert (predict(fits, queries) == 2).all(), name
    votes = knn_votes(rows, labels, queries, [5], [0.07], classes)[5, 0.07]
    assert (votes.argmax(1) == 2).all()
    assert logistic.fit(rows, labels, classes, 0.1).isfinite().all()
    scores, _ = ridge_scores(rows.double(), labels, queries.double(), classes)
    assert (scores.argmax(1) == 2).all()
    nearly = rows + 1e-7 * value * torch.randn(rows.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    for name, protocol in FEW_SHOT.items():
        fits = protocol.fit_path(nearly, labels, classes, protocol.strengths)
        assert all(weights.isfinite().all() and bias.isfinite().all() for weights, bias in fits), name


@pytest.mark.parametrize("scale", [1e15, 1e25, 1e35])
def test_large_features_give_what_small_ones_do(scale: float) -> None:
    """Squares of numbers above 1e19 overflow float32: every row became zero."""
    random = np.random.default_rng(0)
    labels = np.arange(200) % 4
    rows = (random.standard_normal((200, 16)) + 2 * np.eye(16)[labels]).astype(np.float32)
    large = (rows * np.float32(scale)).astype(np.float32)
    small = rows[:100], labels[:100], rows[100:], labels[100:]
    huge = large[:100], labels[:100], large[100:], labels[100:]
    assert knn_accuracy(*huge) == knn_accuracy(*small) > 50
    assert ridge_accuracy(*huge, 4) == ridge_accuracy(*small, 4) > 50


def test_nearly_singular_rows_are_fitted() -> None:
    """In float32 a matrix of rank 2 need not have a Cholesky factor."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(500, 2, generator=generator) @ torch.randn(2, 64, generator=generator) * 1e3
    labels = (rows[:, 0] > 0).long() + 2 * (rows[:, 1] > 0).long()
    weights = logistic.fit(rows, labels, 4, 1e-6)
    assert weights.isfinite().all()
    assert float((logistic.predict(weights, rows) == labels).double().mean()) > 0.95
