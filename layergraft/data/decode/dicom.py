"""DICOM: radiographs, CT, MR, ultrasound.

pydicom decodes the stored numbers alone. What they mean is applied here, as the standard has it (PS3.3, C.7.6.3 and
C.11): slope and intercept, the window, white for black in MONOCHROME1, palettes.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from layergraft.data.decode.options import ReadOptions
from layergraft.data.decode.picture import (
    TURNED,
    BadImage,
    Picture,
    Request,
    as_channels_last,
    check_size,
    damage_named,
)
from layergraft.data.decode.stack import take_plane
from layergraft.errors import UserError

Array = npt.NDArray[Any]
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_GREY = ("MONOCHROME1", "MONOCHROME2")
_SLOPE = ("RescaleSlope", "RescaleIntercept")
_GROUPS = {
    "PixelValueTransformationSequence": _SLOPE,
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
}


def is_dicom(content: bytes) -> bool:
    """Whether a file has DICOM's preamble."""
    return content[128:132] == b"DICM"


def _window(dataset: Any) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """(black and white by the file's first window, remarks): PS3.3, C.11.2.1.2, LINEAR and LINEAR_EXACT."""
    centres, widths = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if centres is None or widths is None:
        return None, ()
    several = not isinstance(centres, int | float)  # else a list of them
    centre, width = (float(centres[0]), float(widths[0])) if several else (float(centres), float(widths))
    function = dataset.get("VOILUTFunction", "LINEAR")
    exact = function != "LINEAR"
    if width < (1 if not exact else 0) or not np.isfinite([centre, width]).all():
        return None, ("a window without a width, which is not used",)
    low, high = (centre - width / 2, centre + width / 2) if exact else (centre - width / 2, centre + width / 2 - 1)
    low, high = (low, high) if low < high else (centre - 1, centre)  # of width 1: a threshold
    said = (f"{len(centres)} windows; the first is taken (?range=LOW,HIGH takes another)",) if several else ()
    curved = ("a sigmoid window, of which the straight line with its ends is taken",) if function == "SIGMOID" else ()
    return (low, high), (*said, *curved)


def _of_frame(dataset: Any, frame: int) -> dict[str, Any]:
    """Slope, intercept and window of a frame, as enhanced multi-frame images have them (PS3.3, C.7.6.16.2)."""
    each, shared = dataset.get("PerFrameFunctionalGroupsSequence"), dataset.get("SharedFunctionalGroupsSequence")
    groups = [each[frame]] if each and frame < len(each) else []
    groups += [shared[0]] if shared else []
    values: dict[str, Any] = {}
    for sequence, names in _GROUPS.items():
        items = next((group[sequence].value for group in groups if group.get(sequence)), None)
        if items:
            values |= {name: items[0][name].value for name in names if name in items[0]}
    return values


def _describe(dataset: Any, frames: int, options: ReadOptions) -> None:
    """Give a dataset the slope, intercept and window of the frame that is wanted, where frames have some.

    Raises:
        BadImage: all frames are wanted as one picture, and their numbers have different meanings.
    """
    wanted = options.page or options.z or 1
    values = _of_frame(dataset, wanted - 1 if isinstance(wanted, int) else 0)
    slopes = [values.get(name) for name in _SLOPE]
    if not isinstance(wanted, int):
        for frame in range(1, frames):
            other = _of_frame(dataset, frame)
            if [other.get(name) for name in _SLOPE] != slopes:
                raise BadImage("frames with slopes of their own, which have no largest or mean value: give ?page=N")
    for name, value in values.items():
        setattr(dataset, name, value)


def _grey(stored: Array, dataset: Any) -> tuple[Array, tuple[float, float] | None, int | None, tuple[str, ...]]:
    """(numbers, range, bits, remarks) of a picture without colours; 0 or the lowest is black."""
    from pydicom.pixels import apply_modality_lut

    bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope, intercept = float(dataset.get("RescaleSlope", 1) or 1), float(dataset.get("RescaleIntercept", 0) or 0)
    table = "ModalityLUTSequence" in dataset
    plain = not table and (slope, intercept) == (1.0, 0.0)
    values = stored if plain else apply_modality_lut(stored, dataset)
    if not plain and values.dtype.kind == "f":
        # 16 bits and a rescaling fit into a float's 24 bits of precision; whole numbers stay whole.
        values = values.astype(np.float32)
    span, remarks = _window(dataset)
    if "VOILUTSequence" in dataset:
        remarks = (*remarks, "a look-up table for display, which is not applied")
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        ends = (float(values.min()) + float(values.max())) if table else slope * (least + most) + 2 * intercept
        values = (ends - values.astype(np.float64)).astype(values.dtype)
        span = None if span is None else (ends - span[1], ends - span[0])
    return values, span, bits if plain and not signed else None, remarks


def _picture(content: bytes, request: Request) -> Picture:
    from pydicom import dcmread
    from pydicom.pixels import apply_color_lut, pixel_array

    dataset = dcmread(io.BytesIO(content))
    if "Rows" not in dataset or not {"PixelData", "FloatPixelData", "DoubleFloatPixelData"} & set(dataset.dir()):
        raise BadImage("a DICOM file without pixels")
    check_size(int(dataset.Rows), int(dataset.Columns), len(content))
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    if dataset.get("SOPClassUID") == _WHOLE_SLIDE and frames > 1 and request.options.page is None:
        raise BadImage("a whole slide: give ?tile=256&mpp=0.5")  # its frames are no pictures, but parts of one
    try:
        stored, remarks = take_plane(
            frames, lambda number: pixel_array(dataset, index=number), request.options, called="frames"
        )
    except RuntimeError as error:
        needs = "missing dependencies" in str(error)
        raise BadImage("compressed in a way that needs another decoder of pydicom's" if needs else "damaged") from None
    kind = dataset.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        colours = apply_color_lut(stored, dataset)
        deep = colours.dtype.itemsize > 1
        return Picture(array=(colours >> 8).astype(np.uint8) if deep else colours, colours=3, remarks=remarks)
    if stored.ndim == 3:
        return Picture(array=stored, colours=3, bits=int(dataset.BitsStored), remarks=remarks)
    if kind not in _GREY:
        raise BadImage(f"a DICOM file of {kind} pixels")
    if stored.dtype.kind != "f" and int(dataset.get("HighBit", 0)) >= int(dataset.BitsStored):
        raise BadImage(f"numbers in the upper {dataset.BitsStored} of {dataset.BitsAllocated} bits")
    _describe(dataset, frames, request.options)
    if stored.dtype.kind == "f":
        return Picture(array=as_channels_last(stored), colours=1, range=_window(dataset)[0], remarks=remarks)
    values, span, bits, said = _grey(stored, dataset)
    turned = kind == "MONOCHROME1" and values.dtype != np.uint8
    said = (*said, TURNED) if turned and span is None else said
    return Picture(
        array=as_channels_last(values), colours=1, bits=bits, range=span, remarks=(*remarks, *said), turned=turned
    )


def read_dicom(content: bytes, request: Request) -> Picture:
    """Read a DICOM file: numbers after slope and intercept, and the window as their range.

    Numbers of MONOCHROME1 are turned over within their bits, so that the lowest is black; a `?range=` is of those.

    Raises:
        BadImage: it is damaged, has no pixels, or no such frame.
        UserError: pydicom is not installed.
    """
    try:
        import pydicom  # noqa: F401 - whether it is there
    except ImportError:
        raise UserError("A DICOM file needs pydicom.", "Install it: pip install 'layergraft[medical]'.") from None
    with damage_named():
        return _picture(content, request)
