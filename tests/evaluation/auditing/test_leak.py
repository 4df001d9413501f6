"""`evaluate` warns of test images that are among the training images, and looks at few pixels for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import pytest

import layergraft
from layergraft.config import EncoderConfig
from layergraft.data.fashion.load import ArrayImages
from layergraft.data.sources.open import open_source
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.evaluation.auditing.leak import LeakFound, find_leak
from layergraft.evaluation.features import center_and_normalize, pixels

CONFIG = EncoderConfig(name="vit_tiny_patch16_224", img_size=36, patch_size=9, embed_dim=32, depth=2, num_heads=2)


def write(folder: Path, keys: range, kind: str = "png") -> None:
    source = open_source("builtin:fashion-colour:test")
    for key in keys:
        own = folder / source.classes[source.selected_labels[key]]
        own.mkdir(parents=True, exist_ok=True)
        options = [cv2.IMWRITE_JPEG_QUALITY, 80] if kind == "jpg" else []
        cv2.imwrite(str(own / f"{key}.{kind}"), source.images.load(key, 3), options)


@pytest.mark.parametrize(
    ("leaked", "kind", "said"),
    [(range(0), "png", ""), (range(1), "bmp", "1 are among"), (range(3), "jpg", "3 are near"), (range(1), "jpg", "")],
)
def test_evaluate_warns_above_none_exact_or_one_percent_near(
    leaked: range, kind: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_encoder(create_encoder(CONFIG, 0), tmp_path / "encoder", {})
    write(tmp_path / "train", range(60))
    write(tmp_path / "test", range(1000, 1110))
    write(tmp_path / "test", leaked, kind)
    layergraft.evaluate(
        encoder=tmp_path / "encoder",
        data=str(tmp_path / "train"),
        test=str(tmp_path / "test"),
        protocols=["knn"],
    )
    err = capsys.readouterr().err
    assert ("among the training images" in err) == bool(said)
    assert said in err


def test_few_images_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two for each of 1.5 % of the test images, and 20 to see how alike copies are."""
    loaded = []
    load = ArrayImages.load

    def counted(self: ArrayImages, index: int, *options: Any) -> Any:
        loaded.append(index)
        return load(self, index, *options)

    train, test = open_source("builtin:fashion-canvas:train?fraction=0.2"), open_source("builtin:fashion-canvas:test")
    features = [center_and_normalize(pixels(part, 36, 1, 6)) for part in (train, test)]
    monkeypatch.setattr(ArrayImages, "load", counted)
    found = find_leak(train, test, *features)
    assert found.compared == 75
    assert len(loaded) == 2 * 75 + 20
    assert (found.exact, found.warning) == (0, "")


def test_a_test_set_that_was_trained_on_is_counted_as_far_as_it_is_looked_at() -> None:
    source = open_source("builtin:fashion-canvas:test?fraction=0.3")
    features = center_and_normalize(pixels(source, 36, 1, 6))
    found = find_leak(source, source, features, features)
    assert found.exact + found.near == found.compared == 22
    assert "at least" in found.warning
    assert LeakFound(exact=0, near=1, compared=20, images=100).warning == ""
