from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch

from layergraft.commands.cli import main
from layergraft.config import EncoderConfig
from layergraft.data.batch import Normalize
from layergraft.data.sources.open import open_source
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.errors import UserError
from layergraft.evaluation.features import POOLINGS, center_and_normalize, extract_all, pixel_side, pixels, view_batches

CONFIG = EncoderConfig(
    name="vit_tiny_patch16_224", img_size=36, in_chans=1, patch_size=9, embed_dim=32, depth=5, num_heads=2
)
SOURCE = "builtin:fashion-canvas?fraction=0.03"


@pytest.fixture
def encoder() -> Encoder:
    return create_encoder(CONFIG, 0)


def test_agree_with_timms_own_forward(encoder: Encoder, tmp_path: Path) -> None:
    save_encoder(encoder, tmp_path / "encoder", {})
    vit = timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True).eval()
    source = open_source(SOURCE)
    ours = extract_all(encoder, source, POOLINGS)
    images = torch.cat(list(view_batches(source, 36, 1)))
    images = Normalize(mean=encoder.mean, std=encoder.std)(images)
    with torch.inference_mode():
        tokens = vit.forward_features(images)
        blocks = vit.get_intermediate_layers(images, n=4, return_prefix_tokens=True, norm=True)
    cls, mean = tokens[:, 0], tokens[:, 1:].mean(1)
    last4 = torch.cat([prefix[:, 0] for _, prefix in blocks], 1)
    expected = {"cls": cls, "mean": mean, "cls+mean": torch.cat([cls, mean], 1), "last4": last4}
    for name, values in expected.items():
        assert np.abs(ours[name] - values.numpy()).max() <= 1e-5, name
    third = extract_all(encoder, source, ["cls"], block=2)["cls"]
    with torch.inference_mode():
        (_, prefix), *_ = vit.get_intermediate_layers(images, n=[2], return_prefix_tokens=True, norm=True)
    assert np.abs(third - prefix[:, 0].numpy()).max() <= 1e-5


def many_files(folder: Path, readable: int, bad: int) -> str:
    """A folder of images whose first `bad` cannot be read."""
    folder.mkdir()
    for index in range(bad):
        (folder / f"a{index:03d}.png").write_bytes(b"" if index else b"no image")
    for index in range(readable):
        cv2.imwrite(str(folder / f"b{index:03d}.png"), np.full((20, 20, 3), index, np.uint8))
    return str(folder)


def test_a_whole_batch_that_cannot_be_read(encoder: Encoder, tmp_path: Path) -> None:
    source = open_source(many_files(tmp_path / "images", 3, 256))
    features = extract_all(encoder, source, POOLINGS)
    for array in (*features.values(), pixels(source, 36, 1)):
        assert list(np.flatnonzero(~np.isnan(array).any(1))) == [256, 257, 258]
    with pytest.warns(UserWarning, match="256 of 259 images"):
        views = list(view_batches(source, 36, 1))
    assert [len(part) for part in views] == [256, 3]
    assert not views[0].any()


def test_nothing_that_can_be_read_is_said_with_reasons(encoder: Encoder, tmp_path: Path) -> None:
    source = open_source(many_files(tmp_path / "images", 0, 260))
    for work in (
        lambda: extract_all(encoder, source, ["cls"]),
        lambda: pixels(source, 36, 1),
        lambda: list(view_batches(source, 36, 1)),
    ):
        with pytest.raises(UserError, match=r"None of the 260 images .*: 259 empty file, 1 not an image"):
            work()


def test_unreadable_images_are_nan(encoder: Encoder, colour_folder: Path) -> None:
    (colour_folder / "image 3.png").write_bytes(b"no image")
    colour = create_encoder(EncoderConfig(**{**_fields(), "in_chans": 3}), 0)
    source = open_source(str(colour_folder))
    found = extract_all(colour, source, ["cls"])["cls"]
    bad = [row for row, key in enumerate(source.keys) if source.images.name(int(key)) == "image 3.png"]
    assert list(np.flatnonzero(np.isnan(found).any(1))) == bad
    assert list(np.flatnonzero(np.isnan(pixels(source, 36, 3)).any(1))) == bad


def _fields() -> dict[str, object]:
    return {name: getattr(CONFIG, name) for name in CONFIG.__struct_fields__}


def test_large_pixels_are_averaged_down() -> None:
    assert pixel_side(36, 1, 10_000) == 36
    assert pixel_side(224, 3, 10_000) == 64
    side = pixel_side(224, 3, 1_281_167)
    assert 1_281_167 * side * side * 3 * 4 <= 2**32
    small = pixels(open_source(SOURCE), 36, 1, 12)
    assert small.shape[1] == 144
    assert np.allclose(np.linalg.norm(small, axis=1), 1, atol=1e-5)


def test_features_that_are_not_finite_name_their_encoder(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A last step that makes weights huge: such features were taken for unreadable images."""
    monkeypatch.setenv("LAYERGRAFT_CACHE", str(tmp_path / "cache"))
    with torch.no_grad():
        encoder.vit.norm.weight.mul_(3e38)
    place = str(tmp_path / "diverged")
    save_encoder(encoder, Path(place), {})
    train, test = ("builtin:fashion-canvas?shots=3", "builtin:fashion-canvas:test?shots=2")
    for command in (
        ["embed", "--encoder", place, "--data", test, "--out", str(tmp_path / "f.parquet")],
        [
            "evaluate",
            "--encoder",
            place,
            "--data",
            train,
            "--test",
            test,
            "--shots",
            "1",
            "--out",
            str(tmp_path / "out"),
        ],
    ):
        assert main(command) == 2
        message = " ".join(capsys.readouterr().err.split())
        assert "not finite" in message
        assert "diverged" in message


def test_rows_are_centred_block_by_block_as_at_once() -> None:
    """Many wide rows take more than a block; one of them is huge, and one is NaN: an image that cannot be read."""
    rows = np.random.default_rng(0).normal(size=(150, 2000)).astype(np.float32)
    rows[70] *= 1e30
    rows[90] = np.nan
    centred = center_and_normalize(rows)
    assert np.isnan(centred[90]).all()
    kept = np.delete(np.arange(150), 90)
    exact = rows[kept].astype(np.float64)
    exact -= exact.mean(axis=1, keepdims=True)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    np.testing.assert_allclose(centred[kept], exact, atol=1e-7)
    one_by_one = np.concatenate([center_and_normalize(row[None]) for row in rows])
    np.testing.assert_array_equal(centred, one_by_one)
