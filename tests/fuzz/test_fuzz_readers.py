"""Each reader on damaged files: pixels or a named refusal; no crash, no hang, no gigabytes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).parent / "reading_child.py"
READERS = ["JPEG", "TIFF", "DICOM", "FITS", "NIfTI", "NumPy array", "JPEG 2000", "AVIF", "PGM or PPM"]
PILLOW = ["PNG", "WebP", "GIF", "BMP"]
SEED, FILES, HOURS = 16, 2000, 3600


def fuzz(reader: str, count: int, folder: Path) -> dict[str, str]:
    """Bug -> the first file that met it; a file that ends the process is named by its number, and left behind."""
    progress, bugs, first = folder / "progress", dict[str, str](), 0
    progress.touch()
    while first < count:
        words = [sys.executable, str(CHILD), reader, str(SEED), str(first), str(count - first), str(progress)]
        ended = subprocess.run(words, capture_output=True, text=True, timeout=HOURS)
        for line in ended.stdout.splitlines():
            text, _, example = line.rpartition(" (")
            bugs.setdefault(re.sub(r"\d+", "N", text), f"{text} ({example}")
        if ended.returncode == 0:
            break
        at = progress.read_text().split(maxsplit=1)
        assert at, ended.stderr[-2000:]
        bugs.setdefault(f"ended by {ended.returncode} at {at[1]}", f"{at}: {ended.stderr[-500:]}")
        first = int(at[0]) + 1
    return bugs


@pytest.mark.slow
def test_a_sample_of_each_reader(tmp_path: Path) -> None:
    assert {reader: fuzz(reader, 40, tmp_path) for reader in ("JPEG", "TIFF")} == {"JPEG": {}, "TIFF": {}}


@pytest.mark.soak
@pytest.mark.parametrize("reader", READERS + PILLOW)
def test_readers(reader: str, tmp_path: Path) -> None:
    assert fuzz(reader, FILES, tmp_path) == {}
