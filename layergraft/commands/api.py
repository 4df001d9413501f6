"""The public functions. Each is a command of the same name with the same arguments; `cli` reads them from here.

Nothing heavy is imported before a function is called, so that help is quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from layergraft.commands.paths import optional_path
from layergraft.config.loading import load_recipe
from layergraft.config.paths import expanded
from layergraft.config.recipe import Recipe

if TYPE_CHECKING:
    from layergraft.commands.export import Export
    from layergraft.commands.pack import Packed
    from layergraft.commands.pick import Picks
    from layergraft.commands.predict.run import Predicted
    from layergraft.runs.audit import Audit
    from layergraft.runs.findings import Entry
    from layergraft.runs.layout import Run
    from layergraft.runs.results import Results

Overrides = Mapping[str, Any]


def _recipe(recipe: str | Path | Mapping[str, Any], data: str | None, overrides: Overrides | None) -> Recipe:
    changes = dict(overrides or {})
    if data is not None:
        changes["data.source"] = data
    return load_recipe(recipe, changes)


def demo(*, out: str = "runs/demo", baseline: bool = False) -> Run:
    """Train the built-in recipe on built-in images and write a report, in a few minutes on a laptop.

    Args:
        out: directory of the run.
        baseline: also train MoCo v3 from scratch, for comparison.

    Returns:
        The files of the run.

    Raises:
        UserError: the directory holds something else.
        Stopped: a signal came; everything so far is saved and the same call goes on.
    """
    from layergraft.commands.demo import run_demo

    return run_demo(expanded(out), baseline)


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
        out: directory of the run; the same command resumes a run that was interrupted.
        resume: auto: resume if the directory holds this run, else start; never: fail if it does; must: fail if not.
        during: measure kNN and ridge regression on held-out images every this many epochs of training.
        replay: the file that a diverged run left; recomputes its last steps and reports what is not finite.
        overrides: dotted recipe key -> value.

    Returns:
        The files of the run.

    Raises:
        UserError: a wrong recipe, images that cannot be read, a directory that holds another run, or divergence.
        Stopped: a signal came; everything so far is saved and the same call goes on.
    """
    watched = {} if during is None else {"monitor.every": during, "monitor.protocols": ["knn", "ridge"]}
    complete = _recipe(recipe, data, watched | dict(overrides or {}))
    from layergraft.commands.train import train_run

    return train_run(complete, expanded(out), resume, optional_path(replay))


def plan(
    *,
    recipe: str | Path | None = None,
    data: str | None = None,
    stage: str | None = None,
    json: bool = False,
    overrides: Overrides | None = None,
) -> dict[str, Any]:
    """Show the graft plan of every stage, a row per layer, without training; without a recipe, list the recipes.

    Args:
        recipe: name of a recipe, or a YAML file.
        data: a folder of images, or a built-in set; sets data.source, and the number of steps.
        stage: show only this stage.
        json: print JSON instead of tables.
        overrides: dotted recipe key -> value.

    Returns:
        What `--json` prints: the stages with their layers, or name -> first line of each recipe.

    Raises:
        UserError: a wrong recipe, or one that does not fit its encoder.
    """
    if recipe is None:
        from layergraft.commands.recipe_list import list_recipes

        return list_recipes(as_json=json)
    from layergraft.commands.plan import show_plan

    return show_plan(_recipe(recipe, data, overrides), stage, as_json=json)


