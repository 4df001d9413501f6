"""Small whole slides: pyramids of JPEG tiles as scanners write them, with a disc of tissue on glass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

APERIO = "Aperio Image Library v11.2.1 \r\n{0}x{1} [0,0 {0}x{1}] (256x256) JPEG/RGB Q=90|AppMag = 20|MPP = {2}"


def tissue(height: int = 768, width: int = 1024, radius: int = 220) -> npt.NDArray[np.uint8]:
    """RGB of glass with a disc of tissue in the middle."""
    random = np.random.default_rng(0)
    pixels = np.full((height, width, 3), 242)
    rows, columns = np.mgrid[:height, :width]
    inside = (rows - height // 2) ** 2 + (columns - width // 2) ** 2 < radius**2
    pixels[inside] = (180, 90, 150)
    noise = random.integers(-25, 26, (height // 8, width // 8, 3)).repeat(8, 0).repeat(8, 1)
    return np.clip(pixels + noise * inside[:, :, np.newaxis], 0, 255).astype(np.uint8)


def write_slide(path: Path, pixels: npt.NDArray[np.uint8], mpp: float | None = 0.5, aperio: bool = True) -> Path:
    """Write a pyramid of two levels, the second a quarter as wide: Aperio's kind, or a plain TIFF with a resolution."""
    import tifffile

    path.parent.mkdir(parents=True, exist_ok=True)
    text = APERIO.format(pixels.shape[1], pixels.shape[0], mpp) if aperio and mpp is not None else ""
    how: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg", "metadata": None}
    if mpp is not None and not aperio:
        how |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, description=text, subfiletype=0, **how)
        file.write(pixels[::4, ::4], description=text, subfiletype=1, **how)
    return path


def write_dicom_slide(folder: Path, pixels: npt.NDArray[np.uint8], mpp: float = 0.5) -> None:
    """Write a slide of two levels as DICOM has it, a file each: `0.dcm` and, a quarter as wide, `1.dcm`."""
    from pydicom.uid import generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    uids = {name: generate_uid() for name in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")}
    for level, factor in enumerate((1, 4)):
        _write_dicom_level(folder / f"{level}.dcm", pixels[::factor, ::factor], mpp * factor / 1000, uids)


def _write_dicom_level(path: Path, pixels: npt.NDArray[np.uint8], spacing: float, uids: dict[str, str]) -> None:
    from pydicom import dcmwrite
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage, generate_uid

    side, (height, width) = 256, pixels.shape[:2]
    rows, columns = -(-height // side), -(-width // side)
    whole = np.full((rows * side, columns * side, 3), 255, np.uint8)
    whole[:height, :width] = pixels
    meta, measures, functional, optical = FileMetaDataset(), Dataset(), Dataset(), Dataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    measures.PixelSpacing, measures.SliceThickness = [spacing, spacing], 0.001
    functional.PixelMeasuresSequence, optical.OpticalPathIdentifier = [measures], "1"
    dataset = Dataset()
    dataset.file_meta = meta
    kind = (
        ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"] if path.stem == "0" else ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    )
    values: dict[str, Any] = {
        **uids,
        **{"SOPClassUID": meta.MediaStorageSOPClassUID, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID},
        **{"Modality": "SM", "ImageType": kind, "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
        **{"PlanarConfiguration": 0, "NumberOfFrames": rows * columns, "Rows": side, "Columns": side},
        **{"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0},
        **{"TotalPixelMatrixColumns": width, "TotalPixelMatrixRows": height, "TotalPixelMatrixFocalPlanes": 1},
        **{"DimensionOrganizationType": "TILED_FULL", "NumberOfOpticalPaths": 1},
        **{"SharedFunctionalGroupsSequence": [functional], "OpticalPathSequence": [optical]},
    }
    for name, value in values.items():
        setattr(dataset, name, value)
    frames = whole.reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4)
    dataset.PixelData = frames.tobytes()
    dataset["PixelData"].VR = "OB"
    dcmwrite(path, dataset, enforce_file_format=True)
