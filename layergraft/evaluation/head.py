"""Protocol `head`: the classifier that came with a checkpoint, on test images, as it is."""

from __future__ import annotations

import time

import numpy as np
import torch

from layergraft.encoders.checkpoint import open_checkpoint
from layergraft.encoders.classifier import Classifier, match_classes
from layergraft.errors import UserError
from layergraft.evaluation.features import extract_all, features_named
from layergraft.evaluation.task import Task
from layergraft.runs.announce import announce
from layergraft.runs.readable import counted
from layergraft.runs.results import ResultRow


def evaluate_head(encoder: str, name: str, task: Task) -> ResultRow:
    """Classify test images with a checkpoint's own head; a prediction counts among all of its classes.

    Args:
        encoder: the ENC.
        name: `encoder` of the row.
        task: what is classified; none of its labelled images is used.

    Raises:
        UserError: there is no head, or nothing tells which of its outputs is which class.
    """
    began = time.perf_counter()
    checkpoint = open_checkpoint(encoder)
    if "weight" not in checkpoint.classifier:
        raise UserError(
            f"{encoder!r} holds no classifier for the protocol `head`.", "`knn` and `logistic` need none; or `linear`."
        )
    head, width = Classifier(checkpoint.classifier), checkpoint.encoder.embed_dim
    if head.weight.shape[1:] != (width,):
        raise UserError(
            f"The classifier of {encoder!r} has weights of shape {tuple(head.weight.shape)}, its encoder's features "
            f"are {width} wide.",
            "Use `linear`, which trains one.",
        )
    outputs, how = match_classes(checkpoint.classes, len(head.weight), task.test.classes, encoder)
    announce(
        f"{encoder}: its head has {counted(len(head.weight), 'class')}; those of {task.test_name} were found by {how}."
    )
    with features_named(encoder):
        features = torch.from_numpy(extract_all(checkpoint.encoder, task.test, ["cls"])["cls"])
    readable = features.isfinite().all(dim=1)
    truth = torch.from_numpy(np.array(outputs, dtype=np.int64)[task.test.selected_labels])
    with torch.inference_mode():
        hits = (head(features).argmax(dim=1) == truth)[readable]
    return ResultRow(
        encoder=name,
        source=task.train.spec,
        test=task.test_name,
        protocol="head",
        variant=None,
        shots="100%",
        split="0",
        pooling="cls" if checkpoint.encoder.feature_is_token else "mean",
        metric="top1",
        value=100 * float(hits.double().mean()),
        n_train=0,
        n_test=len(hits),
        chosen={"classes": how},
        seconds=time.perf_counter() - began,
        seed=task.seed,
    ).with_interval()
