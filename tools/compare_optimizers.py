"""Compare Muon and AdamW on `fashion_paper`: equal steps, learning rates searched alike on held-out images.

Both stages take the same factor of the recipe's learning rates. With the first seed every factor is tried and measured
by few-shot logistic regression with labels of training images, tested on held-out ones; the best of each optimizer is
then trained with further seeds, and measured on the test images, which chose nothing. A best factor at the end of the
list is said: the search was too narrow then. Stop and start it at will: finished runs are kept.

    python tools/compare_optimizers.py --work runs/optimizers   # measures, writes docs/optimizers.json, fills the page
    python tools/compare_optimizers.py                          # fills the page from the committed file

replaces what stands between `<!-- optimizers -->` and `<!-- end optimizers -->` in `docs/recipes.md`. At full length
a run takes about four minutes of one core, and there are two optimizers x (factors + seeds). `--length 0.2` shortens
the stages.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import layergraft
from layergraft.config import EvaluateConfig, Recipe, load_recipe
from layergraft.data.sources.open import default_test_source, open_source
from layergraft.evaluation.frozen import evaluate_encoders
from layergraft.evaluation.task import Task
from layergraft.runs.atomic import write_text
from layergraft.runs.results import read_results, write_results
from layergraft.training.launch import machine
from layergraft.training.run_data import load_data

OPTIMIZERS = ("adamw", "muon")
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
SEARCH_SEED = 0
DOCS = Path(__file__).parents[1] / "docs"
PART = re.compile(r"(<!-- optimizers -->\n\n).*?(\n<!-- end optimizers -->)", re.S)
PROTOCOL = EvaluateConfig(protocols=("logistic", "knn"), shots=(1, 5, 10), splits=20)


def recipe_of(optimizer: str, factor: float, seed: int, asked: argparse.Namespace) -> Recipe:
    """`fashion_paper` with another optimizer, factor of the learning rates, seed; and length, images, precision."""
    plain = load_recipe("fashion_paper")
    changes: dict[str, Any] = {"seed": seed, "data.source": asked.data, "engine.precision": asked.precision}
    changes |= {"monitor.every": 0, "evaluate": None, "analyze": []}
    for name, stage in plain.stages.items():
        key = f"stages.{name}"
        changes[f"{key}.optimizer.name"] = optimizer
        changes[f"{key}.optimizer.base_lr"] = factor * stage.optimizer.base_lr
        changes[f"{key}.epochs"] = asked.length * (stage.epochs or 0)
        changes[f"{key}.warmup_epochs"] = asked.length * stage.warmup_epochs
    return load_recipe("fashion_paper", changes)


def measure(work: Path, recipe: Recipe, on_test: bool) -> dict[str, float]:
    """Train a run where that is not done yet; shots (and `knn`) -> accuracy of its encoder."""
    stage = next(iter(recipe.stages.values()))
    name = f"{stage.optimizer.name}-{stage.optimizer.base_lr:g}-{stage.epochs:g}-seed-{recipe.seed}"
    run = layergraft.train(recipe=json.loads(msgspec.json.encode(recipe)), out=work / name)
    data = load_data(recipe)
    task = Task.on_holdout(data.train, data.holdout, recipe.seed)
    if on_test:
        spec = default_test_source(data.train.spec)
        assert spec is not None
        task = Task(train=data.train, test=open_source(spec), test_name=spec, seed=recipe.seed)
    rows = [row for row in read_results(run.results) if row.test == task.test_name and row.encoder == "graft"]
    if not rows:
        rows = evaluate_encoders(task, PROTOCOL, {"graft": layergraft.load_encoder(run.encoder)})
        write_results(run.results, rows)
    kept = [row for row in rows if row.encoder == "graft" and (row.protocol == "knn" or row.split == "mean")]
    return {"knn" if row.protocol == "knn" else row.shots: row.value for row in kept}


def chosen_by(accuracy: dict[str, float]) -> float:
    """What the search maximises: the mean over the numbers of shots."""
    return float(np.mean([value for shots, value in accuracy.items() if shots != "knn"]))


def table(found: dict[str, Any]) -> str:
    """The comparison as a table of Markdown: mean ± standard deviation over seeds on test images, and differences."""
    columns = [*map(str, PROTOCOL.frozen_shots), "knn"]
    lines = ["| optimizer | factor of `base_lr` | " + " | ".join(f"{c} a class" for c in columns[:-1]) + " | kNN |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    values = {
        name: {column: np.array([accuracy[column] for accuracy in result["test"].values()]) for column in columns}
        for name, result in found["optimizers"].items()
    }
    for name, result in found["optimizers"].items():
        cells = [f"{of.mean():.1f} ± {of.std(ddof=1):.1f}" for of in values[name].values()]
        edge = " (at the end of the list)" if result["factor"] in (found["factors"][0], found["factors"][-1]) else ""
        lines.append(f"| {name} | {result['factor']:g}{edge} | {' | '.join(cells)} |")
    gains = [values["muon"][column] - values["adamw"][column] for column in columns]
    cells = [f"{gain.mean():+.1f} ± {gain.std(ddof=1):.1f}" for gain in gains]
    lines.append(f"| muon − adamw, seed by seed | | {' | '.join(cells)} |")
    return "\n".join(lines)


def search_table(found: dict[str, Any]) -> str:
    """What each factor of the learning rates reached on held-out images, at 5 labels a class, as a Markdown table."""
    lines = ["| held-out, 5 a class | " + " | ".join(f"× {factor:g}" for factor in found["factors"]) + " |"]
    lines.append("|---" * (len(found["factors"]) + 1) + "|")
    for name, result in found["optimizers"].items():
        cells = [f"{result['searched'][str(factor)]['5']:.1f}" for factor in found["factors"]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def study(asked: argparse.Namespace) -> dict[str, Any]:
    """Search, then measure both optimizers."""
    found: dict[str, Any] = {"machine": machine(), "length": asked.length, "data": asked.data}
    found |= {"precision": asked.precision, "factors": sorted(asked.factors), "optimizers": {}}
    for optimizer in OPTIMIZERS:
        recipes = {f: recipe_of(optimizer, f, SEARCH_SEED, asked) for f in found["factors"]}
        searched = {str(factor): measure(asked.work, recipe, on_test=False) for factor, recipe in recipes.items()}
        best = max(recipes, key=lambda factor: chosen_by(searched[str(factor)]))
        result: dict[str, Any] = {"factor": best, "searched": searched, "test": {}}
        for seed in asked.seeds:
            result["test"][str(seed)] = measure(asked.work, recipe_of(optimizer, best, seed, asked), on_test=True)
        found["optimizers"][optimizer] = result
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="where the runs go; without it the page is filled from the file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds that are reported")
    parser.add_argument("--factors", type=float, nargs="+", default=list(FACTORS), help="of the learning rates")
    parser.add_argument("--length", type=float, default=1.0, help="of the stages, relative to the recipe's")
    parser.add_argument("--data", default="builtin:fashion-canvas", help="images with a test part")
    parser.add_argument("--precision", default="32-true", help="of the products: `engine.precision` of the recipes")
    parser.add_argument("--study", type=Path, default=DOCS / "optimizers.json")
    parser.add_argument("--page", type=Path, default=DOCS / "recipes.md")
    asked = parser.parse_args()
    if asked.work:
        write_text(asked.study, json.dumps(study(asked), indent=1) + "\n")
    found = json.loads(asked.study.read_text())
    text = f"{table(found)}\n\n{search_table(found)}\n"
    print(text, end="")
    if asked.page.exists():
        page = asked.page.read_text()
        asked.page.write_text(PART.sub(lambda part: part[1] + text + part[2], page))


if __name__ == "__main__":
    main()
