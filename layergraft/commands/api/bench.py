"""The command that measures this machine, and methods on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from layergraft.commands.api.loading import loading
from layergraft.config.paths import expanded


def bench(
    *,
    what: Literal["step", "data", "logistic", "loop", "checkpoint", "encode", "quality"] = "step",
    objective: Literal["mae", "moco"] = "mae",
    encoder: str = "vit_small_patch16_224",
    img_size: int = 224,
    batch_size: list[int] | int = 32,
    frozen: list[int] | None = None,
    data: str | None = None,
    views: Literal["mae", "moco"] = "moco",
    busy: bool = False,
    rows: list[int] | None = None,
    runtimes: list[Literal["eager", "compiled", "onnx"]] | None = None,
    seconds: float = 10.0,
    recipes: list[str] | None = None,
    budgets: list[float] | None = None,
    target: float | None = None,
    seeds: int = 3,
    rivals: list[Literal["mae", "moco", "simclr", "none"]] | None = None,
    rates: list[float] | None = None,
    jobs: int | None = None,
    out: str | Path = "runs/quality",
    json: bool = False,
) -> dict[str, Any]:
    """Measure how fast this machine trains, computes features, makes views or fits classifiers, and how well it trains.

    The last line of the output is one JSON object. quality goes on where an earlier start of it ended.

    Args:
        what: step: a training step; data: making views; logistic: logistic regression beside scikit-learn and Cyanure;
            loop: what logging, guards and checkpoints add to a step; checkpoint: how long training waits for one;
            encode: an encoder's images per second, latency and memory, in fp32 and bf16; quality: accuracy of recipes
            over core-seconds of training, beside rivals.
        objective: for step and loop: mae or moco.
        encoder: timm's model name, with fresh weights; for encode also any encoder: a run, stage or encoder directory,
            a checkpoint of another project, or timm:NAME.
        img_size: side of the images in pixels; an encoder with weights has its own.
        batch_size: for step: images per step; for encode: one or several numbers of images at a time, 1 32.
        frozen: for step: numbers of frozen lowest blocks to compare, 0 4 6; the first meets the reference.
        data: for data: the images to make views of; for quality: the images of all recipes, in place of their own; for
            logistic: labelled images, whose features by --encoder and whose raw pixels are fitted; by default rows
            drawn from a distribution.
        views: for data: mae (one view) or moco (two), on one core.
        busy: for data: measure beside a training step of ViT-S/16 on the other cores, as while training.
        rows: for logistic with --data: how many images are fitted; by default 100 500 10000.
        runtimes: for encode: eager, compiled by torch.compile, and exported to onnx; by default all.
        seconds: how long to measure.
        recipes: for quality: names or files of recipes, the first of which is compared with the others; by default
            fashion_tiny.
        budgets: for quality: core-seconds of training that every recipe is fitted to; by default 60 120 240 480.
        target: for quality: 5-shot accuracy in percent on held-out images that is to be reached; by default what the
            first recipe reaches with the largest budget.
        seeds: for quality: how many, each with its own held-out images.
        rivals: for quality: methods of the package lightly on the first recipe's network, mae, moco (v3) and simclr, or
            none; by default all where it is installed.
        rates: for quality: factors of the rivals' learning rates, of which each budget takes what is best on held-out
            images; by default 0.5 1 2 4.
        jobs: for quality: trainings at a time, each on one core; by default one per core.
        out: for quality: directory of what it trains and finds.
        json: print only the JSON object.

    Returns:
        What the last line says.

    Raises:
        UserError: an unknown model or recipe, or no images to read.
        Stopped: of quality, a signal came; everything so far is saved and the same call goes on.
    """
    if what == "quality":
        with loading():
            from layergraft.commands.bench.quality.run import bench_quality

        return bench_quality(recipes, data, budgets, target, seeds, rivals, rates, jobs, expanded(out), quiet=json)
    with loading():
        from layergraft.commands.bench.run import run_bench

    return run_bench(
        what, objective, encoder, img_size, batch_size, frozen, data, views, busy, rows, runtimes, seconds, quiet=json
    )
