"""Names of files that are not read, by their first bytes, so that a refusal says what lies there."""

from __future__ import annotations

_STARTS = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"II\xbc": "JPEG XR",
    b"v/1\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"P7\n": "PAM",
    b"%PDF": "PDF",
    b"\x89HDF": "HDF5",
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip",
    b"MATLAB 5.0": "MATLAB",
    b"ZISRAWFILE": "Zeiss CZI",
    b"\xda\xce\xbe\x0a": "Nikon ND2",
    b"\x70\0\0\0": "Leica LIF",
    b"\xd0\xcf\x11\xe0": "Olympus OIB or other OLE",
    b"NRRD": "NRRD",
    b"<?xml": "XML",
    b"<svg": "SVG",
}
_HEIF = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


def name_of(content: bytes) -> str | None:
    """What a file is, where that can be told by its start and it is none that is read."""
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF:
        return "HEIC"
    return next((name for start, name in _STARTS.items() if content.startswith(start)), None)
