"""A recipe from what the images and the machine are like: every choice, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from layergraft.config.comments import Comments
from layergraft.config.encoder import EncoderConfig, height_and_width
from layergraft.config.loading import load_recipe
from layergraft.config.recipe import Recipe
from layergraft.training.choice.images import ImageSet
from layergraft.training.choice.machine import Machine
from layergraft.training.choice.networks import KEPT, NETWORKS, Network, encoder_config, image_flops, patches
from layergraft.training.choice.stages import continued, stage_of
from layergraft.training.choice.start import Start
from layergraft.training.choice.why import SMALL, comments, notes, unguarded

USUAL_MINUTES = {"cpu": 30.0, "cuda": 120.0}
# Parts of the training time, of the stages that there are. MAE's was chosen on held-out emoji (docs/own_images.md).
SHARES = {"mae": 0.6, "heads": 0.05, "upper": 0.13, "graft": 0.4}
EFFICIENCY = {"cpu": 0.4, "cuda": 0.3}  # of the speed of large products, that a step reaches
LOW_EFFICIENCY = 0.2  # on a CPU in 16 bits: what is between the products becomes no faster
TRAINING = 0.75  # of the whole time, before the rest has been tried
FEWEST_PASSES, PASSES_PER_IMAGE, MOST_PASSES = 50_000, 20, 1_000_000
MOST_EPOCHS = 1500  # after which more of the same images teach nothing more
WARM_UP = 0.1
SHOTS, SPLITS = (1, 5, 10), 20
BATCH = {"cpu": {"mae": 128, "graft": 64}, "cuda": {"mae": 512, "graft": 512}}
_MEMORY_PER_VALUE = 70  # bytes that a block keeps of each number of a token for its gradient, in 16 bits


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A recipe and why it is as it is.

    Args:
        recipe: complete.
        comments: dotted key -> why it has its value.
        notes: sentences for the user: what the time does not allow, and what would be worth more.
        wanted: images that the contrastive stage should see, over all its steps.
    """

    recipe: Recipe
    comments: Comments
    notes: tuple[str, ...]
    wanted: float


def device_of(machine: Machine) -> str:
    """`cuda` or `cpu`."""
    return "cuda" if machine.gpu else "cpu"


def usual_minutes(machine: Machine) -> float:
    """Minutes of a whole run where nobody says how many."""
    return USUAL_MINUTES[device_of(machine)]


