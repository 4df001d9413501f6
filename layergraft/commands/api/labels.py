"""Commands from an encoder and few labels to answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from layergraft.commands.api.loading import loading
from layergraft.commands.paths import optional_path
from layergraft.config.paths import expanded

if TYPE_CHECKING:
    from layergraft.commands.pick import Picks
    from layergraft.commands.predict.run import Predicted
    from layergraft.runs.audit import Audit


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
            of the labels is least sure, random is chance; auto is maxherding. typiclust needs scikit-learn.
        out: the .csv file to write, with columns path, label (blank, to be filled in) and rank; one with labels, or
            with other columns, is kept.

    Returns:
        The picked images in order.

    Raises:
        UserError: the encoder, images or labels cannot be read, or the file holds labels.
        Stopped: a signal came; nothing was written.
    """
    with loading():
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
    error: float = 0.1,
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
        error: share of the images whose set of classes may miss the right one, as in `predict`; the page says how many
            images are sure at it.
        port: where the page is served; 0 takes 8765, or the next that is free.

    Returns:
        The labels file, when a signal has come.

    Raises:
        UserError: the encoder, images or labels cannot be read, or the port is taken.
        Stopped: a signal came before the page was served.
    """
    with loading():
        from layergraft.commands.label.run import label_command

    return label_command(encoder=str(encoder), data=data, labels=str(labels), number=number, error=error, port=port)


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
    with loading():
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


def audit(
    *,
    encoder: str | Path,
    data: str,
    test: str | None = None,
    labels: str | Path | None = None,
    out: str | Path | None = None,
) -> Audit:
    """Find duplicates, test images among the others, outliers, doubted labels, and classes that are alike.

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
    with loading():
        from layergraft.commands.audit import audit_command

    return audit_command(
        encoder=str(encoder),
        data=data,
        test=test,
        labels=None if labels is None else str(labels),
        out=optional_path(out),
    )
