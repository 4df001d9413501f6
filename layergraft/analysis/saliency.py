"""Which patches decide the class? Grad-CAM (Selvaraju et al., ICCV 2017) for a ViT.

A self-supervised encoder has no class scores, so the score is the cosine to the mean feature of the image's own class
minus that to the mean of all; without labels, to the mean of the image's ten nearest neighbours. Activations are the
patch tokens that enter the block whose feature it is, by default the last (behind it only the class token counts).
"""

from __future__ import annotations

import torch
from torch import Tensor

from layergraft.analysis.charts import gallery
from layergraft.analysis.neighbours import label_of, nearest
from layergraft.analysis.pictures import heat, show
from layergraft.analysis.subject import Subject, inputs
from layergraft.data.thumbnails import address
from layergraft.encoders.vit import Encoder
from layergraft.evaluation.features import extract
from layergraft.runs.figure import ChartRows
from layergraft.runs.findings import Findings

IMAGES, BANK = 8, 2000


def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """ReLU of activations weighted by their mean gradients.

    Args:
        activations: patch tokens (N, P, D).
        gradients: of the score with respect to them.

    Returns:
        Importance of each patch, (N, P).
    """
    weights = gradients.mean(1, keepdim=True)
    return (activations * weights).sum(2).relu()


def score_gradients(encoder: Encoder, images: Tensor, directions: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Patch tokens before a block, and the gradient of the cosine of each feature behind it to its direction (N, D)."""
    with torch.no_grad():
        tokens, _ = encoder.run_blocks(encoder.tokens(images), 0, block)
    tokens = tokens.detach().requires_grad_(True)
    feature = encoder.feature(encoder.norm(encoder.run_blocks(tokens, block, block + 1)[0]))
    score = (torch.nn.functional.normalize(feature, dim=1) * torch.nn.functional.normalize(directions, dim=1)).sum()
    (gradient,) = torch.autograd.grad(score, tokens)
    return tokens.detach()[:, encoder.prefix_tokens :], gradient[:, encoder.prefix_tokens :]


def saliency(subject: Subject) -> Findings:
    """Images with the patches that speak for their class."""
    encoder, chosen = subject.encoder, subject.block
    block = encoder.depth - 1 if chosen is None else chosen
    subject.check_queries()
    queries, bank = subject.sample(IMAGES, subject.queries), subject.sample(BANK, subject.bank)
    unit = torch.nn.functional.normalize(torch.from_numpy(extract(encoder, bank, "cls", chosen)), dim=1)
    if bank.labels is not None:
        labels = torch.from_numpy(bank.selected_labels)
        target = [
            unit[labels == label].mean(0) if bool((labels == label).any()) else unit.mean(0)
            for label in queries.selected_labels
        ]
        towards = torch.stack(target)
        what = "its class"
    else:
        features = torch.from_numpy(extract(encoder, queries, "cls", chosen))
        towards = unit[nearest(features, unit, 10)[1]].mean(1)
        what = "its nearest neighbours"
    directions = (towards - unit.mean(0)).to(encoder.device)
    images = next(inputs(encoder, queries))
    maps = grad_cam(*score_gradients(encoder, images, directions, block)).cpu()
    data: ChartRows = []
    for column, (key, image, importance) in enumerate(zip(queries.keys, images, maps, strict=True)):
        pixels = show(encoder, image)
        facts = {"column": column, "file": queries.images.name(int(key)), "label": label_of(queries, int(key))}
        picture = heat((importance / importance.max().clamp(min=1e-12)).reshape(encoder.grid), pixels)
        data.append({"row": 0, **facts, "image": address(pixels)})
        data.append({"row": 1, **facts, "image": address(picture)})
    figure = gallery(
        "saliency",
        "What decides" if chosen is None else f"What decides, block {block}",
        f"Grad-CAM: patches that pull the feature{'' if chosen is None else f' of block {block}'} towards {what} "
        "(yellow most).",
        data,
        "file",
        "label",
    )
    return Findings(numbers={"block": block, "maps": maps.tolist()}, figures=[figure])
