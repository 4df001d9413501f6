"""The benchmark of views on a folder as people have them."""

from __future__ import annotations

import json
from multiprocessing import active_children
from pathlib import Path

import pytest
from broken import SMOOTH, broken_files, save
from PIL import Image

from layergraft.commands.bench import beside
from layergraft.commands.bench.data import ratios_of
from layergraft.commands.cli import main


def bench(folder: Path, *more: str) -> int:
    return main(["bench", "data", "--data", str(folder), "--img-size", "32", "--seconds", "0", *more])


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


def test_ratios_are_taken_round_by_round() -> None:
    rates = {"fast": [10.0, 40.0, 30.0], "other": [10.0, 10.0, 10.0]}
    assert ratios_of(rates) == {"other": {"median": 3.0, "min": 1.0, "max": 4.0}}


def test_busy_needs_a_second_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.jpeg").write_bytes(save(Image.fromarray(SMOOTH), "JPEG"))
    monkeypatch.setattr(beside, "cores", lambda: [0])
    assert bench(tmp_path, "--busy", "true") == 2
    assert "one core" in capsys.readouterr().err
    assert main(["bench", "step", "--busy", "true"]) == 2
    assert "`layergraft bench data`" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(len(beside.cores()) < 2, reason="one core")
def test_a_training_step_runs_beside_busy_views_and_ends_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.jpeg").write_bytes(save(Image.fromarray(SMOOTH), "JPEG"))
    cores = beside.cores()
    assert bench(tmp_path, "--busy", "true", "--views", "mae", "--seconds", "2") == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["training_images_per_second"] > 0
    assert figures["rounds"] >= 3
    assert set(figures["ratios"]) >= {"exact", "torchvision_v1"}
    assert beside.cores() == cores
    assert not active_children()
