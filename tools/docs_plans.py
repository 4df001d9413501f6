"""Fill the documentation's page of plans from the committed plans.json: every number on it.

    python tools/plan_study.py --work runs/plans --train --measure     # writes docs/plans.json
    python tools/docs_plans.py

replaces what stands between `<!-- PART -->` and `<!-- end -->` in `docs/plans.md`; the text around is written by hand.
Predictors are of plans drawn by chance; what a plan reached is the mean over seeds on held-out images.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from layergraft.commands.study.ranking import (
    SAMPLES,
    TITLES,
    Numbers,
    Ranking,
    correlations,
    over_encoders,
    ranking_text,
    ranks,
)

DOCS = Path(__file__).parents[1] / "docs"
PAGE, FILE = DOCS / "plans.md", DOCS / "plans.json"
PART = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
DRAWN = re.compile(r"(rising|falling|any|frozen)( mean)? \d")
FLOOR = 0.01  # what counts as the scale of a frozen block, in logarithms
Study = Mapping[str, Any]

# Statistic of a block -> its weight in a plan, as the argument for it has it: above the mean is to move faster.
WEIGHTS: dict[str, Callable[[Mapping[str, float]], float]] = {
    "images in conflict": lambda row: row["conflict"],
    "cosine of an image's gradients": lambda row: -row["image_cosine"],
    "cosine of the mean gradients": lambda row: -row["cosine"],
    "signs that disagree": lambda row: -row["sign_agreement"],
    "norm of the contrastive gradient over MIM's": lambda row: float(np.log(row["norm_ratio"])),
    "Fisher information for contrast over MIM's": lambda row: float(np.log(row["fisher_ratio"])),
    "Fisher informations do not overlap": lambda row: -row["fisher_overlap"],
    "contrastive gradients of images agree": lambda row: row["second_steadiness"],
    "contrast gains by its own step": lambda row: -row["cl_by_cl"],
    "MIM gains by the step of contrast": lambda row: -row["mim_by_cl"],
    "contrast gains by the step of MIM": lambda row: -row["cl_by_mim"],
}


def spearman(a: Numbers, b: Numbers) -> float:
    """Of two rows."""
    return float(correlations(a, b))


def ahead(a: Numbers, b: Numbers, accuracy: Numbers) -> Ranking:
    """By how much the rank correlation of `a` is above that of `b`, with 95 % interval; the same plans for both."""
    drawn = np.random.default_rng(0).integers(0, len(a), (SAMPLES, len(a)))
    differences = correlations(a[drawn], accuracy[drawn]) - correlations(b[drawn], accuracy[drawn])
    low, high = np.quantile(differences, (0.025, 0.975))
    mean = spearman(a, accuracy) - spearman(b, accuracy)
    return Ranking(mean=mean, low=float(low), high=float(high), groups=1, encoders=len(a))


def plans_of(study: Study, images: str) -> list[str]:
    """All plans that were trained on some images, in the order of the study."""
    seeds = study["sets"][images].values()
    return [plan for plan in study["plans"] if all(plan in seed["accuracy"] for seed in seeds)]


def drawn_plans(study: Study, images: str) -> list[str]:
    """The plans that chance made, without references."""
    return [plan for plan in plans_of(study, images) if DRAWN.fullmatch(plan)]


def reached(study: Study, images: str, plans: Sequence[str]) -> Numbers:
    """Accuracy of plans in percent on held-out images: (seeds, plans)."""
    seeds = study["sets"][images].values()
    return np.array([[seed["accuracy"][plan] for plan in plans] for seed in seeds])


def _logarithms(study: Study, plans: Sequence[str]) -> Numbers:
    """(plans, blocks)."""
    return np.log(np.maximum([study["plans"][plan] for plan in plans], FLOOR))


def simple_predictors(study: Study, plans: Sequence[str]) -> dict[str, Numbers]:
    """What a plan alone says, before any gradient."""
    logarithms = _logarithms(study, plans)
    depth = np.arange(logarithms.shape[1], dtype=np.float64)
    return {
        "mean of the logarithms": logarithms.mean(1),
        "mean of the scales": np.exp(logarithms).mean(1),
        "scale of the highest block": logarithms[:, -1],
        "scale of the lowest block": logarithms[:, 0],
        "rises with depth": (logarithms - logarithms.mean(1, keepdims=True)) @ (depth - depth.mean()),
        "is even": -logarithms.std(1),
    }


def shape_predictor(logarithms: Numbers, rows: Sequence[Mapping[str, Any]], weight: Callable[..., float]) -> Numbers:
    """How well a plan follows a statistic, whatever its overall rate: sum of centred weight times logarithm."""
    weights = np.array([weight(row) for row in rows])
    centred = weights - weights.mean()
    if np.abs(centred).max() <= 1e-9 * np.abs(weights).max():  # the same in all blocks, but for rounding
        return np.zeros(len(logarithms))
    return np.asarray(logarithms @ centred)


def amount_predictors(study: Study, plans: Sequence[str], start: Mapping[str, Any]) -> dict[str, Numbers]:
    """Gain and harm: to first order under the plan's scales, and measured after a step along one direction."""
    scales = np.array([study["plans"][plan] for plan in plans])
    column = {key: np.array([row[key] for row in start["warm"]]) for key in ("cl_by_cl", "mim_by_cl", "mim_by_mim")}
    gain = -scales @ column["cl_by_cl"] / -column["cl_by_cl"].sum()
    harm = scales @ column["mim_by_cl"] / -column["mim_by_mim"].sum()
    shares = column["cl_by_cl"] / column["cl_by_cl"].sum()
    found = {
        "mean of the logarithms, weighted by contrast's gain": _logarithms(study, plans) @ shares,
        "first order: gain of contrast": gain,
        "first order: no harm to MIM": -harm,
        "first order: gain minus harm": gain - harm,
    }
    if any(plan not in start["after"] for plan in plans):
        return found
    masked, contrast = start["before"]
    for count in start["after"][plans[0]]:
        after = np.array([start["after"][plan][count] for plan in plans])
        step = f"{count} step{'s' if count != '1' else ''}"
        found |= {
            f"measured, {step}: gain of contrast": -after[:, 1] / contrast,
            f"measured, {step}: no harm to MIM": -after[:, 0] / masked,
            f"measured, {step}: gain minus harm": -after[:, 1] / contrast - after[:, 0] / masked,
        }
    return found


