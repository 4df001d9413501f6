"""What a stage trains for. `name` picks the objective; its views can be changed field by field."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from layergraft.config.base import (
    Config,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    Widths,
)
from layergraft.config.data import ViewConfig
from layergraft.config.supervised import ClassifyConfig, SegmentConfig


class DecoderConfig(Config, frozen=True, kw_only=True):
    """MAE's decoder.

    Args:
        embed_dim: width of a token.
        depth: number of blocks.
        num_heads: attention heads of a block.
    """

    embed_dim: PositiveInt = 512
    depth: PositiveInt = 8
    num_heads: PositiveInt = 16

    def __post_init__(self) -> None:
        if self.embed_dim % 4:
            raise ValueError("`embed_dim` must be a multiple of 4: the positions are sines and cosines of two indices")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"`num_heads` {self.num_heads} does not divide `embed_dim` {self.embed_dim}")


class MaeConfig(Config, frozen=True, kw_only=True, tag_field="name", tag="mae"):
    """Masked image modelling: predict the pixels of removed patches (He et al., CVPR 2022).

    Args:
        mask_ratio: fraction of the patches that is removed.
        norm_pix: whether targets are normalised by their patch's own mean and variance.
        decoder: the decoder.
    """

    mask_ratio: Annotated[float, Meta(gt=0, lt=1)] = 0.75
    norm_pix: bool = True
    decoder: DecoderConfig = DecoderConfig()

    views: ClassVar[dict[str, ViewConfig]] = {"image": ViewConfig(crop_scale=(0.2, 1.0), interpolation="bicubic")}


# The two views of MoCo v3. Here SimCLR, VICReg and NNCLR take them too, instead of those of their papers.
_TWO_VIEWS = {
    "first": ViewConfig(jitter=0.8, gray=0.2, blur=1.0),
    "second": ViewConfig(jitter=0.8, gray=0.2, blur=0.1, solarize=0.2),
}


def _with_local_views(count: int, size: int, crop_scale: tuple[float, float]) -> dict[str, ViewConfig]:
    """The two views, and as many of a small crop (multi-crop; Caron et al., NeurIPS 2020)."""
    local = ViewConfig(size=size, crop_scale=crop_scale, jitter=0.8, gray=0.2, blur=0.5)
    return _TWO_VIEWS | {f"local{index}": local for index in range(count)}


class GateConfig(Config, frozen=True, kw_only=True):
    """A predictor that is a mixture of several, weighted for each sample by the softmax of a linear gate.

    Args:
        experts: how many predictors there are.
        temperature: of the gate's softmax, at the first step and once it has cooled: from nearly equal weights to few.
        cooling: part of the stage over which it falls, linearly.
    """

    experts: PositiveInt = 4
    temperature: tuple[PositiveFloat, PositiveFloat] = (30.0, 1.0)
    cooling: PositiveFraction = 1 / 3


def _same_width(projector: Widths, predictor: Widths) -> None:
    """Refuse predictions that cannot be compared with projections."""
    if projector[-1] != predictor[-1]:
        raise ValueError(
            f"`predictor` ends in {predictor[-1]} numbers, but `projector`, which it predicts, in {projector[-1]}"
        )


def _check_range(local_crop_scale: tuple[float, float]) -> None:
    """Refuse a range that ends before it begins."""
    lowest, highest = local_crop_scale
    if lowest > highest:
        raise ValueError("`local_crop_scale` is a range: its first number cannot be above its second")


class MocoConfig(Config, frozen=True, kw_only=True, tag_field="name", tag="moco"):
    """MoCo v3: contrast two views against the keys of a momentum encoder (Chen et al., ICCV 2021).

    Args:
        temperature: T of the softmax; the loss is scaled by 2T.
        momentum: the momentum at the first step; it rises to 1 over the stage along a cosine.
        projector: widths of the projector's layers.
        predictor: widths of the predictor's layers.
        keep_ratio: fraction of a view's patches that both encoders see, drawn for each image and view; 1 keeps all.
            Evaluation always sees all.
        full_view_teacher: whether the momentum encoder sees all patches, so that `keep_ratio` masks the student alone.
        gate: makes the predictor a gated mixture of several; null is a single one.
        local_views: views of a small crop (multi-crop), which are queries against the keys of both other views, but no
            keys themselves; they keep all of their patches. The loss is twice the mean over all pairs of query and key.
        local_size: their side in pixels.
        local_crop_scale: range of their crop's area as a fraction of the image's.
    """

    temperature: PositiveFloat = 0.2
    momentum: Fraction = 0.99
    projector: Widths = (4096, 4096, 256)
    predictor: Widths = (4096, 256)
    keep_ratio: PositiveFraction = 1.0
    full_view_teacher: bool = False
    gate: GateConfig | None = None
    local_views: NonNegativeInt = 0
    local_size: PositiveInt = 96
    local_crop_scale: tuple[PositiveFraction, PositiveFraction] = (0.05, 0.25)

    def __post_init__(self) -> None:
        _same_width(self.projector, self.predictor)
        _check_range(self.local_crop_scale)

    @property
    def views(self) -> dict[str, ViewConfig]:
        return _with_local_views(self.local_views, self.local_size, self.local_crop_scale)


class SimclrConfig(Config, frozen=True, kw_only=True, tag_field="name", tag="simclr"):
    """SimCLR: tell the other view of an image from all other views of the batch (Chen et al., ICML 2020).

    Args:
        temperature: T of the softmax.
        projector: widths of the projector's layers.
        keep_ratio: fraction of a view's patches that the encoder sees, drawn for each image and view; 1 keeps all.
            Evaluation always sees all.
    """

    temperature: PositiveFloat = 0.1
    projector: Widths = (4096, 4096, 256)
    keep_ratio: PositiveFraction = 1.0

    views: ClassVar[dict[str, ViewConfig]] = _TWO_VIEWS


class VicregConfig(Config, frozen=True, kw_only=True, tag_field="name", tag="vicreg"):
    """VICReg: bring two views together while every dimension varies and no two covary (Bardes et al., ICLR 2022).

    Args:
        invariance: weight of the squared difference of the views.
        variance: weight of the hinge on each dimension's standard deviation.
        covariance: weight of the squared covariances.
        eps: added to the variance.
        expander: widths of the expander's layers; no BatchNorm follows the last.
        keep_ratio: fraction of a view's patches that the encoder sees, drawn for each image and view; 1 keeps all.
            Evaluation always sees all.
    """

    invariance: NonNegativeFloat = 25.0
    variance: NonNegativeFloat = 25.0
    covariance: NonNegativeFloat = 1.0
    eps: PositiveFloat = 1e-4
    expander: Widths = (8192, 8192, 8192)
    keep_ratio: PositiveFraction = 1.0

    views: ClassVar[dict[str, ViewConfig]] = _TWO_VIEWS


class NnclrConfig(Config, frozen=True, kw_only=True, tag_field="name", tag="nnclr"):
    """Nearest neighbours as positives (Dwibedi et al., ICCV 2021), on several blocks (Alkin et al., ICLR 2025).

    A view's prediction is to find, among the other view's projections of the batch, that of its own image, which is
    swapped for one of its nearest neighbours in a queue of past images. No gradient goes to projections and neighbours.

    Args:
        blocks: blocks on whose output a head sits, from 0; null is the last block alone.
        temperature: T of the softmax.
        queue: how many past images each head remembers.
        topk: the neighbour is drawn from this many nearest ones.
        swap: `positive` swaps the projection of the own image alone; `all` swaps those of the other images as well.
        exclude_same: whether an image cannot be its own neighbour.
        projector: widths of a head's projector.
        predictor: widths of a head's predictor.
        local_views: views of a small crop, which are predicted from, but are neither keys nor remembered.
        local_size: their side in pixels.
        local_crop_scale: range of their crop's area as a fraction of the image's.
    """

    blocks: tuple[NonNegativeInt, ...] | None = None
    temperature: PositiveFloat = 0.2
    queue: PositiveInt = 65536
    topk: PositiveInt = 20
    swap: Literal["all", "positive"] = "positive"
    exclude_same: bool = True
    projector: Widths = (2048, 2048, 256)
    predictor: Widths = (4096, 256)
    local_views: NonNegativeInt = 0
    local_size: PositiveInt = 96
    local_crop_scale: tuple[PositiveFraction, PositiveFraction] = (0.05, 0.25)

    def __post_init__(self) -> None:
        _same_width(self.projector, self.predictor)
        _check_range(self.local_crop_scale)

    @property
    def views(self) -> dict[str, ViewConfig]:
        return _with_local_views(self.local_views, self.local_size, self.local_crop_scale)


PartConfig = MaeConfig | MocoConfig | SimclrConfig | VicregConfig | NnclrConfig


class JointConfig(Config, frozen=True, kw_only=True, tag_field="name", tag="joint"):
    """Several objectives at once on one encoder: the weighted sum of their losses (multi-task learning).

    Args:
        parts: name -> objective. Their views are the stage's; parts that name a view alike share it, as the first of
            them augments it.
        weights: name of a part -> its factor in the sum; 1 where it is not given.
    """

    parts: dict[str, PartConfig]
    weights: dict[str, NonNegativeFloat] = {}

    def __post_init__(self) -> None:
        if not self.parts or not all(name.isidentifier() and name != "loss" for name in self.parts):
            raise ValueError("`parts` needs names such as mae and moco, made of letters, digits and _; not `loss`")
        for name in self.weights:
            if name not in self.parts:
                raise ValueError(f"`weights` names {name!r}, but the parts are {', '.join(self.parts)}")

    @property
    def views(self) -> dict[str, ViewConfig]:
        return {name: view for part in reversed(self.parts.values()) for name, view in part.views.items()}


ObjectiveConfig = PartConfig | JointConfig | ClassifyConfig | SegmentConfig
