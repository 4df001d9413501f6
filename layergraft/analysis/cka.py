"""Which layers hold the same representation? Centred kernel alignment, layer by layer.

Linear CKA (Kornblith et al., ICML 2019) over minibatches with the unbiased estimator of HSIC (Song et al., JMLR 2012;
Nguyen, Raghu and Kornblith, ICLR 2021): each minibatch gives an unbiased HSIC, their means make the ratio, so the value
does not depend on the size of the batch and independent features come out near 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layergraft.analysis.charts import heat_map
from layergraft.analysis.subject import NotApplicable, Subject, inputs, layer_names, layer_tokens, patch_tokens
from layergraft.encoders.vit import Encoder
from layergraft.runs.findings import Findings

IMAGES, BATCH = 512, 128


def gram(features: Tensor) -> Tensor:
    """The linear kernel of (N, D), float64 of shape (N, N), with its diagonal set to zero as the estimator wants it."""
    kernel = features.double() @ features.double().T
    return kernel.fill_diagonal_(0)


def unbiased_hsic(k: Tensor, other: Tensor) -> Tensor:
    """HSIC_1 of two kernels (N, N) with zero diagonals; N must exceed 3 (Song et al., equation 5)."""
    n = len(k)
    trace = (k * other).sum()
    sums = k.sum() * other.sum() / ((n - 1) * (n - 2))
    mixed = 2 * (k.sum(0) @ other.sum(0)) / (n - 2)
    return (trace + sums - mixed) / (n * (n - 3))


def cka_matrix(left: list[list[Tensor]], right: list[list[Tensor]]) -> Tensor:
    """CKA of every layer with every layer.

    Args:
        left: the kernels of each layer for every minibatch.
        right: likewise, of the same images.

    Returns:
        Tensor of shape (layers of `left`, layers of `right`); 0 for a layer that makes the same of all images.
    """

    def total(a: list[Tensor], b: list[Tensor]) -> float:
        return float(sum(unbiased_hsic(x, y) for x, y in zip(a, b, strict=True)))

    values = torch.zeros(len(left), len(right))
    for row, a in enumerate(left):
        for column, b in enumerate(right):
            values[row, column] = total(a, b)
    of_left = torch.tensor([total(a, a) for a in left])
    of_right = torch.tensor([total(b, b) for b in right])
    scale = (of_left[:, None] * of_right).clamp(min=0).sqrt()
    return torch.where(scale > 0, values / scale, 0.0)


@torch.inference_mode()
def _kernels(encoder: Encoder, subject: Subject) -> list[list[Tensor]]:
    """Kernels of the flattened patch tokens, by layer and minibatch."""
    kernels: list[list[Tensor]] = [[] for _ in range(encoder.depth + 1)]
    for images in inputs(encoder, subject.sample(IMAGES), BATCH):
        if len(images) > 3:
            for of_layer, tokens in zip(kernels, layer_tokens(encoder, images), strict=True):
                of_layer.append(gram(patch_tokens(encoder, tokens).flatten(1).cpu()))
    if not kernels[0]:
        raise NotApplicable("it needs at least four images")
    return kernels


def cka(subject: Subject) -> Findings:
    """Similarity of all pairs of layers, within the encoder and with the one it is compared with."""
    kernels = {name: _kernels(encoder, subject) for name, encoder in subject.encoders.items()}
    names = list(kernels)
    pairs = [(names[0], names[0])] + [(names[0], other) for other in names[1:]] + [(n, n) for n in names[1:]]
    figures, numbers = [], {}
    for left, right in pairs:
        values = cka_matrix(kernels[left], kernels[right])
        rows, columns = layer_names(subject.encoders[left]), layer_names(subject.encoders[right])
        across, down = (f"layer of {right}", f"layer of {left}") if left != right else ("layer", "other layer")
        data = [
            {down: r, across: c, "cka": float(values[i, j])} for i, r in enumerate(rows) for j, c in enumerate(columns)
        ]
        which = left if left == right else f"{left} and {right}"
        figures.append(
            heat_map(
                f"cka-{left}-{right}",
                "Similarity of layers" if left == right else f"Similarity of layers: {which}",
                f"CKA of the patch tokens of {which}: 1 is the same up to rotation and scale, 0 unrelated.",
                data,
                across,
                down,
                "cka",
                (0.0, 1.0),
            )
        )
        numbers[which] = values.tolist()
    return Findings(compares=True, numbers=numbers, figures=figures)
