"""What going on from good weights does: every `continue_*` recipe and plain MoCo v3, without labels, over some seeds.

A ViT learns the classes of half of `builtin:fashion-colour`; its encoder alone goes on with images of the other half,
without labels: 500 or 5,000 of the same kind, or of another kind (`builtin:fashion-canvas`). kNN and 5-shot on test
images, before and after. Recipes are as they are, but for the size of the network, heads, batch and lengths; learning
rates are times 768 / width, as the recipes' networks are 768 wide, or 384. Recipes that are the same in miniature
are run once.

    python tools/continue_study.py --out runs/continue --seeds 0 1 2 3 4

    python tools/continue_study.py                # the page from the committed numbers

Rows are appended to OUT/rows.jsonl, and those that are there are not made again; docs/continue.json sums them up.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np
import torch

import layergraft
from layergraft.config import load_recipe
from layergraft.data.sources.open import open_source
from layergraft.encoders.checkpoint import load_encoder
from layergraft.evaluation.held_out import HeldOut
from layergraft.runs.atomic import write_text
from layergraft.training.launch import launch
from layergraft.training.run import Training

DOCS = Path(__file__).parents[1] / "docs"
PART = re.compile(r"(<!-- continued -->\n\n).*?(\n<!-- end continued -->)", re.S)
WIDTH, DEPTH, SIDE, PATCH = 64, 3, 36, 12
ENCODER = {
    "name": "vit_tiny_patch16_224", "img_size": SIDE, "in_chans": 3, "patch_size": PATCH, "embed_dim": WIDTH,
    "depth": DEPTH, "num_heads": 2,
}  # fmt: skip
RECIPES = ("continue_mim", "continue_dino", "continue_small", "continue_large")
CASES = {
    "same-500": ("fashion-colour", 500), "same-5000": ("fashion-colour", 5000),
    "other-500": ("fashion-canvas", 500), "other-5000": ("fashion-canvas", 5000),
}  # fmt: skip
STEPS = {"heads": 30, "upper": 80, "graft": 200}
LOOKS = 80  # steps from one look of the guard to the next
BATCH = 64
VIEW = {"crop_scale": [0.3, 1.0], "jitter": 0.8, "gray": 0.2, "blur": 0.0}
BANK, TESTED = 6000, 5000  # all there are


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the runs go; without it the page is filled from the file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--recipes", nargs="+", default=[*RECIPES, "plain"], choices=[*RECIPES, "plain"])
    parser.add_argument("--start-epochs", type=float, default=8)
    parser.add_argument("--json", type=Path, default=DOCS / "continue.json", help="where the summary goes")
    parser.add_argument("--page", type=Path, default=DOCS / "weights.md")
    arguments = parser.parse_args()
    if arguments.out:
        study(arguments)
        write_text(arguments.json, json.dumps(summary(read_rows(arguments.out)), indent=1) + "\n")
    text = table(json.loads(arguments.json.read_text())["cases"])
    print(text, end="")
    write_text(arguments.page, PART.sub(lambda part: part[1] + text + part[2], arguments.page.read_text()))


def study(asked: argparse.Namespace) -> None:
    """Make the rows that are missing."""
    torch.set_num_threads(1)
    for seed in asked.seeds:
        start = trained_start(asked.out, seed, asked.start_epochs)
        for case in asked.cases:
            for recipe in ("start", *asked.recipes):
                one_row(asked.out, seed, case, recipe, start)


def table(cases: dict[str, Any]) -> str:
    """Changes from the start on test images as a Markdown table; of recipes that reach the same, one column."""
    columns: dict[str, list[str]] = {}
    labels = []
    names = [name for name in (*RECIPES, "plain") if all(name in results for results in cases.values())]
    for case, results in cases.items():
        kind, count = CASES[case]
        what = "of the same kind" if case.startswith("same") else f"of `{kind}`"
        for figure, name in (("knn", "kNN"), ("five_shot", "5-shot")):
            labels.append(f"| {count:,} {what} | {name}, from {results['start'][figure]['mean']:.1f} % |")
            for recipe in names:
                of = results[recipe][figure]
                spread = "" if of["standard_error"] is None else f" ± {2 * of['standard_error']:.1f}"
                columns.setdefault(recipe, []).append(f"{of['change']:+.1f}{spread}")
    merged: dict[tuple[str, ...], list[str]] = {}
    for recipe, cells in columns.items():
        merged.setdefault(tuple(cells), []).append("plain MoCo v3, one rate" if recipe == "plain" else f"`{recipe}`")
    lines = ["| images | | " + " | ".join(", ".join(alike) for alike in merged.values()) + " |"]
    lines.append("|---" * (len(merged) + 2) + "|")
    lines += [f"{label} {' | '.join(cells)} |" for label, *cells in zip(labels, *merged, strict=True)]
    return "\n".join(lines) + "\n"


def read_rows(out: Path) -> list[dict[str, Any]]:
    file = out / "rows.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def images_of(kind: str, split: str) -> tuple[Any, Any]:
    """(pixels of shape (N, 36, 36, 3), classes) of a built-in set."""
    source = open_source(f"builtin:{kind}:{split}")
    return np.stack([source.images.load(key, 3) for key in range(len(source))]), source.selected_labels


def halves(seed: int, count: int) -> tuple[Any, Any]:
    """(rows that are learned with labels, rows that the encoder goes on with)."""
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[: count // 2]), order[count // 2 :]


def written(file: Path, **arrays: Any) -> str:
    """Keep arrays in a file; its SOURCE."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.is_file():
        np.savez(file, **arrays)
    return str(file)


