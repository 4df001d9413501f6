"""The exact path: torchvision's transforms of Pillow images, operation by operation, rounded after each."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from layergraft.config.encoder import ImageSize, height_and_width
from layergraft.data.arrays import Pixels
from layergraft.data.fast_augment import blur_kernel
from layergraft.data.view_parameters import ViewParameters
from layergraft.errors import UserError

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def shift_hue(image: Image.Image, shift: float) -> Image.Image:
    """Turn the HSV circle by `shift` of its circumference, in 255ths as torchvision does."""
    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(int(shift * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def jitter(image: Image.Image, operation: str, factor: float) -> Image.Image:
    """One operation of colour jitter; saturation and hue leave a grey image as it is."""
    if operation == "brightness":
        return ImageEnhance.Brightness(image).enhance(factor)
    if operation == "contrast":
        return ImageEnhance.Contrast(image).enhance(factor)
    if image.mode != "RGB":
        return image
    return ImageEnhance.Color(image).enhance(factor) if operation == "saturation" else shift_hue(image, factor)


def blur(image: Image.Image, sigma: float) -> Image.Image:
    """A true Gaussian, mirrored at the border, as torchvision's (Pillow's own is three box filters)."""
    kernel = blur_kernel(sigma)
    blurred = cv2.sepFilter2D(np.asarray(image), cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)
    return Image.fromarray(np.rint(blurred).astype(np.uint8))


def exact_view(image: Pixels, parameters: ViewParameters, size: ImageSize, interpolation: str) -> Pixels:
    """Make one view; arguments and result as `fast_view`'s.

    Raises:
        UserError: the image has neither one nor three channels; Pillow has no others.
    """
    channels = image.shape[2]
    if channels not in (1, 3):
        raise UserError(f"data.augment: exact works on 1 or 3 channels, not on {channels}.", "Use data.augment: fast.")
    top, left, height, width = parameters.box
    crop = np.ascontiguousarray(image[top : top + height, left : left + width])
    view_height, view_width = height_and_width(size)
    view = Image.fromarray(crop if channels == 3 else crop[:, :, 0])
    view = view.resize((view_width, view_height), RESAMPLING[interpolation])
    if parameters.flip:
        view = ImageOps.mirror(view)
    for operation, factor in parameters.jitter:
        view = jitter(view, operation, factor)
    if parameters.gray and channels == 3:
        view = view.convert("L").convert("RGB")
    if parameters.sigma is not None:
        view = blur(view, parameters.sigma)
    if parameters.solarize:
        view = ImageOps.solarize(view, 128)
    return np.asarray(view, dtype=np.uint8).reshape(view_height, view_width, channels)
