"""Ninety kinds of image files by the writers of the fields, each with the pixels that are right."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from dicom_files import dicom
from PIL import Image, ImageCms, features

from layergraft.data.decode.options import ReadOptions, parse_read_options

Array = np.ndarray
RAMP = np.add.outer(np.arange(40) * 5, np.arange(60)).astype(np.uint8)
PICTURE = np.dstack([RAMP, 255 - RAMP[::-1], RAMP[:, ::-1] // 2 + 60])


class Kind(NamedTuple):
    """A kind of file.

    Args:
        suffix: of its name.
        write: RGB picture (H, W, 3) of 8 bits -> the file, by the field's own writer.
        expected: RGB picture -> the pixels (H, W, C) that are right.
        off: grey levels by which a lossy format differs at most, on the mean.
        query: what follows the `?` of the SOURCE.
    """

    suffix: str
    write: Callable[[Array], bytes]
    expected: Callable[[Array], Array]
    off: float = 0.0
    query: str = ""

    @property
    def options(self) -> ReadOptions:
        return parse_read_options(dict(part.split("=") for part in self.query.split("&") if part), "folder")


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


UPRIGHT: dict[int, Callable[[Array], Array]] = {
    3: lambda rgb: rgb[::-1, ::-1],
    6: lambda rgb: rgb.transpose(1, 0, 2)[:, ::-1],
    8: lambda rgb: rgb.transpose(1, 0, 2)[::-1],
}
GREY_TIFF = {"photometric": "minisblack"}
COLOUR_TIFF = {"photometric": "rgb"}
TWELVE = "range=0,4095"


def _photographs() -> dict[str, Kind]:
    kinds = {
        "JPEG": Kind(".jpg", pil("JPEG", quality=98, subsampling=0), same, 2),
        "JPEG, grey": Kind(".jpeg", lambda rgb: by_pillow(Image.fromarray(only(rgb)), "JPEG", quality=98), grey, 2),
        "JPEG, CMYK": Kind(".jpg", pil("JPEG", "CMYK", quality=98), inked, 2),
        "JPEG, progressive": Kind(".jfif", pil("JPEG", quality=98, progressive=True), same, 4),
        "JPEG, 4:1:1": Kind(".jpe", pil("JPEG", quality=98, subsampling="4:1:1"), same, 8),
        "JPEG, RGB": Kind(".jpg", pil("JPEG", quality=98, keep_rgb=True), same, 2),
        "JPEG, lossless": Kind(".jpg", codec("jpeg8_encode", only, lossless=True), grey),
        "JPEG, 16-bit": Kind(
            ".jpg", codec("jpeg8_encode", lambda rgb: deep(only(rgb)), lossless=True, bitspersample=16), grey
        ),
        "JPEG, 12-bit": Kind(
            ".jpg",
            codec("jpeg8_encode", lambda rgb: only(rgb).astype(np.uint16) << 4, level=99, bitspersample=12),
            grey,
            1,
        ),
        "WebP": Kind(".webp", pil("WEBP", lossless=True), same),
        "WebP, alpha": Kind(
            ".webp",
            lambda rgb: by_pillow(Image.fromarray(with_alpha(rgb)), "WEBP", lossless=True, exact=True),
            on_white,
        ),
        "WebP, animated": Kind(".webp", animated("WEBP", lossless=True), same),
        "GIF": Kind(".gif", lambda rgb: by_pillow(Image.fromarray(rgb).quantize(200), "GIF"), of_palette(200)),
        "BMP": Kind(".bmp", pil("BMP"), same),
        "BMP, palette": Kind(".bmp", lambda rgb: by_pillow(Image.fromarray(rgb).quantize(16), "BMP"), of_palette(16)),
        "PPM": Kind(".ppm", pil("PPM"), same),
        "PPM, 16-bit": Kind(".ppm", pnm("P6", 65535, deep), same),
        "PGM": Kind(".pgm", pnm("P5", 255, only), grey),
        "PGM, 12-bit": Kind(".pgm", pnm("P5", 4095, lambda rgb: only(rgb).astype(np.uint16) << 4), grey),
        "JPEG 2000": Kind(".jp2", pil("JPEG2000", irreversible=False), same),
        "JPEG 2000, 16-bit": Kind(
            ".jp2", codec("jpeg2k_encode", lambda rgb: deep(only(rgb)), level=0, reversible=True), grey
        ),
        "JPEG 2000, 12-bit colours": Kind(
            ".jp2",
            codec("jpeg2k_encode", lambda rgb: rgb.astype(np.uint16) << 4, level=0, reversible=True, bitspersample=12),
            lambda rgb: np.rint(rgb.astype(int) * 16 / 4095 * 255).astype(np.uint8),
            query=TWELVE,
        ),
    }
    if features.check("avif"):
        kinds["AVIF"] = Kind(".avif", pil("AVIF", quality=98, subsampling="4:4:4"), same, 4)
    for way, expected in UPRIGHT.items():
        kinds[f"JPEG, turned by {way}"] = Kind(".jpg", turned("JPEG", way, quality=98, subsampling=0), expected, 2)
        kinds[f"PNG, turned by {way}"] = Kind(".png", turned("PNG", way), expected)
        kinds[f"WebP, turned by {way}"] = Kind(".webp", turned("WEBP", way, lossless=True), expected)
        kinds[f"TIFF, turned by {way}"] = Kind(".tif", turned("TIFF", way), expected)
    return kinds


def _pngs() -> dict[str, Kind]:
    alpha16 = lambda rgb: np.dstack([deep(rgb), half(rgb).astype(np.uint16) * 257])  # noqa: E731
    return {
        "PNG": Kind(".png", pil("PNG"), same),
        "PNG, grey": Kind(".PNG", lambda rgb: by_pillow(Image.fromarray(only(rgb)), "PNG"), grey),
        "PNG, palette": Kind(".png", lambda rgb: by_pillow(Image.fromarray(rgb).quantize(200), "PNG"), of_palette(200)),
        "PNG, alpha": Kind(".png", lambda rgb: by_pillow(Image.fromarray(with_alpha(rgb)), "PNG"), on_white),
        "PNG, grey and alpha": Kind(
            ".png",
            lambda rgb: by_pillow(Image.fromarray(np.dstack([only(rgb), half(rgb)]), "LA"), "PNG"),
            lambda rgb: on_white(grey(rgb)),
        ),
        "PNG, 1-bit": Kind(".png", lambda rgb: by_pillow(Image.fromarray(only(rgb) > 100), "PNG"), black_white),
        "PNG, 2-bit": Kind(".png", png_of_two_bits, lambda rgb: (grey(rgb) >> 6) * 85),
        "PNG, 16-bit": Kind(".png", opencv(".png", lambda rgb: deep(only(rgb))), grey),
        "PNG, 16-bit colours": Kind(".png", opencv(".png", lambda rgb: deep(bgr(rgb))), same),
        "PNG, 16-bit alpha": Kind(".png", codec("png_encode", alpha16), on_white),
        "PNG, animated": Kind(".png", animated("PNG"), same),
    }


def _tiffs() -> dict[str, Kind]:
    kinds = {
        "TIFF, CMYK": Kind(".tif", pil("TIFF", "CMYK"), inked, 1),
        "TIFF, Lab": Kind(".tif", lab, same, 2),
        "TIFF, palette": Kind(
            ".tif", lambda rgb: by_pillow(Image.fromarray(rgb).quantize(200), "TIFF"), of_palette(200)
        ),
        "TIFF, big-endian": Kind(".tif", tif(lambda rgb: deep(only(rgb)), byteorder=">"), grey),
        "BigTIFF": Kind(".tiff", tif(lambda rgb: deep(only(rgb)), bigtiff=True), grey),
        "TIFF, predictor": Kind(
            ".tif", tif(lambda rgb: deep(rgb), compression="zlib", predictor=True, **COLOUR_TIFF), same
        ),
        "TIFF, planes": Kind(".tif", tif(lambda rgb: planes(deep(rgb)), planarconfig="separate", **COLOUR_TIFF), same),
        "TIFF, 8-bit planes": Kind(
            ".tif", tif(planes, planarconfig="separate", compression="zlib", tile=(16, 16), **COLOUR_TIFF), same
        ),
        "TIFF, alpha": Kind(".tif", tif(with_alpha, extrasamples=["unassalpha"], **COLOUR_TIFF), on_white),
        "TIFF, associated alpha": Kind(".tif", tif(multiplied, extrasamples=["assocalpha"], **COLOUR_TIFF), on_white),
        "TIFF, a spare band": Kind(".tif", tif(with_alpha, extrasamples=["unspecified"], **COLOUR_TIFF), same),
        "TIFF, JPEG inside": Kind(
            ".tif",
            tif(
                same,
                compression="jpeg",
                compressionargs={"level": 98},
                subsampling=(2, 2),
                tile=(16, 16),
                **COLOUR_TIFF,
            ),
            same,
            4,
        ),
        "TIFF, white is 0": Kind(".tif", tif(lambda rgb: 65535 - deep(only(rgb)), photometric="miniswhite"), grey),
        "TIFF, white is 0, 8-bit": Kind(".tif", tif(lambda rgb: 255 - only(rgb), photometric="miniswhite"), grey),
        "TIFF, white is 0, 1-bit": Kind(
            ".tif", tif(lambda rgb: only(rgb) <= 100, photometric="miniswhite"), black_white
        ),
        "TIFF, pages": Kind(".tif", animated("TIFF"), same),
        "TIFF, pyramid": Kind(".tif", pyramid, same),
        "TIFF, floats": Kind(".tif", tif(lambda rgb: only(rgb) / np.float32(255)), grey, query="range=0,1"),
        "TIFF, signed": Kind(".tif", tif(lambda rgb: only(rgb).astype(np.int16) - 100), grey, query="range=-100,155"),
        "TIFF, 12 bits in 16": Kind(
            ".tif", tif(lambda rgb: only(rgb).astype(np.uint16) * 16), grey, query="range=0,4080"
        ),
        "ImageJ, 3 channels": Kind(
            ".tif", tif(lambda rgb: planes(deep(rgb)), imagej=True, metadata={"axes": "CYX", "mode": "composite"}), same
        ),
        "OME, 5 channels": Kind(
            ".ome.tif",
            tif(lambda rgb: planes(deep(five(rgb))), ome=True, metadata={"axes": "CYX"}, **GREY_TIFF),
            lambda rgb: five(rgb)[:, :, [4, 0]],
            query="channels=5,1",
        ),
        "OME, slices": Kind(
            ".ome.tif",
            tif(lambda rgb: planes(deep(rgb)), ome=True, metadata={"axes": "ZYX"}, **GREY_TIFF),
            grey,
            query="z=2",
        ),
        "GeoTIFF": Kind(".tif", gdal(planes, interleave="band"), same),
        "GeoTIFF, infrared": Kind(".tif", gdal(lambda rgb: planes(np.dstack([rgb, 250 - only(rgb) // 2]))), same),
        "GeoTIFF, 13 bands": Kind(
            ".tif",
            gdal(
                lambda rgb: planes(deep(np.dstack([rgb] * 4 + [grey(rgb)]))),
                compress="deflate",
                tiled=True,
                blockxsize=16,
                blockysize=16,
            ),
            lambda rgb: rgb[:, :, ::-1],
            query="channels=12,8,4",
        ),
        "GeoTIFF, 12-bit": Kind(".tif", gdal(lambda rgb: planes(grey(rgb).astype(np.uint16) * 16), nbits=12), grey),
        "GeoTIFF, 1-bit": Kind(".tif", gdal(lambda rgb: planes(black_white(rgb)) // 255, nbits=1), black_white),
        "GeoTIFF, JPEG inside": Kind(
            ".tif", gdal(planes, photometric="YCBCR", compress="jpeg", interleave="pixel", jpeg_quality=98), same, 5
        ),
    }
    for name in ("lzw", "packbits", "zstd", "lzma", "lerc"):
        kinds[f"TIFF, {name}"] = Kind(".tif", tif(lambda rgb: deep(only(rgb)), compression=name), grey)
    for name, how in (
        ("webp", {"lossless": True}),
        ("jpegxl", {"lossless": True}),
        ("APERIO_JP2000_RGB", {"level": 0}),
        ("APERIO_JP2000_YCBC", {"level": 0}),
    ):
        write = tif(same, compression=name, compressionargs=how, **COLOUR_TIFF)
        kinds[f"TIFF, {name}"] = Kind(".tif", write, same, 1 if name.startswith("AP") else 0)
    return kinds


def _sciences() -> dict[str, Kind]:
    return {
        "DICOM": Kind(".dcm", medical(lambda rgb: only(rgb).astype(np.uint16) << 4, BitsStored=12), grey),
        "DICOM, white is 0": Kind(
            ".dcm", medical(lambda rgb: 255 - only(rgb), PhotometricInterpretation="MONOCHROME1"), grey
        ),
        "DICOM, window": Kind(
            ".dcm",
            medical(lambda rgb: only(rgb).astype(np.int16), WindowCenter=128, WindowWidth=256),
            grey,
        ),
        "DICOM, colours": Kind(".dcm", medical(same), same),
        "DICOM, RLE": Kind(
            ".dcm",
            medical(lambda rgb: deep(only(rgb)), "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"),
            grey,
        ),
        "FITS": Kind(".fits", fits(lambda rgb: deep(only(rgb))[::-1]), grey),
        "FITS, floats": Kind(".fits", fits(lambda rgb: only(rgb)[::-1].astype(np.float32)), grey, query="range=0,255"),
        "NIfTI": Kind(".nii", nifti, grey, query="range=0,255"),
        "npy": Kind(".npy", npy(same), same),
        "npy, 16-bit": Kind(".npy", npy(lambda rgb: deep(only(rgb))), grey),
        "npy, 5 bands": Kind(".npy", npy(lambda rgb: deep(five(rgb))), five),
    }


KINDS = _photographs() | _pngs() | _tiffs() | _sciences()
