"""DICOM files for tests, written by pydicom."""

from __future__ import annotations

import io
from typing import Any

import numpy as np


def dicom(array: np.ndarray, syntax: str = "1.2.840.10008.1.2.1", compress: str | None = None, **tags: Any) -> bytes:
    """A Secondary Capture of these stored numbers."""
    import pydicom
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    dataset = FileDataset("x.dcm", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    colours = array.shape[-1] == 3
    dataset.Rows, dataset.Columns = array.shape[-3:-1] if colours else array.shape[-2:]
    if array.ndim == (4 if colours else 3):
        dataset.NumberOfFrames = len(array)
    bits = 8 * array.dtype.itemsize
    dataset.SamplesPerPixel = 3 if colours else 1
    dataset.PhotometricInterpretation = "RGB" if colours else "MONOCHROME2"
    if colours:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored = bits, tags.pop("BitsStored", bits)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.PixelData = array.tobytes()
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    if compress:
        dataset.compress(compress)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()