def train(out: Path, recipe: dict[str, Any]) -> Training:
    """Train a recipe's stages, and nothing else."""
    with patch("layergraft.training.run.step_flops", return_value=None):  # counting takes longer than these stages
        training = Training(load_recipe(recipe), out, launch())
        if training.open("auto"):
            training.train()
    return training


def trained_start(out: Path, seed: int, epochs: float) -> Path:
    """The encoder that has learned the classes of half of the images."""
    folder = out / f"start-{seed}"
    if not (folder / "encoder").is_dir():
        pixels, labels = images_of("fashion-colour", "train")
        rows, _ = halves(seed, len(labels))
        source = written(out / "data" / f"labelled-{seed}.npz", images=pixels[rows], labels=labels[rows])
        stage = {
            "objective": {"name": "classify", "smoothing": 0.1},
            "views": {"image": {"crop_scale": [0.6, 1.0], "interpolation": "bilinear"}},
            "optimizer": {"base_lr": 6e-3, "weight_decay": 0.05},
            "epochs": epochs, "warmup_epochs": 2, "batch_size": 128,
        }  # fmt: skip
        recipe = {
            "seed": seed, "encoder": ENCODER, "data": {"source": source, "holdout": 0.05, "workers": 0},
            "stages": {"classes": stage}, "evaluate": None, "analyze": [], "monitor": {"every": 0},
        }  # fmt: skip
        train(out / f"run-{seed}", recipe)
        shutil.copytree(next((out / f"run-{seed}").glob("stages/*/encoder")), folder / "encoder")
    return folder / "encoder"


