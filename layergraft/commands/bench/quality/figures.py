"""What is said of the outcomes: accuracy at every budget, core-seconds to a target, and leads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layergraft.commands.bench.quality.plan import SHOTS, JobOutcomes, Method, Plan, budget_name

FEW = str(SHOTS)


def core_seconds_to(target: float, points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Core-seconds until an accuracy is first reached, between two budgets by the logarithm of the time.

    Args:
        target: accuracy in percent.
        points: (core-seconds, accuracy), from short to long.

    Returns:
        `core_seconds` (None where no budget reaches it) and `how`: `between` two budgets; `at_most` where the smallest
        reaches it already; `not_reached`.
    """
    before: tuple[float, float] | None = None
    for seconds, accuracy in points:
        if accuracy >= target:
            if before is None:
                return {"core_seconds": seconds, "how": "at_most"}
            share = (target - before[1]) / (accuracy - before[1])
            log = math.log(before[0]) + share * (math.log(seconds) - math.log(before[0]))
            return {"core_seconds": math.exp(log), "how": "between"}
        before = (seconds, accuracy)
    return {"core_seconds": None, "how": "not_reached"}


def mean_and_error(values: Sequence[float]) -> dict[str, float | None]:
    """`mean`, and `error`: its standard error, None of a single value."""
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "error": error}


def method_figures(plan: Plan, method: Method, outcomes: JobOutcomes, target: float) -> dict[str, Any]:
    """Everything about one method.

    Args:
        plan: what was done.
        method: recipe, rival or floor.
        outcomes: of all jobs.
        target: held-out accuracy in percent.
    """
    points = [_point(outcomes, budget, seed, name) for budget, seed, name in plan.points(method)]
    figures: dict[str, Any] = {"name": method.name, "kind": method.kind, "points": points}
    budgets = plan.budgets if method.kind != "floor" else [0.0]
    figures["budgets"] = [_at_budget(points, budget) for budget in budgets]
    if method.kind == "floor":
        return figures
    means = [(row["core_seconds"], row["holdout"]["mean"]) for row in figures["budgets"]]
    by_seed = {
        str(seed): core_seconds_to(
            target, [(p["core_seconds"], p["holdout"][FEW]) for p in points if p["seed"] == seed]
        )
        for seed in plan.seeds
    }
    search = [
        {
            "budget": budget,
            "rate": rate,
            "holdout": outcomes[name]["holdout"][FEW],
            "core_seconds": outcomes[name]["core_seconds"],
            "chosen": rate == plan.rate(method, budget, outcomes),
        }
        for budget in plan.budgets
        for rate, name in zip(method.rates, plan.trials(method, budget), strict=False)
    ]
    return figures | {"to_target": core_seconds_to(target, means) | {"seeds": by_seed}, "search": search}


def default_target(plan: Plan, outcomes: JobOutcomes) -> float:
    """The held-out accuracy that the first method reaches with the largest budget, mean over seeds."""
    longest = [name for budget, _, name in plan.points(plan.trained[0]) if budget == plan.budgets[-1]]
    return float(np.mean([outcomes[name]["holdout"][FEW] for name in longest]))


def leads(methods: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By how many points of test accuracy the first method leads each other one at each budget, paired by seed."""
    first = methods[0]
    rows: list[dict[str, Any]] = []
    for other in methods[1:]:
        for at in first["budgets"]:
            ours = {p["seed"]: p["test"] for p in first["points"] if p["budget"] == at["budget"]}
            budget = 0.0 if other["kind"] == "floor" else at["budget"]
            theirs = {p["seed"]: p["test"] for p in other["points"] if p["budget"] == budget}
            for metric in (FEW, "knn"):
                differences = [ours[seed][metric] - theirs[seed][metric] for seed in ours]
                row = {"over": other["name"], "budget": at["budget"], "metric": metric}
                rows.append(row | mean_and_error(differences))
    return rows


def _point(outcomes: JobOutcomes, budget: float, seed: int, name: str) -> dict[str, Any]:
    outcome, test = outcomes[name], outcomes[f"{name}.test"]
    trained = {key: outcome[key] for key in ("core_seconds", "steps") if key in outcome}
    return {"budget": budget, "seed": seed} | trained | {"holdout": test["holdout"] | outcome["holdout"],
                                                         "test": test["test"]}  # fmt: skip


def _at_budget(points: Sequence[Mapping[str, Any]], budget: float) -> dict[str, Any]:
    rows = [point for point in points if point["budget"] == budget]
    test = {metric: mean_and_error([row["test"][metric] for row in rows]) for metric in (FEW, "knn")}
    held_out = mean_and_error([row["holdout"][FEW] for row in rows])
    trained = [row["core_seconds"] for row in rows if "core_seconds" in row]
    return {
        "budget": budget,
        "name": budget_name(budget),
        "core_seconds": float(np.mean(trained)) if trained else 0.0,
        "holdout": held_out,
        "test": test,
    }
