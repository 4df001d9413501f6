"""A linear or fine-tuned head that came with a checkpoint, and whose classes it names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.data import ImageNetInfo
from torch import Tensor, nn

from layergraft.errors import UserError
from layergraft.runs.readable import counted

_BATCHNORM_EPS = 1e-6  # of MAE's linear probe, whose BatchNorm has no affine


class Classifier(nn.Module):
    """Features (N, D) -> logits (N, C).

    Args:
        weights: `weight` (C, D), perhaps `bias` (C,), and `running_mean`, `running_var` (D,) of a BatchNorm in front.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = weights.get(name)
            self.register_buffer(name, None if value is None else value.float())

    weight: Tensor
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None

    def forward(self, features: Tensor) -> Tensor:
        if self.running_mean is not None and self.running_var is not None:
            features = (features - self.running_mean) * torch.rsqrt(self.running_var + _BATCHNORM_EPS)
        return nn.functional.linear(features, self.weight, self.bias)


def match_classes(names: Sequence[str], count: int, wanted: Sequence[str], name: str) -> tuple[list[int], str]:
    """Find the outputs of a head that stand for the classes of a source.

    Args:
        names: the head's class names, where the checkpoint has them.
        count: outputs of the head.
        wanted: classes of the source.
        name: the checkpoint, for messages.

    Returns:
        (output for each wanted class, how it was found).

    Raises:
        UserError: nothing tells which output is which class.
    """
    synsets = ImageNetInfo("imagenet-1k").label_names() if count == 1000 else []
    for known, how in ((list(names), "names in the checkpoint"), (synsets, "ImageNet-1k synsets")):
        if known and set(wanted) <= set(known):
            return [known.index(name_of_class) for name_of_class in wanted], how
    if count == len(wanted):
        return [sorted(wanted).index(one) for one in wanted], "order of the sorted names"
    raise UserError(
        f"The head of {name!r} has {counted(count, 'class')}; nothing tells which of them "
        f"{', '.join(list(wanted)[:3])}, … are.",
        "Give images of ImageNet-1k in folders named by synset, or of as many classes as the head has.",
    )
