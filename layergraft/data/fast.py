"""The fast path: one resize, one colour matrix, one blur kernel; pixels stay uint8.

Brightness, contrast, saturation, hue and grey are affine maps of the colour (hue as a rotation of the YIQ plane), so
they are multiplied into one matrix and applied, rounded and clipped once; `exact` rounds and clips after each. What
that changes is said in docs/images.md.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
import torch

from layergraft.data.parameters import ViewParameters

Pixels = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601-2, as Pillow
# NTSC's YIQ: grey has neither I nor Q, and with the exact inverse a rotation of their plane keeps the luma.
_TO_YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_TO_IQ, _FROM_IQ = _TO_YIQ[1:], np.linalg.inv(_TO_YIQ)[:, 1:]
_GRAY = np.tile(LUMA, (3, 1))


def resize(image: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    """Resize (H, W, C) with Pillow's filters, which average where the image shrinks.

    Bilinear enlargement, where no averaging is needed, is OpenCV's: it is the same and faster. The rest is torch's
    vectorised version of Pillow's filters: OpenCV's own averaging (INTER_AREA) takes three times as long.
    """
    if image.shape[:2] == (height, width):
        return image
    if interpolation == "bilinear" and image.shape[0] <= height and image.shape[1] <= width:
        enlarged: Pixels = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return enlarged.reshape(height, width, -1)
    # The copy of the crop is NumPy's: torch's would start a team of threads beside the training step's own.
    crop = torch.from_numpy(np.ascontiguousarray(image))
    # With this stride of the single image torch sees channels last, and so keeps them.
    planes = crop.as_strided((1, crop.shape[2], *crop.shape[:2]), (crop.numel(), 1, *crop.stride()[:2]))
    resized = torch.nn.functional.interpolate(planes, (height, width), mode=interpolation, antialias=True)
    return np.asarray(resized[0].permute(1, 2, 0).numpy(), dtype=np.uint8)


def crop_view(image: Pixels, parameters: ViewParameters, size: int, interpolation: str) -> Pixels:
    """Crop, resize to (size, size, C) and mirror."""
    top, left, height, width = parameters.box
    view = resize(image[top : top + height, left : left + width], size, size, interpolation)
    if parameters.flip:
        view = np.asarray(cv2.flip(view, 1), dtype=np.uint8).reshape(view.shape)
    return view


def colour_matrix(parameters: ViewParameters, mean: Matrix) -> Matrix | None:
    """The affine map of the colour that jitter and grey amount to.

    Args:
        parameters: of the view.
        mean: mean of each channel of the view, which contrast keeps in place, of shape (C,).

    Returns:
        Matrix of shape (C, C + 1), the last column an offset in grey levels; None where the colour stays as it is.
        Saturation, hue and grey exist for three channels only.
    """
    channels = len(mean)
    colour = channels == 3
    luma = LUMA if colour else np.full(channels, 1 / channels)
    matrix = np.eye(channels, channels + 1)
    for operation, factor in parameters.jitter:
        if operation == "brightness":
            matrix *= factor
        elif operation == "contrast":
            gray = luma @ (matrix[:, :-1] @ mean + matrix[:, -1])
            matrix *= factor
            matrix[:, -1] += (1 - factor) * gray
        elif operation == "saturation" and colour:
            matrix = factor * matrix + (1 - factor) * (_GRAY @ matrix)
        elif operation == "hue" and colour:
            # Red turns towards yellow, as in the HSV circle: backwards in the plane of I and Q.
            cos, sin = math.cos(2 * math.pi * factor), math.sin(2 * math.pi * factor)
            plane = _TO_IQ @ matrix
            matrix = _GRAY @ matrix + _FROM_IQ @ (np.array([[cos, sin], [-sin, cos]]) @ plane)
    if parameters.gray and colour:
        matrix = _GRAY @ matrix
    return matrix if parameters.gray or parameters.jitter else None


def blur_radius(sigma: float) -> int:
    """Where a Gaussian ends: at three standard deviations."""
    return max(1, round(3 * sigma))


def blur_kernel(sigma: float) -> Matrix:
    """A Gaussian of shape (2R + 1,), with sum 1."""
    radius = blur_radius(sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(kernel / kernel.sum())


def fast_view(image: Pixels, parameters: ViewParameters, size: int, interpolation: str) -> Pixels:
    """Make one view.

    Args:
        image: uint8 of shape (H, W, C).
        parameters: drawn for this image's size.
        size: side of the view.
        interpolation: `bilinear` or `bicubic`.

    Returns:
        uint8 of shape (size, size, C).
    """
    view = crop_view(image, parameters, size, interpolation)
    shape = view.shape
    if parameters.jitter or parameters.gray:
        matrix = colour_matrix(parameters, channel_means(view))
        if matrix is not None:
            view = np.asarray(cv2.transform(view, matrix), dtype=np.uint8).reshape(shape)
    if parameters.sigma is not None:
        kernel = blur_kernel(parameters.sigma)
        view = np.asarray(cv2.sepFilter2D(view, -1, kernel, kernel), dtype=np.uint8).reshape(shape)
    if parameters.solarize:
        view = np.minimum(view, 255 - view)  # inverts from 128 up
    return view


def channel_means(view: Pixels) -> Matrix:
    """Mean of each channel, of shape (C,)."""
    if view.shape[2] <= 4:
        return np.array(cv2.mean(view)[: view.shape[2]])
    return np.asarray(view.mean(axis=(0, 1)))