def choose(images: ImageSet, machine: Machine, minutes: float, start: Start | None = None) -> Choice:
    """Choose everything; lengths come from counted operations, until a trial has shown what a step takes.

    Args:
        images: what is trained on.
        machine: where.
        minutes: of the whole run, evaluation and analyses included.
        start: weights to start from, or None.
    """
    device = device_of(machine)
    held = _holdout(images)
    train = images.count - held
    seconds = 60 * minutes * TRAINING
    efficiency = LOW_EFFICIENCY if device == "cpu" and machine.precision != "32-true" else EFFICIENCY[device]
    speed = machine.gflops * 1e9 * efficiency
    network, wanted = _network(images, seconds * speed)
    encoder = encoder_config(network, images.side, images.channels)
    stages: tuple[str, ...] = ("mae", "graft")
    if start is not None:
        network, encoder, stages = start.network, start.encoder(images.side), ("heads", "upper", "graft")
    flops = image_flops(network, encoder)
    batch = {name: _batch(BATCH[device]["mae" if name == "mae" else "graft"], train) for name in stages}
    per_step = {name: flops[name] * batch[name] / speed for name in stages}
    steps = lengths(seconds, per_step, batch, train)
    raw: dict[str, Any] = {
        "encoder": msgspec.to_builtins(encoder),
        "start": start.enc if start else None,
        "data": {
            "source": images.spec,
            "holdout": held,
            "workers": min(machine.cores, 16) if machine.gpu else min(machine.cores, 2),
        },
        "stages": {
            name: stage_of(name, network, images.bands, batch[name], steps[name]) for name in stages if not start
        },
        "evaluate": _evaluate(images, held),
        "analyze": ["neighbours", "reconstruct", "attention-maps", "pca", "spectrum"],
        "monitor": {"every": 1, "images": 2000},
        "engine": {"precision": machine.precision, "products": "auto"},
    }
    if start is not None:
        for name, stage in continued(images.count < SMALL, network, images.bands, held).items():
            raw["stages"][name] = stage | {"steps": steps[name], "epochs": None, "batch_size": batch[name]}
        if not machine.gpu:  # there is no time to move the lower half at all
            raw["stages"]["graft"]["plan"]["freeze"] = {"blocks": network.depth // 2}
    micro = _micro_batch(network, encoder, machine, batch["graft"])
    if micro is not None:
        raw["engine"]["micro_batch"] = micro
    if images.side > 4 * max(height_and_width(encoder.img_size)):
        raw["data"]["cache"] = "disk"
    recipe = watched(load_recipe(raw), train)
    return explained(recipe, images, machine, minutes, wanted)


def explained(recipe: Recipe, images: ImageSet, machine: Machine, minutes: float, wanted: float) -> Choice:
    """A recipe with its reasons.

    Args:
        recipe: chosen.
        images: what it is chosen for.
        machine: likewise.
        minutes: of the whole run.
        wanted: images that the contrastive stage should see.
    """
    graft = recipe.stages["graft"]
    passes = graft.steps * graft.batch_size if graft.steps else graft.total_epochs(1) * images.count
    return Choice(
        recipe=recipe,
        comments=comments(recipe, images, machine, minutes),
        notes=(*unguarded(recipe), *notes(images, recipe.start is not None, passes, wanted, minutes)),
        wanted=wanted,
    )


def lengths(seconds: float, per_step: Mapping[str, float], batch: Mapping[str, int], train: int) -> dict[str, int]:
    """Steps of each stage that its share of a time allows, up to so many epochs that more teach nothing more.

    Args:
        seconds: of all stages.
        per_step: stage -> seconds of a step.
        batch: stage -> images of a step.
        train: training images.
    """
    shares = {name: SHARES.get(name, 1.0) for name in per_step}
    whole = sum(shares.values())
    return {
        name: max(1, min(int(seconds * shares[name] / whole / taken), MOST_EPOCHS * train // batch[name]))
        for name, taken in per_step.items()
    }


def watched(recipe: Recipe, train: int) -> Recipe:
    """The same recipe, whose warm-up is a tenth of each stage, and which looks at held-out images eight times a stage.

    Args:
        recipe: whose stages have their lengths.
        train: training images.
    """
    stages = {
        name: msgspec.structs.replace(
            stage,
            warmup_steps=round(WARM_UP * stage.total_steps(stage.steps_per_epoch(train))),
            warmup_epochs=0,
        )
        for name, stage in recipe.stages.items()
    }
    longest = max(stage.total_epochs(stage.steps_per_epoch(train)) for stage in stages.values())
    every = float(f"{longest / 8:.2g}")
    return msgspec.structs.replace(recipe, stages=stages, monitor=msgspec.structs.replace(recipe.monitor, every=every))


def _holdout(images: ImageSet) -> int:
    """Held-out images: a twentieth; a fifth where they stand for the test images, which are not there."""
    share = 0.05 if images.test and not images.untestable else 0.2 if images.classes else 0.05
    return min(2000, images.count // 5, max(round(share * images.count), min(100, images.count // 5)))


def _network(images: ImageSet, budget: float) -> tuple[Network, int]:
    """The largest network that goes often enough through the images, and how often that is in image passes."""
    wanted = min(MOST_PASSES, MOST_EPOCHS * images.count // 2, max(FEWEST_PASSES, PASSES_PER_IMAGE * images.count))
    chosen = NETWORKS[0]
    for network in NETWORKS:
        flops = image_flops(network, encoder_config(network, images.side, images.channels))["graft"]
        is_affordable = SHARES["graft"] * budget / flops >= wanted
        # A network for larger images than these are is only more of the same.
        sees_more = network.side > chosen.side and (not images.side or images.side > chosen.side)
        if is_affordable and (sees_more or network.side == chosen.side or network.width > chosen.width):
            chosen = network
    return chosen, wanted


def _batch(usual: int, train: int) -> int:
    """A power of two, at most a quarter of the images, so that an epoch has several steps."""
    return max(2, min(usual, 1 << int(math.log2(max(2, train / 4)))))


def _micro_batch(network: Network, encoder: EncoderConfig, machine: Machine, batch: int) -> int | None:
    """Images at once that fit half the GPU's memory; None where the batch does."""
    # A convolutional stem has BatchNorm, which must see the whole batch.
    if machine.gpu is None or machine.memory is None or encoder.stem == "conv":
        return None
    per_image = 2 * KEPT * patches(encoder) * network.width * network.depth * _MEMORY_PER_VALUE
    fitting = machine.memory / 2 / per_image
    return None if fitting >= batch else max(8, 1 << int(math.log2(max(8, fitting))))


def _evaluate(images: ImageSet, held: int) -> dict[str, Any] | None:
    """Few labels on frozen features, with as many as the smallest class has; None where there is nothing to measure."""
    if not images.classes or images.untestable or (images.test is None and not held):
        return None
    # Of a class of three or more one image at least is held out.
    left = images.smallest - math.ceil(images.smallest * held / images.count) - 1 if images.smallest > 2 else 1
    shots = [many for many in SHOTS if many <= max(1, left)]
    return {"protocols": ["knn", "logistic"], "shots": shots, "splits": SPLITS}