def continued(name: str, seed: int, source: str, start: Path) -> dict[str, Any]:
    """A recipe in miniature; `plain` is MoCo v3 on all layers at one learning rate, for as many steps."""
    small = {"projector": [256, 256, 64], "predictor": [256, 64]}
    if name == "plain":
        moco = {"name": "moco", "temperature": 0.2, "momentum": 0.99, **small}
        optimizer = {"base_lr": 1.5e-4 * 768 / WIDTH, "betas": [0.9, 0.999], "weight_decay": 0.1}
        raw: dict[str, Any] = {"stages": {"plain": {"objective": moco, "optimizer": optimizer}}}
        steps = {"plain": sum(STEPS.values())}
    else:
        full = load_recipe(name)
        raw, wide = msgspec.to_builtins(full), full.encoder.embed_dim or WIDTH
        steps = STEPS
        for stage in raw["stages"].values():
            stage["objective"] |= small
            stage["optimizer"]["base_lr"] *= wide / WIDTH
        raw["stages"]["upper"]["plan"]["freeze"] = {"blocks": DEPTH - DEPTH // 3}
    for stage, count in steps.items():
        raw["stages"][stage] |= {"steps": count, "epochs": None, "warmup_steps": count // 10, "warmup_epochs": 0}
        raw["stages"][stage] |= {"batch_size": BATCH, "views": {"first": VIEW, "second": VIEW | {"solarize": 0.0}}}
    raw |= {"seed": seed, "encoder": ENCODER, "start": str(start), "evaluate": None, "analyze": []}
    raw |= {"data": {"source": source, "holdout": 0.2, "workers": 0}}
    raw["engine"] = {"precision": "32-true"}  # at this width as quick as bfloat16
    held = len(np.load(source)["images"]) * 4 // 5 // BATCH
    raw["monitor"] = {"every": LOOKS / held, "images": 200}
    return raw


def one_row(out: Path, seed: int, case: str, name: str, start: Path) -> None:
    """Measure the start, or go on and measure; nothing where that was done."""
    key = {"seed": seed, "case": case, "recipe": name}
    done = [row for row in read_rows(out) if row["seed"] == seed and row["case"] == case]
    if any(row["recipe"] == name for row in done):
        return
    kind, count = CASES[case]
    began = time.process_time()
    guards: dict[str, str] = {}
    encoder = start
    if name != "start":
        pixels, labels = images_of(kind, "train")
        rows = halves(seed, len(labels))[1][:count]
        source = written(out / "data" / f"{case}-{seed}.npz", images=pixels[rows])
        recipe = continued(name, seed, source, start)
        for row in done:
            if row["recipe"] != "start" and continued(row["recipe"], seed, source, start) == recipe:
                append(out, row | key)
                return
        run = out / f"{case}-{name}-{seed}"
        shutil.rmtree(run, ignore_errors=True)
        train(run, recipe)
        for plan in sorted(run.glob("stages/*/plan.json")):
            content = json.loads(plan.read_text())
            if content["guard"]:
                guards[content["name"]] = content["guard"]["sentence"]
            encoder = plan.parent / "encoder"
    figures = measured(encoder, kind, seed)
    if name != "start":
        shutil.rmtree(out / f"{case}-{name}-{seed}")
    row = key | figures | {"guards": guards, "cpu_seconds": round(time.process_time() - began, 1)}
    append(out, row)


def append(out: Path, row: dict[str, Any]) -> None:
    """One more row in the file."""
    with open(out / "rows.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def measured(encoder: Path, kind: str, seed: int) -> dict[str, float]:
    """kNN and 5-shot on test images of a kind, in percent; labelled images of the first half are neighbours."""
    train_images, test = open_source(f"builtin:{kind}"), open_source(f"builtin:{kind}:test")
    labelled = halves(seed, len(train_images))[0][:BANK]
    tested = np.random.default_rng(0).permutation(len(test))[:TESTED]
    return HeldOut(train_images.subset(labelled), test.subset(np.sort(tested))).measure(load_encoder(encoder)).numbers


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each case and recipe the mean change from the start over the seeds, and its standard error."""
    cases: dict[str, Any] = {}
    for case in CASES:
        starts = {row["seed"]: row for row in rows if row["case"] == case and row["recipe"] == "start"}
        for name in ("start", *RECIPES, "plain"):
            of_recipe = [row for row in rows if row["case"] == case and row["recipe"] == name and row["seed"] in starts]
            if not of_recipe:
                continue
            entry: dict[str, Any] = {"n": len(of_recipe)}
            for figure in ("knn", "five_shot"):
                values = np.array([row[figure] for row in of_recipe])
                changes = np.array([row[figure] - starts[row["seed"]][figure] for row in of_recipe])
                error = float(changes.std(ddof=1) / len(of_recipe) ** 0.5) if len(of_recipe) > 1 else None
                entry[figure] = {"mean": round(float(values.mean()), 2)}
                if name != "start":
                    entry[figure] |= {
                        "change": round(float(changes.mean()), 2),
                        "standard_error": None if error is None else round(error, 2),
                    }
            entry["cpu_seconds"] = round(float(np.mean([row["cpu_seconds"] for row in of_recipe])), 1)
            cases.setdefault(case, {})[name] = entry
    return {"layergraft": layergraft.__version__, "encoder": ENCODER, "steps": STEPS, "batch": BATCH, "cases": cases}


if __name__ == "__main__":
    main()