def evaluate(
    *,
    encoder: str | Path,
    data: str,
    labels: str | Path | None = None,
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
) -> Results:
    """Measure how few labels an encoder needs.

    Any key of the engine and of a trained protocol's stage can be set: --finetune.epochs 100 --engine.keep 1.

    Args:
        encoder: a run, stage or encoder directory, a checkpoint of another project, or timm:NAME.
        data: labelled training images.
        labels: a file with the columns path and label of some of the images of `data`. Without `test`, they are
            cross-validated: each is classified by classifiers of the others.
        test: images to classify; by default the test part of a built-in set, or val/ or test/ beside train/. `holdout`
            takes images of `data` that nothing was trained on.
        protocols: knn, logistic, ridge, prototype use frozen features; linear, finetune, segment are trained; head is
            the classifier that came with the checkpoint.
        variant: how the penalty is chosen: published, cv, holdout; for segment, its head: linear, upernet.
        shots: labelled images per class, or percentages: 1 5 10 1%.
        splits: number of random splits per number of shots, or of times that the folds are dealt; or files that name
            the labelled images, one per line.
        pooling: cls, mean, cls+mean, last4; auto chooses on held-out images.
        k: neighbours of knn; of several values, the best on held-out images is taken.
        temperature: temperature of the neighbours' votes; of several values, the best on held-out images is taken.
        holdout: labelled images used for every choice, a count or a fraction; by default the run's own hold-out, else
            a tenth of the images if something is chosen or tested on them.
        against: further encoders to measure, for comparison.
        out: directory of the results; by default the run that the encoder belongs to.
        overrides: dotted key of a trained protocol's stage or of the engine -> value.

    Returns:
        The rows that were measured; `results.json` holds them, and earlier ones.

    Raises:
        UserError: the encoder, images or labels cannot be read, or do not suit what is asked for.
        Stopped: a signal came; everything so far is saved and the same call goes on.
    """
    from layergraft.commands.evaluate import evaluate_command

    asked = {"protocols": protocols, "variant": variant, "shots": shots, "pooling": pooling}
    return evaluate_command(
        encoder=str(encoder),
        against=[str(other) for other in against or []],
        data=data,
        labels=None if labels is None else str(labels),
        test=test,
        changes=asked | {"k": k, "temperature": temperature},
        splits=splits,
        holdout=holdout,
        out=optional_path(out),
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
        out: the Parquet file to write, with columns key, name, label and feature.
        pooling: how the tokens of an image become one feature; last4 concatenates those of the last four blocks.
        block: the block whose output is pooled, counted from 0; by default the last.

    Returns:
        The file.

    Raises:
        UserError: the encoder or all images cannot be read, or the file cannot be written.
    """
    from layergraft.commands.embed import embed_command

    return embed_command(encoder=str(encoder), data=data, out=expanded(out), pooling=pooling, block=block)


def predict(
    *,
    encoder: str | Path,
    data: str,
    labels: str | Path | None = None,
    probe: str | Path | None = None,
    head: bool = False,
    out: str | Path,
    error: float = 0.1,
    pooling: Literal["cls", "mean", "cls+mean", "last4"] = "cls",
) -> Predicted:
    """Say what each image is and how sure that is, from labels of some of them or from a classifier.

    Args:
        encoder: a run, stage or encoder directory, a checkpoint of another project, or timm:NAME.
        data: the images.
        labels: a file with the columns path and label of some of the images; thirty will do.
        probe: a fitted classifier from RUN/probes/ instead.
        head: take the classifier that came with the checkpoint instead.
        out: the .csv or .parquet file to write, with columns path, label, probability, second, second_probability,
            sure and nearest; a page of the same name with .html shows them.
        error: share of the images whose set of classes may miss the right one; sure are those whose set is one class.
        pooling: of the features that labels are fitted on.

    Returns:
        The files, and what the predictions come to.

    Raises:
        UserError: the encoder, images, labels or classifier cannot be read, or do not fit each other.
        Stopped: a signal came; the features so far are kept and the same call goes on.
    """
    from layergraft.commands.predict.run import predict_command

    return predict_command(
        encoder=str(encoder),
        data=data,
        out=expanded(out),
        labels=None if labels is None else str(labels),
        probe=optional_path(probe),
        head=head,
        error=error,
        pooling=pooling,
    )


def analyze(
    *,
    encoder: str | Path,
    data: str,
    what: list[str],
    labels: str | Path | None = None,
    against: list[str] | None = None,
    out: str | Path | None = None,
) -> list[Entry]:
    """Look inside an encoder: numbers go to analysis.json, pictures to the report.

    Args:
        encoder: a run, stage or encoder directory, a checkpoint file, or timm:NAME.
        data: the images to analyze; of the run's own images, only those held out from training are used.
        what: all, or some of conflict, suggest, layer-probe, cka, attention-distance, rank, uniformity, invariance,
            information, token-similarity, spectrum, reconstruct, neighbours, attention-maps, saliency, pca, map.
        labels: a file with the columns path and label of some of the images; analyses that need labels then use these.
        against: encoders to compare it with.
        out: directory of analysis.json and report.html; by default the run that the encoder belongs to.

    Returns:
        What was found; `analysis.json` holds it, and what was found earlier.

    Raises:
        UserError: the encoder or images cannot be read, or do not suit what is asked for.
    """
    from layergraft.commands.analyze import analyze_command

    others = [str(other) for other in against or []]
    return analyze_command(
        encoder=str(encoder),
        against=others,
        data=data,
        labels=None if labels is None else str(labels),
        what=list(what),
        out=optional_path(out),
    )


def audit(
    *,
    encoder: str | Path,
    data: str,
    test: str | None = None,
    labels: str | Path | None = None,
    out: str | Path | None = None,
) -> Audit:
    """Find duplicates, test images among the others, outliers, likely label errors, and classes that are alike.

    Args:
        encoder: a run, stage or encoder directory, a checkpoint of another project, or timm:NAME.
        data: the images; their labels are looked at where they have any.
        test: images that should not be among them.
        labels: a file with the columns path and label of some images, instead of their own labels.
        out: directory of audit.json; by default the run that the encoder belongs to.

    Returns:
        What was found; `audit.json` holds it.

    Raises:
        UserError: the encoder, images or labels cannot be read.
        Stopped: a signal came; nothing was written.
    """
    from layergraft.commands.audit import audit_command

    return audit_command(
        encoder=str(encoder),
        data=data,
        test=test,
        labels=None if labels is None else str(labels),
        out=optional_path(out),
    )


def inspect(*, checkpoint: str, json: bool = False) -> dict[str, Any]:
    """Describe a checkpoint: its format, layers, parameters, GFLOP per image, heads, and what was assumed.

    Args:
        checkpoint: a run, stage or encoder directory, a checkpoint of another project, or timm:NAME.
        json: print JSON instead of text.

    Returns:
        What `--json` prints.

    Raises:
        UserError: it is no checkpoint of a Vision Transformer that can be read.
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
    """Export an encoder to another format, check that its features are equal, and add a model card if a run made it.

    Args:
        encoder: a run, stage or encoder directory, a checkpoint of another project, or timm:NAME.
        format: a directory for timm or for Hugging Face's ViTModel, an ONNX file, or a file of torch.export.
        out: the directory or file to write; it must not exist.
        with_head: a fitted classifier from RUN/probes/ to put on top; onnx and torch_export only.

    Returns:
        The files, and how far the features differ.

    Raises:
        UserError: the format cannot express this encoder, the features differ, or `out` exists.
    """
    from layergraft.commands.export import export_encoder
    from layergraft.runs.layout import run_directory
    from layergraft.runs.report.model_card import write_model_card

    written = export_encoder(str(encoder), format, expanded(out), optional_path(with_head))
    if found := run_directory(str(encoder)):
        write_model_card(found[0], written.out, format, found[1])
    return written


def pack(
    *, data: str, out: str | Path, resize: int | None = None, channels: int = 3, shard_images: int = 1000
) -> Packed:
    """Pack images into tar shards with an index, which are faster to read and to copy than many files.

    Args:
        data: the images.
        out: an empty or new directory.
        resize: shrink the shorter side to this many pixels and save as JPEG; by default files are kept unchanged.
        channels: channels of resized images: 3 for colour, 1 for grey.
        shard_images: images per shard.

    Returns:
        The shards and the index, and how many images could not be read.

    Raises:
        UserError: no image can be read, `out` is not empty, or cannot be written.
    """
    from layergraft.commands.pack import pack as write

    return write(data, expanded(out), resize, channels, shard_images)


def pick(
    *,
    encoder: str | Path,
    data: str,
    number: int,
    labels: str | Path | None = None,
    method: Literal["auto", "typiclust", "probcover", "maxherding", "margin", "random"] = "auto",
    out: str | Path,
) -> Picks:
    """Pick which images to label next. The first 10 of 30 are the pick of 10.

    Args:
        encoder: a run, stage or encoder directory, a checkpoint of another project, or timm:NAME.
        data: the images.
        number: how many to pick.
        labels: a file with the columns path and label of images that are labelled; they, and near-duplicates of them
            and of each other, are not picked.
        method: typiclust, probcover and maxherding spread over the images, margin takes those of which a classifier
            of the labels is least sure, random is chance; auto is the best of them on images that nothing was trained
            on.
        out: the .csv file to write, with columns path, label (blank, to be filled in) and rank.

    Returns:
        The picked images in order.

    Raises:
        UserError: the encoder, images or labels cannot be read, or the file holds labels.
        Stopped: a signal came; nothing was written.
    """
    from layergraft.commands.pick import pick_command

    return pick_command(
        encoder=str(encoder),
        data=data,
        number=number,
        labels=None if labels is None else str(labels),
        method=method,
        out=expanded(out),
    )


def label(
    *,
    encoder: str | Path,
    data: str,
    labels: str | Path,
    number: int = 30,
    port: int = 0,
) -> Path:
    """Label images in the browser: the picked ones come first, with the classifier's guess beside each.

    The page is served on this machine's loopback address alone, for whoever has the address that is printed. Each
    answer is written to the file at once. Ctrl-C ends.

    Args:
        encoder: a run, stage or encoder directory, a checkpoint of another project, or timm:NAME.
        data: the images.
        labels: the .csv file with the columns path and label, which may be there or not; all it holds is kept, and
            images that it lists without a label come first.
        number: how many images are to have a label; the page goes on behind it.
        port: where the page is served; 0 takes 8765, or the next that is free.

    Returns:
        The labels file, when a signal has come.

    Raises:
        UserError: the encoder, images or labels cannot be read, or the port is taken.
        Stopped: a signal came before the page was served.
    """
    from layergraft.commands.label.run import label_command

    return label_command(encoder=str(encoder), data=data, labels=str(labels), number=number, port=port)


def report(*, runs: list[str], out: str | Path | None = None) -> Path:
    """Rebuild report.html and the model card from a run directory, or compare several runs on one page.

    Args:
        runs: directories of the runs; or the directory of one study, whose claims.json is rebuilt as well.
        out: the page to write; by default report.html in the first directory.

    Returns:
        The page.

    Raises:
        UserError: a directory holds neither a run nor a study, or a study is among several.
    """
    from layergraft.commands.report import write_page

    return write_page([expanded(run) for run in runs], optional_path(out))


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
    """Measure how fast this machine runs a training step, makes views, fits classifiers or saves checkpoints.

    The last line of the output is one JSON object.

    Args:
        what: step: a training step; data: making views; logistic: logistic regression beside scikit-learn and Cyanure;
            loop: what logging, guards and checkpoints add to a step; checkpoint: how long training waits for one.
        objective: for step and loop: mae or moco.
        encoder: for step and checkpoint: timm's model name.
        img_size: side of the images in pixels.
        batch_size: for step: images per step.
        frozen: for step: numbers of frozen lowest blocks to compare, 0 4 6; the first meets the reference.
        data: for data: the images to make views of.
        views: for data: mae (one view) or moco (two), on one core.
        seconds: how long to measure.
        json: print only the JSON object.

    Returns:
        What the last line says.

    Raises:
        UserError: an unknown model, or no images to read.
    """
    from layergraft.commands.bench.run import run_bench

    return run_bench(what, objective, encoder, img_size, batch_size, frozen, data, views, seconds, quiet=json)


def reproduce(
    *,
    scale: Literal["smoke", "tiny", "small"] = "tiny",
    data: str | None = None,
    seeds: int = 3,
    out: str | Path,
    jobs: int | None = None,
) -> Path:
    """Test the claims of layer grafting: tune every method alike, train it with several seeds, and compare.

    At scale tiny with three seeds: under an hour on two cores. The same command resumes a study that was interrupted.

    Args:
        scale: smoke (a minute, proves nothing), tiny (built-in images), small (images of your own, hours).
        data: labelled images, a folder with train/ and val/; by default those of the scale.
        seeds: pre-training seeds of MAE, MoCo v3 from scratch and the chosen graft; other methods get at most three.
        out: directory of the study.
        jobs: runs at a time, each on one core; by default one per core, or one on a GPU.

    Returns:
        The page.

    Raises:
        UserError: the images do not suit the scale, or the directory holds another study.
        Stopped: a signal came; everything so far is saved and the same call goes on.
    """
    from layergraft.commands.reproduce.study import reproduce_study

    return reproduce_study(scale, data, seeds, expanded(out), jobs)
