"""Compare graft plans and lengths of `fashion_paper` by `layergraft ablate`, on held-out images, and record them.

    python tools/compare_plans.py --work runs/plans --seeds 1 2

runs two studies, of plans and of lengths, without a search of the rate, and writes
`layergraft/config/recipes/recorded/fashion_paper.json`, which the report of such a run shows, marked as recorded. Only
figures on held-out images enter it, of the seeds that are asked for. Stop and start it at will.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import layergraft
from layergraft.commands.ablate.outcome import MeasuredAblation
from layergraft.config import load_recipe
from layergraft.runs.atomic import write_text
from layergraft.runs.report.recorded import record_file

RECORD = record_file("fashion_paper")
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
# Epochs of (mae, graft), with the uniform plan. Longer is better; the recipe takes what fits into two minutes.
LENGTHS: tuple[Length, ...] = ((6, 6), (10, 4), (10, 4.5), (10, 6))
LENGTH: Length = (10, 6)  # of the plans' comparison
Candidates = dict[str, tuple[Length, dict[str, Any]]]


def arms_of(candidates: Candidates) -> dict[str, Any]:
    """The candidates as the file of a study."""
    keys = ("stages.mae.epochs", "stages.graft.epochs", "stages.graft.plan")
    arms = {name: dict(zip(keys, (*length, plan), strict=True)) for name, (length, plan) in candidates.items()}
    return {"arms": arms, "search": 1}


def results_of(study: MeasuredAblation, candidates: Candidates, seeds: list[int]) -> list[dict[str, Any]]:
    """Every candidate's figures on held-out images, with the mean over shots and seeds."""
    results = []
    for arm in study.arms:
        if arm.title not in candidates:
            continue
        by_seed = {measured.seed: measured.holdout for measured in arm.seeds}
        shots = {key: [by_seed[seed][key] for seed in seeds] for key in (*study.few_shots, "knn")}
        mean = arm.held_out(set(seeds))
        (mae, graft), plan = candidates[arm.title]
        results.append({"name": arm.title, "epochs": [mae, graft], "plan": plan, "accuracy": shots, "mean": mean})
    return sorted(results, key=lambda result: list(candidates).index(result["name"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/plans"), help="where the studies go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="pre-training seeds")
    arguments = parser.parse_args()
    plans: Candidates = {name: (LENGTH, plan) for name, plan in PLANS.items()}
    lengths: Candidates = {f"{mae:g} + {graft:g} epochs": ((mae, graft), UNIFORM) for mae, graft in LENGTHS}
    own_length = " + ".join(f"{stage.epochs:g}" for stage in load_recipe("fashion_paper").stages.values()) + " epochs"
    for part, candidates in (("plans", plans), ("lengths", lengths)):
        vary = arguments.work / f"{part}.yaml"
        write_text(vary, json.dumps(arms_of(candidates), indent=1) + "\n")  # which is YAML, too
        out = arguments.work / part
        study = layergraft.ablate(recipe="fashion_paper", vary=vary, seeds=max(arguments.seeds) + 1, out=out)
        found = study.measured().study
        results = results_of(found, candidates, arguments.seeds)
        taken = own_length if part == "lengths" else max(results, key=lambda candidate: candidate["mean"])["name"]
        record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
        record[part] = {
            "command": f"python tools/compare_plans.py --seeds {' '.join(map(str, arguments.seeds))}",
            "commit": found.commit,
            "machine": found.machine,
            "protocol": "logistic regression (published), 20 splits, on held-out images; the mean of each seed",
            "seeds": arguments.seeds,
            "candidates": [candidate | {"chosen": candidate["name"] == taken} for candidate in results],
        }
        write_text(RECORD, json.dumps(record, indent=1) + "\n")
        print(f"Recorded in {RECORD}")


if __name__ == "__main__":
    main()
