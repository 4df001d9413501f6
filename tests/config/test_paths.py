"""A home directory that nobody knows: exit 2 from every command that takes a path, and nothing is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from layergraft.commands.cli import main
from layergraft.config import EncoderConfig
from layergraft.config.paths import expanded
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError

LOST = "~nobody-here/x"
TRAIN = ["train", "--recipe", "fashion_paper"]
FASHION = "builtin:fashion-canvas?fraction=0.01"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    config = EncoderConfig(img_size=16, in_chans=1, patch_size=8, embed_dim=16, depth=1, num_heads=2)
    save_encoder(create_encoder(config, 0), folder, {})
    return folder


@pytest.mark.parametrize(
    "words",
    [
        [*TRAIN, "--data", LOST, "--out", "run"],
        [*TRAIN, "--data", FASHION, "--out", LOST],
        [*TRAIN, "--data", FASHION, "--out", "run", "--start", LOST],
        [*TRAIN, "--data", FASHION, "--out", "run", "--replay", LOST],
        ["train", "--recipe", f"{LOST}.yaml", "--out", "run"],
        ["plan", "--recipe", "fashion_paper", "--data", LOST],
        ["plan", "--recipe", "fashion_paper", "--start", LOST],
        ["evaluate", "--encoder", LOST, "--data", FASHION],
        ["evaluate", "--encoder", "ENCODER", "--data", LOST],
        ["evaluate", "--encoder", "ENCODER", "--data", FASHION, "--test", LOST],
        ["evaluate", "--encoder", "ENCODER", "--data", FASHION, "--out", LOST],
        ["evaluate", "--encoder", "ENCODER", "--data", FASHION, "--against", LOST],
        ["embed", "--encoder", LOST, "--data", FASHION, "--out", "f.parquet"],
        ["embed", "--encoder", "ENCODER", "--data", LOST, "--out", "f.parquet"],
        ["embed", "--encoder", "ENCODER", "--data", FASHION, "--out", f"{LOST}.parquet"],
        ["analyze", "--what", "rank", "--encoder", LOST, "--data", FASHION],
        ["export", "--encoder", LOST, "--format", "timm", "--out", "out"],
        ["export", "--encoder", "ENCODER", "--format", "timm", "--out", LOST],
        ["pack", "--data", LOST, "--out", "packed"],
        ["pack", "--data", FASHION, "--out", LOST],
        ["inspect", LOST],
        ["report", LOST],
    ],
)
def test_no_such_home(
    words: list[str], encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(encoder) if word == "ENCODER" else word for word in words]) == 2
    said = capsys.readouterr().err
    assert "'~nobody-here'" in said, said
    assert "no such home directory" in said
    assert list(tmp_path.iterdir()) == []


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/a b") == tmp_path / "a b"
    assert expanded("a/~b") == Path("a/~b")
    with pytest.raises(UserError):
        expanded("~nobody-here")
