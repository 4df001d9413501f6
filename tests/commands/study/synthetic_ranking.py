"""A study.json whose scores follow accuracy, or do not."""

from __future__ import annotations

from typing import Any

NOISE = (3.0, 1.0, 4.0, 1.5, 5.0, 2.0)


def scored_study() -> dict[str, Any]:
    """Six arms of rising accuracy with two seeds; all but the first had a search of three trials."""

    def scores(level: float, place: int) -> dict[str, float]:
        return {"single_images": level / 2, "rankme": -level, "lidar": NOISE[place]}

    arms = []
    for place in range(6):
        level = 20.0 + place
        seeds = [
            {
                "seed": seed,
                "test": {"1": level, "knn": 3.0},
                "holdout": {"1": level + seed, "knn": 90.0 - level},
                "seconds": 1.0,
                "scores": scores(level + seed, place),
            }
            for seed in (0, 1)
        ]
        search = [
            {"settings": {"factor": rate}, "holdout": rate, "chosen": rate == 3.0, "scores": scores(rate, place)}
            for rate in (1.0, 2.0, 3.0)
        ]
        arms.append({"name": f"arm{place}", "title": f"arm {place}", "seeds": seeds, "search": search if place else []})
    return {
        "source": "images",
        "seeds": [0, 1],
        "command": "layergraft ablate",
        "machine": {},
        "seconds": 1.0,
        "protocol": {},
        "arms": arms,
    }
