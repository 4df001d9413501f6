"""Compare variants of a chosen recipe at equal processor time, on a vendor of emoji that is held out.

    python tools/own_images.py emoji --out images/choose --test twitter --leave-out facebook
    python tools/choose_own.py --images images/choose --seconds 480 --mae 0.45 --stages.graft.objective.keep_ratio 0.25

trains the recipe that `train --data images/choose/train` would choose for this machine, with the keys that follow,
on one core: `--mae` is MAE's part of the time, `--seconds` that of both stages. It prints kNN and the accuracy of
protocol `logistic` at 1, 5 and 10 labels a class, ten draws from 1,500 images, on 900 of the held-out vendor; raw
pixels and the first weights with `--seconds 0`. The vendor that docs/own_images.md reports is no part of this.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from layergraft.config.loading import load_recipe
from layergraft.config.recipe import EvaluateConfig, Recipe
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.encoders.vit import Encoder
from layergraft.evaluation.features import Array, extract_all, pixels
from layergraft.evaluation.frozen import Measurement
from layergraft.evaluation.task import Task
from layergraft.graft.donors import first_encoder
from layergraft.training.choice.choose import choose
from layergraft.training.choice.images import look_at_images
from layergraft.training.choice.machine import look_at_machine
from layergraft.training.launch import launch
from layergraft.training.run_data import RunData, load_data
from layergraft.training.stage import prepare_stage
from layergraft.training.trainer import Trainer

WARM, TIMED = 2, 4  # steps before the clock runs, and steps that it times
LABELLED, TESTED, SPLITS = 1500, 900, 10


def some(source: Source, count: int) -> Source:
    """A random part of the images, the same for every variant."""
    return source.subset(np.sort(np.random.default_rng(0).permutation(source.keys)[:count]))


def train_for(recipe: Recipe, name: str, encoder: Encoder, data: RunData, seconds: float, out: Path) -> Encoder:
    """Train a stage for as much processor time, its schedule included.

    Args:
        recipe: with this stage.
        name: the stage.
        encoder: to start from.
        data: images.
        seconds: of processor time.
        out: an empty folder.

    Returns:
        The encoder after the stage.
    """

    def begin(steps: int) -> tuple[Trainer, Encoder]:
        stage = msgspec.structs.replace(
            recipe.stages[name], steps=steps, epochs=None, warmup_steps=max(1, steps // 10), warmup_epochs=0
        )
        piece = msgspec.structs.replace(recipe, stages={name: stage})
        run = prepare_stage(piece, name, out, copy.deepcopy(encoder), data)
        trainer = Trainer(launch(), run)
        trainer.begin()
        return trainer, run.encoder

    trial, _ = begin(WARM + TIMED)
    for step, batch in enumerate(trial.batches()):
        if step == WARM:
            began = time.process_time()
        trial.accept(trial.compute(batch))
    steps = max(WARM, int(seconds * TIMED / (time.process_time() - began)))
    trainer, trained = begin(steps)
    began = time.process_time()
    for batch in trainer.batches():
        trainer.accept(trainer.compute(batch))
    trainer.finish()
    print(f"{name}: {steps} steps, {time.process_time() - began:.0f} s of processor time", flush=True)
    return trained.train()


def measure(task: Task, what: str, features: dict[str, Array]) -> None:
    """Print kNN and few labels of some features."""
    config = EvaluateConfig(shots=(1, 5, 10), splits=SPLITS)
    rows = Measurement(task, config, what, None, features, {}, torch.device("cpu"), None).rows()
    figures = [f"kNN {row.value:.1f}" for row in rows if row.protocol == "knn"]
    figures += [f"{row.shots}: {row.value:.1f}" for row in rows if row.split == "mean"]
    print(f"{what}: {', '.join(figures)}", flush=True)


def main() -> None:
    """Read the command line and train one variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="what own_images.py emoji has written")
    parser.add_argument("--seconds", type=float, default=480, help="processor time of both stages; 0 trains nothing")
    parser.add_argument("--mae", type=float, default=0.6, help="MAE's part of it")
    arguments, words = parser.parse_known_args()
    torch.set_num_threads(1)
    overrides: dict[str, Any] = {
        key.removeprefix("--"): value for key, value in zip(words[::2], words[1::2], strict=True)
    }
    images = look_at_images(str(arguments.images / "train"))
    chosen = choose(images, look_at_machine(), 20.0).recipe
    recipe = load_recipe(msgspec.to_builtins(chosen), {"data.workers": "0"} | overrides)
    data = load_data(recipe)
    encoder = first_encoder(recipe, data.mean, data.std)
    held_out = some(open_source(str(arguments.images / "val")), TESTED)
    task = Task(train=some(data.train, LABELLED), test=held_out, test_name="held out", seed=0)

    def features(encoder: Encoder) -> dict[str, Array]:
        return {part: extract_all(encoder, source, ["cls"])["cls"] for part, source in task.sources.items()}

    if not arguments.seconds:
        side = encoder.img_size
        measure(task, "pixels", {p: pixels(s, side, encoder.in_chans, side) for p, s in task.sources.items()})
        measure(task, "random", features(encoder))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, part in (("mae", arguments.mae), ("graft", 1 - arguments.mae)):
            encoder = train_for(recipe, name, encoder, data, arguments.seconds * part, Path(folder))
    measure(task, " ".join([f"mae {arguments.mae:g}", *words]), features(encoder))


if __name__ == "__main__":
    main()
