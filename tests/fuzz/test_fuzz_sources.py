"""Sources of every kind, damaged, mis-spelt and with odd options: no command ends with a bug."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import two_classes
from fuzzing import WEIRD_WORDS, bug, damage, distinct, fresh_copy, mutate

from layergraft.commands.cli import COMMANDS, main
from layergraft.config import EncoderConfig
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import create_encoder

SEEDS = range(7100, 7120)
PER_SEED = 150
OPTIONS = [
    "fraction",
    "shots",
    "seed",
    "mean",
    "std",
    "root",
    "streaming",
    "range",
    "channels",
    "page",
    "z",
    "t",
    "tile",
]
OPTIONS += [
    "mpp",
    "image",
    "label",
    "labels",
    "image_column",
    "exclude",
    "dataset",
    "series",
    "level",
    "",
    "Fraction",
    "\0",
]
VALUES = [
    "0.5",
    "1",
    "2",
    "0.5,0.5,0.5",
    "0.2",
    "auto",
    "0,255",
    "true",
    "0",
    "a",
    "b",
    "train",
    "cls",
    "png",
    "1,2,3,4,5",
]
TINY: dict[str, Any] = {"encoder.img_size": 16, "encoder.patch_size": 8, "encoder.in_chans": 3, "encoder.embed_dim": 16}
TINY |= {"encoder.depth": 1, "encoder.num_heads": 2, "data.holdout": 4, "data.workers": 0, "monitor.every": 0}
TINY |= {"stages.mae.epochs": 1, "stages.graft.epochs": 1, "stages.graft.plan.lr_scale": 0.5, "evaluate.shots": 1}
TINY |= {"evaluate.splits": 1, "analyze": "rank"}
# The files of a kind that are mutated four times out of five: those that say what there is.
TELLING: dict[str, Callable[[Path], bool]] = {
    "list": lambda path: path.suffix == ".txt",
    "csv": lambda path: path.suffix == ".csv",
    "parquet": lambda path: path.suffix == ".parquet",
    "bytes": lambda path: path.suffix == ".parquet",
    "shards": lambda path: path.suffix in (".index", ".tar"),
    "saved": lambda path: "saved" in path.parts,
    "dict": lambda path: "dict" in path.parts,
    "hub": lambda path: path.suffix == ".parquet",
}
TELLING |= {kind: lambda _: True for kind in ("plain", "bare", "masks", "pair")}


def _rows(images: Path) -> list[tuple[str, str]]:
    return [(f"images/{path.relative_to(images)}", path.parent.name) for path in sorted(images.rglob("*.png"))]


def _hub(folder: Path, images: Path) -> None:
    datasets = pytest.importorskip("datasets")
    paths = sorted(images.rglob("*.png"))
    content = {"image": [str(path) for path in paths], "label": [int(path.parent.name == "b") for path in paths]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    whole = datasets.Dataset.from_dict(content, features=features)
    whole.map(lambda row: row).save_to_disk(str(folder / "saved"))
    datasets.DatasetDict({"train": whole, "test": whole.select(range(4))}).save_to_disk(str(folder / "dict"))
    whole.to_parquet(str(folder / "hub" / "data" / "train-00000-of-00001.parquet"))


def make_sources(root: Path) -> dict[str, tuple[Path, str]]:
    """Kind -> (folder that holds it, SOURCE below the folder)."""
    images = two_classes(root / "plain" / "images", 16)
    cv2.imwrite(str(images / "a" / "deep.png"), np.arange(400, dtype=np.uint16).reshape(20, 20) * 99)
    cv2.imwrite(str(images / "b" / "photo.jpg"), np.full((24, 20, 3), 90, np.uint8))
    cv2.imwrite(str(images / "b" / "scan.tif"), np.full((24, 20, 3), 90, np.uint8))
    rows = _rows(images)
    for kind in ("list", "csv", "parquet", "bytes"):
        shutil.copytree(images, root / kind / "images")
    (root / "list" / "l.txt").write_text("".join(f"{name} {label}\n" for name, label in rows))
    (root / "csv" / "t.csv").write_text("path,label\n" + "".join(f"{name},{label}\n" for name, label in rows))
    names, labels = zip(*rows, strict=True)
    pq.write_table(pa.table({"path": list(names), "label": list(labels)}), root / "parquet" / "t.parquet")
    contents = [(images.parent / name).read_bytes() for name in names]
    cells = [{"bytes": content, "path": name} for content, name in zip(contents, names, strict=True)]
    pq.write_table(pa.table({"image": cells, "label": list(labels)}), root / "bytes" / "t.parquet")
    assert main(["pack", "--data", str(images), "--out", str(root / "shards"), "--shard-images", "8"]) == 0
    shutil.copytree(root / "shards", root / "bare")
    (root / "bare" / "shards.index").unlink()
    _hub(root / "hub", images)
    masks = root / "masks"
    for part, content in (("images", 200), ("annotations", 1)):
        for split in ("training", "validation"):
            (masks / part / split).mkdir(parents=True)
            for number in range(4):
                pixels = np.full((20, 20), content, np.uint8)
                cv2.imwrite(str(masks / part / split / f"{number}.{'png' if content == 1 else 'jpg'}"), pixels)
    (root / "kinds").mkdir()
    shutil.copytree(images, root / "kinds" / "train")
    shutil.copytree(images / "a", root / "kinds" / "val" / "a")
    return {
        "plain": (root / "plain", "images"),
        "list": (root / "list", "l.txt"),
        "csv": (root / "csv", "t.csv"),
        "parquet": (root / "parquet", "t.parquet"),
        "bytes": (root / "bytes", "t.parquet"),
        "shards": (root / "shards", "{000000..000002}.tar"),
        "bare": (root / "bare", "{000000..000002}.tar"),
        "saved": (root / "hub", "saved"),
        "dict": (root / "hub", "dict"),
        "hub": (root / "hub", "hub"),
        "masks": (masks, "images/training"),
        "pair": (root / "kinds", "train"),
    }


def _spec(kind: str, place: Path, inner: str, rng: random.Random) -> str:
    """What a user writes, sometimes mis-spelt."""
    spec = f"{place}/{inner}"
    if kind in ("saved", "dict", "hub"):
        spec = f"hf:{spec}" + rng.choice(["", "", ":train", ":test", ":all", ":", ":train[:50%]", ":\0"])
    if rng.random() < 0.2:
        odd = [
            spec + rng.choice(WEIRD_WORDS),
            rng.choice(WEIRD_WORDS) + spec,
            spec[: rng.randrange(len(str(place)) + 1, len(spec))],
        ]
        odd += [
            f"{place}/{{5..1}}.tar",
            f"{place}/{{0..99999999999}}.tar",
            f"{place}/{{a,b}}.tar",
            "builtin:",
            "builtin:x:y",
        ]
        odd += [
            f"file://{spec}",
            f"memory://{spec}",
            "hf:",
            "hf::",
            f"{place}/{{",
            f"{place}/{{..}}.tar",
            "zip://x::y",
            "://",
        ]
        odd += [f"{place}/{{000000..000001}}.tar", f"{place}/*.tar", f"{place}", f"{place}/."]
        spec = rng.choice(odd)
    if rng.random() < 0.3:
        pairs = [(rng.choice(OPTIONS), rng.choice(VALUES + WEIRD_WORDS)) for _ in range(rng.randrange(1, 3))]
        spec += "?" + "&".join(f"{key}={value}" for key, value in pairs)
    return spec


def encoder_of(folder: Path) -> Path:
    """A small encoder."""
    config = EncoderConfig(img_size=16, patch_size=8, in_chans=3, embed_dim=16, depth=2, num_heads=2)
    encoder = create_encoder(config, 0)
    save_encoder(encoder, folder, {})
    return folder


def labels_of(out: Path, rng: random.Random) -> list[str]:
    """Sometimes a file with labels of some images, mostly damaged."""
    if rng.random() < 0.4:
        return []
    file = out / f"labels{rng.choice(['.csv', '.csv', '.txt', ''])}"
    names = [f"{'ab'[number % 2]}/{number:02d}.png" for number in range(8)]
    text = "path,label\n" + "".join(f"{name},{rng.choice('ab')}\n" for name in names)
    file.write_bytes(mutate(text.encode(), rng) if rng.random() < 0.7 else text.encode())
    return ["--labels", str(file) + rng.choice(["", "", "", "?label=label", "?path=x", "?x=1", "?"])]


def command_on(spec: str, encoder: Path, out: Path, rng: random.Random) -> list[str]:
    """A command that takes a source."""
    tiny = ["--recipe", "fashion_paper", *(word for pair in TINY.items() for word in (f"--{pair[0]}", str(pair[1])))]
    known = ["--encoder", str(encoder), "--data", spec]
    commands = {
        "embed": [*known, "--out", str(out / "features.parquet")],
        "evaluate": [*known, "--test", rng.choice([spec, "holdout"]), "--protocols", "knn", "--out", str(out / "run")],
        "pack": ["--data", spec, "--out", str(out / "packed"), "--shard-images", "5"],
        "analyze": [*known, "--what", "rank", "--out", str(out / "run")],
        "pick": [*known, "--number", "3", "--out", str(out / "picked.csv"), *labels_of(out, rng)],
        "predict": [*known, "--out", str(out / f"p{rng.choice(['.csv', '.parquet', '', '.x'])}"), *labels_of(out, rng)],
        "look": ["--data", spec, "--out", str(out / "look")],
        "audit": [*known, "--out", str(out / "audit"), *labels_of(out, rng)],
        "plan": [*tiny, "--data", spec],
        "train": [*tiny, "--data", spec, "--out", str(out / "run")],
    }
    usual = [name for name in commands if name in COMMANDS]
    name = rng.choice([*usual, "embed", "embed", "pack", "pack", "evaluate"])
    return [name, *commands[name]]


def fuzz(root: Path, seed: int, count: int) -> dict[str, str]:
    """Bug -> the source and command that met it."""
    (root / "sources").mkdir(parents=True)
    kinds, encoder = make_sources(root / "sources"), encoder_of(root / "encoder")

    def tries() -> Iterator[tuple[str, str]]:
        for number in range(count):
            rng = random.Random(1_000_000 * seed + number)
            kind = rng.choice(sorted(kinds))
            whole, inner = kinds[kind]
            place = fresh_copy(whole, root / "work" / "place")
            damaged = damage(place, rng, TELLING[kind]) if rng.random() < 0.8 else ""
            out = root / "work" / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            words = command_on(_spec(kind, place, inner, rng), encoder, out, rng)
            yield bug(words), f"try {number} of seed {seed}: {kind}, {damaged!r}: {words}"

    return distinct(tries())


def test_a_sample_of_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fuzz(tmp_path, 7000, 12) == {}


@pytest.mark.soak
@pytest.mark.parametrize("seed", SEEDS)
def test_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fuzz(tmp_path, seed, PER_SEED) == {}
