"""Where images come from and how a view of one is made."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from layergraft.config.base import (
    Config,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    NonNegativeNumber,
    PositiveFloat,
    PositiveFraction,
)
from layergraft.config.encoder import ImageSize

Augment = Literal["fast", "exact"]
HoldoutBy = Literal["proportion", "class"]


class DataConfig(Config, frozen=True, kw_only=True):
    """The images.

    Args:
        source: a folder, list, table, tar shards, `hf:NAME`, any of them at a URL, or a built-in set.
        holdout: how many images are held out, as a count or as a fraction below 1; at most a fifth of the source. They
            never train anything; every choice is made on them.
        holdout_by: how they are spread over the classes, where there are labels. `proportion`: the same fraction of
            every class (at least one image of three or more, never all). `class`: the same number of every class (at
            most half of a small one, where the others have enough); a run begun before this key existed goes on so.
        max_bad: fraction of images that may be unreadable before the run stops.
        workers: threads that prepare batches; 0 prepares them between the steps. The numbers do not depend on it.
        augment: `exact` does one operation after another, as torchvision's transforms do on Pillow images; `fast` draws
            the same parameters and joins operations.
        augment_on: where `fast` does colour, blur and solarisation. `cpu`: in the workers, image by image. `device`:
            where the network is, batch by batch. `auto`: `device` on a CUDA GPU, else `cpu`. The parameters are the
            same, the pixels within 2 grey levels.
        cache: keep decoded images while the stages run, as far as there is room: `ram`, in the memory of each process;
            `disk`, in `RUN/cache`, which the processes of a machine share. The numbers do not depend on it.
        mean: mean of each channel, of pixels in [0, 1]; null takes that of the recipe's `start`, else the source's own,
            else ImageNet's.
        std: standard deviation of each channel, likewise.
    """

    source: str | None = None
    holdout: NonNegativeNumber = 0.05
    holdout_by: HoldoutBy = "proportion"
    max_bad: Fraction = 0.01
    workers: NonNegativeInt = 2
    augment: Augment = "fast"
    augment_on: Literal["auto", "cpu", "device"] = "auto"
    cache: Literal["none", "ram", "disk"] = "none"
    mean: tuple[Fraction, ...] | None = None
    std: tuple[PositiveFraction, ...] | None = None

    def __post_init__(self) -> None:
        if self.augment == "exact" and self.augment_on == "device":
            raise ValueError("`augment: exact` is Pillow's, on the CPU: `augment_on` cannot be `device`")

    def finishes_on(self, device: str) -> bool:
        """Whether views are finished on the network's device, of that type, rather than by the workers."""
        return self.augment == "fast" and (
            self.augment_on == "device" or (self.augment_on == "auto" and device == "cuda")
        )


class RandAugmentConfig(Config, frozen=True, kw_only=True):
    """RandAugment with timm's operations; the defaults are timm's `rand-m9-mstd0.5-inc1`.

    Args:
        operations: how many are drawn for an image.
        magnitude: strength, from 0 to 10.
        deviation: standard deviation of the strength.
        probability: that a drawn operation is applied.
        fill: grey level of what a rotation or a shift uncovers.
    """

    operations: NonNegativeInt = 2
    magnitude: Annotated[float, Meta(ge=0, le=10)] = 9.0
    deviation: NonNegativeFloat = 0.5
    probability: Fraction = 0.5
    fill: Annotated[int, Meta(ge=0, le=255)] = 128


class ViewConfig(Config, frozen=True, kw_only=True):
    """One random view of an image. The operations are applied in the order of these fields.

    Args:
        crop_scale: range of the crop's area as a fraction of the image's.
        crop_ratio: range of the crop's width over its height (log-uniform); of a view that is not square, relative to
            its own.
        interpolation: how the crop is resized.
        flip: probability of a horizontal flip.
        jitter: probability that brightness, contrast, saturation and hue change at all.
        brightness: a factor from [1 - b, 1 + b].
        contrast: likewise, around the image's mean grey.
        saturation: likewise, between grey and the colour.
        hue: a shift from [-h, h] of the full circle.
        gray: probability of turning grey.
        blur: probability of a Gaussian blur.
        blur_sigma: range of its standard deviation, in pixels.
        solarize: probability of inverting all values from 128 up.
        rand_augment: RandAugment after all of them; null for none.
        size: side of the view in pixels, or `[height, width]`; null is the encoder's.
    """

    crop_scale: tuple[PositiveFraction, PositiveFraction] = (0.08, 1.0)
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    flip: Fraction = 0.5
    jitter: Fraction = 0.0
    brightness: NonNegativeFloat = 0.4
    contrast: NonNegativeFloat = 0.4
    saturation: NonNegativeFloat = 0.2
    hue: Annotated[float, Meta(ge=0, le=0.5)] = 0.1
    gray: Fraction = 0.0
    blur: Fraction = 0.0
    blur_sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)
    solarize: Fraction = 0.0
    rand_augment: RandAugmentConfig | None = None
    size: ImageSize | None = None

    def __post_init__(self) -> None:
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            lowest, highest = getattr(self, name)
            if lowest > highest:
                raise ValueError(f"`{name}` is a range: its first number cannot be above its second")
