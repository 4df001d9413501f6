"""Images of which none can be read: every command that looks at them says so, counts the reasons, and exits with 2."""

from __future__ import annotations

from pathlib import Path

import pytest

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
