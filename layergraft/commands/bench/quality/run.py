"""`layergraft bench quality`: recipes and rivals in turn, at equal core-seconds, chosen on held-out images alone."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layergraft.commands.bench.quality.figures import FEW, default_target, leads, method_figures
from layergraft.commands.bench.quality.jobs import read_outcomes, run_job
from layergraft.commands.bench.quality.plan import SHOTS, JobOutcome, Method, Plan
from layergraft.commands.bench.quality.rivals import RIVALS, check_network, is_installed
from layergraft.commands.bench.quality.show import show
from layergraft.commands.study.accuracy import test_source
from layergraft.commands.study.carry_out import alone, check_numbers
from layergraft.commands.study.directory import claim, images_now, origin, refuse_another
from layergraft.commands.study.pool import LOG, Pool
from layergraft.commands.study.precision import settled_mark, with_precision
from layergraft.commands.study.study_recipe import study_recipe
from layergraft.config import EvaluateConfig, Recipe
from layergraft.config.data import HoldoutBy
from layergraft.config.loading import load_recipe
from layergraft.data.sources.holdout import split_holdout
from layergraft.data.sources.open import open_source
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError, nearest
from layergraft.runs.announce import announce
from layergraft.runs.atomic import write_text
from layergraft.runs.interruption import SignalGuard
from layergraft.runs.json_files import read_json
from layergraft.runs.lock import locked
from layergraft.runs.readable import counted, duration
from layergraft.training.launch import available_cores

FILE = "quality.json"
_MADE = ("commit", "machine", "packages", "jobs")  # of quality.json: of those who did the jobs, not of who asks again
BUDGETS = (60.0, 120.0, 240.0, 480.0)
SPLITS = 20
RATES = (0.5, 1.0, 2.0, 4.0)
_TAKEN = ("random", "pixels", *(f"lightly-{name}" for name in RIVALS))


def bench_quality(
    names: Sequence[str] | None,
    data: str | None,
    budgets: Sequence[float] | None,
    target: float | None,
    seeds: int,
    rivals: Sequence[str] | None,
    rates: Sequence[float] | None,
    jobs: int | None,
    out: Path,
    quiet: bool,
) -> dict[str, Any]:
    """Train every recipe for every budget, and measure; see `layergraft.bench`.

    Raises:
        Stopped: a signal came; everything is saved.
        UserError: recipes, images or directory do not serve.
    """
    names, budgets, rates = names or ["fashion_tiny"], budgets or BUDGETS, rates or RATES
    check_numbers(seeds, jobs)
    _check_above_0("A budget is a number of core-seconds", budgets, "--budgets 60 120 240 480")
    _check_above_0("A factor of a learning rate is a number", rates, "--rates 0.5 1 2 4")
    _check_above_0("A target is an accuracy in percent", () if target is None else (target,), "--target 60")
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        raise UserError(
            "Core-seconds say little of a training on a GPU.", "Hide it: CUDA_VISIBLE_DEVICES= layergraft bench quality"
        )
    loaded = _recipes(names, data)
    size = jobs or available_cores()
    with SignalGuard(), alone(), Pool(size, out / LOG) as pool:
        precision = settled_mark(loaded.values(), out)
        loaded = {name: with_precision(recipe, precision) for name, recipe in loaded.items()}
        first = next(iter(loaded.values()))
        plan = Plan(
            methods=[
                *(Method(name=name, kind="recipe", recipe=recipe) for name, recipe in loaded.items()),
                *_rivals(rivals, first, rates),
                *(Method(name=name, kind="floor", recipe=first) for name in ("random", "pixels")),
            ],
            budgets=sorted(set(budgets)),
            seeds=range(seeds),
            evaluate=_measured(load_recipe(next(iter(names)))),
        )
        assert first.data.source is not None
        _check_images(first.data.source, first.data.holdout, first.data.holdout_by)
        mark = {
            "study": "quality",
            "source": first.data.source,
            "holdout": first.data.holdout,
            "holdout_by": first.data.holdout_by,
            **precision,
        }
        refuse_another(out, mark)
        command = _command(names, data, budgets, target, seeds, rivals, rates, out)
        claim(out, mark, images_now(first.data.source), announce)
        with locked(out / "at_work", announce):
            outcomes = read_outcomes(plan, out)
            before = _made_before(plan, outcomes, out)
            if before is None:
                carry_out(plan, outcomes, out, pool)
            else:
                announce(f"Everything in {out} is measured; nothing to do.")
            figures = _figures(plan, outcomes, target, first) | {"command": command, "jobs": size} | (before or {})
            write_text(out / FILE, json.dumps(figures, indent=1) + "\n")
    if not quiet:
        show(figures)
        announce(f"All figures: {out / FILE}")
    print(json.dumps(figures))
    return figures


def _check_above_0(what: str, numbers: Sequence[float], example: str) -> None:
    if not all(0 < number < math.inf for number in numbers):
        raise UserError(f"{what} above 0, and finite.", f"For instance {example}.")


def carry_out(plan: Plan, outcomes: dict[str, JobOutcome], out: Path, pool: Pool) -> None:
    """Do every job that is left.

    Args:
        plan: what is to be done.
        outcomes: those that are known; the others are added.
        out: the directory.
        pool: does them, each on one core.

    Raises:
        Stopped: a signal came; everything is saved.
        UserError: of a job; the others that ran have saved their state.
    """
    left, size = plan.left(outcomes), pool.size
    at_once = f"{counted(size, 'job')} at a time"
    announce(f"{left:,.0f} core-seconds of training are left, {at_once}: {duration(left / size)} and more.")
    with SignalGuard(hold=True) as signals:
        while True:
            for job in list(plan.due(outcomes, pool.running)):
                if pool.free:
                    pool.start(job.name, run_job, job, out)
            if not pool.running:
                break
            for name, outcome in pool.finished(signals):
                outcomes[name] = outcome
                announce(_line(name, outcome, plan.left(outcomes) / size))


def _line(name: str, outcome: JobOutcome, left: float) -> str:
    parts = []
    if "core_seconds" in outcome:
        parts.append(f"{outcome['core_seconds']:.1f} core-seconds")
    if "holdout" in outcome:
        parts.append(f"{outcome['holdout'][FEW]:.1f} % held-out")
    return f"{name}: {', '.join(parts) or 'done'}; training left: {duration(left)}"


def _recipes(names: Sequence[str], data: str | None) -> dict[str, Recipe]:
    """Name in tables -> recipe, as its jobs train it.

    Raises:
        UserError: two have one name, or other images than the first.
    """
    recipes: dict[str, Recipe] = {}
    for name in names:
        recipe = study_recipe(load_recipe(name, {} if data is None else {"data.source": data}))
        short = Path(name).stem
        if short in recipes or short in _TAKEN:
            raise UserError(
                f"There are two recipes {short!r}, or it is the name of a floor or rival.",
                "Give the file another name.",
            )
        if recipe.data.source is None:
            raise UserError(f"Recipe {short!r} names no images.", "Give --data FOLDER.")
        if not recipe.data.holdout:
            raise UserError(
                f"Recipe {short!r} holds no images out, and all choices are made on them.", "Set data.holdout."
            )
        if any(stage.branch is not None for stage in recipe.stages.values()):
            raise UserError(f"Recipe {short!r} has a `branch`, whose trunk is not counted.", "Set it to null.")
        recipes[short] = recipe
    first = next(iter(recipes.values())).data
    for name, recipe in recipes.items():
        theirs = recipe.data
        if (theirs.source, theirs.holdout, theirs.holdout_by) != (first.source, first.holdout, first.holdout_by):
            raise UserError(
                f"Recipe {name!r} has other images, or holds out others, than the first one.",
                "What is compared is trained and measured on the same images: --data gives them for all.",
            )
    return recipes


def _check_images(source: str, holdout: int | float, by: HoldoutBy) -> None:
    """Find out before anything is trained whether it can be measured.

    Raises:
        UserError: there are no labels or test images, or a class has too few images.
    """
    open_source(test_source(source))
    train, _ = split_holdout(open_source(source), holdout, 0, by)
    fewest = int(np.bincount(train.selected_labels, minlength=len(train.classes)).min())
    if fewest < SHOTS:
        raise UserError(
            f"The smallest class of {source!r} has {counted(fewest, 'training image')}; compared is the accuracy "
            f"of {SHOTS} labels a class.",
            "Leave such classes out, or hold out fewer images (data.holdout).",
        )


def _rivals(names: Sequence[str] | None, recipe: Recipe, rates: Sequence[float]) -> list[Method]:
    """The rivals that are asked for; by default all, where they are installed.

    Raises:
        UserError: they are not installed, or cannot train the first recipe's encoder.
    """
    for name in names or ():
        if name not in (*RIVALS, "none"):
            raise UserError(f"There is no rival {name!r}.", nearest(name, [*RIVALS, "none"]))
    if names is not None and "none" in names:
        return []
    if not is_installed():
        missing = "lightly is not installed (pip install 'layergraft[rivals]')"
        if names is not None:
            raise UserError(f"{missing}.", "Or give --rivals none.")
        announce(f"No rivals: {missing}.")
        return []
    check_network(create_encoder(recipe.encoder, 0))
    factors = tuple(dict.fromkeys(rates))
    return [
        Method(name=f"lightly-{name}", kind="rival", recipe=recipe, rival=name, rates=factors)
        for name in dict.fromkeys(names or RIVALS)
    ]


def _measured(recipe: Recipe) -> EvaluateConfig:
    """What is measured of every method, as the first recipe pools features and splits labels."""
    usual = recipe.evaluate or EvaluateConfig(splits=SPLITS)
    pooling = usual.pooling[:1] if usual.pooling[0] != "auto" else ("cls",)
    return EvaluateConfig(protocols=("knn", "logistic"), shots=(SHOTS,), splits=usual.splits, pooling=pooling)


def _made_before(plan: Plan, outcomes: dict[str, JobOutcome], out: Path) -> dict[str, Any] | None:
    """What an earlier start wrote of where its figures came from, if nothing is left to do; else None."""
    if next(plan.due(outcomes), None) is not None or not (out / FILE).is_file():
        return None
    return {key: value for key, value in read_json(out / FILE).items() if key in _MADE}


def _figures(plan: Plan, outcomes: dict[str, JobOutcome], target: float | None, first: Recipe) -> dict[str, Any]:
    wanted = default_target(plan, outcomes) if target is None else target
    methods = [method_figures(plan, method, outcomes, wanted) for method in plan.methods]
    packages = ["layergraft", "torchvision"]
    packages += ["lightly"] if any(method.kind == "rival" for method in plan.methods) else []
    return {
        "source": first.data.source,
        "budgets": list(plan.budgets),
        "seeds": list(plan.seeds),
        "target": wanted,
        "target_is": "given" if target is not None else f"what {plan.methods[0].name} reaches with the largest budget",
        "lengths": "every budget is trained anew, its schedules ending there",
        "methods": methods,
        "leads": leads(methods),
        "notes": _notes(plan, methods),
        **origin(),
        "packages": {name: version(name) for name in packages},
    }


def _notes(plan: Plan, methods: Sequence[dict[str, Any]]) -> list[str]:
    notes = [
        "Core-seconds of training, by one thread each: opening images, evaluation and start are not counted. Every "
        "budget is trained anew, with schedules that end there. Held-out images alone decided; test images were read "
        "once, at the end.",
    ]
    if any(method["search"] for method in methods if method["kind"] == "rival"):
        spent = sum(trial["core_seconds"] for method in methods for trial in method.get("search", ()))
        notes.append(
            "lightly's methods train the first recipe's network from the same first weights, each with the learning "
            f"rate that was best on held-out images at a third of the budget: {spent:,.0f} core-seconds, not counted. "
            "Recipes are taken as they are."
        )
    for method in methods:
        for at in method["budgets"]:
            if at["core_seconds"] and abs(at["core_seconds"] / at["budget"] - 1) > 0.1:
                notes.append(
                    f"{method['name']} took {at['core_seconds']:.3g} core-seconds for the budget of {at['name']}: "
                    "compare with care."
                )
    return notes


def _command(
    names: Sequence[str],
    data: str | None,
    budgets: Sequence[float],
    target: float | None,
    seeds: int,
    rivals: Sequence[str] | None,
    rates: Sequence[float],
    out: Path,
) -> str:
    words = ["layergraft", "bench", "quality", "--recipes", *names, *([] if data is None else ["--data", data])]
    words += ["--budgets", *(f"{budget:g}" for budget in budgets)]
    words += [] if target is None else ["--target", f"{target:g}"]
    words += [] if rivals is None else ["--rivals", *rivals]
    words += [] if tuple(rates) == RATES else ["--rates", *(f"{rate:g}" for rate in rates)]
    return shlex.join([*words, "--seeds", str(seeds), "--out", str(out)])
