"""Views that are finished on the device, in a batch: those of the `fast` path, with the same random parameters."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch

from layergraft.config import DataConfig, RandAugmentConfig, Recipe, ViewConfig, load_recipe
from layergraft.config.data import Augment
from layergraft.data.batch import Batch, Normalize
from layergraft.data.loader import TrainLoader
from layergraft.data.randomness import Randomness
from layergraft.data.skipped import SkippedImages
from layergraft.data.sources.open import open_source
from layergraft.errors import UserError
from layergraft.graft.donors import first_encoder
from layergraft.training.launch import launch
from layergraft.training.run_data import load_data
from layergraft.training.stage import prepare_stage
from layergraft.training.trainer import Trainer

# Largest difference in grey levels from the `fast` path. OpenCV blurs in fixed point, and a level of its own at 128 is
# one of solarisation's, too; contrast is taken around the same mean, of the crop.
LEVELS = {"plain": 0, "brightness": 1, "contrast": 1, "saturation": 1, "hue": 1, "gray": 1, "blur": 1, "solarize": 0}
JITTER = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
VIEWS = {
    "plain": ViewConfig(),
    **{name: ViewConfig(jitter=0.8, **(JITTER | {name: 0.4})) for name in JITTER},
    "gray": ViewConfig(gray=0.5),
    "blur": ViewConfig(blur=0.7),
    "solarize": ViewConfig(solarize=0.5),
}
ALL = ViewConfig(jitter=0.8, gray=0.2, blur=0.5, solarize=0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 photographs of a sort: smooth colours with a little noise."""
    root, random = tmp_path_factory.mktemp("finish"), np.random.default_rng(0)
    for index in range(24):
        smooth = cv2.resize(random.integers(0, 256, (5, 6, 3), dtype=np.uint8), (90, 70), interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(smooth + random.normal(0, 5, smooth.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(root / f"{index:02}.png"), noisy)
    return root


def batch(folder: Path, view: ViewConfig, finish: bool, channels: int = 3, augment: Augment = "fast") -> Batch:
    loader = TrainLoader(
        open_source(str(folder)),
        {"a": view},
        size=32,
        channels=channels,
        batch_size=24,
        random=Randomness(seed=0, scope="x"),
        skipped=SkippedImages(0),
        augment=augment,
        finish=finish,
    )
    return loader.batch(1)


def both(folder: Path, view: ViewConfig, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey levels of the same views, finished by the worker and in a batch."""
    worker, left = (batch(folder, view, finish, channels) for finish in (True, False))
    assert not worker.unfinished
    return worker.views["a"].float(), left.unfinished["a"](left.views["a"])


@pytest.mark.parametrize("name", VIEWS)
def test_each_operation_is_the_fast_paths(folder: Path, name: str) -> None:
    fast, device = both(folder, VIEWS[name])
    assert torch.equal(device, device.round())
    assert float((fast - device).abs().max()) <= LEVELS[name]
    # The operation did something to some of the views.
    changed = (device - batch(folder, VIEWS[name], False).views["a"].float()).abs().amax(dim=(1, 2, 3)) > 2
    assert bool(changed.any()) == (name != "plain")


@pytest.mark.parametrize("channels", [1, 3])
def test_all_operations_together(folder: Path, channels: int) -> None:
    fast, device = both(folder, ALL, channels)
    apart = (fast - device).abs()
    assert float(apart.max()) <= 2
    assert float(apart.mean()) <= 0.1


def test_parts_and_normalisation(folder: Path) -> None:
    normalize = Normalize(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    whole = batch(folder, ALL, False)
    done = whole.prepared(lambda pixels: pixels, normalize)
    assert not done.unfinished
    parts = [whole.part(start, start + 9).prepared(lambda pixels: pixels, normalize) for start in (0, 9, 18)]
    assert torch.equal(torch.cat([part.views["a"] for part in parts]), done.views["a"])
    levels = whole.unfinished["a"](whole.views["a"])
    mean, std = (torch.tensor(own)[:, None, None] for own in (normalize.mean, normalize.std))
    assert torch.allclose(done.views["a"], (levels / 255 - mean) / std, atol=1e-5)


def test_what_comes_after_stays_with_the_worker(folder: Path) -> None:
    """RandAugment follows the other operations, so its views are finished by the worker."""
    config = ViewConfig(jitter=0.8, rand_augment=RandAugmentConfig())
    assert not batch(folder, config, False).unfinished


def test_switch_by_device() -> None:
    assert not DataConfig().finishes_on("cpu")
    assert DataConfig().finishes_on("cuda")
    assert not DataConfig(augment_on="cpu").finishes_on("cuda")
    assert DataConfig(augment_on="device").finishes_on("cpu")
    assert not DataConfig(augment="exact").finishes_on("cuda")
    with pytest.raises(UserError, match="augment_on"):
        load_recipe("fashion_paper", {"data.augment": "exact", "data.augment_on": "device"})


def test_a_step_with_either_switch_has_the_same_loss(tiny_recipe: Recipe, tmp_path: Path) -> None:
    losses = []
    for where in ("cpu", "device"):
        recipe = msgspec.structs.replace(
            tiny_recipe,
            data=DataConfig(source="builtin:fashion-colour?fraction=0.02", augment_on=where),
            encoder=msgspec.structs.replace(tiny_recipe.encoder, in_chans=3),
            stages={"graft": tiny_recipe.stages["graft"]},
        )
        data = load_data(recipe)
        stage = prepare_stage(recipe, "graft", tmp_path, first_encoder(recipe, data.mean, data.std), data)
        trainer = Trainer(launch(), stage)
        trainer.begin()
        raw = next(trainer.batches())
        assert bool(raw.unfinished) == (where == "device")
        losses.append(float(trainer.compute(raw).losses["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu(folder: Path) -> None:
    left = batch(folder, ALL, False)
    here, there = left.unfinished["a"](left.views["a"]), left.unfinished["a"](left.views["a"].cuda())
    assert float((here - there.cpu()).abs().max()) <= 1
