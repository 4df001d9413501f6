import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from layergraft.evaluation.knn import knn_accuracy


def test_agrees_with_scikit_learn() -> None:
    random = np.random.default_rng(0)
    train, test = (random.standard_normal((n, 16)).astype(np.float32) for n in (400, 150))
    labels, truth = (random.integers(0, 5, n) for n in (400, 150))
    train += np.eye(16, dtype=np.float32)[labels] * 2
    test += np.eye(16, dtype=np.float32)[truth] * 2
    votes = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    expected = 100 * votes.fit(train, labels).score(test, truth)
    assert abs(knn_accuracy(train, labels, test, truth) - expected) < 1e-9
    assert expected > 50
