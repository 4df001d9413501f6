"""The fast path: one resize, one colour matrix, one blur kernel; pixels stay uint8.

Brightness, contrast, saturation, hue and grey are affine maps of the colour (hue as a rotation of the YIQ plane) that
commute, so they are one matrix, applied, rounded and clipped once; `exact` rounds and clips after each. What that
changes is said in docs/measured.md.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
import torch

from layergraft.config.encoder import ImageSize, height_and_width
from layergraft.data.arrays import Pixels
from layergraft.data.view_parameters import ViewParameters

Matrix = npt.NDArray[np.float64]

_CHANNELS = 4  # the channels of a pixel that torch works on at a time
_LARGE = 128 * 128  # pixels from which four rows at a time are quicker

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601-2, as Pillow
# NTSC's YIQ: grey has neither I nor Q, and with the exact inverse a rotation of their plane keeps the luma.
_TO_YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_TO_IQ, _FROM_IQ = _TO_YIQ[1:], np.linalg.inv(_TO_YIQ)[:, 1:]
# A colour's grey, its chroma, and its chroma turned by a quarter circle: red towards yellow, as in the HSV circle, so
# backwards in the plane of I and Q. Every matrix here is a weighted sum of the three.
_GRAY_CHROMA_TURNED = np.stack(
    (np.tile(LUMA, (3, 1)), _FROM_IQ @ _TO_IQ, _FROM_IQ @ np.array([[0, 1], [-1, 0]]) @ _TO_IQ)
).reshape(3, 9)


def resize_image(image: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    """Resize (H, W, C) with Pillow's filters, which average where the image shrinks.

    Bilinear enlargement, where no averaging is needed, is OpenCV's: it is the same and faster. The rest is torch's
    vectorised version of Pillow's filters: OpenCV's own averaging (INTER_AREA) takes three times as long.
    """
    if image.shape[:2] == (height, width):
        return image
    if interpolation == "bilinear" and image.shape[0] <= height and image.shape[1] <= width:
        enlarged: Pixels = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return enlarged.reshape(height, width, -1)
    if image.shape[2] == 1 and width % _CHANNELS == 0 and image.shape[0] >= _CHANNELS and image.size >= _LARGE:
        return _resize_grey(image[:, :, 0], height, width, interpolation)[:, :, np.newaxis]
    return _resize(np.ascontiguousarray(image), height, width, interpolation)


def _resize(image: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    # The copy of the crop is NumPy's: torch's would start a team of threads beside the training step's own.
    crop = torch.from_numpy(image)
    # With this stride of the single image torch sees channels last, and so keeps them.
    planes = crop.as_strided((1, crop.shape[2], *crop.shape[:2]), (crop.numel(), 1, *crop.stride()[:2]))
    resized = torch.nn.functional.interpolate(planes, (height, width), mode=interpolation, antialias=True)
    return np.asarray(resized[0].permute(1, 2, 0).numpy(), dtype=np.uint8)


def _resize_grey(image: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    """The same for (H, W), where torch would carry three empty channels along: a quarter of the time.

    It resizes rows and then columns, each rounded. So the four quarters of the picture, one below the other, are the
    channels of one that becomes narrower, and four neighbours in a row those of one that becomes lower.
    """
    rows, columns = image.shape
    quarter = -(-rows // _CHANNELS)
    starts = [min(number * quarter, rows - quarter) for number in range(_CHANNELS)]  # the last ones may overlap
    packed = np.empty((quarter, columns, _CHANNELS), dtype=np.uint8)
    cv2.merge([image[start : start + quarter] for start in starts], dst=packed)
    packed = _resize(packed, quarter, width, interpolation)
    narrow = np.empty((rows, width), dtype=np.uint8)
    cv2.split(np.ascontiguousarray(packed), [narrow[start : start + quarter] for start in starts])
    neighbours = narrow.reshape(rows, width // _CHANNELS, _CHANNELS)
    return _resize(neighbours, height, width // _CHANNELS, interpolation).reshape(height, width)


def crop_view(image: Pixels, parameters: ViewParameters, size: ImageSize, interpolation: str) -> Pixels:
    """Crop, resize to the size of the view and mirror: (height, width, C)."""
    top, left, height, width = parameters.box
    view = resize_image(image[top : top + height, left : left + width], *height_and_width(size), interpolation)
    if parameters.flip:
        view = np.asarray(cv2.flip(view, 1), dtype=np.uint8).reshape(view.shape)
    return view


def mean_luma(view: Pixels) -> float:
    """Mean grey level of (H, W, C); of another number of channels than three, the mean of all."""
    sums = cv2.sumElems(view)[: view.shape[2]] if view.shape[2] <= 4 else view.sum(axis=(0, 1)).tolist()
    weights = LUMA.tolist() if len(sums) == 3 else [1 / len(sums)] * len(sums)
    pixels = view.shape[0] * view.shape[1]
    return float(sum(weight * total for weight, total in zip(weights, sums, strict=True)) / pixels)


def colour_matrix(parameters: ViewParameters, view: Pixels) -> Matrix | None:
    """The affine map of the colour that jitter and grey amount to.

    Brightness b and contrast c scale the colour, saturation scales its chroma, hue turns it; what contrast adds, and
    all of them keep, is grey. So their order, which `exact` follows, tells only where a value is clipped.

    Args:
        parameters: of the view.
        view: of shape (H, W, C), cropped; contrast keeps its mean grey level in place.

    Returns:
        Matrix of shape (C, C + 1), the last column an offset in grey levels; None where the colour stays as it is.
        Saturation, hue and grey exist for three channels only.
    """
    channels = view.shape[2]
    if not parameters.jitter and not (parameters.gray and channels == 3):
        return None
    factors = dict(parameters.jitter)
    brightness, contrast = factors.get("brightness", 1.0), factors.get("contrast", 1.0)
    matrix = np.empty((channels, channels + 1))
    scale = brightness * contrast
    if channels == 3:
        chroma = 0.0 if parameters.gray else scale * factors.get("saturation", 1.0)
        angle = 2 * math.pi * factors.get("hue", 0.0)
        weights = np.array([scale, chroma * math.cos(angle), chroma * math.sin(angle)])
        matrix[:, :-1] = (weights @ _GRAY_CHROMA_TURNED).reshape(3, 3)
    else:
        matrix[:, :-1] = scale * np.eye(channels)
    matrix[:, -1] = 0.0 if contrast == 1 else (1 - contrast) * brightness * mean_luma(view)
    return matrix


def blur_radius(sigma: float) -> int:
    """Where a Gaussian ends: at three standard deviations."""
    return max(1, round(3 * sigma))


def blur_kernel(sigma: float) -> Matrix:
    """A Gaussian of shape (2R + 1,), with sum 1."""
    return np.asarray(cv2.getGaussianKernel(2 * blur_radius(sigma) + 1, sigma)[:, 0], dtype=np.float64)


def fast_view(image: Pixels, parameters: ViewParameters, size: ImageSize, interpolation: str) -> Pixels:
    """Make one view.

    Args:
        image: uint8 of shape (H, W, C).
        parameters: drawn for this image's size.
        size: of the view.
        interpolation: `bilinear` or `bicubic`.

    Returns:
        uint8 of shape (height, width, C) of the view.
    """
    view = crop_view(image, parameters, size, interpolation)
    shape = view.shape
    matrix = colour_matrix(parameters, view)
    if matrix is not None:
        view = np.asarray(cv2.transform(view, matrix), dtype=np.uint8).reshape(shape)
    if parameters.sigma is not None:
        kernel = blur_kernel(parameters.sigma)
        view = np.asarray(cv2.sepFilter2D(view, -1, kernel, kernel), dtype=np.uint8).reshape(shape)
    if parameters.solarize:
        view = np.minimum(view, 255 - view)  # inverts from 128 up
    return view
