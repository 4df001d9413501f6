"""Picks are nested, spare what is known, and are those of scikit-activeml wherever both define a method alike."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch

from layergraft.data.arrays import Indices, Labels
from layergraft.errors import UserError
from layergraft.evaluation.features import Array, center_and_normalize
from layergraft.evaluation.few_shot import FEW_SHOT, exact
from layergraft.evaluation.picking.margin import margins
from layergraft.evaluation.picking.methods import Method, pick_rows
from layergraft.evaluation.picking.pool import Pool, near_similarity
from layergraft.evaluation.picking.probcover import probcover, pure_radius

METHODS: tuple[Method, ...] = get_args(Method)
CLASSES = 7


def blobs(count: int = 400, width: int = 16, seed: int = 0) -> tuple[Array, Labels]:
    """(unit features around seven centres of unequal weight, the centre of each)."""
    random = np.random.default_rng(seed)
    share = np.arange(1, CLASSES + 1) / sum(range(1, CLASSES + 1))
    labels = random.choice(CLASSES, count, p=share)
    centres = random.normal(size=(CLASSES, width))
    return center_and_normalize((centres[labels] + 0.5 * random.normal(size=(count, width))).astype(np.float32)), labels


def some(labels: Labels, count: int) -> Indices:
    return np.random.default_rng(5).permutation(len(labels))[:count].astype(np.int64)


def answers(strategy: Any, features: Array, known: list[int], **options: Any) -> tuple[Any, Any]:
    """What scikit-activeml picks, and its utilities; `known` rows are labelled."""
    y = np.full(len(features), np.nan)
    y[known] = 0
    picked, utilities = strategy.query(features, y, return_utilities=True, **options)
    return picked, utilities


@pytest.mark.parametrize("method", METHODS)
def test_picks_are_nested_and_spare_what_is_known(method: Method) -> None:
    features, labels = blobs()
    known = some(labels, 12)
    features[known[0] + 1] = features[known[0]]
    long = pick_rows(features, 60, method, known, labels[known])
    for number in (1, 10, 33):
        assert np.array_equal(pick_rows(features, number, method, known, labels[known]), long[:number])
    assert len(set(long.tolist())) == 60
    assert not set(long.tolist()) & {*known.tolist(), int(known[0]) + 1}


@pytest.mark.parametrize("method", METHODS)
def test_of_near_duplicates_one_is_picked(method: Method) -> None:
    """Each image is there three times, one of them with noise of a hundredth of the distance to its neighbour."""
    features, labels = blobs(120)
    noise = np.random.default_rng(1).normal(size=features.shape).astype(np.float32)
    thrice = np.concatenate([features, features, center_and_normalize(features + 2e-3 * noise)])
    known, threshold = some(labels, 12), near_similarity(torch.from_numpy(features))
    picked = pick_rows(thrice, 500, method, known, labels[known], threshold=threshold)
    assert len(set((picked % 120).tolist())) == len(picked)
    assert 90 < len(picked) <= 120 - 12
    assert not set((picked % 120).tolist()) & set(known.tolist())


def test_the_threshold_follows_the_distances_of_the_images() -> None:
    wide, narrow = blobs(400, 16)[0], blobs(400, 8)[0]
    for features in (wide, narrow):
        nearest = np.sort(np.linalg.norm(features[:, None] - features[None], axis=2), axis=1)[:, 1]
        distance = np.sqrt(2 - 2 * near_similarity(torch.from_numpy(features)))
        assert distance == pytest.approx(np.median(nearest) / 4, rel=0.03)


def test_images_that_are_all_alike_give_one_pick() -> None:
    for method in ("typiclust", "maxherding", "random"):
        assert len(pick_rows(np.full((50, 4), 0.5, dtype=np.float32), 5, method)) == 1


@pytest.mark.parametrize("count", [0, 12])
def test_maxherding_is_that_of_scikit_activeml(count: int) -> None:
    """With gamma 1, as in the paper; scikit-activeml's own default is scikit-learn's, one over the width."""
    pool = pytest.importorskip("skactiveml.pool")
    features, labels = blobs()
    known = some(labels, count).tolist()
    ours = pick_rows(features, 40, "maxherding", np.array(known, dtype=np.int64), labels[known], threshold=2).tolist()
    default, _ = answers(pool.MaxHerding(), features, known, batch_size=40)
    assert set(default.tolist()) != set(ours)
    theirs = pool.MaxHerding(metric_dict={"gamma": 1.0})
    for row in ours:  # one after another, so that float32 may decide between two that are as good
        _, utilities = answers(theirs, features.astype(np.float64), known)
        assert utilities[0, row] == pytest.approx(np.nanmax(utilities), rel=1e-5)
        known.append(row)


@pytest.mark.parametrize("count", [0, 12])
def test_probcover_is_that_of_scikit_activeml(count: int) -> None:
    """Until all is covered: then it draws at random, and we halve the radius. Of equal degrees it draws one."""
    pool = pytest.importorskip("skactiveml.pool")
    features, labels = blobs()
    known = some(labels, count).tolist()
    radius = pure_radius(Pool(features, np.empty(0, dtype=np.int64)), CLASSES)
    theirs = pool.ProbCover(n_classes=CLASSES, deltas=[radius])
    compared = 0
    for row in probcover(Pool(features, np.array(known, dtype=np.int64), 2.0), CLASSES, radius):
        _, utilities = answers(theirs, features, known, update=True)
        if not np.nanmax(utilities):
            break
        assert utilities[0, row] == np.nanmax(utilities)
        known.append(row)
        compared += 1
        if compared == 30:
            break
    assert compared > 20


def test_the_radius_of_probcover_is_that_of_scikit_activeml() -> None:
    """Which tries ten radii (0.2, 0.4 … 2); ours is exact: the last before purity falls below 95 %."""
    pool = pytest.importorskip("skactiveml.pool")
    features, _ = blobs()
    radius = pure_radius(Pool(features, np.empty(0, dtype=np.int64)), CLASSES)
    step = 1e-4
    theirs = pool.ProbCover(
        n_classes=CLASSES, deltas=np.arange(radius - 20 * step, radius + 20 * step, step), cluster_algo_dict={}
    )
    theirs.set_params(cluster_algo_dict={"random_state": 0})
    answers(theirs, features, [])
    assert theirs.delta_max_ == pytest.approx(radius, abs=2 * step)
    coarse = pool.ProbCover(n_classes=CLASSES, cluster_algo_dict={"random_state": 0})
    answers(coarse, features, [])
    assert coarse.delta_max_ <= radius < coarse.delta_max_ + 0.2


@pytest.mark.parametrize("count", [0, 13])
def test_a_round_of_typiclust_is_that_of_scikit_activeml(count: int) -> None:
    """Of clusters of one size it draws which comes first: each of our picks is the best of one of its clusters."""
    pool = pytest.importorskip("skactiveml.pool")
    features, labels = blobs()
    known = some(labels, count)
    ours = pick_rows(features, 60, "typiclust", known, labels[known], threshold=2).tolist()
    strategy = pool.TypiClust(k=20, cluster_algo_dict={"random_state": 0}, random_state=0)
    done = 0
    while done < 40:
        batch = max(10, count + done)
        theirs, utilities = answers(strategy, features, known.tolist() + ours[:done], batch_size=batch)
        best = utilities >= np.nanmax(utilities, axis=1, keepdims=True) - 1e-4  # of a cluster of two, both
        # Of the smallest clusters, which are of one size, it leaves out one that it draws.
        assert best[:, ours[done : done + batch - 5]].any(axis=0).all()
        if not done and not count:
            assert set(theirs.tolist()) == set(ours[:10])
        done += batch


def test_rounds_of_typiclust_are_not_nested_in_scikit_activeml() -> None:
    """Its first ten of twenty are not its ten: it makes as many clusters as picks are wanted, at once."""
    pool = pytest.importorskip("skactiveml.pool")
    features, _ = blobs()
    strategy = pool.TypiClust(k=20, cluster_algo_dict={"random_state": 0})
    twenty, _ = answers(strategy, features, [], batch_size=20)
    ten, _ = answers(strategy, features, [], batch_size=10)
    assert not set(ten.tolist()) <= set(twenty.tolist())


def test_margin_is_that_of_scikit_activeml() -> None:
    """On probabilities of the logistic protocol: it has no classifier of its own."""
    scores = pytest.importorskip("skactiveml.pool").uncertainty_scores
    features, labels = blobs()
    known = some(labels, 40)
    weights, bias = FEW_SHOT["logistic"].fit_path(
        exact(torch.from_numpy(features[known])), torch.from_numpy(labels[known]), CLASSES, [2.5e-4]
    )[0]
    probabilities = (exact(torch.from_numpy(features)) @ weights + bias).softmax(1).numpy()
    theirs = np.argsort(-scores(probabilities, method="margin_sampling"), kind="stable")
    theirs = theirs[~np.isin(theirs, known)]
    assert np.array_equal(pick_rows(features, 100, "margin", known, labels[known], threshold=2), theirs[:100])


def test_random_picks_belong_to_the_seed() -> None:
    """scikit-activeml draws from NumPy's generator, which is used up: its ten are not the first of its thirty."""
    features, _ = blobs()
    first, again, other = (pick_rows(features, 30, "random", seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_margin_without_two_classes_is_explained() -> None:
    features, _ = blobs()
    with pytest.raises(UserError, match="2 of 1"):
        pick_rows(features, 3, "margin", np.array([1, 2]), np.array([4, 4]))
    assert len(margins(Pool(features, np.array([1, 2])), np.array([1, 2]), np.array([9, 4]))) == 400


def test_no_matrix_of_all_pairs_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Picks are the same however small the blocks are."""
    from layergraft.evaluation.picking import pool

    features, labels = blobs()
    known = some(labels, 12)
    whole = {m: pick_rows(features, 25, m, known, labels[known]) for m in ("maxherding", "probcover")}
    monkeypatch.setattr(pool, "_NUMBERS", 3 * len(features))
    for method, rows in whole.items():
        assert np.array_equal(pick_rows(features, 25, method, known, labels[known]), rows)


def coverage(features: Array, picked: Indices) -> float:
    """Mean over all images of their kernel with the nearest pick: what maxherding raises."""
    return float(np.exp(2 * (features @ features[picked].T - 1)).max(axis=1).mean())


def test_a_sample_stands_for_all_where_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Picks from 800 of 2,000 images cover all 2,000 nearly as well as picks from all; then come the other ones."""
    from layergraft.evaluation.picking import maxherding

    features, _ = blobs(2000)
    exact_picks, chance = pick_rows(features, 40, "maxherding"), pick_rows(features, 40, "random")
    monkeypatch.setattr(maxherding, "_TOGETHER", 1000)
    monkeypatch.setattr(maxherding, "_PART", 800)
    sampled = pick_rows(features, 40, "maxherding")
    assert not np.array_equal(sampled, exact_picks)
    best = coverage(features, exact_picks)
    assert coverage(features, sampled) > best - 0.25 * (best - coverage(features, chance))
    monkeypatch.setattr(maxherding, "_PART", 50)
    assert len(set(pick_rows(features, 120, "maxherding").tolist())) == 120


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UserError, match="'typiclast'"):
        pick_rows(blobs()[0], 5, "typiclast")  # type: ignore[arg-type]
