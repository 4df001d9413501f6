"""DICOM files by pydicom, with its own processing as the truth."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from dicom_files import dicom

from layergraft.data.decode import BadImage, ReadOptions, decode
from layergraft.data.decode.picture import Request
from layergraft.data.decode.readers import read_picture

pydicom = pytest.importorskip("pydicom")
ROWS, COLUMNS = np.mgrid[:48, :64]
RAMP = (ROWS * 64 + COLUMNS).astype(np.uint16)  # 0 to 3071


def levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def test_bits_stored_are_the_depth() -> None:
    assert np.array_equal(decode(dicom(RAMP, BitsStored=12), 1)[:, :, 0], RAMP >> 4)


def test_the_window_is_the_range_as_pydicom_applies_it() -> None:
    from pydicom import dcmread
    from pydicom.pixels import apply_modality_lut, apply_windowing

    signed = (RAMP.astype(np.int16) - 1000) * 2
    tags = {"RescaleSlope": "0.5", "RescaleIntercept": "-24", "WindowCenter": "40", "WindowWidth": "400"}
    content = dicom(signed, **tags)
    dataset = dcmread(io.BytesIO(content))
    shown = apply_windowing(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    expected = levels(shown, shown.min(), shown.max())
    # pydicom's window ends half a unit lower on both sides (PS3.3, C.11.2.1.2).
    assert np.abs(decode(content, 1)[:, :, 0].astype(int) - expected).max() <= 1


def test_white_is_black_in_monochrome1() -> None:
    content = dicom(RAMP, BitsStored=12, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(decode(content, 1)[:, :, 0], (4095 - RAMP) >> 4)
    windowed = dicom(
        RAMP, BitsStored=12, PhotometricInterpretation="MONOCHROME1", WindowCenter="1000", WindowWidth="1000"
    )
    assert np.array_equal(decode(windowed, 1)[:, :, 0], levels(-RAMP.astype(float), -1499, -500))


def test_hounsfield_units_need_a_range() -> None:
    content = dicom(RAMP.astype(np.int16), RescaleSlope="1", RescaleIntercept="-1024")
    with pytest.raises(BadImage, match="range"):
        decode(content, 1)
    mapped = decode(content, 1, options=ReadOptions(range=((-1000.0, 400.0),)))
    assert np.array_equal(mapped[:, :, 0], levels(RAMP.astype(float) - 1024, -1000, 400))


def test_a_given_range_goes_before_the_window() -> None:
    content = dicom(RAMP, BitsStored=12, WindowCenter="100", WindowWidth="10")
    mapped = decode(content, 1, options=ReadOptions(range=((0.0, 4095.0),)))
    assert np.array_equal(mapped[:, :, 0], levels(RAMP, 0, 4095))


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEG2000Lossless", "JPEGLSLossless"])
def test_compressed_as_plain(syntax: str) -> None:
    from pydicom import uid

    if syntax == "JPEGLSLossless":
        pytest.importorskip("jpeg_ls")
    content = dicom(RAMP, BitsStored=12, compress=getattr(uid, syntax))
    assert len(content) != len(dicom(RAMP, BitsStored=12))
    assert np.array_equal(decode(content, 1)[:, :, 0], RAMP >> 4)


def test_colours_and_frames() -> None:
    rgb = np.stack([RAMP >> 4, RAMP >> 5, 255 - (RAMP >> 4)], axis=2).astype(np.uint8)
    assert np.array_equal(decode(dicom(rgb), 3), rgb)
    frames = np.stack([RAMP // (k + 1) for k in range(3)])
    content = dicom(frames, BitsStored=12)
    assert np.array_equal(decode(content, 1)[:, :, 0], frames[0] >> 4)
    assert np.array_equal(decode(content, 1, options=ReadOptions(page=3))[:, :, 0], frames[2] >> 4)
    assert np.array_equal(decode(content, 1, options=ReadOptions(z="max"))[:, :, 0], frames.max(0) >> 4)
    assert "3 frames" in read_picture(content, Request(channels=1, options=ReadOptions())).remarks[0]
    with pytest.raises(BadImage, match="no plane 4"):
        decode(content, 1, options=ReadOptions(page=4))


def test_a_palette_is_looked_up() -> None:
    ramp = np.arange(256, dtype=np.uint16)
    tables = [ramp << 8, (255 - ramp) << 8, ((ramp * 3) % 256) << 8]
    index = (RAMP % 256).astype(np.uint8)
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{colour}PaletteColorLookupTableData"] = table.astype("<u2").tobytes()
    expected = np.stack([(table >> 8)[index] for table in tables], axis=2)
    assert np.array_equal(decode(dicom(index, **tags), 3), expected)


def test_no_pixels_and_damage_are_named() -> None:
    from pydicom import dcmread

    dataset = dcmread(io.BytesIO(dicom(RAMP)))
    del dataset.PixelData
    file = io.BytesIO()
    dataset.save_as(file)
    with pytest.raises(BadImage, match="without pixels"):
        decode(file.getvalue(), 1)
    content = dicom(RAMP)
    for cut in (140, 200, len(content) // 2, len(content) - 7):
        with pytest.raises(BadImage, match=r"damaged|without pixels"):
            decode(content[:cut], 1)


def test_a_panic_of_a_decoder_in_rust_is_damage() -> None:
    pytest.importorskip("rle")
    noise = np.random.default_rng(0).integers(0, 65536, (24, 30)).astype(np.uint16)
    content = dicom(noise, compress=pydicom.uid.RLELossless)
    reasons = set()
    for at in range(len(content) - 1500, len(content) - 20, 11):
        try:
            decode(content[:at] + b"\xff\xfe" + content[at:], 1)
        except BadImage as error:
            reasons.add(str(error))
    assert reasons == {"damaged", "damaged (PanicException)"}


def test_a_curved_window_and_further_ones_are_said() -> None:
    tags = {"WindowCenter": "1000", "WindowWidth": "500", "VOILUTFunction": "SIGMOID"}
    curved = read_picture(dicom(RAMP, BitsStored=12, **tags), Request(channels=1, options=ReadOptions()))
    assert curved.range == (750, 1250)
    assert "sigmoid" in curved.remarks[0]
    two = dicom(RAMP, BitsStored=12, WindowCenter=["1000", "2000"], WindowWidth=["500", "900"])
    assert "2 windows" in read_picture(two, Request(channels=1, options=ReadOptions())).remarks[0]
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], (np.arange(4096, dtype="<u2") ** 2 // 256).tobytes()
    table["LUTData"].VR = "OW"
    tabled = dicom(RAMP, BitsStored=12, VOILUTSequence=pydicom.Sequence([table]))
    assert "look-up table" in read_picture(tabled, Request(channels=1, options=ReadOptions())).remarks[0]


def _group(slope: float | None = None, intercept: float = 0, window: tuple[float, float] | None = None) -> Any:
    from pydicom.dataset import Dataset

    group, inner, shown = Dataset(), Dataset(), Dataset()
    if slope is not None:
        inner.RescaleSlope, inner.RescaleIntercept, inner.RescaleType = str(slope), str(intercept), "HU"
        group.PixelValueTransformationSequence = [inner]
    if window:
        shown.WindowCenter, shown.WindowWidth = map(str, window)
        group.FrameVOILUTSequence = [shown]
    return group


def test_enhanced_frames_have_their_own_slope_and_window() -> None:
    """As enhanced CT and MR are written (PS3.3, C.7.6.16.2): nothing of it stands at the top of the data set."""
    frames, hounsfield = np.stack([RAMP, RAMP]), ReadOptions(range=((-1000.0, 400.0),))
    expected = levels(RAMP.astype(float) - 1024, -1000, 400)
    shared = dicom(frames, SharedFunctionalGroupsSequence=[_group(1, -1024)])
    assert np.array_equal(decode(shared, 1, options=hounsfield)[:, :, 0], expected)
    mean = ReadOptions(range=hounsfield.range, z="mean")
    assert np.array_equal(decode(shared, 1, options=mean)[:, :, 0], expected)
    with pytest.raises(BadImage, match="range"):
        decode(shared, 1)
    each = dicom(frames, PerFrameFunctionalGroupsSequence=[_group(2, 0), _group(1, -1024, (-299.5, 1401))])
    assert np.abs(decode(each, 1, options=ReadOptions(page=2))[:, :, 0].astype(int) - expected).max() <= 1
    first = decode(each, 1, options=ReadOptions(page=1, range=((0.0, 6142.0),)))[:, :, 0]
    assert np.array_equal(first, levels(RAMP.astype(float) * 2, 0, 6142))
    with pytest.raises(BadImage, match="slopes of their own"):
        decode(each, 1, options=mean)


def test_numbers_in_the_upper_bits_are_refused() -> None:
    content = dicom(RAMP << 4, BitsStored=12)
    dataset = pydicom.dcmread(io.BytesIO(content))
    dataset.HighBit = 15
    file = io.BytesIO()
    dataset.save_as(file)
    with pytest.raises(BadImage, match="upper 12 of 16 bits"):
        decode(file.getvalue(), 1)
