from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from layergraft.config import EncoderConfig
from layergraft.data.sources.open import open_source
from layergraft.encoders.checkpoint import load_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.evaluation.features import extract, pixels
from layergraft.evaluation.knn import knn_accuracy, knn_votes


def _expected(train: np.ndarray, labels: np.ndarray, test: np.ndarray, k: int, temperature: float) -> np.ndarray:
    votes = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp(-d / temperature))
    return np.asarray(votes.fit(train.astype(np.float64), labels).predict(test.astype(np.float64)))


def test_agrees_with_scikit_learn() -> None:
    random = np.random.default_rng(0)
    train, test = (random.standard_normal((n, 16)).astype(np.float32) for n in (400, 150))
    labels, truth = (random.integers(0, 5, n) for n in (400, 150))
    train += np.eye(16, dtype=np.float32)[labels] * 2
    test += np.eye(16, dtype=np.float32)[truth] * 2
    expected = 100 * (_expected(train, labels, test, 20, 0.07) == truth).mean()
    assert abs(knn_accuracy(train, labels, test, truth) - expected) < 1e-9
    assert expected > 50


@pytest.mark.parametrize(
    "what", ["encoder", pytest.param("pixels", marks=pytest.mark.slow), pytest.param("demo", marks=pytest.mark.slow)]
)
def test_every_row_of_the_demos_test_images(
    what: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """All 5,000 test images against 10,000 neighbours; rows with a vote margin below 1e-6 would be listed.

    By pixels, by features of a small network that has seen nothing, and by those of the demo's own encoder.
    """
    bank, queries = (open_source(f"builtin:fashion-canvas:{part}") for part in ("train", "test"))
    bank = bank.subset(bank.keys[:10_000])
    if what == "pixels":
        train, test = (pixels(source, 36, 1) for source in (bank, queries))
    else:
        config = EncoderConfig(
            name="vit_tiny_patch16_224", img_size=36, in_chans=1, patch_size=9, embed_dim=64, depth=2, num_heads=2
        )
        trained = what == "demo"
        encoder = load_encoder(request.getfixturevalue("demo").encoder) if trained else create_encoder(config, 0)
        train, test = (extract(encoder, source, "cls") for source in (bank, queries))
    arrays = (torch.from_numpy(part) for part in (train, bank.selected_labels, test))
    settings = [(20, 0.07), (5, 0.07)]
    votes = knn_votes(*arrays, [20, 5], [0.07], 10)
    for k, temperature in settings:
        found = votes[k, temperature]
        top = found.topk(2).values
        close = np.flatnonzero(((top[:, 0] - top[:, 1]) / top[:, 0]).numpy() < 1e-6)
        expected = _expected(train, bank.selected_labels, test, k, temperature)
        differing = np.flatnonzero(found.argmax(1).numpy() != expected)
        with capsys.disabled():
            if len(close):
                print(f"\n{what}, k = {k}: rows with a vote margin below 1e-6: {close.tolist()}")
        assert set(differing) <= set(close)
