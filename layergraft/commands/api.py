"""The public functions. Each is a command of the same name with the same arguments; `cli` reads them from here.

Nothing heavy is imported before a function is called, so that help is quick.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from layergraft.config.loading import load_recipe
from layergraft.config.recipe import Recipe
from layergraft.errors import UserError

if TYPE_CHECKING:
    from layergraft.commands.export import Export
    from layergraft.commands.pack import Packed
    from layergraft.runs.findings import Entry
    from layergraft.runs.layout import Run
    from layergraft.runs.results import ResultRow

Overrides = Mapping[str, Any]


def _path(path: str | Path) -> Path:
    """A path in which `~` is the home directory, also where the shell left it (`--out=~/run`)."""
    return Path(os.path.expanduser(path))


def _optional_path(path: str | Path | None) -> Path | None:
    return None if path is None else _path(path)


def _recipe(recipe: str | Path | Mapping[str, Any], data: str | None, overrides: Overrides | None) -> Recipe:
    changes = dict(overrides or {})
    if data is not None:
        changes["data.source"] = data
    return load_recipe(recipe, changes)


def demo(*, out: str = "runs/demo", baseline: bool = False) -> Run:
    """Train the built-in recipe on built-in images, look inside and write a report (a few minutes on a laptop).

    Args:
        out: directory of the run.
        baseline: train MoCo v3 from scratch as well, to compare.
    """
    from layergraft.commands.demo import train_baseline
    from layergraft.commands.train import train_run

    recipe = load_recipe("fashion_tiny")
    run = train_run(recipe, _path(out), "auto")
    if baseline:
        train_baseline(recipe, _path(out))
    return run


def train(
    *,
    recipe: str | Path | Mapping[str, Any],
    data: str | None = None,
    out: str | Path,
    resume: Literal["auto", "never", "must"] = "auto",
    during: float | None = None,
    replay: str | None = None,
    overrides: Overrides | None = None,
) -> Run:
    """Train a recipe's stages, measure the encoders and write a report.

    Any key of the recipe can be set: --stages.mae.epochs 100 --encoder.img_size 96.

    Args:
        recipe: name of a recipe, or a YAML file.
        data: a folder of images, or a built-in set; sets data.source.
        out: directory of the run; the same command goes on where an earlier start ended.
        resume: auto goes on with a run that is there, never refuses to, must refuses to begin one.
        during: measure kNN and ridge regression on held-out images every so many epochs of training.
        replay: the file that a diverged run left: compute its last steps again, say what is not finite, change nothing.
        overrides: dotted recipe key -> value.
    """
    watched = {} if during is None else {"monitor.every": during, "monitor.protocols": ["knn", "ridge"]}
    complete = _recipe(recipe, data, watched | dict(overrides or {}))
    from layergraft.commands.train import train_run

    return train_run(complete, _path(out), resume, _optional_path(replay))


def plan(
    *,
    recipe: str | Path | None = None,
    data: str | None = None,
    stage: str | None = None,
    json: bool = False,
    overrides: Overrides | None = None,
) -> dict[str, Any]:
    """Show how each layer will move: the table of every stage. Trains nothing. Without a recipe: list the recipes.

    Args:
        recipe: name of a recipe, or a YAML file.
        data: a folder of images, or a built-in set; sets data.source, and the number of steps.
        stage: show this stage alone.
        json: print JSON.
        overrides: dotted recipe key -> value.
    """
    from layergraft.commands.plan import list_recipes, show_plan

    if recipe is None:
        return list_recipes(as_json=json)
    return show_plan(_recipe(recipe, data, overrides), stage, as_json=json)


def evaluate(
    *,
    encoder: str | Path,
    data: str,
    test: str | None = None,
    protocols: list[str] | None = None,
    variant: list[str] | None = None,
    shots: list[str] | None = None,
    splits: list[str] | int = 5,
    pooling: list[str] | None = None,
    k: list[int] | None = None,
    temperature: list[float] | None = None,
    holdout: float | None = None,
    against: list[str] | None = None,
    out: str | Path | None = None,
    overrides: Overrides | None = None,
) -> list[ResultRow]:
    """Measure how few labels an encoder needs.

    Any key of the engine and of a trained protocol's stage can be set: --finetune.epochs 100 --engine.keep 1.

    Args:
        encoder: a run, stage or encoder directory, a checkpoint of another project, or timm:NAME.
        data: labelled training images.
        test: images to classify; by default the test part of a built-in set, or val/ or test/ beside train/. `holdout`
            takes images of `data` that trained nothing.
        protocols: knn, logistic, ridge, prototype on frozen features; linear, finetune, segment train; head came with
            the checkpoint.
        variant: how a penalty is found: published, cv, holdout; of segment: linear, upernet.
        shots: labelled images per class, or percentages: 1 5 10 1%.
        splits: random splits per number of shots; or files that name the labelled images, one a line.
        pooling: cls, mean, cls+mean, last4; auto chooses on held-out images.
        k: neighbours of knn; of several the best on held-out images.
        temperature: of the neighbours' votes, likewise.
        holdout: labelled images that everything is chosen on, a count or a fraction; by default the run's own, else a
            tenth where something is chosen or tested on them.
        against: encoders to measure beside it.
        out: directory of the results; by default the encoder's run, where it is one.
        overrides: dotted key of a trained protocol's stage or of the engine -> value.
    """
    from layergraft.commands.evaluate import evaluate_command

    asked = {"protocols": protocols, "variant": variant, "shots": shots, "pooling": pooling}
    return evaluate_command(
        encoder=str(encoder),
        against=[str(other) for other in against or []],
        data=data,
        test=test,
        changes=asked | {"k": k, "temperature": temperature},
        splits=splits,
        holdout=holdout,
        out=_optional_path(out),
        overrides=overrides or {},
    )


def embed(
    *,
    encoder: str | Path,
    data: str,
    out: str | Path,
    pooling: Literal["cls", "mean", "cls+mean", "last4"] = "cls",
    block: int | None = None,
) -> Path:
    """Write the features of every image to a Parquet file.

    Args:
        encoder: a run, stage or encoder directory, a checkpoint of another project, or timm:NAME.
        data: the images.
        out: the file: columns key, name, label and feature.
        pooling: of the features; last4 holds four blocks side by side.
        block: whose output is pooled, counted from 0; by default the last.
    """
    from layergraft.commands.embed import embed_command

    return embed_command(encoder=str(encoder), data=data, out=_path(out), pooling=pooling, block=block)


def analyze(
    *,
    encoder: str | Path,
    data: str,
    what: list[str],
    against: list[str] | None = None,
    out: str | Path | None = None,
) -> list[Entry]:
    """Look inside an encoder: numbers go to analysis.json, pictures to the report.

    Args:
        encoder: a run, stage or encoder directory, a checkpoint file, or timm:NAME.
        data: the images that it is shown; those that trained nothing, where they are the run's own.
        what: all, or some of conflict, suggest, layer-probe, cka, attention-distance, rank, uniformity, invariance,
            information, token-similarity, spectrum, reconstruct, neighbours, attention-maps, saliency, pca, map.
        against: encoders to compare it with.
        out: directory of analysis.json and report.html; by default the encoder's run, where it is one.
    """
    from layergraft.commands.analyze import analyze_command

    others = [str(other) for other in against or []]
    place = _optional_path(out)
    return analyze_command(encoder=str(encoder), against=others, data=data, what=list(what), out=place)


def inspect(*, checkpoint: str, json: bool = False) -> dict[str, Any]:
    """Say what a checkpoint is: its format, layers, parameters, GFLOP an image, heads, and what was assumed.

    Args:
        checkpoint: a run, stage or encoder directory, a checkpoint of another project, or timm:NAME.
        json: print JSON.
    """
    from layergraft.commands.inspect import inspect_checkpoint

    return inspect_checkpoint(str(checkpoint), as_json=json)


def export(
    *,
    encoder: str | Path,
    format: Literal["timm", "hf", "onnx", "torch_export"],
    out: str | Path,
    with_head: str | Path | None = None,
) -> Export:
    """Write an encoder for another program, checked to give the same features, with a model card if a run made it.

    Args:
        encoder: a run, stage or encoder directory, a checkpoint of another project, or timm:NAME.
        format: a directory of timm or of Hugging Face's ViTModel, an ONNX file, or a file of torch.export.
        out: the directory or file; it must not exist.
        with_head: a fitted classifier of RUN/probes/ on top, for onnx and torch_export.
    """
    from layergraft.commands.export import export_encoder
    from layergraft.runs.layout import run_directory
    from layergraft.runs.report.model_card import write_model_card

    written = export_encoder(str(encoder), format, _path(out), _optional_path(with_head))
    if found := run_directory(str(encoder)):
        write_model_card(found[0], written.out, format, found[1])
    return written


def pack(
    *, data: str, out: str | Path, resize: int | None = None, channels: int = 3, shard_images: int = 1000
) -> Packed:
    """Write images as tar shards with an index: quicker to read than many files, and one thing to copy.

    Args:
        data: the images.
        out: an empty or new directory.
        resize: shrink the shorter side to this many pixels, once, as JPEG; by default files are kept as they are.
        channels: of resized images: 3 for colour, 1 for grey.
        shard_images: images of a shard.
    """
    from layergraft.commands.pack import pack as write

    return write(data, _path(out), resize, channels, shard_images)


def report(*, runs: list[str], out: str | Path | None = None) -> Path:
    """Build report.html and the encoder's model card again from a run directory; several runs side by side in one page.

    Args:
        runs: directories of the runs; or that of a study, alone, whose claims.json is made again, too.
        out: the page; by default report.html in the first of the directories.
    """
    from layergraft.commands.reproduce.study_file import is_study
    from layergraft.runs.report.model_card import write_model_card
    from layergraft.runs.report.page import write_report

    if any(is_study(_path(run)) for run in runs):
        from layergraft.commands.reproduce.claims import report_study

        page = report_study([_path(run) for run in runs], _optional_path(out))
        print(f"Report: {page}")
        return page
    for run in map(_path, runs):
        if (run / "encoder").is_dir():
            write_model_card(run, run / "encoder")
    page = write_report([_path(run) for run in runs], _optional_path(out))
    print(f"Report: {page}")
    return page


def bench(
    *,
    what: Literal["step", "data", "logistic", "loop", "checkpoint"] = "step",
    objective: Literal["mae", "moco"] = "mae",
    encoder: str = "vit_small_patch16_224",
    img_size: int = 224,
    batch_size: int = 32,
    frozen: list[int] | None = None,
    data: str | None = None,
    views: Literal["mae", "moco"] = "moco",
    seconds: float = 10.0,
    json: bool = False,
) -> dict[str, Any]:
    """How fast is this machine at a training step, or at making views? The last line is one JSON object.

    Args:
        what: a training step; making views (data); logistic regression beside scikit-learn and Cyanure; what logging,
            guards and checkpoints add to a step (loop); how long training waits for a checkpoint.
        objective: step, loop: mae or moco.
        encoder: step, checkpoint: timm's model name.
        img_size: side of the images.
        batch_size: step: images of a step.
        frozen: step: numbers of frozen lowest blocks to compare, 0 4 6; the first one meets the reference.
        data: data: the files to make views of.
        views: data: mae (one view) or moco (two), on one core.
        seconds: how long to measure.
        json: print nothing but the JSON object.
    """
    if what == "data":
        from layergraft.commands.bench.data import bench_data

        if data is None:
            raise UserError("`layergraft bench data` has no images.", "Give --data FOLDER.")
        return bench_data(data, views, img_size, seconds, quiet=json)
    if what == "logistic":
        from layergraft.commands.bench.logistic import bench_logistic

        return bench_logistic(quiet=json)
    if what == "loop":
        from layergraft.commands.bench.loop import bench_loop

        return bench_loop({"mae": "mae", "moco": "graft"}[objective], seconds, quiet=json)
    if what == "checkpoint":
        from layergraft.commands.bench.loop import bench_checkpoint

        return bench_checkpoint(encoder, img_size, quiet=json)
    from layergraft.commands.bench.step import bench_step

    return bench_step(objective, encoder, img_size, batch_size, frozen, seconds, quiet=json)


def reproduce(
    *,
    scale: Literal["smoke", "tiny", "small"] = "tiny",
    data: str | None = None,
    seeds: int = 3,
    out: str | Path,
    jobs: int | None = None,
) -> Path:
    """Test the claims of layer grafting: train every arm, searched alike, with several seeds, and compare them.

    At tiny, under an hour on two cores with three seeds. The same command goes on where an earlier start ended.

    Args:
        scale: smoke (a minute, says nothing), tiny (built-in images), small (images of your own, hours).
        data: labelled images, folders train and val; by default those of the scale.
        seeds: pre-training seeds of MAE, MoCo v3 from scratch and the chosen graft; other arms have at most three.
        out: directory of the study.
        jobs: runs at a time, each on one core; by default one a core, or one on a GPU.
    """
    from layergraft.commands.reproduce.study import reproduce_study

    return reproduce_study(scale, data, seeds, _path(out), jobs)
