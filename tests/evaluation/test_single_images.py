"""Tasks of views of single images: what they are made of, and that no label has a say in what they choose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layergraft.config import EncoderConfig, EvaluateConfig
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import AS_THEY_ARE, Source
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.errors import UserError
from layergraft.evaluation.cache import features_of
from layergraft.evaluation.cross_validated import cross_validate
from layergraft.evaluation.features import extract_all
from layergraft.evaluation.frozen import evaluate_encoders
from layergraft.evaluation.single_images import (
    SHOTS,
    TASKS,
    VIEWS,
    single_image_accuracy,
    single_image_tasks,
    single_images,
)
from layergraft.evaluation.task import Task
from layergraft.runs.results import ResultRow

LABEL_FREE = EvaluateConfig(protocols=("logistic",), variant=("label_free",), shots=(1, 5), splits=2)


def _encoder(channels: int = 1) -> Encoder:
    config = EncoderConfig(
        name="vit_tiny_patch16_224", img_size=36, in_chans=channels, patch_size=9, embed_dim=32, depth=2, num_heads=2
    )
    return create_encoder(config, 0)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return _encoder()


@pytest.fixture(scope="module")
def source() -> Source:
    return open_source("builtin:fashion-canvas?fraction=0.03")


def _views(source: Source, classes: int = 10, seed: int = 0) -> Source:
    return single_images(source, 36, AS_THEY_ARE, classes, seed)


def _pixels(views: Source) -> np.ndarray:
    return np.stack([views.images.load(int(key), 1) for key in views.keys[:60]])


def test_each_task_has_images_of_its_own_and_tests_views_that_are_no_examples(source: Source) -> None:
    views = _views(source)
    assert len(views) == TASKS * 10 * VIEWS
    shots, tasks = single_image_tasks(views, 3)
    assert (shots, len(tasks)) == (3, TASKS)
    seen: set[int] = set()
    for fitted, tested in tasks:
        assert np.bincount(views.selected_labels[fitted]).tolist() == [3] * 10
        assert set(views.keys[fitted] // VIEWS) == set(views.keys[tested] // VIEWS)
        assert not np.intersect1d(fitted, tested).size
        images = set((views.keys[fitted] // VIEWS).tolist())
        assert len(images) == 10
        assert not images & seen
        seen |= images
    assert single_image_tasks(views, 1000)[0] == SHOTS


def test_views_are_the_same_again_and_others_with_another_seed(source: Source) -> None:
    first, again, other = (_pixels(_views(source, seed=seed)) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
    assert len({view.tobytes() for view in first[:VIEWS]}) == VIEWS  # of one image
    stamps = [views.stamp() for views in (_views(source), _views(source), _views(source, seed=1))]
    assert stamps[0] == stamps[1] != stamps[2]


@pytest.mark.parametrize(("images", "classes", "ways", "tasks"), [(7, 10, 7, 1), (50, 20, 20, 2), (360, 300, 20, 10)])
def test_few_images_and_many_classes(source: Source, images: int, classes: int, ways: int, tasks: int) -> None:
    views = _views(source.subset(source.keys[:images]), classes)
    assert (len(views.classes), len(single_image_tasks(views, 1)[1])) == (ways, tasks)


def test_one_image_is_refused(source: Source) -> None:
    with pytest.raises(UserError, match="tell at least two apart"):
        _views(source.subset(source.keys[:1]))


def _chosen(rows: list[ResultRow]) -> Iterator[tuple[str, str, float]]:
    return ((row.encoder, row.shots, row.chosen["lambda_n"]) for row in rows if row.split == "0")


def test_labels_have_no_say_in_the_penalty(source: Source, encoder: Encoder) -> None:
    """Whatever the labels of all images are, as many classes give the same penalties; another seed may not."""
    assert source.labels is not None
    test = open_source("builtin:fashion-canvas:test?fraction=0.02")
    shuffled = np.random.default_rng(0).permutation(source.labels).astype(np.int32)
    tasks = [
        Task(train=replace(source, labels=labels), test=test, test_name="test", seed=0)
        for labels in (source.labels, shuffled)
    ]
    mine, other = (evaluate_encoders(task, LABEL_FREE, {"some": encoder}) for task in tasks)
    assert list(_chosen(mine)) == list(_chosen(other))
    assert [row.value for row in mine] != [row.value for row in other]
    assert {row.chosen["by"] for row in mine if row.split == "0"} == {"views of single images"}


def test_without_a_test_set(source: Source, encoder: Encoder) -> None:
    rows = cross_validate(source.subset(source.keys[:120]), LABEL_FREE, {"some": encoder})
    assert {(row.encoder, row.variant) for row in rows} == {("pixels", "label_free"), ("some", "label_free")}
    assert all(row.chosen["task_shots"] == 10 for row in rows if row.split == "0")


def test_images_that_cannot_be_read_are_no_examples(tmp_path: Path) -> None:
    """As in any measurement they are left out, colours or not, and are in no task."""
    random = np.random.default_rng(0)
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / name).mkdir(parents=True)
        for number in range(6):
            pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    (tmp_path / "train" / "a" / "0.png").write_bytes(b"no picture")
    train, test = open_source(str(tmp_path / "train")), open_source(str(tmp_path / "test"))
    task = Task(train=train, test=test, test_name="test", seed=0)
    rows = evaluate_encoders(task, LABEL_FREE, {"some": _encoder(3)})
    assert {row.chosen["tasks"] for row in rows if row.split == "0"} == {5}  # of two of the eleven readable images


def test_accuracy_tells_images_apart_as_far_as_their_views_are_alike(source: Source) -> None:
    views, random = _views(source), np.random.default_rng(0)
    images = random.normal(size=(TASKS * 10, 1, 16)).repeat(VIEWS, 1).reshape(-1, 16)
    noise = random.normal(size=images.shape)

    def accuracy(spread: float) -> dict[str, float]:
        features = (images + spread * noise).astype(np.float32)
        features[3] = np.nan  # of a view that cannot be read
        return single_image_accuracy(views, features, (1, 5))

    near, far, none = accuracy(0.1), accuracy(1.0), accuracy(1000.0)
    assert near["1"] > 99.5
    assert near["1"] > far["1"] > 15
    assert far["5"] > far["1"]
    assert none["5"] == pytest.approx(10, abs=4)


def test_features_on_disk_are_those_of_the_very_views(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same files with another seed are other views, though as many of the same images."""
    monkeypatch.setenv("LAYERGRAFT_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.fromarray(random.integers(0, 256, (40, 50), dtype=np.uint8)).save(tmp_path / "images" / f"{number}.png")
    source = open_source(str(tmp_path / "images"))
    for seed in (0, 1, 2, 3, 0):
        views = _views(source, seed=seed)
        kept = features_of(encoder, views, ["cls"])["cls"]
        assert (kept == extract_all(encoder, views, ["cls"])["cls"]).all()
    assert list((tmp_path / "cache").rglob("*.features"))
