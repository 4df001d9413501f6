"""The search for the demo's recipe: changes of `fashion_paper` at equal core-seconds, judged on held-out images alone.

    python tools/search_demo.py --out runs/demo-search --budget 80

Every candidate of `CANDIDATES` is trained for the budget, its stages longer or shorter by one factor, as
`layergraft bench quality` does it; no test image is opened. Stop and start it at will; `--json` writes what is there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layergraft.commands.bench.quality.jobs import read_outcomes
from layergraft.commands.bench.quality.plan import Job, JobOutcomes, Method, Plan
from layergraft.commands.bench.quality.run import carry_out
from layergraft.commands.study.study_recipe import study_recipe
from layergraft.config import EvaluateConfig
from layergraft.config.loading import load_recipe
from layergraft.runs.atomic import write_text
from layergraft.training.launch import machine

SHOTS = ("1", "5", "10")
STAGES = ("mae", "graft")
Changes = dict[str, Any]
MUON: Changes = {
    "stages.mae.optimizer.name": "muon", "stages.graft.optimizer.name": "muon",
    "stages.mae.optimizer.base_lr": 6e-3, "stages.graft.optimizer.base_lr": 8e-3,
}  # fmt: skip
VICREG = {"name": "vicreg", "expander": [512, 512, 512]}
SIMCLR = {"name": "simclr", "temperature": 0.2, "projector": [512, 512, 128]}
SMALL_HEADS = {
    "stages.graft.objective.projector": [256, 256, 128], "stages.graft.objective.predictor": [256, 128],
}  # fmt: skip
FEW_PATCHES = {"stages.graft.objective.keep_ratio": 0.25}


HALF = {"stages.graft.objective.keep_ratio": 0.5}
SIMCLR_HALF = {"stages.graft.objective": SIMCLR | {"keep_ratio": 0.5}}


def rates(factor: float) -> Changes:
    """Both stages' learning rates times a factor."""
    return {f"stages.{stage}.optimizer.base_lr": factor * MUON[f"stages.{stage}.optimizer.base_lr"] for stage in STAGES}


def epochs(mae: float, graft: float) -> Changes:
    """How the time is shared out; the warm-ups stay a tenth and a sixth."""
    return {
        "stages.mae.epochs": mae, "stages.mae.warmup_epochs": mae / 10,
        "stages.graft.epochs": graft, "stages.graft.warmup_epochs": graft / 6,
    }  # fmt: skip


