"""What writes image files as the fields do: each is a function of an RGB picture (H, W, 3) of 8 bits."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from dicom_files import dicom
from PIL import Image, ImageCms

Array = np.ndarray


def same(rgb: Array) -> Array:
    return rgb


def grey(rgb: Array) -> Array:
    return rgb[:, :, 1:2]


def deep(pixels: Array) -> Array:
    """The same upper 8 bits, and others below."""
    return (pixels.astype(np.uint16) << 8) | ((pixels.astype(np.uint16) * 37 + 11) & 255)


def half(rgb: Array) -> Array:
    """Opacity: none on the left, all on the right."""
    return np.where(np.arange(rgb.shape[1]) < rgb.shape[1] // 2, 0, 255).astype(np.uint8)[None].repeat(len(rgb), axis=0)


def on_white(rgb: Array) -> Array:
    return np.where(half(rgb)[:, :, None] == 0, 255, rgb).astype(np.uint8)


def by_pillow(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pil(kind: str, mode: str = "RGB", **options: Any) -> Callable[[Array], bytes]:
    return lambda rgb: by_pillow(Image.fromarray(rgb).convert(mode), kind, **options)


def turned(kind: str, way: int, **options: Any) -> Callable[[Array], bytes]:
    exif = Image.Exif()
    exif[0x0112] = way
    return pil(kind, exif=exif, **options)


def tif(make: Callable[[Array], Array], **options: Any) -> Callable[[Array], bytes]:
    def write(rgb: Array) -> bytes:
        tifffile = pytest.importorskip("tifffile")
        if options.get("compression"):
            pytest.importorskip("imagecodecs")
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, make(rgb), **options)
        return buffer.getvalue()

    return write


def gdal(make: Callable[[Array], Array], **options: Any) -> Callable[[Array], bytes]:
    def write(rgb: Array) -> bytes:
        rasterio, bands = pytest.importorskip("rasterio"), make(rgb)
        place = {"transform": rasterio.transform.from_origin(500, 4600, 10, 10), "crs": "EPSG:32632"}
        shape = {"height": bands.shape[1], "width": bands.shape[2], "count": len(bands), "dtype": bands.dtype.name}
        with rasterio.MemoryFile() as memory:
            with memory.open(driver="GTiff", **shape, **place, **options) as file:
                file.write(bands)
            memory.seek(0)
            return bytes(memory.read())

    return write


def with_mask(rgb: Array) -> bytes:
    """A page of 1 bit behind the picture, which says where it is valid."""
    rasterio = pytest.importorskip("rasterio")
    shape = {"height": len(rgb), "width": rgb.shape[1], "count": 3, "dtype": "uint8", "photometric": "RGB"}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", **shape) as file:
            file.write(planes(rgb))
            file.write_mask(half(rgb) > 0)
        memory.seek(0)
        return bytes(memory.read())


def codec(name: str, make: Callable[[Array], Array], **options: Any) -> Callable[[Array], bytes]:
    def write(rgb: Array) -> bytes:
        return bytes(getattr(pytest.importorskip("imagecodecs"), name)(make(rgb), **options))

    return write


def opencv(suffix: str, make: Callable[[Array], Array]) -> Callable[[Array], bytes]:
    return lambda rgb: cv2.imencode(suffix, make(rgb))[1].tobytes()


def planes(rgb: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(rgb, 2, 0))


def only(rgb: Array) -> Array:
    """Grey of shape (H, W)."""
    return np.ascontiguousarray(rgb[:, :, 1])


def bgr(rgb: Array) -> Array:
    return np.ascontiguousarray(rgb[:, :, ::-1])


def with_alpha(rgb: Array) -> Array:
    return np.dstack([rgb, half(rgb)])


def multiplied(rgb: Array) -> Array:
    return np.where(half(rgb)[:, :, None] == 0, 0, with_alpha(rgb)).astype(np.uint8)


def png_of_two_bits(rgb: Array) -> bytes:
    """By hand, as nothing here writes it."""
    levels = (only(rgb) >> 6)[:, : rgb.shape[1] // 4 * 4].reshape(len(rgb), -1, 4)
    rows = levels[:, :, 0] << 6 | levels[:, :, 1] << 4 | levels[:, :, 2] << 2 | levels[:, :, 3]
    size = (rows.shape[1] * 4).to_bytes(4, "big") + len(rgb).to_bytes(4, "big")
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = (b"IHDR" + size + b"\2\0\0\0\0", b"IDAT" + packed, b"IEND")
    parts = [(len(c) - 4).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def lab(rgb: Array) -> bytes:
    ways = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    return by_pillow(ImageCms.profileToProfile(Image.fromarray(rgb), *ways, outputMode="LAB"), "TIFF")


def animated(kind: str, **options: Any) -> Callable[[Array], bytes]:
    return lambda rgb: by_pillow(
        Image.fromarray(rgb), kind, save_all=True, append_images=[Image.fromarray(255 - rgb)], **options
    )


def pyramid(rgb: Array) -> bytes:
    tifffile, buffer = pytest.importorskip("tifffile"), io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(rgb, photometric="rgb", tile=(16, 16), subifds=1, metadata=None)
        writer.write(rgb[::2, ::2], photometric="rgb", tile=(16, 16), subfiletype=1, metadata=None)
    return buffer.getvalue()


def fits(make: Callable[[Array], Array]) -> Callable[[Array], bytes]:
    def write(rgb: Array) -> bytes:
        io_fits, buffer = pytest.importorskip("astropy.io.fits"), io.BytesIO()
        io_fits.PrimaryHDU(make(rgb)).writeto(buffer)
        return buffer.getvalue()

    return write


def nifti(rgb: Array) -> bytes:
    nibabel = pytest.importorskip("nibabel")
    volume = np.transpose(only(rgb)[::-1])[:, :, None].astype(np.int16)  # rows go up, columns to the patient's left
    return bytes(nibabel.Nifti1Image(volume, np.diag([-1, 1, 1, 1])).to_bytes())


def npy(make: Callable[[Array], Array]) -> Callable[[Array], bytes]:
    def write(rgb: Array) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, make(rgb))
        return buffer.getvalue()

    return write


def medical(make: Callable[[Array], Array], *how: Any, **tags: Any) -> Callable[[Array], bytes]:
    def write(rgb: Array) -> bytes:
        pytest.importorskip("pydicom")
        return dicom(make(rgb), *how, **tags)

    return write


def pnm(magic: str, top: int, make: Callable[[Array], Array]) -> Callable[[Array], bytes]:
    head = f"{magic}\n%d %d\n{top}\n"
    kind = ">u2" if top > 255 else "u1"
    return lambda rgb: (head % (rgb.shape[1], len(rgb))).encode() + make(rgb).astype(kind).tobytes()


def inked(rgb: Array) -> Array:
    return np.asarray(Image.fromarray(rgb).convert("CMYK").convert("RGB"))


def of_palette(colours: int) -> Callable[[Array], Array]:
    return lambda rgb: np.asarray(Image.fromarray(rgb).quantize(colours).convert("RGB"))


def black_white(rgb: Array) -> Array:
    return np.where(grey(rgb) > 100, 255, 0).astype(np.uint8)


def five(rgb: Array) -> Array:
    return np.dstack([rgb, rgb[::-1, :, 0], rgb[:, ::-1, 1]])
