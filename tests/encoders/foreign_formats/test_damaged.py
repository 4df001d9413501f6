"""Files of every format with tensors missing, renamed or of another shape: refused in a sentence, never a traceback."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from library_files import perturbed, save
from test_big_vision import SHAPE, flax_names
from test_recorded_files import CASES, recorded
from test_training_files import dinov2
from torch import Tensor
from torchvision.models import VisionTransformer

from layergraft.encoders.checkpoint import open_checkpoint
from layergraft.errors import UserError

Weights = dict[str, Tensor]


def _torchvision() -> Weights:
    return dict(VisionTransformer(32, 8, 2, 4, 48, 96, num_classes=3).state_dict())


def _big_vision() -> Weights:
    model = perturbed(timm.create_model("vit_tiny_patch16_224", num_classes=0, **SHAPE))
    return {key: torch.from_numpy(value.copy()) for key, value in flax_names(model, False).items()}


def _transformers(kind: str, **more: Any) -> Weights:
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    config = getattr(transformers, f"{kind}Config")(**shape, **more)
    return dict(getattr(transformers, f"{kind}Model")(config).state_dict())


FILES = {name: lambda name=name: recorded(name)[0] for name in CASES} | {
    "torchvision": _torchvision,
    "big_vision": _big_vision,
    "dinov2": lambda: dinov2(3)[0],
    "dinov2 training": lambda: {f"teacher.backbone.{key}": value for key, value in dinov2(3)[0].items()},
    "transformers dinov2": lambda: _transformers("Dinov2WithRegisters"),
    "transformers clip": lambda: _transformers("CLIPVision"),
    "transformers siglip": lambda: _transformers("SiglipVision"),
}


def damaged(weights: Weights, rng: random.Random) -> Weights:
    """A copy in which up to three tensors are missing, have another name, or another shape or type."""
    changed = dict(weights)
    # Half of the time a tensor without a block's number: there are few of them, and readers look at them most.
    for _ in range(rng.randint(1, 3)):
        keys = [key for key in changed if rng.random() < 0.5 or not any(part.isdigit() for part in key.split("."))]
        key = rng.choice(keys or list(changed))
        value = changed.pop(key)
        shapes: list[tuple[int, ...]] = [(), (0,), (3,), (2, 3), (1, 1, 1), (0, 4, 4), tuple(value.shape)[::-1]]
        what = rng.randrange(5)
        if what == 0:
            changed[key[: rng.randrange(len(key))] + rng.choice(["", "x", ".", ".0.weight"])] = value
        elif what == 1:
            changed[key] = torch.zeros(rng.choice(shapes), dtype=rng.choice([torch.float32, torch.int64, torch.bool]))
        elif what == 2:
            changed[key] = value[None]
        elif what == 3:
            changed[key] = value.flatten()[: rng.randint(0, 40)]
    return changed


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_damage_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    rng = random.Random(name)
    weights = FILES[name]()
    for _ in range(40):
        file = save(damaged(weights, rng), tmp_path / "file.pth")
        with contextlib.suppress(UserError):
            open_checkpoint(f"{file}?num_heads=2")
