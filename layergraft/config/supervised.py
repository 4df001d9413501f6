"""Objectives with labels: classify images, segment them. Linear probes and fine-tuning are ways to set them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from layergraft.config.base import Config, Fraction, FractionBelowOne, NonNegativeFloat, NonNegativeInt, PositiveInt
from layergraft.config.data import ViewConfig


class GridConfig(Config, frozen=True, kw_only=True):
    """Heads that are trained side by side on the same features, one for each pair of the two lists.

    Args:
        lr_scale: factors of the plan's learning rate of the heads.
        weight_decay: their weight decays.
    """

    lr_scale: tuple[NonNegativeFloat, ...] = tuple(
        float(f"{digit}e{power}") for power in range(-5, 2) for digit in (1, 3, 5, 7, 9)
    )
    weight_decay: tuple[NonNegativeFloat, ...] = (0.0, 1e-6)

    def __post_init__(self) -> None:
        if not self.lr_scale or not self.weight_decay:
            raise ValueError("`lr_scale` and `weight_decay` need one value each")


class MixConfig(Config, frozen=True, kw_only=True):
    """Mix each image and its target with its neighbour in the batch (Zhang et al. 2018; Yun et al. 2019).

    Args:
        mixup: alpha of mixup's Beta distribution; 0 never mixes up.
        cutmix: alpha of cutmix's; 0 never cuts.
        probability: of mixing at all.
        switch: probability of cutmix where both are set.
    """

    mixup: NonNegativeFloat = 0.8
    cutmix: NonNegativeFloat = 1.0
    probability: Fraction = 1.0
    switch: Fraction = 0.5


class ClassifyConfig(Config, frozen=True, kw_only=True, tag_field="name", tag="classify"):
    """Predict the class of an image: a linear probe where the plan freezes the encoder, else fine-tuning.

    Args:
        classes: number of classes; null takes the source's.
        pooling: the feature that heads see: `cls`, `mean`, `cls+mean` or `last4`.
        block: whose output is pooled, from 0; null is the last.
        projector: width of the projector's first linear, which is kept below the new linear with nothing in between;
            null puts the linear on the feature itself.
        grid: many linears at once instead of one, the best on held-out images is the classifier; null for one.
        batchnorm: normalise the feature over the batch, without learned scale and shift.
        head_std: standard deviation of the linear's first weights (truncated at two of them).
        smoothing: how much of the target is spread over all classes.
        mix: mix pairs of images; null never mixes.
        erasing: probability that a rectangle of an image turns into noise (Zhong et al. 2020).
        drop_path: probability that a sample skips the last block's branches; it rises linearly from 0 at the first.
    """

    classes: PositiveInt | None = None
    pooling: Literal["cls", "mean", "cls+mean", "last4"] = "cls"
    block: NonNegativeInt | None = None
    projector: PositiveInt | None = None
    grid: GridConfig | None = None
    batchnorm: bool = False
    head_std: NonNegativeFloat = 0.01
    smoothing: Fraction = 0.0
    mix: MixConfig | None = None
    erasing: Fraction = 0.0
    drop_path: FractionBelowOne = 0.0

    views: ClassVar[dict[str, ViewConfig]] = {"image": ViewConfig(interpolation="bicubic")}

    def linears(self) -> dict[str, tuple[float | None, float | None]]:
        """Name of each linear -> its lr scale and weight decay, None where the plan's hold."""
        if self.grid is None:
            return {"linear": (None, None)}
        pairs = [(scale, decay) for scale in self.grid.lr_scale for decay in self.grid.weight_decay]
        return {f"linear{index:02}": pair for index, pair in enumerate(pairs)}


class SegmentConfig(Config, frozen=True, kw_only=True, tag_field="name", tag="segment"):
    """Predict the class of every pixel. Masks hold 1 for the first class; pixels with 0 are ignored.

    Args:
        classes: number of classes; null takes the source's.
        head: `linear` on the patches of the last block, or `upernet` on several blocks (Xiao et al. 2018).
        blocks: which blocks `upernet` sees, from the lowest; null takes four at equal distances.
        width: channels of `upernet`.
        zoom: how many windows the shorter side of an image is long where it is classified; the encoder sees windows of
            its own size. A scene of several objects needs more than 1: each should be as large as in pre-training.
            `crop_scale` of the view should lie around 1 / zoom².
        batchnorm: whether `linear` normalises the patches over the batch, without learned scale and shift.
        drop_path: probability that a sample skips the last block's branches; it rises linearly from 0 at the first.
    """

    classes: PositiveInt | None = None
    head: Literal["linear", "upernet"] = "linear"
    blocks: tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt, NonNegativeInt] | None = None
    width: PositiveInt = 256
    zoom: Annotated[float, Meta(ge=1)] = 2.0
    batchnorm: bool = True
    drop_path: FractionBelowOne = 0.0

    views: ClassVar[dict[str, ViewConfig]] = {
        "image": ViewConfig(crop_scale=(0.125, 0.5), interpolation="bilinear", jitter=0.8, saturation=0.4)
    }
