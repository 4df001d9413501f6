"""Where would labels pull? The gradient of a supervised loss in each layer, and the size of its weights.

The loss is the cross-entropy of a logistic regression on the frozen feature (protocol `logistic`, `published`), on
images that it was not fitted to: at its own images it would be near zero. Encoders are left as they are.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from layergraft.analysis.charts import by_layer, columns
from layergraft.analysis.subject import NotApplicable, Subject, inputs
from layergraft.data.sources.source import Source
from layergraft.encoders.vit import Encoder
from layergraft.evaluation import logistic
from layergraft.evaluation.features import center_and_normalize, extract
from layergraft.runs.figure import ChartRows
from layergraft.runs.findings import Findings
from layergraft.runs.interruption import check

BANK, QUERIES = 500, 250


def class_loss(encoder: Encoder, weights: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Sum of the cross-entropies of images (N, C, H, W) under a classifier (D, classes) of prepared features."""
    feature = encoder(images)
    feature = F.normalize(feature - feature.mean(dim=1, keepdim=True), dim=1, eps=1e-12)
    return F.cross_entropy(feature @ weights.to(feature), labels, reduction="sum")


def layer_norms(encoder: Encoder, weights: Tensor, source: Source) -> dict[str, tuple[float, float, int]]:
    """Row of a plan -> (norm of the mean loss's gradient, norm of the weights, how many there are).

    Args:
        encoder: whose layers are meant.
        weights: of the classifier, (D, classes).
        source: labelled images.
    """
    twin = copy.deepcopy(encoder).requires_grad_(True).eval()
    labels, start = torch.from_numpy(source.selected_labels).to(twin.device), 0
    for images in inputs(twin, source):
        check()
        loss = class_loss(twin, weights, images, labels[start : start + len(images)]) / len(source)
        loss.backward()  # type: ignore[no-untyped-call]
        start += len(images)
    norms = {}
    for name, parameters in twin.layers().items():
        if parameters:
            gradients = [torch.zeros(1) if p.grad is None else p.grad.flatten() for p in parameters]
            flat = [torch.cat([part.double().cpu() for part in parts]) for parts in (gradients, _flat(parameters))]
            norms[name] = (float(flat[0].norm()), float(flat[1].norm()), flat[1].numel())
    return norms


def _flat(parameters: list[torch.nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().flatten() for parameter in parameters]


def supervised_gradient(subject: Subject) -> Findings:
    """Norms of gradient and weights of every row of a plan, and charts of the blocks."""
    if subject.bank.labels is None:
        raise NotApplicable("it needs images with labels")
    subject.check_queries()
    bank, queries = subject.sample(BANK, subject.bank), subject.sample(QUERIES, subject.queries)
    labels, data = torch.from_numpy(bank.selected_labels), list[dict[str, object]]()
    for encoder_name, encoder in subject.encoders.items():
        features = torch.from_numpy(center_and_normalize(extract(encoder, bank, "cls"))).double()
        weights = logistic.fit(features, labels, len(bank.classes), logistic.PUBLISHED_LAMBDA_N)
        for row, (gradient, weight, count) in layer_norms(encoder, weights, queries).items():
            data.append(
                {
                    "encoder": encoder_name,
                    "layer": row.removeprefix("blocks."),
                    "gradient_norm": gradient,
                    "weight_norm": weight,
                    "parameters": count,
                    "relative": gradient / weight if weight else None,
                    "weight_rms": weight / count**0.5,
                }
            )
    blocks: ChartRows = [row for row in data if str(row["layer"]).isdigit()]

    figures = [
        by_layer(
            f"supervised-gradient-{value.replace('_', '-')}",
            title,
            caption,
            columns(blocks, "encoder", "layer", value),
            value,
            label=label,
            shown=".3g",
            zero=True,
        )
        for value, title, caption, label in (
            (
                "relative",
                "Where would labels pull?",
                "Norm of the gradient of a supervised loss in each block, relative to the norm of its weights.",
                "gradient / weights",
            ),
            ("weight_rms", "How large are the weights?", "Root mean square of the weights of each block.", "weight"),
        )
    ]
    note = (
        f"Cross-entropy of a logistic regression on the frozen feature, fitted to {len(bank)} labelled images, on "
        f"{len(queries)} others; gradient of the mean loss, classifier held constant. Not a test result: no test image "
        "is used."
    )
    return Findings(numbers={"layers": data}, figures=figures, notes=[note], compares=True)
