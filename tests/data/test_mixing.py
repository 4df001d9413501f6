"""Mixing and erasing against timm's own functions, and the same however a batch is shared."""

from __future__ import annotations

import numpy as np
import torch
from timm.data.mixup import mixup_target

from layergraft.config import MixConfig
from layergraft.data.mixing import cut_box, erase, keep_weights, mix_pairs, soft_targets
from layergraft.data.randomness import Randomness

RANDOM = Randomness(seed=3, scope="test")


def generators(start: int, stop: int) -> list[np.random.Generator]:
    return RANDOM.generators("mix", np.arange(start, stop), 0)


def test_soft_targets_are_timm_s() -> None:
    labels = torch.tensor([0, 3, 2])
    theirs = mixup_target(labels, 5, lam=1.0, smoothing=0.1)
    assert torch.allclose(soft_targets(labels, 5, 0.1), theirs, atol=1e-7)


def test_a_pair_is_mixed_by_one_share() -> None:
    images, targets = torch.randn(5, 2, 8, 8), torch.eye(5)
    config = MixConfig(mixup=0.8, cutmix=0.0)
    mixed, soft = mix_pairs(images, targets, config, generators(0, 5))
    share = float(soft[0, 0])
    assert 0 < share < 1
    assert torch.allclose(mixed[0], share * images[0] + (1 - share) * images[1])
    assert torch.allclose(mixed[1], share * images[1] + (1 - share) * images[0])
    assert torch.allclose(soft.sum(1), torch.ones(5))
    assert torch.equal(mixed[4], images[4])


def test_cutmix_takes_a_rectangle_and_its_share() -> None:
    images = torch.zeros(64, 1, 16, 16)
    images[1::2] = 1
    targets = torch.eye(64)
    mixed, soft = mix_pairs(images, targets, MixConfig(mixup=0.0, cutmix=1.0), generators(0, 64))
    for index in range(0, 64, 2):
        rows, columns = torch.nonzero(mixed[index, 0], as_tuple=True)
        area = 0
        if len(rows):
            area = int((rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1))
        assert area == len(rows), "what comes from the neighbour is a full rectangle"
        assert abs(float(soft[index, index + 1]) - area / 256) < 1e-6
        assert torch.equal(mixed[index + 1], 1 - mixed[index])


def test_boxes_and_shares_have_their_distributions() -> None:
    """Area as Yun et al. say, apart from clipping; mixup's share a Beta(a, a): variance 1 / (4 (2a + 1))."""
    random = np.random.default_rng(0)
    inside = [cut_box(1000, 1000, 0.01, random) for _ in range(2000)]
    areas = [(b - t) * (r - left) / 1e6 for t, b, left, r in inside]
    assert max(areas) == 0.01
    centres = np.array([(t + b) / 2000 for t, b, _, _ in inside])
    assert abs(centres.mean() - 0.5) < 0.02
    shares = np.array([keep_weights(MixConfig(cutmix=0.0), 1, 1, random)[0, 0] for _ in range(4000)])
    assert abs(shares.mean() - 0.5) < 0.02
    assert abs(shares.var() - 1 / (4 * 2.6)) < 0.006
    never = MixConfig(probability=0.25)
    untouched = np.mean([(keep_weights(never, 4, 4, random) == 1).all() for _ in range(4000)])
    assert abs(untouched - 0.75) < 0.05  # a few boxes are empty


def test_sharing_a_batch_changes_nothing() -> None:
    images, targets = torch.randn(8, 3, 12, 12), torch.eye(8)
    whole = mix_pairs(erase(images, 0.5, generators(0, 8)), targets, MixConfig(), generators(0, 8))
    halves = [
        mix_pairs(erase(images[a:b], 0.5, generators(a, b)), targets[a:b], MixConfig(), generators(a, b))
        for a, b in ((0, 4), (4, 8))
    ]
    for part in (0, 1):
        assert torch.equal(whole[part], torch.cat([half[part] for half in halves]))


def test_erasing() -> None:
    """A quarter of the images, a rectangle of 2 % to a third of the area, noise of mean 0 and deviation 1."""
    images = torch.full((2000, 1, 32, 32), 50.0)
    erased = erase(images, 0.25, generators(0, 2000))
    assert torch.equal(images, torch.full_like(images, 50.0)), "the input is untouched"
    changed = (erased != 50).flatten(1)
    touched = changed.any(1)
    assert abs(float(touched.float().mean()) - 0.25) < 0.03
    share = changed[touched].float().mean(1)
    assert float(share.min()) > 0.012
    assert float(share.max()) < 0.36
    noise = erased[erased != 50]
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02