def predictors(study: Study, images: str, plans: Sequence[str]) -> dict[str, Numbers]:
    """Name -> score of each plan, ranks averaged over seeds."""
    logarithms = _logarithms(study, plans)
    found: dict[str, list[Numbers]] = {}
    for seed in study["sets"][images].values():
        of_seed = simple_predictors(study, plans)
        for heads in ("fresh", "warm"):
            rows = seed["start"][heads]
            of_seed |= {
                f"{name} ({heads} heads)": shape_predictor(logarithms, rows, weight) for name, weight in WEIGHTS.items()
            }
        of_seed |= amount_predictors(study, plans, seed["start"])
        for name, values in of_seed.items():
            found.setdefault(name, []).append(ranks(values))
    return {name: np.mean(values, axis=0) for name, values in found.items()}


def residual(values: Numbers, others: Numbers) -> Numbers:
    """Ranks less what the ranks of `others` and their squares say linearly: the overall rate may be best in between."""
    x, y = ranks(others), ranks(values)
    x = (x - x.mean()) / x.std()
    design = np.stack((np.ones_like(x), x, x**2), axis=1)
    return np.asarray(y - design @ np.linalg.lstsq(design, y, rcond=None)[0])


def predictor_rows(study: Study) -> list[tuple[str, dict[str, Ranking], dict[str, float]]]:
    """(predictor, set -> correlation with interval, set -> correlation once the mean rate is accounted for)."""
    plans = {images: drawn_plans(study, images) for images in study["sets"]}
    accuracy = {images: reached(study, images, plans[images]).mean(0) for images in study["sets"]}
    scored = {images: predictors(study, images, plans[images]) for images in study["sets"]}
    rate = {images: _logarithms(study, plans[images]).mean(1) for images in study["sets"]}
    rows = []
    for name in scored["grey"]:
        whole = {images: over_encoders([(scored[images][name], accuracy[images])]) for images in study["sets"]}
        part = {
            images: spearman(residual(scored[images][name], rate[images]), residual(accuracy[images], rate[images]))
            for images in study["sets"]
        }
        rows.append((name, whole, part))
    return sorted(rows, key=lambda row: -abs(row[1]["grey"].mean))


def score_rows(study: Study) -> list[tuple[str, dict[str, Ranking]]]:
    """(score, set -> rank correlation with accuracy within a seed, with interval), all plans; the best first."""
    rows = []
    for score in TITLES:
        whole = {}
        for images in study["sets"]:
            plans, seeds = plans_of(study, images), study["sets"][images].values()
            values = [np.array([seed["scores"][plan][score] for plan in plans]) for seed in seeds]
            whole[images] = over_encoders(list(zip(values, reached(study, images, plans), strict=True)))
        rows.append((score, whole))
    return sorted(rows, key=lambda row: -abs(np.mean([ranking.mean for ranking in row[1].values()])))


