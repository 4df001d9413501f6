"""Heads that came with a file, against timm's own classifier on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch
from timm.data import ImageNetInfo
from timm.models import save_for_hf

import layergraft
from layergraft.encoders.classifier import match_classes
from layergraft.errors import UserError

ENCODER = {"img_size": 32, "patch_size": 8, "embed_dim": 192, "depth": 2}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SYNSETS = ImageNetInfo("imagenet-1k").label_names()


def images(root: Path, names: list[str], each: int = 6) -> Path:
    """PNG files of the encoder's size, in a folder per class."""
    random = np.random.default_rng(0)
    for name in names:
        for split in ("train", "test"):
            (root / split / name).mkdir(parents=True)
            for index in range(each):
                small = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
                cv2.imwrite(str(root / split / name / f"{index}.png"), cv2.resize(small, (32, 32)))
    return root / "train"


def vit(classes: int, **changes: Any) -> Any:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=classes, **(ENCODER | changes)).eval()
    if classes:
        torch.nn.init.normal_(model.head.weight)
    return model


def accuracy(model: Any, folder: Path, outputs: dict[str, int]) -> float:
    """By hand: read, scale, normalise, classify."""
    hits = []
    for name, output in outputs.items():
        for file in sorted((folder.parent / "test" / name).iterdir()):
            pixels = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB) / 255
            x = torch.from_numpy((pixels - MEAN) / STD).float().permute(2, 0, 1)[None]
            with torch.no_grad():
                hits.append(int(model(x).argmax()) == output)
    return 100 * sum(hits) / len(hits)


def measured(encoder: Path, folder: Path) -> dict[str, Any]:
    (row,) = layergraft.evaluate(encoder=encoder, data=str(folder), protocols=["head"])
    assert (row.protocol, row.n_train, row.metric) == ("head", 0, "top1")
    return {"value": row.value, "how": row.chosen["classes"], "pooling": row.pooling}


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_as_many_classes(pooling: str, tmp_path: Path) -> None:
    """Supervised and fine-tuned files: a class token, or a norm after the mean of the patches."""
    names = ["apple", "bread", "cheese", "dates"]
    folder, model = images(tmp_path, names), vit(4, **({} if pooling == "cls" else {"global_pool": "avg"}))
    torch.save({"model": model.state_dict()}, tmp_path / "file.pth")
    expected = accuracy(model, folder, {name: index for index, name in enumerate(names)})
    found = measured(tmp_path / "file.pth", folder)
    assert found == {"value": pytest.approx(expected), "how": "order of the sorted names", "pooling": pooling}
    assert 0 < expected < 100


def test_an_image_that_cannot_be_read_counts_neither_as_right_nor_as_wrong(tmp_path: Path) -> None:
    names = ["apple", "bread", "cheese", "dates"]
    folder, model = images(tmp_path, names), vit(4)
    torch.save({"model": model.state_dict()}, tmp_path / "file.pth")
    broken = [tmp_path / "test" / name / "0.png" for name in names]
    for file in broken:
        file.write_bytes(b"no image")
    (row,) = layergraft.evaluate(encoder=tmp_path / "file.pth", data=str(folder), protocols=["head"])
    for file in broken:
        file.unlink()
    assert row.n_test == 4 * 6 - len(broken)
    assert row.value == pytest.approx(accuracy(model, folder, {name: index for index, name in enumerate(names)}))


def test_linear_probe_of_mae(tmp_path: Path) -> None:
    """Its head is a BatchNorm without affine and a linear layer."""
    names = ["apple", "bread", "cheese"]
    folder, model = images(tmp_path, names), vit(3)
    norm = torch.nn.BatchNorm1d(192, affine=False, eps=1e-6)
    norm.running_mean.normal_()  # type: ignore[union-attr]
    norm.running_var.uniform_(0.01, 2)  # type: ignore[union-attr]
    model.head = torch.nn.Sequential(norm, model.head).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "file.pth")
    expected = accuracy(model, folder, {name: index for index, name in enumerate(names)})
    assert measured(tmp_path / "file.pth", folder)["value"] == pytest.approx(expected)


def test_names_in_the_checkpoint(tmp_path: Path) -> None:
    """A prediction counts among all classes of the head, also those of which there are no images."""
    folder, model = images(tmp_path, ["zebra", "apple"]), vit(5)
    model.pretrained_cfg |= {"mean": MEAN, "std": STD}
    save_for_hf(model, tmp_path / "timm", model_config={"label_names": ["x", "zebra", "y", "apple", "z"]})
    expected = accuracy(model, folder, {"zebra": 1, "apple": 3})
    found = measured(tmp_path / "timm", folder)
    assert found == {"value": pytest.approx(expected), "how": "names in the checkpoint", "pooling": "cls"}
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    with pytest.raises(UserError, match="nothing tells"):
        layergraft.evaluate(encoder=tmp_path / "plain.pth", data=str(folder), protocols=["head"])


def test_synsets(tmp_path: Path) -> None:
    some = {SYNSETS[index]: index for index in (3, 500, 999)}
    folder, model = images(tmp_path, list(some)), vit(1000)
    with torch.no_grad():
        model.head.weight[list(some.values())] *= 3
    torch.save(model.state_dict(), tmp_path / "large.pth")
    expected = accuracy(model, folder, some)
    found = measured(tmp_path / "large.pth", folder)
    assert found == {"value": pytest.approx(expected), "how": "ImageNet-1k synsets", "pooling": "cls"}
    assert 0 < expected < 100


def test_which_output_is_which_class() -> None:
    assert match_classes(["b", "c", "a"], 3, ["c", "a"], "x")[0] == [1, 2]
    assert match_classes([], 3, ["c", "a", "b"], "x")[0] == [2, 0, 1]
    assert match_classes([], 1000, [SYNSETS[7], SYNSETS[2]], "x")[0] == [7, 2]


def test_no_head(tmp_path: Path) -> None:
    model = vit(0)
    folder = images(tmp_path, ["a", "b"], 2)
    torch.save(model.state_dict(), tmp_path / "file.pth")
    with pytest.raises(UserError, match="holds no classifier"):
        layergraft.evaluate(encoder=tmp_path / "file.pth", data=str(folder), protocols=["head"])


def test_a_head_of_another_width(tmp_path: Path) -> None:
    folder, model = images(tmp_path, ["a", "b"], 2), vit(2)
    torch.save(model.state_dict() | {"head.weight": torch.zeros(2, 100)}, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"\(2, 100\).*192 wide"):
        layergraft.evaluate(encoder=tmp_path / "file.pth", data=str(folder), protocols=["head"])
