"""Copies of images are found, and hardly anything else."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from layergraft.config import EncoderConfig
from layergraft.data.arrays import Pixels
from layergraft.data.sources.open import open_source
from layergraft.encoders.vit import create_encoder
from layergraft.evaluation.auditing.near import candidates, copies, likeness, likeness_threshold, near_pairs, windows
from layergraft.evaluation.auditing.pictures import perceptual_hash, read_pictures
from layergraft.evaluation.features import center_and_normalize, extract

PLANTED = 200
KINDS = ("encoded again", "resized", "mirrored and cropped")
IMAGES = 1000
# The method was chosen on fashion-colour:test, fashion-canvas:test and fashion-scenes:train: it is tested on others.
SETS = [
    "builtin:fashion-colour:train",
    pytest.param("builtin:fashion-canvas:train", marks=pytest.mark.slow),
    pytest.param("builtin:fashion-scenes:test", marks=pytest.mark.slow),
]


def save_copy(image: Pixels, kind: int, name: Path) -> None:
    """One copy as its kind is: the first as the JPEG file that it is, the others without further loss."""
    if kind == 0:
        cv2.imwrite(str(name) + ".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 70])
    else:
        cv2.imwrite(str(name) + ".png", copies(image)[kind])


@pytest.mark.parametrize("spec", SETS)
def test_planted_copies_are_found_and_hardly_any_other(spec: str, tmp_path: Path) -> None:
    """Of 200 of each kind at least 95 %; under 1 % of what is found are other pairs. The encoder is untrained."""
    source = open_source(spec)
    drawn = np.random.default_rng(0).permutation(len(source))[:IMAGES]
    for number, key in enumerate(drawn.tolist()):
        image = source.images.load(key, 3)
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
        if number < PLANTED * len(KINDS):
            save_copy(image, number // PLANTED, tmp_path / f"{number} copy")
    folder = open_source(str(tmp_path))
    number_of = [int(folder.images.name(int(key)).partition(".")[0].split()[0]) for key in folder.keys]
    pictures = read_pictures(folder)
    encoder = create_encoder(
        EncoderConfig(name="vit_tiny_patch16_224", img_size=36, patch_size=9, embed_dim=48, depth=2, num_heads=2), 0
    )
    features = center_and_normalize(extract(encoder, folder, "cls"))
    threshold = likeness_threshold(folder)
    pairs, _ = near_pairs((features, pictures.small), None, threshold)
    true = [number_of[a] for a, b in pairs.tolist() if number_of[a] == number_of[b]]
    found = np.bincount(np.array(true) // PLANTED, minlength=len(KINDS))
    print(f"{spec}: {dict(zip(KINDS, found.tolist(), strict=True))} of {PLANTED}, {len(pairs) - len(true)} other pairs")
    assert (found >= 0.95 * PLANTED).all(), dict(zip(KINDS, found.tolist(), strict=True))
    assert len(pairs) - len(true) < 0.01 * len(pairs)


def test_the_hash_of_a_mirror_image_is_the_mirrored_hash() -> None:
    small = read_pictures(open_source("builtin:fashion-colour:test?fraction=0.01")).small
    plain, mirrored = perceptual_hash(small)
    turned, _ = perceptual_hash(np.ascontiguousarray(small[:, :, ::-1]))
    assert np.abs(turned - mirrored).max() < 1e-4
    assert np.abs(turned - plain).max() > 0.1


def test_images_of_one_colour_are_like_no_other() -> None:
    """They have nothing to compare; those with the same pixels are found by these."""
    black, white = (windows(np.full((40, 40, 3), level, dtype=np.uint8)) for level in (0, 255))
    assert likeness(black, white) == likeness(black, black) == 0


def test_each_pair_is_a_candidate_once_and_no_image_its_own() -> None:
    random = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    unit = center_and_normalize(random)
    pairs = candidates([unit, unit[:, ::-1].copy()], [unit, unit[:, ::-1].copy()], within=True)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    assert len(candidates([unit[:1]], [unit[:1]], within=True)) == 0
    between = candidates([unit[:3]], [unit], within=False)
    assert {(0, 0), (1, 1), (2, 2)} <= {tuple(pair) for pair in between.tolist()}
    assert len(between) == 15


def test_small_and_unreadable_images_are_no_trouble(tmp_path: Path) -> None:
    for name, side in (("a", 1), ("b", 2), ("c", 5), ("d", 60)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.random.default_rng(side).integers(0, 256, (side, side, 3)))
    (tmp_path / "broken.png").write_bytes(b"nothing")
    folder = open_source(str(tmp_path))
    assert 0 < likeness_threshold(folder) <= 1
    pictures = read_pictures(folder)
    assert [bool(digest) for digest in pictures.pixels] == [True, True, False, True, True]
    features = center_and_normalize(np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32))
    assert len(near_pairs((features, pictures.small), None, 0.999)[0]) == 0