MUON_VICREG = MUON | {"stages.graft.objective": VICREG}
SHORT = MUON | SIMCLR_HALF | epochs(14, 3) | rates(2)
CANDIDATES: dict[str, Changes] = {
    "paper": {},
    "muon": MUON,
    "muon, more graft": MUON | epochs(5, 6.5),
    "muon, half the rates": MUON | rates(0.5),
    "muon, 0.25 kept": MUON | FEW_PATCHES,
    "muon, vicreg": MUON_VICREG,
    "muon, vicreg, more mae": MUON_VICREG | epochs(14, 3),
    "muon, vicreg, twice the rates": MUON_VICREG | rates(2),
    "muon, vicreg, batches of 64 and 32": MUON_VICREG | {"stages.mae.batch_size": 64, "stages.graft.batch_size": 32},
    "muon, simclr": MUON | {"stages.graft.objective": SIMCLR},
    "muon, more mae": MUON | epochs(14, 3),
    "muon, small heads": MUON | SMALL_HEADS,
    "muon, vicreg, half kept": MUON_VICREG | HALF,
    "muon, vicreg, half kept, more mae, twice the rates": MUON_VICREG | HALF | epochs(14, 3) | rates(2),
    "muon, vicreg, half kept, most mae, twice the rates": MUON_VICREG | HALF | epochs(18, 2) | rates(2),
    "muon, simclr, half kept, more mae, twice the rates": MUON | SIMCLR_HALF | epochs(14, 3) | rates(2),
    "muon, vicreg, more mae, twice the rates": MUON_VICREG | epochs(14, 3) | rates(2),
    "s": SHORT,
    "s, most mae": SHORT | epochs(18, 2),
    "s, 4 times the rates": SHORT | rates(4),
    "s, batches of 64 and 64": SHORT | {"stages.mae.batch_size": 64},
    "s, batches of 128": SHORT | {"stages.graft.batch_size": 128},
    "s, temperature 0.1": SHORT | {"stages.graft.objective.temperature": 0.1},
    "s, mask 0.6": SHORT | {"stages.mae.objective.mask_ratio": 0.6},
    "s, small heads": SHORT | {"stages.graft.objective.projector": [256, 256, 128]},
    "s, one decoder block": SHORT | {"stages.mae.objective.decoder.depth": 1},
    "s, slow lower two thirds": SHORT | {"stages.graft.plan.lr_scale": [0.3, 0.3, 1.0]},
    "muon, vicreg, wsd": MUON_VICREG | {f"stages.{stage}.optimizer.schedule": "wsd" for stage in STAGES},
    "muon, vicreg, batches of 128": MUON_VICREG | {"stages.graft.batch_size": 128},
    "muon, vicreg, 27 pixels first": MUON_VICREG | {"stages.graft.progressive": [{"until": 0.6, "size": 27}]},
    "muon, vicreg, slow lower two thirds": MUON_VICREG | {"stages.graft.plan.lr_scale": [0.3, 0.3, 1.0]},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HeldOutPlan(Plan):
    """A plan that never opens a test image."""

    def jobs(self, outcomes: JobOutcomes) -> Iterator[Job]:
        return (job for job in super().jobs(outcomes) if job.kind != "test")


@dataclass(frozen=True, kw_only=True)
class PilotPlan(HeldOutPlan):
    """What a step of each candidate costs: found first, one at a time, as the budgets are shared out by it."""

    def jobs(self, outcomes: JobOutcomes) -> Iterator[Job]:
        return (job for job in super().jobs(outcomes) if job.kind == "pilot")


def methods(names: list[str]) -> list[Method]:
    """The candidates as what `bench quality` trains."""
    return [
        Method(
            name=name.replace(" ", "-").replace(",", ""),
            kind="recipe",
            recipe=study_recipe(load_recipe("fashion_paper", CANDIDATES[name])),
        )
        for name in names
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=80.0, help="core-seconds of training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--candidates", nargs="+", default=list(CANDIDATES), choices=CANDIDATES)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--pilots", action="store_true", help="only find out what steps cost")
    parser.add_argument("--json", type=Path, help="where the record goes")
    arguments = parser.parse_args()
    kind = PilotPlan if arguments.pilots else HeldOutPlan
    plan = kind(
        methods=methods(arguments.candidates),
        budgets=[arguments.budget],
        seeds=arguments.seeds,
        evaluate=EvaluateConfig(protocols=("logistic",), shots=(1, 5, 10), splits=20),
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    outcomes = read_outcomes(plan, arguments.out)
    carry_out(plan, outcomes, arguments.out, 1 if arguments.pilots else arguments.jobs)
    if arguments.pilots:
        return
    rows = []
    for name, method in zip(arguments.candidates, plan.methods, strict=True):
        points = [outcomes[point] for _, _, point in plan.points(method)]
        accuracy = {shots: [point["holdout"][shots] for point in points] for shots in SHOTS}
        rows.append(
            {
                "name": name,
                "changes": CANDIDATES[name],
                "core_seconds": [round(point["core_seconds"], 1) for point in points],
                "steps": points[0]["steps"],
                "accuracy": accuracy,
                "mean": float(np.mean(list(accuracy.values()))),
            }
        )
        shown = "  ".join(f"{np.mean(accuracy[shots]):5.1f}" for shots in SHOTS)
        print(f"{name:32s} {rows[-1]['mean']:5.2f}   {shown}   {rows[-1]['core_seconds']} {rows[-1]['steps']}")
    if arguments.json:
        record = {"budget": arguments.budget, "seeds": arguments.seeds, "machine": machine(), "candidates": rows}
        write_text(arguments.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
