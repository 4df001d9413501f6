"""Whether `data.augment: fast` and `exact` end at the same accuracy: an encoder in colour, trained on either, by seeds.

The encoder learns the classes from views with all of MoCo v3's operations (the blur suits 36 pixels), because that can
tell paths apart: contrastive stages of this length take the images' two colours for what they are to recognise, and
stay near chance on either path. Both start from the same weights and see the same images with the same random
parameters, so differences are taken seed by seed. Finished runs are kept.

    python tools/compare_augment.py --work runs/augment --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import layergraft
from layergraft.config.yaml_text import read_yaml, write_yaml

PATHS = ("fast", "exact")
RECIPE = """
encoder: {name: vit_tiny_patch16_224, img_size: 36, in_chans: 3, patch_size: 9, embed_dim: 128, depth: 6, num_heads: 4}
data: {source: "builtin:fashion-colour", holdout: 2000}
stages:
  labels:
    objective: {name: classify}
    views: {image: {crop_scale: [0.2, 1.0], jitter: 0.8, gray: 0.2, blur: 0.5, blur_sigma: [0.1, 1.0], solarize: 0.1}}
    optimizer: {base_lr: 2.0e-3, weight_decay: 0.05}
    epochs: 8
    warmup_epochs: 1
    batch_size: 128
monitor: {every: 0}
analyze: []
evaluate: {protocols: [knn, logistic], shots: [1, 5, 10, 50], splits: 10}
"""


def accuracies(work: Path, augment: str, seed: int) -> dict[str, float]:
    """Train one run, where that is not done; protocol and shots -> percent on the test images."""
    recipe = read_yaml(RECIPE) | {"seed": seed}
    recipe["data"]["augment"] = augment
    file = work / f"{augment}-{seed}.yaml"
    work.mkdir(parents=True, exist_ok=True)
    file.write_text(write_yaml(recipe))
    run = layergraft.train(recipe=file, out=work / file.stem)
    rows = [row for row in json.loads(run.results.read_text()) if row["encoder"] == "labels"]
    return {
        "kNN" if row["protocol"] == "knn" else f"{row['shots']} shots": row["value"]
        for row in rows
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
        cells = [
            f"{accuracies.mean():.2f} ± {accuracies.std(ddof=1):.2f}" for accuracies in (fast, exact, fast - exact)
        ]
        print(f"| {measure} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
