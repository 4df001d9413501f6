"""`layergraft analyze` on a joint-trained run, on a bare encoder, and on what it cannot do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest

import layergraft
from layergraft.analysis.registry import ANALYSES
from layergraft.analysis.subject import Subject
from layergraft.commands.cli import main
from layergraft.config.analysis import AnalysisName
from layergraft.config.recipe import EngineConfig
from layergraft.encoders.products import OneDnnLinear, has_onednn
from layergraft.evaluation import frozen
from layergraft.runs.figure import Figure
from layergraft.runs.findings import Findings

DATA = "builtin:fashion-canvas?fraction=0.03"
PARTS = "stages.joint.objective.parts"
SMALL = {
    "data.source": DATA,
    "data.holdout": 64,
    "data.workers": 0,
    "encoder.embed_dim": 16,
    "encoder.depth": 3,
    "encoder.num_heads": 2,
    f"{PARTS}.mae.decoder.embed_dim": 16,
    f"{PARTS}.moco.projector": [16, 16, 8],
    f"{PARTS}.moco.predictor": [16, 8],
    "stages.joint.epochs": 0.5,
    "stages.joint.warmup_epochs": 0,
    "stages.joint.batch_size": 32,
    "monitor.every": 0,
    "evaluate": None,
    "analyze": [],
}


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("joint") / "run"
    layergraft.train(recipe="fashion_joint", out=out, overrides=SMALL)
    return out


def test_every_name_has_an_analysis() -> None:
    assert list(ANALYSES) == list(get_args(AnalysisName))


def test_conflict_of_a_joint_run_uses_the_heads_as_they_were_trained(joint: Path) -> None:
    conflict, suggest = layergraft.analyze(encoder=joint, data=DATA, what=["conflict", "suggest"])
    assert conflict.encoder == "joint"
    assert [row["block"] for row in conflict.numbers["blocks"]] == [0, 1, 2]
    assert not any("fitted" in note for note in conflict.notes)
    assert len(conflict.figures[0].data) == 64 * 3  # the held-out images: those that trained nothing
    assert suggest.snippet.startswith("plan: {lr_scale: {blocks: [")
    kept = {entry["analysis"] for entry in json.loads((joint / "analysis.json").read_text())}
    assert {"conflict", "suggest"} <= kept
    assert "Do the losses agree?" in (joint / "report.html").read_text()


@pytest.mark.skipif(not has_onednn(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("products", ["torch", "onednn"])
def test_products_of_the_run_are_those_of_what_looks_at_it(
    products: str, joint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(joint, tmp_path / "run")
    recipe = run / "recipe.yaml"
    text = recipe.read_text()
    assert "products: torch" in text
    recipe.write_text(text.replace("products: torch", f"products: {products}"))
    entered: list[bool] = []

    def note(*_: object, **__: object) -> Findings:
        entered.append(OneDnnLinear.entered > 0)
        return Findings(numbers={}, figures=[])

    monkeypatch.setitem(ANALYSES, "rank", note)
    layergraft.analyze(encoder=run, data=DATA, what=["rank"])
    votes = frozen.knn_votes
    monkeypatch.setattr(frozen, "knn_votes", lambda *words: [note(), votes(*words)][1])
    layergraft.evaluate(encoder=run, data=DATA, protocols=["knn"])
    assert entered == [products == "onednn"] * 3  # an analysis; the pixels' neighbours, the encoder's
    # Gradients image by image, in float32, whichever products the rest is of.
    (entry,) = layergraft.analyze(encoder=run, data=DATA, what=["conflict"])
    assert len(entry.numbers["blocks"]) == 3


def test_what_is_trained_of_an_encoder_needs_no_products_of_its_run(
    joint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was multiplied by oneDNN, fine-tuned where there is none."""
    run = shutil.copytree(joint, tmp_path / "run")
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("products: torch", "products: onednn"))
    monkeypatch.setattr("layergraft.encoders.products.has_onednn", lambda: False)
    engines: list[EngineConfig] = []
    monkeypatch.setattr(
        "layergraft.commands.evaluate._measure", lambda task, config, engine, *_: engines.append(engine)
    )
    layergraft.evaluate(encoder=run, data=DATA, protocols=["finetune"])
    layergraft.evaluate(encoder=run, data=DATA, protocols=["finetune"], overrides={"engine.products": "onednn"})
    assert [engine.products for engine in engines] == ["torch", "onednn"]  # what was asked for may be refused


@pytest.fixture
def bare(joint: Path, tmp_path: Path) -> str:
    """The encoder's directory, away from its run."""
    return str(shutil.copytree(joint / "encoder", tmp_path / "bare"))


def test_any_encoder_against_another(joint: Path, bare: str, tmp_path: Path) -> None:
    words = ["analyze", "--encoder", bare, "--against", str(joint / "stages" / "0-joint"), "--data", DATA]
    assert main([*words, "--what", "cka", "token-similarity", "--out", str(tmp_path / "found")]) == 0
    (entry, _) = json.loads((tmp_path / "found" / "analysis.json").read_text())
    assert entry["encoder"] == bare
    assert entry["against"] == "joint"
    across = entry["numbers"][f"{bare} and joint"]
    assert all(abs(across[i][i] - 1) < 1e-5 for i in range(4))  # they are the same weights
    assert (tmp_path / "found" / "report.html").is_file()


def test_unreadable_images_are_left_out(bare: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(30):
        content = np.random.default_rng(index).integers(0, 256, (36, 36), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), content)
    (folder / "broken.png").write_bytes(b"no image")
    words = ["analyze", "--encoder", bare, "--data", str(folder), "--out", str(tmp_path / "found")]
    assert main([*words, "--what", "token-similarity", "map", "neighbours", "layer-probe"]) == 0
    said = capsys.readouterr().err
    assert "1 unreadable image left out" in said
    assert "layer-probe: skipped, it needs images with labels" in said
    entries = json.loads((tmp_path / "found" / "analysis.json").read_text())
    assert next(e for e in entries if e["analysis"] == "map")["numbers"]["images"] == 30


def test_numbers_that_are_not_finite_are_null(bare: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare NaN is no JSON: other programs refuse such a file, and the page would draw none of its figures."""

    def undefined(_: Subject) -> Findings:
        figure = Figure(name="one", title="", caption="", data=[{"x": float("inf"), "y": 1.5}], spec={})
        return Findings(numbers={"exponent": [float("nan"), 1.0]}, figures=[figure])

    monkeypatch.setitem(ANALYSES, "rank", undefined)
    (entry,) = layergraft.analyze(encoder=bare, data=DATA, what=["rank"], out=tmp_path / "found")
    assert entry.numbers == {"exponent": [None, 1.0]}
    assert entry.figures[0].data == [{"x": None, "y": 1.5}]
    assert "NaN" not in (tmp_path / "found" / "analysis.json").read_text()


def test_a_damaged_file_is_named(joint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(joint, tmp_path / "run")
    (run / "analysis.json").write_text('[{"analysis": "cka"}]')
    assert main(["report", str(run)]) == 2
    assert "analysis.json" in capsys.readouterr().err


def test_what_it_refuses(joint: Path, bare: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["analyze", "--data", DATA, "--encoder"]
    assert main([*words, str(joint), "--what", "conflct"]) == 2
    assert "'conflict'" in capsys.readouterr().err
    assert main([*words, bare, "--what", "cka"]) == 2
    assert "--out" in capsys.readouterr().err
    assert main([*words, bare, "--what", "conflict", "--out", str(tmp_path)]) == 2
    assert "fitted heads" in capsys.readouterr().err
