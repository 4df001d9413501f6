"""NIfTI volumes by nibabel, read by nibabel in its canonical orientation as the truth."""

from __future__ import annotations

import gzip
from itertools import permutations, product

import numpy as np
import pytest

from layergraft.data.decode import BadImage, ReadOptions, decode
from layergraft.data.decode.picture import Request
from layergraft.data.decode.readers import read_picture

nibabel = pytest.importorskip("nibabel")
VOLUME = np.random.default_rng(0).integers(0, 4000, (5, 6, 7)).astype(np.int16)


def write(volume: np.ndarray, affine: np.ndarray | None = None, second: bool = False, **header: float) -> bytes:
    kind = nibabel.Nifti2Image if second else nibabel.Nifti1Image
    image = kind(volume, np.eye(4) if affine is None else affine)
    for name, value in header.items():
        image.header[name] = value
    return bytes(image.to_bytes())


def stored(content: bytes, options: ReadOptions | None = None) -> np.ndarray:
    return read_picture(content, Request(channels=1, options=options or ReadOptions())).array[:, :, 0]


def shown(content: bytes, number: int) -> np.ndarray:
    """An axial slice as radiologists see it: the patient's right on the left, the front at the top."""
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image.from_bytes(content))
    return np.asanyarray(canonical.dataobj)[::-1, ::-1, number].T


def test_every_orientation_gives_the_same_slices() -> None:
    for axes, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        affine = np.eye(4)
        affine[:3, :3] = np.diag([1.0, 1.5, 2.0])[:, axes] * signs
        content = write(VOLUME, affine)
        count = nibabel.as_closest_canonical(nibabel.Nifti1Image.from_bytes(content)).shape[2]
        for number in (0, count - 1):
            assert np.array_equal(stored(content, ReadOptions(z=number + 1)), shown(content, number)), (axes, signs)


def test_the_middle_slice_stands_for_a_volume_and_that_is_said() -> None:
    content = write(VOLUME)
    assert np.array_equal(stored(content), shown(content, 3))
    remark = read_picture(content, Request(channels=1, options=ReadOptions())).remarks[0]
    assert "7 slices; the middle is taken" in remark
    assert np.array_equal(stored(content, ReadOptions(z="max")), VOLUME.max(2)[::-1, ::-1].T)


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_both_versions_plain_and_gzipped(second: bool, packed: bool) -> None:
    content = write(VOLUME, second=second)
    assert np.array_equal(stored(gzip.compress(content) if packed else content), VOLUME[::-1, ::-1, 3].T)


def test_slope_range_and_time() -> None:
    image = nibabel.Nifti1Image(VOLUME, np.eye(4))
    image.header.set_slope_inter(0.5, -100)
    content = bytes(image.to_bytes())
    assert np.allclose(stored(content), shown(content, 3))
    with pytest.raises(BadImage, match="range"):
        decode(write(VOLUME), 1)
    by_file = decode(write(VOLUME, cal_min=0, cal_max=4000), 1)[:, :, 0]
    assert np.array_equal(by_file, np.rint(VOLUME[::-1, ::-1, 3].T / 4000 * 255))
    series = np.stack([VOLUME, VOLUME // 2], axis=3)
    assert np.array_equal(stored(write(series), ReadOptions(page=2, z=1)), VOLUME[::-1, ::-1, 0].T // 2)
    with pytest.raises(BadImage, match="no page 3"):
        stored(write(series), ReadOptions(page=3))
    with pytest.raises(BadImage, match="no plane 8"):
        stored(write(VOLUME), ReadOptions(z=8))


def test_damage_is_named() -> None:
    content = write(VOLUME)
    for damaged in (content[:360], content[:-30], gzip.compress(content)[:-40]):
        with pytest.raises(BadImage, match="damaged"):
            decode(damaged, 1)
