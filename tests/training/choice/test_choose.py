"""The recipe that is chosen is sane, whatever the images and the machine."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, product
from typing import Literal

import pytest
from msgspec import structs, to_builtins

from layergraft.config.comments import read_comments, with_comments
from layergraft.config.encoder import EncoderConfig
from layergraft.config.loading import dump_recipe, load_recipe
from layergraft.config.plan import FreezeBlocks
from layergraft.config.yaml_text import read_yaml
from layergraft.training.choice.choose import MOST_EPOCHS, Choice, choose, explained
from layergraft.training.choice.images import ImageSet
from layergraft.training.choice.machine import Machine
from layergraft.training.choice.networks import NETWORKS, Network, encoder_config, image_flops, sizes
from layergraft.training.choice.start import Start

CPU = Machine(cores=2, gflops=300.0, precision="32-true", memory=8 * 2**30)
GPU = Machine(cores=16, gflops=300_000.0, precision="bf16-mixed", memory=16 * 2**30, gpu="a GPU")
COUNTS = (10, 500, 5000, 50_000)
SIDES = (0, 28, 64, 500, 4000)
BANDS = {"grey": 1, "colour": 3, "bands": 5}
CLASSES = (0, 1, 2, 1000)


def images(count: int = 5000, side: int = 300, bands: str = "colour", classes: int = 10, test: bool = True) -> ImageSet:
    return ImageSet(
        spec="images/train",
        count=count,
        side=side,
        channels=BANDS[bands],
        bands=bands,
        classes=min(classes, count),
        smallest=count // classes if classes else 0,
        test="images/val" if test else None,
    )


def is_sane(choice: Choice, what: ImageSet, machine: Machine) -> None:
    recipe = choice.recipe
    encoder, data = recipe.encoder, recipe.data
    assert encoder.in_chans == what.channels
    assert encoder.patch_size is not None
    assert encoder.img_size % encoder.patch_size == 0
    assert 4 <= encoder.img_size // encoder.patch_size <= 16
    assert not what.side or encoder.img_size <= what.side
    assert 0 < data.holdout <= what.count / 5
    train = what.count - int(data.holdout)
    for stage in recipe.stages.values():
        assert stage.steps is not None
        assert stage.warmup_steps is not None
        assert stage.steps >= 1
        assert 0 <= stage.warmup_steps <= max(1, stage.steps // 5)
        assert 2 <= stage.batch_size <= max(2, train // 2)
        assert stage.steps * stage.batch_size <= MOST_EPOCHS * train
    views = recipe.stages["graft"].views["first"]
    assert (views.gray > 0) == (what.bands == "colour")
    assert (recipe.engine.precision == "bf16-mixed") == (machine.gpu is not None)
    assert (recipe.evaluate is not None) == (what.classes > 0)
    if recipe.evaluate is not None:
        assert recipe.evaluate.shots
        assert all(int(shots) <= max(1, what.smallest) for shots in recipe.evaluate.shots)


@pytest.mark.parametrize("machine", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("bands", BANDS)
def test_sane_for_any_number_and_size(machine: Machine, bands: str) -> None:
    for count, side in product(COUNTS, SIDES):
        what = images(count, side, bands)
        is_sane(choose(what, machine, 30), what, machine)


@pytest.mark.parametrize("classes", CLASSES)
def test_sane_for_any_images(classes: int) -> None:
    """Every number with every size, colour and number of classes at once, in a minute and in a day."""
    how = cycle(product((CPU, GPU), (1, 24 * 60)))
    for (count, side, bands), (machine, minutes) in zip(product(COUNTS[1:], SIDES[1:], BANDS), how, strict=False):
        what = images(count, side, bands, classes, test=bool(count % 1000))
        is_sane(choose(what, machine, minutes), what, machine)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("test", [True, False])
def test_sane_for_any_labels(classes: int, test: bool) -> None:
    for count in COUNTS[1:]:
        what = images(count, classes=classes, test=test)
        choice = choose(what, CPU, 30)
        is_sane(choice, what, CPU)
        if classes and not test:
            assert choice.recipe.data.holdout >= min(count // 5, 2000)  # they stand for the test images


def test_more_time_is_a_longer_run_or_a_larger_network() -> None:
    recipes = [choose(images(), CPU, minutes).recipe for minutes in (1, 10, 60)]
    work = [
        sum((stage.steps or 0) * stage.batch_size for stage in recipe.stages.values()) * (recipe.encoder.depth or 12)
        for recipe in recipes
    ]
    assert work == sorted(set(work))
    widths = [choose(images(), GPU, minutes).recipe.encoder.embed_dim or 0 for minutes in (1, 10, 600)]
    assert widths == sorted(widths)


def test_a_cpu_gets_vit_tiny_and_a_gpu_a_larger_one() -> None:
    small = choose(images(), CPU, 30).recipe.encoder
    assert (small.name, small.embed_dim) == ("vit_tiny_patch16_224", 192)
    assert small.img_size <= 96
    large = choose(images(50_000), GPU, 8 * 60).recipe.encoder
    assert (large.embed_dim or 0) >= 384
    assert large.img_size == 224


def test_few_images_are_told_that_a_start_is_worth_more() -> None:
    assert any("--start" in note and "timm:" in note for note in choose(images(500), CPU, 30).notes)
    assert not any("--start" in note for note in choose(images(50_000), GPU, 600).notes)


def test_what_a_short_time_gives_up_is_said() -> None:
    assert any("--minutes" in note for note in choose(images(50_000), CPU, 10).notes)


def test_images_that_cannot_be_tested_on_are_not() -> None:
    what = ImageSet(
        spec="a", count=900, side=64, channels=3, bands="colour", classes=3, smallest=300, test="b", untestable="why"
    )
    choice = choose(what, CPU, 30)
    assert choice.recipe.evaluate is None
    assert any("why" in note for note in choice.notes)
    assert "why" in choice.comments["evaluate"]


def test_what_is_not_measured_says_why() -> None:
    assert "no labels" in choose(images(classes=0), CPU, 30).comments["evaluate"]
    given_up = structs.replace(choose(images(), CPU, 30).recipe, evaluate=None)
    assert "time" in explained(given_up, images(), CPU, 30, 1).comments["evaluate"]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: f"{network.width}-{network.depth}-{network.side}")
@pytest.mark.parametrize("side", [0, 8, 15, 28, 33, 50, 64, 97, 224, 4000])
def test_patches_divide_the_image(network: Network, side: int) -> None:
    img_size, patch = sizes(network, side)
    assert img_size % patch == 0
    assert img_size <= side or not side
    assert all(flops > 0 for flops in image_flops(network, encoder_config(network, side, 3)).values())


def test_every_choice_says_why_and_is_read_back() -> None:
    choice = choose(images(), CPU, 30)
    text = with_comments(dump_recipe(choice.recipe), choice.comments)
    assert load_recipe(read_yaml(text)) == choice.recipe
    for key in ("encoder.img_size", "encoder.in_chans", "encoder.patch_size", "data.holdout", "engine.precision"):
        assert choice.comments[key]
    for key in ("data.workers", "monitor.every", "stages.mae.optimizer.base_lr", "stages.graft.views.first.crop_scale"):
        assert f"# {choice.comments[key][:20]}" in text
    for key in ("stages.mae.steps", "stages.graft.steps", "stages.graft.batch_size", "evaluate", "analyze"):
        assert choice.comments[key]
    kept = read_comments(text)
    assert with_comments(dump_recipe(choice.recipe), kept) == text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_a_start_makes_another_recipe() -> None:
    config = EncoderConfig(
        name="vit_small_patch16_224", img_size=224, in_chans=3, patch_size=16, embed_dim=384, depth=12, num_heads=6
    )
    start = Start(enc="timm:vit_small_patch16_224.dino", network=NETWORKS[3], config=config)
    for machine, frozen in ((CPU, 6), (GPU, None)):
        choice = choose(images(500, 64, "grey"), machine, 30, start)
        recipe = choice.recipe
        assert recipe.start == start.enc
        assert (recipe.encoder.in_chans, recipe.encoder.patch_size, recipe.encoder.img_size) == (3, 16, 96)
        assert list(recipe.stages) == ["heads", "upper", "graft"]
        ours = load_recipe("continue_small").stages  # there is no second way to go on
        for name, stage in recipe.stages.items():
            assert stage.guard == ours[name].guard
            assert stage.plan.anchor == ours[name].plan.anchor
            assert stage.plan.lr_scale == ours[name].plan.lr_scale
            assert stage.optimizer == ours[name].optimizer  # the recipe's network is as wide
        assert recipe.stages["heads"].plan == ours["heads"].plan
        assert recipe.stages["upper"].plan.freeze == FreezeBlocks(blocks=8)
        freeze = recipe.stages["graft"].plan.freeze
        assert (freeze.blocks if isinstance(freeze, FreezeBlocks) else None) == frozen
        assert all(choice.comments[key] for key in ("start", "stages.heads.steps", "stages.graft.guard"))
        assert not any("--start" in note for note in choice.notes)
        assert choice.comments[""].startswith("Chosen by")


def test_a_wide_start_takes_smaller_steps_and_many_images_another_recipe() -> None:
    config = EncoderConfig(name="vit_base_patch16_224", img_size=224, patch_size=16, embed_dim=768, depth=7)
    start = Start(enc="a", network=replace(NETWORKS[4], depth=7), config=config)
    few, many = (choose(images(count), GPU, 30, start).recipe.stages for count in (4999, 5000))
    small, large = (load_recipe(f"continue_{size}").stages for size in ("small", "large"))
    assert few["graft"].optimizer.base_lr == pytest.approx(small["graft"].optimizer.base_lr / 2)
    assert many["graft"].optimizer == large["graft"].optimizer
    assert few["upper"].plan.freeze == FreezeBlocks(blocks=5)


@pytest.mark.parametrize(("count", "guarded"), [(4, False), (5, False), (500, True)])
def test_too_few_held_out_is_no_guard_and_is_said(count: int, guarded: bool) -> None:
    config = EncoderConfig(name="vit_tiny_patch16_224", img_size=96, patch_size=16, embed_dim=192)
    choice = choose(images(count), CPU, 30, Start(enc="a", network=NETWORKS[0], config=config))
    assert any(stage.guard is not None for stage in choice.recipe.stages.values()) == guarded
    assert any("nothing guards the run" in note for note in choice.notes) != guarded
    for stage in ("upper", "graft"):
        assert ("nothing guards" in choice.comments[f"stages.{stage}.guard"]) != guarded


def test_weights_for_images_that_are_not_square_keep_their_size() -> None:
    config = EncoderConfig(name="vit_tiny_patch16_224", img_size=(96, 128), patch_size=16, embed_dim=192)
    start = Start(enc="a", network=NETWORKS[0], config=config)
    assert start.encoder(64) == config
    assert choose(images(500), CPU, 30, start).recipe.encoder.img_size == (96, 128)


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_a_batch_is_never_cut_for_a_network_whose_norms_must_see_it(stem: Literal["patch", "conv"]) -> None:
    config = EncoderConfig(
        name="vit_base_patch16_224", img_size=224, patch_size=16, embed_dim=768, depth=12, num_heads=12, stem=stem
    )
    small = replace(GPU, memory=2**30)
    recipe = choose(images(), small, 30, Start(enc="a", network=NETWORKS[-1], config=config)).recipe
    assert (recipe.engine.micro_batch is None) == (stem == "conv")


def test_a_length_in_epochs_is_no_length_of_nothing() -> None:
    what = images()
    recipe = load_recipe(to_builtins(choose(what, CPU, 30).recipe), {"stages.graft.epochs": "20"})
    said = " ".join(explained(recipe, what, CPU, 30, 20.0 * what.count).notes)
    assert "0.0 times" not in said
    assert "is short" not in said


def test_no_time_is_asked_for_that_teaches_nothing_more() -> None:
    assert "is short" not in " ".join(choose(images(count=20, classes=2), CPU, 10_000).notes)
