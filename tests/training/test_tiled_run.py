"""Whole slides from end to end: a stopped run ends with the bits of one that was not, and each command takes tiles."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from processes import bits
from slide_files import tissue, write_slide

from layergraft.commands.cli import main
from layergraft.training.trainer import Outcome, Trainer

pytest.importorskip("openslide")
tifffile = pytest.importorskip("tifffile")
pytestmark = pytest.mark.slow
QUERY = "?tile=64&mpp=0.5"
WORDS = [
    *("--recipe", "fashion_paper", "--encoder.in_chans", "3", "--encoder.img_size", "36", "--encoder.embed_dim", "16"),
    *("--encoder.depth", "2", "--encoder.num_heads", "2", "--stages.mae.steps", "6", "--stages.graft.steps", "2"),
    *("--stages.mae.batch_size", "16", "--stages.graft.batch_size", "16", "--stages.mae.warmup_epochs", "0"),
    *("--stages.graft.warmup_epochs", "0", "--stages.graft.objective.projector", "16", "16", "8"),
    *("--stages.graft.objective.predictor", "16", "8", "--monitor.every", "0", "--evaluate.shots", "1"),
    *("--evaluate.splits", "1", "--data.holdout", "0.2", "--data.max_bad", "0.2", "--analyze", "neighbours"),
]


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four slides of two classes, one with a damaged tile, and a fifth that is none."""
    root = tmp_path_factory.mktemp("slides")
    for number in range(4):
        pixels = tissue(radius=230 + 20 * number)
        write_slide(root / ("benign", "tumour")[number % 2] / f"{number}.svs", pixels[:, :, :: 1 - 2 * (number % 2)])
    with tifffile.TiffFile(root / "benign" / "0.svs") as file:
        start, count = file.pages[0].dataoffsets[5], file.pages[0].databytecounts[5]
    with open(root / "benign" / "0.svs", "r+b") as stream:
        stream.seek(start)
        stream.write(bytes(count))
    (root / "tumour" / "9.svs").write_bytes(b"II*\0nothing")
    return root


@pytest.fixture(scope="module")
def run(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiled") / "run"
    assert main(["train", "--data", f"{slides}{QUERY}", "--out", str(out), *WORDS]) == 0
    return out


def test_what_cannot_be_read_is_named(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "skipped.jsonl").read_text().splitlines()]
    names = {row["name"] for row in rows}
    assert "tumour/9.svs" in names
    assert all(name.startswith("benign/0.svs#") for name in names - {"tumour/9.svs"})


def test_a_run_that_is_stopped_goes_on(
    slides: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "--data", f"{slides}{QUERY}", "--out", str(tmp_path / "run"), *WORDS]
    accept = Trainer.accept

    def accepted(trainer: Trainer, outcome: Outcome) -> None:
        accept(trainer, outcome)
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "accept", accepted)
        assert main(words) == 75
    memory = next((tmp_path / "run" / "index").glob("*.tiles.jsonl")).read_bytes()
    assert main(words) == 0
    assert bits(tmp_path / "run") == bits(run)
    assert next((tmp_path / "run" / "index").glob("*.tiles.jsonl")).read_bytes() == memory


def test_every_command_takes_tiles(slides: Path, run: Path, tmp_path: Path) -> None:
    data = ["--data", f"{slides}{QUERY}"]
    assert main(["plan", *data, *WORDS]) == 0
    assert main(["look", *data, "--out", str(tmp_path / "look")]) == 0
    assert (tmp_path / "look" / "look.html").is_file()
    assert main(["embed", "--encoder", str(run), *data, "--out", str(tmp_path / "tiles.parquet")]) == 0
    table = pyarrow.parquet.read_table(tmp_path / "tiles.parquet")
    names = table["name"].to_pylist()
    assert all("#" in name for name in names)
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{n}.svs,{'ab'[n % 2]}\n" for n in (1, 2)))
    labels = ["--labels", str(tmp_path / "labels.csv")]
    assert main(["predict", "--encoder", str(run), *data, *labels, "--out", str(tmp_path / "predicted.csv")]) == 0
    assert "benign/0.svs#" in (tmp_path / "predicted.csv").read_text()
    test = ["--test", f"{slides}{QUERY}&tissue=0.9", "--shots", "1", "--splits", "1"]
    assert main(["evaluate", "--encoder", str(run), *data, *test]) == 0
    assert main(["pack", *data, "--out", str(tmp_path / "packed")]) == 0
    packed = ["--data", str(tmp_path / "packed" / "000000.tar"), "--out", str(tmp_path / "again.parquet")]
    assert main(["embed", "--encoder", str(run), *packed]) == 0
    again = pyarrow.parquet.read_table(tmp_path / "again.parquet")
    assert np.array_equal(np.array(again["feature"].to_pylist()), np.array(table["feature"].to_pylist()))
