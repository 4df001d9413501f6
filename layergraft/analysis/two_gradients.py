"""What the gradients of two losses say about each block: do they agree, which is larger, do they mind the same weights?

`conflict` looks at one number, the cosine per image. These are the others that a graft plan could be made of; how well
each of them predicts which plan is best is measured in docs/plans.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from layergraft.analysis.conflict import block_parameters, cosines_of, sample_gradients
from layergraft.analysis.terms import Terms, plain_attention
from layergraft.encoders.vit import Encoder

_TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class BlockGradients:
    """The gradients of two losses in one block.

    Args:
        cosine: of the mean gradients.
        image_cosine: of an image's gradients, the mean over images.
        conflict: share of images whose gradients have a negative cosine.
        sign_agreement: share of the weights on which the mean gradients have the same sign.
        second_sum: sum of absolute values of the second mean gradient: what the second loss falls by, to first order,
            when every weight moves by 1 against its gradient's sign.
        norm_ratio: norm of the second mean gradient over the first's.
        fisher_overlap: cosine of the diagonals of the Fisher informations, the mean squared gradients of images.
        fisher_ratio: sum of the second diagonal over the first's.
        first_steadiness: squared norm of the first mean gradient over the mean squared norm of an image's: 1 where all
            images pull alike.
        second_steadiness: of the second.
        groups: sign agreement of each group of parameters: `attn.qkv`, `mlp.fc1`, `norm1` ….
    """

    cosine: float
    image_cosine: float
    conflict: float
    sign_agreement: float
    second_sum: float
    norm_ratio: float
    fisher_overlap: float
    fisher_ratio: float
    first_steadiness: float
    second_steadiness: float
    groups: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """What is kept of the gradients of many images, by parameter.

    Args:
        means: mean gradients of the two losses.
        squares: means of the squared gradients of images.
        cosines: of an image's two gradients, of shape (images, blocks).
    """

    means: tuple[dict[str, Tensor], dict[str, Tensor]]
    squares: tuple[dict[str, Tensor], dict[str, Tensor]]
    cosines: Tensor


def gradients_of(encoder: Encoder, pairs: Iterable[tuple[Terms, Terms]], chunk: int = 16) -> Gradients:
    """Means and squares of the gradients of all images' terms.

    Args:
        encoder: whose blocks are meant; it is left as it is.
        pairs: the two losses of the same images, a pair for each batch.
        chunk: images whose gradients are in memory at once.
    """
    plain = plain_attention(encoder)
    blocks = {name: block for name, (block, _) in block_parameters(plain).items()}
    zero = {name: torch.zeros_like(value) for name, (_, value) in block_parameters(plain).items()}
    means, squares = [({n: z.clone() for n, z in zero.items()}, {n: z.clone() for n, z in zero.items()}) for _ in "ab"]
    cosines: list[Tensor] = []
    for first, second in pairs:
        both = zip(sample_gradients(plain, first, chunk), sample_gradients(plain, second, chunk), strict=True)
        for gradients in both:
            cosines.append(cosines_of(*gradients, blocks, plain.depth))
            for of_loss, mean, square in zip(gradients, means, squares, strict=True):
                for name, of_images in of_loss.items():
                    mean[name] += of_images.sum(0)
                    square[name] += of_images.square().sum(0)
    every = torch.cat(cosines)
    for part in (*means, *squares):
        for value in part.values():
            value /= len(every)
    return Gradients(means=means, squares=squares, cosines=every)


def block_gradients(encoder: Encoder, gradients: Gradients) -> list[BlockGradients]:
    """The statistics of every block, from the lowest."""
    names: list[list[str]] = [[] for _ in range(encoder.depth)]
    for name, (block, _) in block_parameters(encoder).items():
        names[block].append(name)
    return [_of_block(of_block, gradients, block) for block, of_block in enumerate(names)]


def _of_block(names: list[str], gradients: Gradients, block: int) -> BlockGradients:
    a, b = (torch.cat([mean[name].flatten() for name in names]).double() for mean in gradients.means)
    f, g = (torch.cat([square[name].flatten() for name in names]).double() for square in gradients.squares)
    groups: dict[str, list[Tensor]] = {}
    for name in names:
        group = name.split(f"blocks.{block}.")[1].rpartition(".")[0]
        first, second = (mean[name] for mean in gradients.means)
        groups.setdefault(group, []).append((first.sign() == second.sign()).flatten())
    return BlockGradients(
        cosine=float(a @ b / (a.norm() * b.norm()).clamp(min=_TINY)),
        image_cosine=float(gradients.cosines[:, block].mean()),
        conflict=float((gradients.cosines[:, block] < 0).double().mean()),
        sign_agreement=float((a.sign() == b.sign()).double().mean()),
        second_sum=float(b.abs().sum()),
        norm_ratio=float(b.norm() / a.norm().clamp(min=_TINY)),
        fisher_overlap=float(f @ g / (f.norm() * g.norm()).clamp(min=_TINY)),
        fisher_ratio=float(g.sum() / f.sum().clamp(min=_TINY)),
        first_steadiness=float(a.square().sum() / f.sum().clamp(min=_TINY)),
        second_steadiness=float(b.square().sum() / g.sum().clamp(min=_TINY)),
        groups={group: float(torch.cat(agree).double().mean()) for group, agree in groups.items()},
    )
