"""A small finished run, damage to its files, and commands on it, for tests of what damage costs."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
from conftest import two_classes

from layergraft.commands.cli import main
from layergraft.runs.ending import FILE as ENDING  # a note that a run can do without
from layergraft.runs.lock import LOCK

SETTINGS: dict[str, Any] = {
    "data.holdout": 18,
    "data.max_bad": 0.1,
    "data.workers": 0,
    "encoder.img_size": 16,
    "encoder.patch_size": 8,
    "encoder.in_chans": 3,
    "encoder.embed_dim": 16,
    "encoder.depth": 2,
    "encoder.num_heads": 2,
    "stages.mae.epochs": 1,
    "stages.mae.batch_size": 32,
    "stages.graft.epochs": 1,
    "stages.graft.batch_size": 32,
    "monitor.every": 0,
    "evaluate.shots": "1",
    "evaluate.splits": 1,
    "engine.log_every": 1,
}


VARYING = {
    "seconds",
    "seconds_since_start",
    "time",
    "images_per_second",
    "data_wait",
    "started",
    "ended",
    "created",
    "hours",
}


def train_words(images: Path, out: Path) -> list[str]:
    words = ["train", "--recipe", "fashion_paper", "--data", str(images), "--out", str(out), "--analyze", "rank"]
    return words + [word for key, value in SETTINGS.items() for word in (f"--{key}", str(value))]


def make_run(folder: Path) -> tuple[Path, Path]:
    """(images, finished run), labels.csv beside them; skipped.jsonl says of an image that it was unreadable once."""
    images, out = two_classes(folder / "images", 90), folder / "run"
    with open(folder / "labels.csv", "w", newline="") as file:
        rows = [[str(path.relative_to(images)), path.parent.name] for path in sorted(images.rglob("*.png"))[::4]]
        csv.writer(file).writerows([["path", "label"], *rows])
    assert main(train_words(images, out)) == 0
    (out / "skipped.jsonl").write_text('{"key": 3, "name": "a/06.png", "reason": "it is cut off"}\n')
    return images, out


def text_files(run: Path) -> list[str]:
    """Names of the files that are JSON, JSON lines or YAML."""
    paths = sorted(path for path in run.rglob("*") if path.suffix in (".json", ".jsonl", ".yaml"))
    return [str(path.relative_to(run)) for path in paths]


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "latin-1": lambda path: path.write_bytes('{"name": "Größe"}\n'.encode("latin-1") + path.read_bytes()),
    "list": lambda path: path.write_text("[]\n"),
    "list of numbers": lambda path: path.write_text("[1]\n"),
    "object": lambda path: path.write_text("{}\n"),
    "null": lambda path: path.write_text("null\n"),
    "beyond all numbers": lambda path: path.write_text('{"key": 1e999, "name": "a", "reason": "b"}\n'),
    "deep": lambda path: path.write_text("[" * 100_000),
    "folder": _folder,
    "pipe": _pipe,
}


def commands(images: Path, run: Path) -> dict[str, list[str]]:
    """Name -> words; `finish` is a run whose last files are missing, `resume` one whose last stage is."""
    evaluate = ["evaluate", "--encoder", str(run), "--data", str(images), "--test", "holdout", "--protocols", "knn"]
    resume = train_words(images, run)
    return {"report": ["report", str(run)], "evaluate": evaluate, "finish": resume, "resume": resume}


def prepare(command: str, run: Path) -> None:
    """Take away what a command is to make again."""
    if command in ("finish", "resume", "report"):
        (run / "report.html").unlink(missing_ok=True)
    if command == "resume":
        shutil.rmtree(run / "stages" / "1-graft")


def words_of(command: str, images: Path, run: Path, out: Path) -> list[str]:
    """A command on a run; what it does not write into the run lies in `out`."""
    labels = images.parent / "labels.csv"
    on_run = ["--encoder", str(run), "--data", str(images)]
    protocols = ["--test", "holdout", "--protocols", "knn", "logistic", "--shots", "1", "--splits", "1"]
    words = {
        "evaluate": ["evaluate", *on_run, *protocols],
        "embed": ["embed", *on_run, "--out", str(out / "f.parquet")],
        "analyze": ["analyze", *on_run, "--what", "rank", "spectrum"],
        "pack": ["pack", "--data", str(images), "--shard-images", "90", "--out", str(out)],
        "report": ["report", str(run)],
        "predict": ["predict", *on_run, "--labels", str(labels), "--out", str(out / "p.csv")],
        "pick": ["pick", *on_run, "--number", "5", "--out", str(out / "labels.csv")],
        "audit": ["audit", *on_run, "--labels", str(labels), "--out", str(out)],
        "look": ["look", "--data", str(images), "--out", str(out)],
        "export": ["export", "--encoder", str(run), "--format", "hf", "--out", str(out / "hf")],
    }
    return words.get(command) or train_words(images, run)


def _plain(value: Any) -> Any:
    """JSON without what depends on the clock."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if key not in VARYING}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _content(file: Path) -> Any:
    """What two runs of the same command must have in common."""
    if file.suffix == ".json":
        return _plain(json.loads(file.read_text()))
    if file.suffix == ".jsonl":
        return [_plain(json.loads(line)) for line in file.read_text().splitlines()]
    if file.suffix in (".safetensors", ".csv", ".tar", ".yaml"):
        return file.read_bytes()
    if file.suffix == ".parquet":
        return pyarrow.parquet.read_table(file).to_pydict()
    return "a file"


def contents(work: Path) -> dict[str, Any]:
    """Name -> content of all files, but for features kept, checkpoints, the note of how it ended, and locks."""
    files = [path for path in sorted(work.rglob("*")) if path.is_file() and "cache" not in path.parts]
    kept = [path for path in files if path.suffix != ".pt" and path.name not in (LOCK, ENDING)]
    return {str(path.relative_to(work)): _content(path) for path in kept}
