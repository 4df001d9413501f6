"""Whether `data.augment: fast` and `exact` end at the same accuracy: a shortened demo in colour, by seeds.

One epoch of MAE, whose views are cropped and mirrored alone, and a third of the demo's contrastive stage, whose views
have all of MoCo v3's operations, with a blur that suits 36 pixels. Both paths start from the same weights and see the
same images with the same random parameters, so differences are taken seed by seed. Finished runs are kept.

    python tools/compare_augment.py --work runs/augment --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import layergraft

PATHS = ("fast", "exact")
COLOURS: dict[str, Any] = {"crop_scale": [0.2, 1.0], "jitter": 0.8, "gray": 0.2, "blur_sigma": [0.1, 1.0]}
SETTINGS: dict[str, Any] = {
    "data.source": "builtin:fashion-colour",
    "encoder.in_chans": 3,
    "stages.mae.epochs": 1,
    "stages.mae.warmup_epochs": 0.25,
    "stages.graft.epochs": 1.5,
    "stages.graft.warmup_epochs": 0.25,
    "stages.graft.views": {"first": COLOURS | {"blur": 1.0}, "second": COLOURS | {"blur": 0.1, "solarize": 0.2}},
    "monitor.every": 0,
    "analyze": [],
    "evaluate.splits": 10,
}


def accuracies(out: Path, augment: str, seed: int) -> dict[str, float]:
    """Train one run, where that is not done; protocol and shots -> percent on the test images."""
    settings = SETTINGS | {"data.augment": augment, "seed": seed}
    run = layergraft.train(recipe="fashion_tiny", out=out / f"{augment}-{seed}", overrides=settings)
    rows = json.loads(run.results.read_text())
    own = [row for row in rows if row["encoder"] == "graft" and row["split"] in ("mean", "0")]
    return {
        "kNN" if row["protocol"] == "knn" else f"{row['shots']} shots": row["value"]
        for row in own
        if row["protocol"] == "knn" or row["split"] == "mean"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/augment"), help="where the runs go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the recipe")
    arguments = parser.parse_args()
    runs = [{path: accuracies(arguments.work, path, seed) for path in PATHS} for seed in arguments.seeds]
    print("| | " + " | ".join((*PATHS, "fast - exact")) + " |\n|---|---|---|---|")
    for measure in runs[0]["fast"]:
        fast, exact = (np.array([run[path][measure] for run in runs]) for path in PATHS)
        cells = [f"{own.mean():.2f} ± {own.std(ddof=1):.2f}" for own in (fast, exact, fast - exact)]
        print(f"| {measure} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
