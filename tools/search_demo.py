"""The search for the demo's recipe: changes of `fashion_paper` at equal core-seconds, judged on held-out images alone.

    python tools/search_demo.py --work runs/demo-search --pilots     # what steps cost: alone on the machine
    python tools/search_demo.py --work runs/demo-search
    python tools/search_demo.py                                      # the page from the committed numbers

Every candidate is trained for the budget, its stages longer or shorter by one factor, as `layergraft bench quality`
does it; no test image is opened. Stop and start it at will.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layergraft.commands.bench.quality.jobs import read_outcomes
from layergraft.commands.bench.quality.plan import Job, JobOutcomes, Method, Plan
from layergraft.commands.bench.quality.run import carry_out
from layergraft.commands.study.pool import LOG, Pool
from layergraft.commands.study.study_recipe import study_recipe
from layergraft.config import EvaluateConfig
from layergraft.config.loading import load_recipe
from layergraft.runs.atomic import write_text
from layergraft.training.launch import machine

DOCS = Path(__file__).parents[1] / "docs"
PART = re.compile(r"(<!-- demo search -->\n\n).*?(\n<!-- end demo search -->)", re.S)
SHOTS = ("1", "5", "10")
Changes = dict[str, Any]
OBJECTIVE = "stages.graft.objective"
HALF = {"keep_ratio": 0.5}
VICREG = {"name": "vicreg", "expander": [512, 512, 512]}
SIMCLR = {"name": "simclr", "temperature": 0.2, "projector": [512, 512, 128]}


def rates(factor: float) -> Changes:
    """Muon with both stages' learning rates times a factor of the recipe's."""
    base = {"mae": 3e-3, "graft": 4e-3}
    changes = {f"stages.{stage}.optimizer.base_lr": factor * rate for stage, rate in base.items()}
    return changes | {f"stages.{stage}.optimizer.name": "muon" for stage in base}


def epochs(mae: float, graft: float) -> Changes:
    """How the time is shared out; the warm-ups stay a tenth and a sixth."""
    return {
        "stages.mae.epochs": mae, "stages.mae.warmup_epochs": mae / 10,
        "stages.graft.epochs": graft, "stages.graft.warmup_epochs": graft / 6,
    }  # fmt: skip


MUON = rates(2)
LATE = rates(4) | epochs(14, 3)
HALF_SIMCLR = LATE | {OBJECTIVE: SIMCLR | HALF}
BF16 = HALF_SIMCLR | {"stages.mae.batch_size": 64, "engine.precision": "bf16-mixed"}
CANDIDATES: dict[str, Changes] = {
    "fashion_paper: AdamW, MoCo v3, 10 : 4.5 epochs": {},
    "Muon, rates × 2": MUON,
    "the same, rates × 1": rates(1),
    "the same, 5 : 6.5 epochs": MUON | epochs(5, 6.5),
    "the same, 2.5 : 8 epochs": MUON | epochs(2.5, 8),
    "the same, a quarter of the patches kept": MUON | {f"{OBJECTIVE}.keep_ratio": 0.25},
    "the same, VICReg": MUON | {OBJECTIVE: VICREG},
    "the same, SimCLR": MUON | {OBJECTIVE: SIMCLR},
    "VICReg, rates × 4": rates(4) | {OBJECTIVE: VICREG},
    "VICReg, 14 : 3 epochs": MUON | {OBJECTIVE: VICREG} | epochs(14, 3),
    "VICReg, rates × 4, 14 : 3 epochs": LATE | {OBJECTIVE: VICREG},
    "the same, half of the patches kept": LATE | {OBJECTIVE: VICREG | HALF},
    "the same, half kept, 18 : 2 epochs": LATE | {OBJECTIVE: VICREG | HALF} | epochs(18, 2),
    "SimCLR, rates × 4, 14 : 3 epochs, half kept": HALF_SIMCLR,
    "the same, batches of 64 for MAE": HALF_SIMCLR | {"stages.mae.batch_size": 64},
    "the same, batches of 128 for SimCLR": HALF_SIMCLR | {"stages.graft.batch_size": 128},
    "the same, temperature 0.1": HALF_SIMCLR | {f"{OBJECTIVE}.temperature": 0.1},
    "the same, rates × 8": HALF_SIMCLR | rates(8),
    "SimCLR, rates × 4, 14 : 3 epochs, half kept, batches of 64 for MAE, products in bfloat16": BF16,
    "the same, 18 : 2 epochs": BF16 | epochs(18, 2),
    "the same, 10 : 5 epochs": BF16 | epochs(10, 5),
    "the same, 6 : 6.5 epochs": BF16 | epochs(6, 6.5),
}


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
            name=re.sub(r"[^\w.]+", "-", name),
            kind="recipe",
            recipe=study_recipe(load_recipe("fashion_paper", CANDIDATES[name])),
        )
        for name in names
    ]


def study(asked: argparse.Namespace) -> dict[str, Any]:
    """Train what is left, and gather what every candidate reached."""
    plan = (PilotPlan if asked.pilots else HeldOutPlan)(
        methods=methods(asked.candidates),
        budgets=[asked.budget],
        seeds=asked.seeds,
        evaluate=EvaluateConfig(protocols=("logistic",), shots=(1, 5, 10), splits=20),
    )
    asked.work.mkdir(parents=True, exist_ok=True)
    outcomes = read_outcomes(plan, asked.work)
    with Pool(1 if asked.pilots else asked.jobs, asked.work / LOG) as pool:
        carry_out(plan, outcomes, asked.work, pool)
    if asked.pilots:
        sys.exit(0)
    rows = []
    for name, method in zip(asked.candidates, plan.methods, strict=True):
        points = [outcomes[point] for _, _, point in plan.points(method)]
        row = {"name": name, "changes": CANDIDATES[name], "steps": points[0]["steps"]}
        row["core_seconds"] = [round(point["core_seconds"], 1) for point in points]
        row["accuracy"] = {shots: [point["holdout"][shots] for point in points] for shots in SHOTS}
        rows.append(row)
    return {"budget": asked.budget, "seeds": asked.seeds, "machine": machine(), "candidates": rows}


def table(found: dict[str, Any]) -> str:
    """The candidates in a Markdown table, the best in bold."""
    means = [np.mean(list(row["accuracy"].values())) for row in found["candidates"]]
    lines = ["| held-out accuracy (%) | core-seconds | steps | " + " | ".join(f"{s} a class" for s in SHOTS) + " |"]
    lines.append("|---" * (len(SHOTS) + 3) + "|")
    for row, mean in zip(found["candidates"], means, strict=True):
        name = f"**{row['name']}**" if mean == max(means) else row["name"]
        cells = [f"{np.mean(row['core_seconds']):.0f}", " + ".join(map(str, row["steps"].values()))]
        cells += [f"{np.mean(row['accuracy'][shots]):.1f}" for shots in SHOTS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="where the runs go; without it the page is filled from the file")
    parser.add_argument("--budget", type=float, default=80.0, help="core-seconds of training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--candidates", nargs="+", default=list(CANDIDATES), choices=CANDIDATES)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--pilots", action="store_true", help="only find out what steps cost")
    parser.add_argument("--study", type=Path, default=DOCS / "demo_search.json")
    parser.add_argument("--page", type=Path, default=DOCS / "recipes.md")
    asked = parser.parse_args()
    if asked.work:
        write_text(asked.study, json.dumps(study(asked), indent=1) + "\n")
    text = table(json.loads(asked.study.read_text()))
    print(text, end="")
    page = asked.page.read_text()
    write_text(asked.page, PART.sub(lambda part: part[1] + text + part[2], page))


if __name__ == "__main__":
    main()
