"""Images of which none can be read: every command that looks at them says so, counts the reasons, and exits with 2."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from layergraft.analysis.run import build_subject, run_analyses
from layergraft.commands.cli import main
from layergraft.config import EncoderConfig
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import create_encoder

SMALL = EncoderConfig(
    name="vit_tiny_patch16_224", img_size=36, in_chans=1, patch_size=9, embed_dim=32, depth=2, num_heads=2
)


@pytest.mark.parametrize(
    "command",
    [
        ["embed", "--out", "features.parquet"],
        ["evaluate", "--test", "images", "--protocols", "knn", "--splits", "1", "--out", "results"],
        *(["analyze", "--what", name, "--out", "found"] for name in ("saliency", "neighbours", "cka", "uniformity")),
    ],
)
def test_no_image_can_be_read(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_encoder(create_encoder(SMALL, 0), Path("encoder"), {})
    for name in ("a", "b"):
        Path("images", name).mkdir(parents=True)
        for index in range(16):
            Path("images", name, f"{index}.png").write_bytes(b"")
    assert main([*command, "--encoder", "encoder", "--data", "images"]) == 2
    message = capsys.readouterr().err
    assert "images of 'images' can be read" in message
    assert "empty file" in message


@pytest.mark.parametrize("part", ["queries", "bank"])
def test_a_part_of_the_images_cannot_be_read(part: str, tmp_path: Path) -> None:
    """The analyses that need it are skipped, each of them; the others go on."""
    save_encoder(create_encoder(SMALL, 0), tmp_path / "encoder", {})
    images = tmp_path / "images"
    for name in ("a", "b"):
        (images / name).mkdir(parents=True)
        for index in range(8):
            cv2.imwrite(str(images / name / f"{index}.png"), np.full((36, 36), 9 * index, dtype=np.uint8))
    subject = build_subject(str(tmp_path / "encoder"), [], str(images))
    for key in getattr(subject, part).keys.tolist():
        (images / subject.images.images.name(key)).write_bytes(b"")
    what = ["attention-distance", "layer-probe", "neighbours", "saliency", "supervised-gradient"]
    _, skipped = run_analyses(subject, what, "images", tmp_path / "analysis.json", print)
    assert list(skipped) == what[1:], skipped
