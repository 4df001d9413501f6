"""What does a layer not care about? How far its feature moves under crop, colour, blur and flip."""

from __future__ import annotations

import torch
from torch import Tensor

from layergraft.analysis.charts import by_layer
from layergraft.analysis.subject import NotApplicable, Subject, layer_names
from layergraft.analysis.views import view_features
from layergraft.config.data import ViewConfig
from layergraft.runs.figure import ChartRows
from layergraft.runs.findings import Findings

IMAGES = 256
STILL = ViewConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0)
CHANGES = {
    "crop": ViewConfig(crop_scale=(0.3, 0.6), flip=0.0),
    "colour": ViewConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0, jitter=1.0),
    "blur": ViewConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0, blur=1.0, blur_sigma=(1.0, 2.0)),
    "flip": ViewConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=1.0),
}


def relative_change(features: Tensor, changed: Tensor) -> float:
    """Mean cosine distance of (N, D) to its changed form, over that to the features of other images.

    0: nothing moved; 1: as far as another image.
    """
    a, b = (torch.nn.functional.normalize(part, dim=1) for part in (features, changed))
    moved = 1 - (a * b).sum(1).mean()
    n = len(a)
    others = 1 - (a.sum(0) @ a.sum(0) - n) / (n * (n - 1))
    return float(moved / others) if others > 1e-9 else float("nan")


def invariance(subject: Subject) -> Findings:
    """Relative change under each kind of augmentation, by layer."""
    source = subject.sample(IMAGES)
    if len(source) < 2:
        raise NotApplicable("it needs two images")
    data: ChartRows = []
    for name, encoder in subject.encoders.items():
        still = view_features(encoder, source, STILL, 1, subject.random)
        for change, config in CHANGES.items():
            moved = view_features(encoder, source, config, 1, subject.random)
            for layer, a, b in zip(layer_names(encoder), still, moved, strict=True):
                value = relative_change(a[:, 0], b[:, 0])
                if value == value:  # before the first block a class token is the same for all images
                    data.append({"encoder": name, "layer": layer, "change": change, "moved": value})
    if not data:
        raise NotApplicable("no layer tells these images apart")
    figure = by_layer(
        "invariance",
        "What does a layer not care about?",
        "How far the feature moves under a change of the image, relative to the distance to another image. "
        "0: invariant; 1: as different as another image.",
        data,
        "moved",
        color="change",
        label="relative change",
        zero=True,
    )
    return Findings(numbers={"layers": data}, figures=[figure], compares=True)
