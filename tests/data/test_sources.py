from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from layergraft.config import DataConfig, EncoderConfig, Recipe, ViewConfig
from layergraft.data.augment import fixed_view, random_view
from layergraft.data.decode import decode
from layergraft.data.loader import TrainLoader
from layergraft.data.randomness import Randomness
from layergraft.data.skipped import SkippedImages
from layergraft.data.sources.holdout import split_holdout
from layergraft.data.sources.open import default_test_source, open_source
from layergraft.data.view_parameters import DRAWS, crop_box
from layergraft.encoders.input_statistics import default_statistics
from layergraft.errors import UserError
from layergraft.training.run_data import load_data


def test_builtin_sets() -> None:
    train, test = open_source("builtin:fashion-canvas"), open_source("builtin:fashion-canvas:test")
    assert (len(train), len(test)) == (12000, 5000)
    assert np.bincount(train.selected_labels).tolist() == [1200] * 10
    plain = open_source("builtin:fashion").images.load(17, 1)[:, :, 0]
    canvas = train.images.load(17, 1)[:, :, 0]
    assert plain.shape == (28, 28)
    assert canvas.shape == (36, 36)
    rows, columns = np.nonzero(canvas)
    inner_rows, inner_columns = np.nonzero(plain)
    assert np.ptp(rows) == np.ptp(inner_rows)
    assert np.ptp(columns) == np.ptp(inner_columns)
    assert canvas.sum() == plain.sum()


def test_statistics_of_the_builtin_sets() -> None:
    for name in ("fashion", "fashion-canvas", "fashion-colour"):
        source = open_source(f"builtin:{name}")
        assert source.mean is not None
        assert source.std is not None
        channels = len(source.mean)
        pixels = np.concatenate([source.images.load(int(k), channels).reshape(-1, channels) for k in source.keys]) / 255
        assert np.abs(pixels.mean(axis=0) - source.mean).max() < 2e-3
        assert np.abs(pixels.std(axis=0) - source.std).max() < 2e-3


def test_colours_of_the_builtin_set_are_each_images_own() -> None:
    source, grey = open_source("builtin:fashion-colour:test"), open_source("builtin:fashion-canvas:test")
    assert source.classes == grey.classes
    assert np.array_equal(source.selected_labels, grey.selected_labels)
    first, levels = source.images.load(3, 3), grey.images.load(3, 1)[:, :, 0]
    ground, garment = first[levels == 0][0].astype(int), first[levels == levels.max()][0].astype(int)
    assert (ground < 96).all()
    # Every pixel lies on the line between the two colours, at its grey level.
    share = (levels / levels.max())[..., None]
    assert np.abs(first - (share * garment + (1 - share) * ground)).max() <= 1.01
    assert not np.array_equal(ground, source.images.load(4, 3)[0, 0])
    assert np.array_equal(decode(source.images.read(3), 3), first)


def test_holdout_is_stratified_capped_and_apart() -> None:
    source = open_source("builtin:fashion?fraction=0.1")
    train, held = split_holdout(source, 1000, seed=0)
    assert len(held) == len(source) // 5
    assert not set(train.keys) & set(held.keys)
    assert np.abs(np.bincount(held.selected_labels) - np.bincount(source.selected_labels) / 5).max() <= 1
    _, held = split_holdout(source, 1000, seed=0, by="class")
    assert np.ptp(np.bincount(held.selected_labels)) <= 1


def test_holdout_leaves_half_of_a_small_class() -> None:
    source = open_source("builtin:fashion?fraction=0.1")
    small = np.flatnonzero(source.selected_labels == 3)[5:]  # five of this class are left
    source = source.subset(np.delete(source.keys, small))
    train, held = split_holdout(source, 200, seed=0, by="class")
    assert len(held) == 200
    assert np.bincount(held.selected_labels)[3] == 2
    assert np.bincount(train.selected_labels)[3] == 3
    assert np.ptp(np.delete(np.bincount(held.selected_labels), 3)) <= 1


