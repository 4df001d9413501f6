"""The benchmark of views on a folder as people have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from broken import SMOOTH, broken_files, save
from PIL import Image

from layergraft.commands.cli import main


def bench(folder: Path) -> int:
    return main(["bench", "data", "--data", str(folder), "--img-size", "32", "--seconds", "0"])


def test_files_that_are_no_images_and_formats_that_others_lack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken_files(tmp_path)
    assert bench(tmp_path) == 2
    assert "No image of" in capsys.readouterr().err
    image = Image.fromarray(SMOOTH)
    for kind in ("JPEG", "PNG", "BMP"):
        (tmp_path / f"good.{kind.lower()}").write_bytes(save(image, kind))
    assert bench(tmp_path) == 0
    out, err = capsys.readouterr()
    rates = json.loads(out.splitlines()[-1])
    assert {"fast", "exact", "torchvision_v1"} <= set(rates)
    assert "torchvision_v2" not in rates  # its decoder knows no BMP
    assert "torchvision_v2 is left out" in err
    assert "10 files of" in err
    assert "of 3 files of" in err