def _number(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _interval(found: Ranking) -> str:
    """`+0.62 (+0.31 to +0.80)`, in bold where the interval leaves 0 out."""
    return ranking_text(found, {False: "{}", True: "**{}**"})


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, all columns but the first to the right."""
    lines = [list(columns), ["---", *("--:" for _ in columns[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def plans_table(study: Study) -> str:
    """Every plan with what it reached, the best on grey images first."""
    cells: dict[str, dict[str, str]] = {}
    for images in study["sets"]:
        plans = plans_of(study, images)
        accuracy = reached(study, images, plans)
        best = accuracy.mean(0).max()
        for plan, seeds in zip(plans, accuracy.T, strict=True):
            text = " / ".join(f"{value:.1f}" for value in seeds)
            cells.setdefault(plan, {})[images] = f"**{text}**" if seeds.mean() == best else text
    first = dict(zip(plans_of(study, "grey"), reached(study, "grey", plans_of(study, "grey")).mean(0), strict=True))
    rows = []
    for plan in sorted(cells, key=lambda plan: -first.get(plan, 0.0)):
        scales = " ".join(f"{scale:.2g}" if scale else "–" for scale in study["plans"][plan])
        mean = np.exp(_logarithms(study, [plan]).mean())
        rows.append([plan, scales, f"{mean:.2f}", *(cells[plan].get(images, "") for images in study["sets"])])
    return table(["plan", "scales, lowest block first", "geometric mean", *study["sets"]], rows)


def predictors_table(study: Study) -> str:
    """Rank correlation of every predictor with accuracy over the plans drawn by chance."""
    rows = [
        [
            name,
            *(_interval(whole[images]) for images in study["sets"]),
            *(_number(part[images]) for images in study["sets"]),
        ]
        for name, whole, part in predictor_rows(study)
    ]
    return table(["predictor", *study["sets"], *(f"{images}, rate aside" for images in study["sets"])], rows)


def scores_table(study: Study) -> str:
    """Rank correlation of label-free scores with accuracy over all encoders."""
    rows = [
        [TITLES[name], *(_interval(whole[images]) for images in study["sets"])] for name, whole in score_rows(study)
    ]
    return table(["score", *study["sets"]], rows)


def penalties_table(study: Study) -> str:
    """Accuracy with few labels at the published penalty, at the one that views choose, and at the best."""
    words = {"published": "published", "label_free": "views of single images", "best": "the best, by these labels"}
    rows = []
    for name, title in words.items():
        cells = []
        for images in study["sets"]:
            seeds = study["sets"][images].values()
            found = np.array([row[name] for seed in seeds for row in seed["penalties"].values()])
            cells += [f"{value:.1f}" for value in found.mean(0)]
        rows.append([title, *cells])
    shots = ("1 shot", "5 shots", "10 shots")
    return table(["penalty", *(f"{images}, {few}" for images in study["sets"] for few in shots)], rows)


def ahead_table(study: Study) -> str:
    """The best predictors that know gradients against the best that know none."""
    rows = []
    for images in study["sets"]:
        plans = drawn_plans(study, images)
        accuracy, scored = reached(study, images, plans).mean(0), predictors(study, images, plans)
        for name in (
            "mean of the logarithms, weighted by contrast's gain",
            "first order: gain of contrast",
            "images in conflict (warm heads)",
        ):
            for plain in ("mean of the logarithms", "mean of the scales"):
                rows.append([name, plain, images, _interval(ahead(scored[name], scored[plain], accuracy))])
    return table(["predictor", "against", "images", "ahead by"], rows)


PARTS: dict[str, Callable[[Study], str]] = {
    "plans": plans_table,
    "predictors": predictors_table,
    "ahead": ahead_table,
    "scores": scores_table,
    "penalties": penalties_table,
}


def fill(text: str, study: Study) -> str:
    """The page with every part made again."""
    return PART.sub(lambda part: part[1] + "\n" + PARTS[part[2]](study) + "\n" + part[3], text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, default=FILE)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    study = json.loads(arguments.study.read_text(encoding="utf-8"))
    arguments.page.write_text(fill(arguments.page.read_text(encoding="utf-8"), study), encoding="utf-8")


if __name__ == "__main__":
    main()
