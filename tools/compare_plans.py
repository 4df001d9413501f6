"""Compare graft plans and lengths for the demo, on held-out images alone, and record the comparison.

Every candidate changes `fashion_tiny` in a few keys, is trained with each seed and measured by few-shot logistic
regression (variant `published`, 20 splits): labels from the training images, accuracy on `holdout`. Test images are
never opened. Candidates that share a first stage train it once. Stop and start it at will: finished runs are kept.

    python tools/compare_plans.py --work runs/plans --seeds 1 2

writes `layergraft/config/recipes/recorded/fashion_tiny.json`, which the report of the demo shows, marked as recorded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import layergraft
from layergraft.config import EvaluateConfig, Recipe, load_recipe
from layergraft.evaluation.frozen import evaluate_encoders
from layergraft.evaluation.task import Task
from layergraft.runs.atomic import write_text
from layergraft.runs.report.recorded import record_file
from layergraft.runs.results import ResultRow, write_results
from layergraft.training.launch import machine
from layergraft.training.run_data import load_data

RECORD = record_file("fashion_tiny")
PROTOCOL = EvaluateConfig(protocols=("knn", "logistic"), shots=(1, 5, 10, 50), splits=20)
Length = tuple[float, float]
UNIFORM = {"lr_scale": 1.0, "freeze": ["patch_embed", "positions"]}
PLANS: dict[str, dict[str, Any]] = {
    "all layers alike": UNIFORM,
    "slow lower two thirds": UNIFORM | {"lr_scale": [0.3, 0.3, 1.0]},
    "slower lower two thirds": UNIFORM | {"lr_scale": [0.1, 0.1, 1.0]},
    "geometric 0.8": UNIFORM | {"lr_scale": {"decay": 0.8}},
    "geometric 0.65": UNIFORM | {"lr_scale": {"decay": 0.65}},
    "lowest two blocks frozen": {"lr_scale": 1.0, "freeze": {"blocks": 2}},
}
# Epochs of (mae, graft), with the uniform plan. Longer is better; the recipe takes what fits into the demo's time.
LENGTHS: tuple[Length, ...] = ((6, 6), (10, 4), (10, 4.5), (10, 6))
LENGTH: Length = (10, 6)  # of the plans' comparison


def _stages(seed: int, mae_epochs: float, graft: Mapping[str, Any]) -> tuple[Recipe, Recipe]:
    """The first stage and the grafted one as recipes of their own, so that candidates share the first."""
    settings = {"seed": seed, "stages.mae.epochs": mae_epochs, "monitor.every": 0, "evaluate": None}
    recipe = load_recipe("fashion_tiny", settings | {f"stages.graft.{key}": value for key, value in graft.items()})
    first, second = ({name: recipe.stages[name]} for name in ("mae", "graft"))
    return msgspec.structs.replace(recipe, stages=first), msgspec.structs.replace(recipe, stages=second)


def measure(work: Path, seed: int, length: Length, plan: Mapping[str, Any]) -> list[ResultRow]:
    """Train one candidate with one seed, where that is not done yet, and measure it on held-out images."""
    first, second = _stages(seed, length[0], {"epochs": length[1], "plan": plan})
    mae = layergraft.train(recipe=json.loads(msgspec.json.encode(first)), out=work / f"mae-{length[0]}-seed-{seed}")
    second = msgspec.structs.replace(second, start=str(mae.encoder))
    # By content, so that a candidate that stands in both lists is trained once.
    digest = hashlib.blake2b(json.dumps(plan, sort_keys=True).encode(), digest_size=4).hexdigest()
    slug = f"graft-{length[0]}-{length[1]}-{digest}-seed-{seed}"
    run = layergraft.train(recipe=json.loads(msgspec.json.encode(second)), out=work / slug)
    data = load_data(second)
    encoders = {"graft": layergraft.load_encoder(run.encoder)}
    rows = evaluate_encoders(Task.on_holdout(data.train, data.holdout, seed), PROTOCOL, encoders)
    write_results(run.results, rows)
    return [row for row in rows if row.encoder == "graft"]


def summary(rows: list[ResultRow]) -> dict[str, float]:
    """Shots (and `knn`) -> accuracy on held-out images."""
    accuracies = {row.shots: row.value for row in rows if row.protocol == "logistic" and row.split == "mean"}
    accuracies["knn"] = next(row.value for row in rows if row.protocol == "knn")
    return accuracies


def compare(work: Path, seeds: list[int], candidates: dict[str, tuple[Length, dict[str, Any]]]) -> list[Any]:
    """Every candidate's figures, with the mean over shots and seeds."""
    results = []
    for name, (length, plan) in candidates.items():
        by_seed = [summary(measure(work, seed, length, plan)) for seed in seeds]
        shots = {key: [values[key] for values in by_seed] for key in by_seed[0]}
        mean = float(np.mean([np.mean(values) for key, values in shots.items() if key != "knn"]))
        print(f"{name}: {mean:.2f}  { ({key: np.round(values, 1).tolist() for key, values in shots.items()}) }")
        results.append({"name": name, "epochs": list(length), "plan": plan, "accuracy": shots, "mean": mean})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/plans"), help="where the candidates' runs go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="pre-training seeds")
    arguments = parser.parse_args()
    plans = {name: (LENGTH, plan) for name, plan in PLANS.items()}
    lengths = {f"{mae:g} + {graft:g} epochs": ((mae, graft), UNIFORM) for mae, graft in LENGTHS}
    own_length = " + ".join(f"{stage.epochs:g}" for stage in load_recipe("fashion_tiny").stages.values()) + " epochs"
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - fixed words
    command = f"python tools/compare_plans.py --seeds {' '.join(map(str, arguments.seeds))}"
    protocol = "logistic regression (published), 20 splits, on held-out images; the mean of each seed"
    for part, candidates in (("plans", plans), ("lengths", lengths)):
        record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
        results = compare(arguments.work, arguments.seeds, candidates)
        taken = own_length if part == "lengths" else max(results, key=lambda candidate: candidate["mean"])["name"]
        record[part] = {
            "command": command,
            "commit": commit,
            "machine": machine(),
            "protocol": protocol,
            "seeds": arguments.seeds,
            "candidates": [candidate | {"chosen": candidate["name"] == taken} for candidate in results],
        }
        write_text(RECORD, json.dumps(record, indent=1) + "\n")
        print(f"Recorded in {RECORD}")


if __name__ == "__main__":
    main()
