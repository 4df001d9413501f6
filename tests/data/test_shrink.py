"""`pack --resize` keeps the depth and the channels of what is no picture of 8 bits."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest

from layergraft.commands.pack import pack
from layergraft.data.decode.picture import Request
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import AS_THEY_ARE, EncodedImages

tifffile = pytest.importorskip("tifffile")
SMOOTH = cv2.resize(np.random.default_rng(0).integers(0, 4096, (4, 5, 5)).astype(np.uint16), (80, 60))


@pytest.mark.parametrize(
    ("pixels", "how"),
    [
        (SMOOTH[:, :, 0], {}),
        (SMOOTH[:, :, 0], {"bitspersample": 12}),
        (SMOOTH[:, :, :3], {"photometric": "rgb"}),
        (SMOOTH.transpose(2, 0, 1), {"imagej": True, "metadata": {"axes": "CYX"}}),
        (SMOOTH.astype(np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}),
        (SMOOTH[:, :, 0].astype(np.float32) - 1000, {}),
        (SMOOTH[:, :, 0].astype(np.int16) - 1000, {}),
    ],
)
def test_depth_and_channels_stay(tmp_path: Path, pixels: np.ndarray, how: dict[str, object]) -> None:
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "0.tif", pixels, **how)
    packed = pack(str(tmp_path / "images"), tmp_path / "packed", 30, 3, 10)
    images = open_source(packed.source).images
    assert isinstance(images, EncodedImages)
    found = images.picture(0, Request(channels=5, options=AS_THEY_ARE, whole=True))
    last = pixels if pixels.ndim == 2 or pixels.shape[2] <= 5 else pixels.transpose(1, 2, 0)
    last = last.reshape(60, 80, -1).astype(np.float64)
    expected = np.stack([band.reshape(30, 2, 40, 2).mean(axis=(1, 3)) for band in np.moveaxis(last, 2, 0)], axis=2)
    assert found.array.dtype == pixels.dtype
    assert found.depth() == how.get("bitspersample", 8 * pixels.dtype.itemsize)
    assert np.abs(found.array - expected).max() <= 0.51


def test_photographs_stay_jpeg(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "0.png"), (SMOOTH[:, :, :3] >> 4).astype(np.uint8))
    packed = pack(str(tmp_path / "images"), tmp_path / "packed", 30, 3, 10)
    content = open_source(packed.source).images.read(0)
    assert content.startswith(b"\xff\xd8\xff")
    assert cv2.imdecode(np.frombuffer(io.BytesIO(content).getvalue(), np.uint8), cv2.IMREAD_COLOR).shape == (30, 40, 3)
