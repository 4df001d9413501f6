"""Commands that take an encoder: measure it, look inside, write it out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from layergraft.commands.api.loading import loading
from layergraft.commands.paths import optional_path
from layergraft.config.loading import Overrides
from layergraft.config.paths import expanded

if TYPE_CHECKING:
    from layergraft.commands.export import Export
    from layergraft.runs.findings import Entry
    from layergraft.runs.results import Results


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
    block: int | None = None,
    keep: float | None = None,
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
            cross-validated: each is classified by classifiers of the others, and what trains is trained for each fold.
        test: images to classify; by default the test part of a built-in set, or val/ or test/ beside train/. `holdout`
            takes images of `data` that nothing was trained on.
        protocols: knn, logistic, ridge, prototype use frozen features; linear, finetune, segment are trained; head is
            the classifier that came with the checkpoint.
        variant: how the penalty is chosen: published, cv, holdout, label_free; of segment, its head: linear, upernet.
        shots: labelled images per class, or percentages: 1 5 10 1%.
        splits: number of random splits per number of shots, or of times that the folds are dealt; or files that name
            the labelled images, one per line.
        pooling: cls, mean, cls+mean, last4; auto chooses on held-out images.
        block: the block whose output is pooled, counted from 0, of protocols on frozen features and of linear; by
            default the last.
        keep: part of the patches of every image that frozen features are computed from, 0.25; drawn at random five
            times, alike for every encoder.
        k: neighbours of knn; of several values, the best on held-out images is taken.
        temperature: temperature of the neighbours' votes; of several values, the best on held-out images is taken.
        holdout: labelled images used for every choice, a count or a fraction; by default the run's own hold-out, else
            a tenth of the images if something is chosen or tested on them.
        against: further encoders to measure, for comparison.
        out: directory of the results; by default the run that the encoder belongs to.
        overrides: any key of a trained protocol's stage or of the engine, dotted, and its value:
            {"finetune.epochs": 50, "engine.precision": "bf16-mixed"}.

    Returns:
        The rows that were measured; `results.json` holds them, and earlier ones.

    Raises:
        UserError: the encoder, images or labels cannot be read, or do not suit what is asked for.
        Stopped: a signal came; everything so far is saved and the same call goes on.
    """
    with loading():
        from layergraft.commands.evaluate import evaluate_command

    asked = {"protocols": protocols, "variant": variant, "shots": shots, "pooling": pooling}
    return evaluate_command(
        encoder=str(encoder),
        against=[str(other) for other in against or []],
        data=data,
        labels=None if labels is None else str(labels),
        test=test,
        changes=asked | {"k": k, "temperature": temperature, "block": block, "keep": keep},
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
    """Write the features of every image to a file.

    Args:
        encoder: a run, stage or encoder directory, a checkpoint of another project, or timm:NAME.
        data: the images.
        out: the file to write, Parquet with columns key, name, label and feature, or .npz with arrays of these names.
        pooling: how the tokens of an image become one feature; last4 concatenates those of the last four blocks.
        block: the block whose output is pooled, counted from 0; by default the last.

    Returns:
        The file.

    Raises:
        UserError: the encoder or all images cannot be read, or the file cannot be written.
    """
    with loading():
        from layergraft.commands.embed import embed_command

    return embed_command(encoder=str(encoder), data=data, out=expanded(out), pooling=pooling, block=block)


def analyze(
    *,
    encoder: str | Path,
    data: str,
    what: list[str],
    labels: str | Path | None = None,
    against: list[str] | None = None,
    block: int | None = None,
    out: str | Path | None = None,
) -> list[Entry]:
    """Look inside an encoder: numbers go to analysis.json, pictures to the report.

    Args:
        encoder: a run, stage or encoder directory, a checkpoint file, or timm:NAME.
        data: the images to analyze; of the run's own images, only those held out from training are used.
        what: all, or some of conflict, suggest, layer-probe, supervised-gradient, cka, attention-distance, rank,
            uniformity, invariance, information, token-similarity, spectrum, reconstruct, neighbours, attention-maps,
            saliency, pca, map.
        labels: a file with the columns path and label of some of the images; analyses that need labels then use these.
        against: encoders to compare it with.
        block: for saliency: the block whose feature is explained, counted from 0; by default the last.
        out: directory of analysis.json and report.html; by default the run that the encoder belongs to.

    Returns:
        What was found; `analysis.json` holds it, and what was found earlier.

    Raises:
        UserError: the encoder or images cannot be read, or do not suit what is asked for.
    """
    with loading():
        from layergraft.commands.analyze import analyze_command

    others = [str(other) for other in against or []]
    return analyze_command(
        encoder=str(encoder),
        against=others,
        data=data,
        labels=None if labels is None else str(labels),
        block=block,
        what=list(what),
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
    with loading():
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
    with loading():
        from layergraft.commands.export import export_encoder

    return export_encoder(str(encoder), format, expanded(out), optional_path(with_head))