def test_class_folders_and_selection(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(4):
                cv2.imwrite(str(tmp_path / split / name / f"{index}.png"), np.full((8, 8, 3), index, np.uint8))
    source = open_source(str(tmp_path / "train"))
    assert source.classes == ["cat", "dog"]
    assert source.selected_labels.tolist() == [0] * 4 + [1] * 4
    assert default_test_source(str(tmp_path / "train")) == str(tmp_path / "val")
    assert np.bincount(open_source(f"{tmp_path / 'train'}?shots=2&seed=1").selected_labels).tolist() == [2, 2]
    with pytest.raises(UserError, match="'fraction'"):
        open_source(f"{tmp_path / 'train'}?fracton=0.5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("shots=-1", "1 or more"),
        ("shots=0", "1 or more"),
        ("shots=few", "wrong type"),
        ("fraction=0", "at most 1"),
        ("fraction=-1", "at most 1"),
        ("fraction=2", "at most 1"),
        ("fraction=nan", "at most 1"),
        ("mean=127,127,127", "divide levels by 255"),
        ("mean=nan,0,0", "divide levels by 255"),
        ("std=0,0,0", "above 0"),
        ("std=64,64,64", "divide levels by 255"),
        ("std=0.2,,0.2", "a number a channel"),
    ],
)
def test_options_out_of_range_are_refused(options: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_source(f"builtin:fashion?{options}")


@pytest.mark.parametrize("spec", ["", "?fraction=0.5"])
def test_an_empty_source_is_not_the_current_folder(spec: str) -> None:
    with pytest.raises(UserError, match="names no images"):
        open_source(spec)


def test_statistics_are_taken_or_refused() -> None:
    def loaded(spec: str, channels: int, **data: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
        encoder = EncoderConfig(name="vit_tiny_patch16_224", in_chans=channels)
        recipe = Recipe(encoder=encoder, data=DataConfig(source=spec, **data), stages={})  # type: ignore[arg-type]
        data = load_data(recipe)
        return data.mean, data.std

    mean, std = default_statistics(3)
    assert loaded("builtin:fashion", 3) == (mean, std)  # its own are of one channel, and nobody asked for them
    assert loaded("builtin:fashion?std=0.2,0.2,0.2", 3) == (mean, (0.2, 0.2, 0.2))
    assert loaded("builtin:fashion?mean=0.5&std=0.2", 1) == ((0.5,), (0.2,))
    assert loaded("builtin:fashion?mean=0.5&std=0.2", 1, std=(0.3,)) == ((0.5,), (0.3,))
    for spec, channels in (("builtin:fashion?mean=0.5", 3), ("builtin:fashion?std=0.2,0.2,0.2", 1)):
        with pytest.raises(UserError, match="channel"):
            loaded(spec, channels)


def test_bad_files_are_replaced_and_counted(colour_folder: Path) -> None:
    (colour_folder / "image 7.png").write_bytes(b"")
    (colour_folder / "image 9.png").write_bytes(b"no image")
    source = open_source(str(colour_folder))

    def pixels(max_bad: float) -> tuple[np.ndarray, SkippedImages]:
        skipped = SkippedImages(max_bad)
        loader = TrainLoader(
            source,
            {"image": ViewConfig()},
            size=16,
            channels=3,
            batch_size=48,
            random=Randomness(seed=0, scope="x"),
            skipped=skipped,
        )
        batch = loader.batch(0)
        assert sorted(skipped.reasons.values()) == ["empty file", "not an image"]
        return batch.views["image"].numpy(), skipped

    some, few = pixels(0.05), pixels(0.03)
    assert np.array_equal(some[0], few[0])
    assert not some[1].too_many(source)
    assert few[1].too_many(source)
    assert "2 of 48 images" in str(few[1].error(source))


def test_processes_take_contiguous_parts() -> None:
    source = open_source("builtin:fashion?fraction=0.01")

    def loader(rank: int, world_size: int) -> TrainLoader:
        return TrainLoader(
            source,
            {"a": ViewConfig(jitter=0.8, blur=0.5)},
            size=16,
            channels=1,
            batch_size=16,
            random=Randomness(seed=0, scope="x"),
            skipped=SkippedImages(0),
            rank=rank,
            world_size=world_size,
        )

    whole = loader(0, 1).batch(9).views["a"].numpy()
    parts = [loader(rank, 2).batch(9).views["a"].numpy() for rank in (0, 1)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_crop_boxes_lie_inside_and_are_distributed_as_torchvisions() -> None:
    config = ViewConfig(crop_scale=(0.2, 1.0))
    draws = Randomness(seed=0, scope="x").uniform("crop", np.arange(2000), 0, DRAWS)
    areas, aspects = [], []
    for own in draws:
        top, left, height, width = crop_box(50, 80, config, own)
        assert 0 <= top <= 50 - height
        assert 0 <= left <= 80 - width
        areas.append(height * width / 4000)
        aspects.append(np.log(width / height))
    torch.manual_seed(0)
    image = torch.zeros(1, 50, 80)
    boxes = [RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)]
    theirs = [h * w / 4000 for _, _, h, w in boxes], [np.log(w / h) for _, _, h, w in boxes]
    for ours, other in zip((areas, aspects), theirs, strict=True):
        assert ks_2samp(ours, other).pvalue > 0.01


def test_views_are_uint8_of_the_right_size() -> None:
    random = np.random.default_rng(0)
    config = ViewConfig(jitter=1, gray=0.5, blur=0.5, solarize=0.5)
    draws = Randomness(seed=0, scope="x").uniform("view", np.arange(50), 0, DRAWS)
    for channels in (1, 3):
        image = random.integers(0, 256, (40, 60, channels), dtype=np.uint8)
        for own in draws:
            view = random_view(image, config, 24, own)
            assert view.shape == (24, 24, channels)
            assert view.dtype == np.uint8
        assert fixed_view(image, 24).shape == (24, 24, channels)
        assert np.array_equal(fixed_view(image[:40, :40], 40), image[:40, :40])
