"""Ninety kinds of image files by the writers of the fields, each with the pixels that are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from field_writers import (
    Array,
    animated,
    bgr,
    black_white,
    by_pillow,
    codec,
    deep,
    fits,
    five,
    gdal,
    grey,
    half,
    inked,
    lab,
    medical,
    multiplied,
    nifti,
    npy,
    of_palette,
    on_white,
    only,
    opencv,
    pil,
    planes,
    png_of_two_bits,
    pnm,
    pyramid,
    same,
    tif,
    turned,
    with_alpha,
    with_mask,
)
from PIL import Image, features

from layergraft.data.decode.options import ReadOptions, parse_read_options

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
        twelve = codec("avif_encode", lambda rgb: rgb.astype(np.uint16) << 4, level=100, bitspersample=12)
        kinds["AVIF, 12-bit"] = Kind(".avif", twelve, same, 1)
        kinds["AVIF, 12-bit and a range"] = Kind(".avif", twelve, same, query="range=0,4080")
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
        "GeoTIFF, a mask": Kind(".tif", with_mask, same),
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
