"""Scenes with exact masks, folders as ADE20K ships them, masks under the views of their images, bad input."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from layergraft.config import SegmentConfig, ViewConfig
from layergraft.data.augment import random_view
from layergraft.data.fashion.load import CLASSES, embedded
from layergraft.data.fashion.scenes import LEVEL, scenes
from layergraft.data.loader import TrainLoader
from layergraft.data.masks import check_masks, mask_view, pairs
from layergraft.data.randomness import Randomness
from layergraft.data.skipped import SkippedImages
from layergraft.data.sources.holdout import split_holdout
from layergraft.data.sources.open import default_test_source, open_source
from layergraft.data.view_parameters import DRAWS
from layergraft.errors import UserError
from layergraft.objectives.create import know_classes


def test_scenes_are_garments_and_their_masks() -> None:
    for split, count in (("train", 3000), ("test", 1250)):
        images, masks = scenes(split)
        assert images.shape == masks.shape == (count, 72, 72)
        assert np.array_equal(np.flatnonzero(np.bincount(masks.ravel())), np.arange(1, 12))
        assert (images[masks == 1] == 0).all()
        assert (images[masks > 1] > LEVEL).all()
        several = np.array([len(np.unique(mask)) - 1 for mask in masks[:200]])
        assert several.max() == 4
        assert np.mean(several >= 2) > 0.85, "some scenes hold a class twice"
    assert open_source("builtin:fashion-scenes").classes == ["background", *CLASSES]


def test_a_garment_in_a_scene_is_an_embedded_image_of_its_class() -> None:
    """Where a scene holds a class once, its pixels are one of the 1,200 images of that class."""
    images, masks = scenes("train")
    garments, labels = embedded("train")
    visible = np.where(garments > LEVEL, garments, 0)
    sums = visible.sum(axis=(1, 2), dtype=np.int64)
    checked = 0
    for image, mask in zip(images[:40], masks[:40], strict=True):
        for value in np.unique(mask)[1:]:
            own = np.where(mask == value, image, 0)
            cut = _trimmed(own)
            candidates = np.flatnonzero((sums == own.sum(dtype=np.int64)) & (labels == value - 2))
            boxes = [_trimmed(visible[index]) for index in candidates]
            checked += any(np.array_equal(box, cut) or np.array_equal(box[:, ::-1], cut) for box in boxes)
    assert checked >= 40


def _trimmed(image: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(image)
    return image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def test_scenes_are_the_same_everywhere() -> None:
    images, masks = scenes("train")
    assert hashlib.blake2b(images.tobytes() + masks.tobytes(), digest_size=8).hexdigest() == "c45a63c8f6843850"


@pytest.mark.parametrize("seed", range(8))
def test_a_mask_sees_the_crop_and_flip_of_its_image(seed: int) -> None:
    """Image and mask are one slope; the view of the mask is that of the image up to interpolation."""
    slope = np.tile(np.linspace(0, 250, 251).astype(np.uint8), (180, 1))
    random = Randomness(seed=seed, scope="test")
    draws = random.uniform("view image", [0], 0, DRAWS)[0]
    config = ViewConfig(crop_scale=(0.2, 0.9))
    image = random_view(slope[:, :, None], config, 96, draws)[:, :, 0].astype(int)
    mask = mask_view(slope, config, 96, draws).astype(int)
    assert np.abs(image - mask).max() <= 2
    assert len(np.unique(mask)) > 30


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    """Ten training and four validation images with masks of three classes, laid out as ADE20K."""
    random = np.random.default_rng(0)
    root = tmp_path / "ADE"
    for part, count in (("training", 10), ("validation", 4)):
        for kind in ("images", "annotations"):
            (root / kind / part).mkdir(parents=True)
        for index in range(count):
            mask = cv2.resize(random.integers(0, 4, (4, 5), dtype=np.uint8), (50, 40), interpolation=cv2.INTER_NEAREST)
            cv2.imwrite(str(root / "images" / part / f"ADE_{index:03}.jpg"), np.stack([mask * 60] * 3, axis=2))
            Image.fromarray(mask).save(root / "annotations" / part / f"ADE_{index:03}.png")
    table = "Idx\tRatio\tTrain\tVal\tName\n" + "".join(
        f"{i + 1}\t0.1\t1\t1\t{n}\n" for i, n in enumerate(["wall", "sky", "tree"])
    )
    (root / "objectInfo150.txt").write_text(table)
    return root


def test_ade_folder(ade: Path) -> None:
    source = open_source(str(ade))
    assert (len(source), source.classes, source.labels) == (10, ["wall", "sky", "tree"], None)
    assert default_test_source(str(ade)) == str(ade / "images" / "validation")
    test = open_source(str(ade / "images" / "validation"))
    assert (len(test), test.classes) == (4, source.classes)
    loader = TrainLoader(
        source,
        {"image": ViewConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.25, 1.25), flip=0)},
        size=40,
        channels=1,
        batch_size=10,
        random=Randomness(seed=0, scope="test"),
        skipped=SkippedImages(0),
        masks=True,
    )
    batch = loader.batch(0)
    image, mask = batch.views["image"][:, 0].numpy().astype(int), batch.masks["image"].numpy()
    inside = cv2.erode((np.abs(image[0] - mask[0].astype(int) * 60) < 12).astype(np.uint8), np.ones((1, 1)))
    assert inside.mean() > 0.75, "JPEG rings at edges alone"
    known = know_classes(SegmentConfig(), source, "segment")
    assert isinstance(known, SegmentConfig)
    assert known.classes == 3


def test_classes_without_names_are_counted(ade: Path) -> None:
    (ade / "objectInfo150.txt").unlink()
    assert check_masks(open_source(str(ade)), None) == 3


def test_names_of_classes_are_utf_8(ade: Path) -> None:
    (ade / "objectInfo150.txt").write_bytes("1\t1\t1\t1\tKäse\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"objectInfo150\.txt' are not UTF-8"):
        open_source(str(ade))


def test_images_and_masks_that_do_not_match(ade: Path) -> None:
    (ade / "annotations" / "training" / "ADE_003.png").unlink()
    (ade / "annotations" / "training" / "extra.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 images without a mask: ADE_003.jpg; 1 masks without an image: extra.png"):
        open_source(str(ade))


def test_values_out_of_range(ade: Path) -> None:
    for index in (2, 5):
        Image.fromarray(np.full((40, 50), 255 - index, dtype=np.uint8)).save(
            ade / "annotations" / "training" / f"ADE_{index:03}.png"
        )
    with pytest.raises(
        UserError, match=r"2 of 10 masks .* number of classes, 3: ADE_002.png \(253\), ADE_005.png \(250\)"
    ):
        know_classes(SegmentConfig(), open_source(str(ade)), "segment")


def test_palettes_keep_their_numbers_and_colours_are_refused(ade: Path) -> None:
    file = ade / "annotations" / "training" / "ADE_000.png"
    before = np.asarray(Image.open(file))
    picture = Image.fromarray(before)
    picture.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200, 90, 90, 90])
    picture.save(file)
    source = open_source(str(ade))
    assert source.masks is not None
    assert np.array_equal(source.masks.load(0), before)
    Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8)).save(file)
    with pytest.raises(UserError, match="RGB pixels"):
        source.masks.load(0)
    file.write_bytes(b"not a picture")
    with pytest.raises(UserError, match="cannot be read"):
        source.masks.load(0)


def test_sizes_must_agree(ade: Path) -> None:
    Image.fromarray(np.ones((40, 49), dtype=np.uint8)).save(ade / "annotations" / "training" / "ADE_004.png")
    with pytest.raises(UserError, match=r"40×50 pixels, its mask 'ADE_004\.png' 40×49"):
        list(pairs(open_source(str(ade)), 3))


def test_an_unreadable_image_has_no_pair(ade: Path) -> None:
    source = open_source(str(ade))
    file = ade / "images" / "training" / source.images.name(3)
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(UserError, match=rf"The image '{file.name}' of .* cannot be read: truncated"):
        list(pairs(source, 3))


def test_masks_are_needed() -> None:
    with pytest.raises(UserError, match="have none"):
        know_classes(SegmentConfig(), open_source("builtin:fashion"), "segment")


def test_a_replaced_image_brings_its_own_label(tmp_path: Path) -> None:
    for index in range(20):
        folder = tmp_path / f"class {index % 2}"
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{index}.png"), np.full((8, 8), 200 * (index % 2), dtype=np.uint8))
    (tmp_path / "class 0" / "4.png").write_bytes(b"broken")
    source, _ = split_holdout(open_source(str(tmp_path)), 0, 0)
    random = Randomness(seed=0, scope="test")
    loader = TrainLoader(
        source, {"image": ViewConfig()}, size=8, channels=1, batch_size=20, random=random, skipped=SkippedImages(0.1)
    )
    seen = set()
    for step in range(6):
        batch = loader.batch(step)
        assert batch.labels is not None
        assert ((batch.views["image"].float().mean(dim=(1, 2, 3)) > 100).long() == batch.labels).all()
        bad = [key for key in batch.keys.tolist() if source.images.name(key) == "class 0/4.png"]
        seen.add(int(batch.labels[batch.keys.tolist().index(bad[0])]))
    assert seen == {0, 1}, "it was replaced by both classes at times"
