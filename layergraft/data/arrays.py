"""What the arrays of images and labels are called, in all packages."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""An image, of shape (height, width, channels)."""
Mask = npt.NDArray[np.uint8]
"""The class of each pixel, of shape (height, width): 1 is the first, 0 is ignored."""
Labels = npt.NDArray[np.int64]
"""The class of each of N images, or other whole numbers of theirs, of shape (N,)."""
ClassIds = npt.NDArray[np.int32]
"""Likewise, as an index keeps them."""
Indices = npt.NDArray[np.int64]
"""Sample keys, or positions among N images."""
