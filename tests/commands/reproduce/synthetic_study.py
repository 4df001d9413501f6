"""A study.json with invented numbers, for the tests of what is made from one."""

from __future__ import annotations

import math
from typing import Any

SHOTS = ("1", "5", "10", "50")
COLUMNS = (*SHOTS, "1%", "10%", "knn")
LADDER = dict(zip(COLUMNS, (0.0, 12.0, 16.0, 22.0, 12.5, 24.0, 30.0), strict=True))  # accuracy over 1 shot
WOBBLE = (0.3, -0.2, 0.1, -0.4, 0.2)  # of the seeds
# Arm -> (accuracy at 1 shot, budget, parents).
ARMS: dict[str, tuple[float, str | None, list[str]]] = {
    "random": (20.0, None, []),
    "pixels": (25.0, None, []),
    "mae": (26.0, "both", []),
    "scratch": (30.0, "epochs", []),
    "scratch_compute": (33.0, "compute", []),
    "joint": (24.0, "both", ["mae", "scratch"]),
    "graft_frozen": (34.0, "both", ["mae", "scratch"]),
    "cl_mim": (22.0, "both", ["scratch", "mae"]),
    "graft_slow": (36.0, "both", ["mae", "scratch"]),
    "graft_uniform": (35.0, "both", ["mae", "scratch"]),
}


def arm(name: str, level: float, budget: str | None, parents: list[str], seeds: int, place: int) -> dict[str, Any]:
    def values(seed: int) -> dict[str, float]:
        # A part of the wobble is the arm's own, so that paired differences have a spread.
        own = WOBBLE[seed] + 0.2 * math.sin(3 * seed + 2 * place) if name != "pixels" else 0.0
        return {column: level + more + own for column, more in LADDER.items()}

    trials = [
        {"settings": {"base_lr": lr}, "holdout": level - lr, "chosen": lr == 0.001, "diverged": False, "scores": {}}
        for lr in (0.001, 0.002, 0.004)
    ]
    return {
        "name": name,
        "title": name.removesuffix("_compute").replace("_", " "),
        "parents": parents,
        "budget": budget,
        "stages": [] if budget is None else [{"name": "mae", "objective": "mae", "epochs": 10.0}],
        "flops": 0.0 if budget is None else 1e13 * (2 if budget == "both" else 1),
        "search": [] if budget is None else trials,
        "plan": "all layers alike",
        "diverged": {},
        "seeds": [
            {"seed": seed, "test": values(seed), "holdout": values(seed), "seconds": 60.0 + seed, "scores": {}}
            for seed in range(seeds)
        ],
    }


def synthetic_study(changes: dict[str, float] | None = None, seeds: int = 5, without: tuple[str, ...] = ()) -> Any:
    """A study in which all claims hold.

    Args:
        changes: arm -> another accuracy at 1 shot.
        seeds: of both parents and the chosen graft; the others have three at most.
        without: arms that are missing.
    """
    many = {"mae", "scratch", "scratch_compute", "graft_slow"}
    arms = [
        arm(name, (changes or {}).get(name, level), budget, parents, seeds if name in many else min(3, seeds), place)
        for place, (name, (level, budget, parents)) in enumerate(ARMS.items())
        if name not in without
    ]
    return {
        "scale": "tiny",
        "source": "builtin:fashion-canvas",
        "seeds": list(range(seeds)),
        "command": "layergraft reproduce --scale tiny --seeds 5 --out runs/claims",
        "commit": "abc1234",
        "machine": {"cpu": "an abacus", "cores": 2, "threads": 2, "gpu": None, "versions": {"python": "3.11"}},
        "seconds": 5400.0,
        "protocol": {"protocols": ["knn", "logistic"], "splits": 20},
        "arms": arms,
        "chosen_graft": "graft_slow",
        "changes": {},
        "conflict": [
            {
                "seed": seed,
                "blocks": [
                    {
                        "block": block,
                        "mean": -0.05 - 0.01 * WOBBLE[seed],
                        "negative": 0.5 + (0.03 + 0.01 * seed) * block,
                    }
                    for block in range(4)
                ],
                "during": [
                    {
                        "part": part,
                        "blocks": [
                            {"block": block, "mean": 0.1 * (0.5 - part) + 0.001 * WOBBLE[seed], "negative": 0.25 * part}
                            for block in range(4)
                        ],
                    }
                    for part in (0.25, 0.75)
                ],
            }
            for seed in range(min(3, seeds))
        ],
    }
