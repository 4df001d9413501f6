"""Image files of every kind, damaged: an image, or `BadImage` with a reason; nothing else is raised."""

from __future__ import annotations

import io
import random
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fuzzing import distinct, mutate
from PIL import Image, features

from layergraft.data.decode import BadImage
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import IMAGE_SUFFIXES
from layergraft.errors import UserError

SEEDS = range(7400, 7420)
PER_SEED = 1000
COLOUR = np.random.default_rng(3).integers(0, 256, (24, 20, 3), dtype=np.uint8)
DEEP = np.random.default_rng(4).integers(0, 65536, (24, 20), dtype=np.uint16)


def by_pillow(kind: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def _tiff(**options: object) -> bytes:
    buffer = io.BytesIO()
    pytest.importorskip("tifffile").imwrite(buffer, DEEP, **options)
    return buffer.getvalue()


def _dicom() -> bytes:
    pydicom = pytest.importorskip("pydicom")
    described = pydicom.dataset.Dataset()
    described.file_meta = pydicom.dataset.FileMetaDataset()
    described.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    described.file_meta.MediaStorageSOPClassUID = described.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    described.file_meta.MediaStorageSOPInstanceUID = described.SOPInstanceUID = "1.2.3"
    described.Rows, described.Columns = DEEP.shape
    described.BitsAllocated, described.BitsStored, described.HighBit = 16, 12, 11
    described.SamplesPerPixel, described.PixelRepresentation, described.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    described.PixelData = (DEEP >> 4).tobytes()
    buffer = io.BytesIO()
    described.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _fits() -> bytes:
    fits = pytest.importorskip("astropy.io.fits")
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(DEEP.astype(np.float32))]).writeto(buffer)
    return buffer.getvalue()


def _nifti() -> bytes:
    nibabel = pytest.importorskip("nibabel")
    return bytes(nibabel.Nifti1Image(DEEP[:, :, None].astype(np.int16), np.eye(4)).to_bytes())


def _numpy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, COLOUR)
    return buffer.getvalue()


def _hdf5() -> bytes:
    h5py, buffer = pytest.importorskip("h5py"), io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["image"] = COLOUR
    return buffer.getvalue()


def _pnm(magic: bytes) -> bytes:
    return magic + b"\n20 24\n255\n" + (COLOUR if magic == b"P6" else COLOUR[:, :, 0]).tobytes()


WRITERS: dict[str, Callable[[], bytes]] = {
    "a.jpg": lambda: by_pillow("JPEG"),
    "b.jpg": lambda: by_pillow("JPEG", "CMYK", progressive=True),
    "c.jpg": lambda: by_pillow(
        "JPEG", "L", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    ),
    "a.png": lambda: by_pillow("PNG"),
    "b.png": lambda: by_pillow("PNG", "P"),
    "c.png": lambda: by_pillow("PNG", "RGBA"),
    "d.png": lambda: by_pillow("PNG", "LA"),
    "a.webp": lambda: by_pillow("WEBP"),
    "b.webp": lambda: by_pillow("WEBP", lossless=True),
    "a.bmp": lambda: by_pillow("BMP"),
    "a.gif": lambda: by_pillow("GIF"),
    "a.tif": lambda: by_pillow("TIFF"),
    "b.tif": lambda: by_pillow("TIFF", compression="tiff_lzw"),
    "c.tif": lambda: by_pillow("TIFF", compression="jpeg"),
    "d.tif": lambda: _tiff(),
    "e.tif": lambda: _tiff(bigtiff=True, tile=(16, 16), compression="deflate"),
    "f.tif": lambda: _tiff(planarconfig="contig", photometric="minisblack", metadata={"axes": "YX"}, ome=True),
    "a.jp2": lambda: by_pillow("JPEG2000"),
    "a.ppm": lambda: _pnm(b"P6"),
    "a.pgm": lambda: _pnm(b"P5"),
    "a.dcm": _dicom,
    "a.fits": _fits,
    "a.nii": _nifti,
    "a.npy": _numpy,
    "a.h5": _hdf5,
}
if features.check("avif"):
    WRITERS["a.avif"] = lambda: by_pillow("AVIF")


def bug_in(folder: Path, channels: int) -> str:
    """What an image raises that is neither refused nor an array of bytes."""
    try:
        images = open_source(str(folder)).images
        for key in range(len(images)):
            loaded = images.load(key, channels)
            if loaded.dtype != np.uint8 or loaded.ndim != 3 or loaded.shape[2] != channels or 0 in loaded.shape:
                return f"an array of shape {loaded.shape}, {loaded.dtype}"
    except (BadImage, UserError):
        return ""
    except Exception as error:
        (*_, frame) = [f for f in traceback.extract_tb(error.__traceback__) if "layergraft/" in f.filename]
        return f"{Path(frame.filename).name}:{frame.lineno} {type(error).__name__}: {str(error)[:120]}"
    return ""


def fuzz(root: Path, seed: int, count: int) -> dict[str, str]:
    """Bug -> the image that met it. Files that the package does not take are given a name that it takes."""
    contents = {name: write() for name, write in WRITERS.items()}
    (root / "images").mkdir(parents=True)
    (root / "met").mkdir()

    def tries() -> Iterator[tuple[str, str]]:
        for number in range(count):
            rng = random.Random(1_000_000 * seed + number)
            kind = rng.choice(sorted(contents))
            content = contents[kind]
            for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
                content = mutate(content, rng)
            own = Path(kind).suffix
            suffix = own if own in IMAGE_SUFFIXES and rng.random() < 0.9 else rng.choice(IMAGE_SUFFIXES)
            file = root / "images" / f"x{suffix}"
            file.write_bytes(content)
            met = bug_in(root / "images", rng.choice([1, 3, 3, 4]))
            if met:
                (root / "met" / f"{seed}-{number}{suffix}").write_bytes(content)
            file.unlink()
            yield met, f"try {number} of seed {seed}: {kind} as {suffix}"

    return distinct(tries())


def test_a_sample_of_images(tmp_path: Path) -> None:
    assert fuzz(tmp_path, 7000, 60) == {}


@pytest.mark.soak
@pytest.mark.parametrize("seed", SEEDS)
def test_images(tmp_path: Path, seed: int) -> None:
    assert fuzz(tmp_path, seed, PER_SEED) == {}
