"""MODEL_CARD.md beside an exported encoder."""

from __future__ import annotations

import json
from pathlib import Path

from layergraft.runs.report.model_card import model_card, write_model_card
from layergraft.runs.report.run_files import read_run

RECIPE = """
encoder: {img_size: 16, patch_size: 4, embed_dim: 16, depth: 2, num_heads: 2}
data: {source: "images|<b>"}
stages: {mae: {objective: {name: mae}}}
"""
LAYER = {
    "source": "fresh",
    "lr_scale": 1.0,
    "lr": 1e-3,
    "weight_decay": 0.05,
    "weight_decay_1d": 0.0,
    "anchor": None,
    "parameters": 4,
}
PLAN = {
    "name": "mae",
    "objective": "mae",
    "epochs": 3,
    "steps": 12,
    "batch_size": 256,
    "layers": [LAYER | {"name": "positions", "frozen": True}, LAYER | {"name": "blocks.0", "frozen": False}],
}
ROW = {
    "source": "images",
    "test": "images/test",
    "protocol": "logistic",
    "variant": "published",
    "shots": "5",
    "pooling": "cls",
    "metric": "top1",
    "n_train": 10,
    "n_test": 20,
    "chosen": {},
    "seconds": 0.1,
    "seed": 0,
}


def make_run(run: Path) -> None:
    (run / "stages" / "0-mae").mkdir(parents=True)
    (run / "encoder").mkdir()
    (run / "recipe.yaml").write_text(RECIPE)
    (run / "stages" / "0-mae" / "plan.json").write_text(json.dumps(PLAN))
    rows = [
        ROW | {"encoder": "a|b", "split": split, "value": value} for split, value in (("mean", 41.25), ("std", 1.5))
    ]
    (run / "results.json").write_text(json.dumps(rows))


def test_card_holds_what_the_run_knows(tmp_path: Path) -> None:
    make_run(tmp_path / "mine")
    write_model_card(tmp_path / "mine", tmp_path / "mine" / "encoder")
    card = (tmp_path / "mine" / "encoder" / "MODEL_CARD.md").read_text()
    assert "# mine" in card
    assert "3 epochs, 12 steps of 256 images; frozen: positions" in card
    assert "| a\\|b | 41.2 ± 1.5 (" in card
    assert "10 labelled images of images, tested on 20 images of images/test" in card
    assert "Only 20 test images" in card
    assert "not finished" in card  # there is no run.json
    assert "<b>" not in card.replace("`images|<b>`", "")


def test_card_of_other_formats(tmp_path: Path) -> None:
    make_run(tmp_path / "mine")
    run = read_run(tmp_path / "mine")
    assert "onnxruntime" in model_card(run, "onnx")
    assert "after stage **mae**" in model_card(run, "hf", "mae")
    (tmp_path / "MODEL_CARD.md").write_text("own")
    write_model_card(tmp_path / "mine", tmp_path / "encoder.onnx", "onnx")
    assert (tmp_path / "MODEL_CARD.md").read_text() == "own"
    write_model_card(tmp_path, tmp_path / "elsewhere.onnx", "onnx")  # no run: nothing to say
