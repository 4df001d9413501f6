"""`layergraft ablate`: arms of a file, the same search and seeds for each, and what is better."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from msgspec import structs

from layergraft.commands.ablate.ablation import Ablation
from layergraft.commands.ablate.arms import arm_recipes, connect
from layergraft.commands.ablate.files import AblationFiles, write_outcome
from layergraft.commands.ablate.outcome import FILE as OUTCOME
from layergraft.commands.ablate.outcome import MeasuredAblation
from layergraft.commands.ablate.vary import Vary, read_vary
from layergraft.commands.study.carry_out import (
    CarriedOut,
    alone,
    carry_out,
    check_numbers,
    default_jobs,
    read_outcomes,
    retry_diverged,
)
from layergraft.commands.study.cost_lines import cost_lines
from layergraft.commands.study.directory import (
    claim,
    images_now,
    is_labelled,
    options,
    origin,
    refuse_another,
    with_possible_shots,
    with_possible_views,
)
from layergraft.commands.study.jobs import DIVERGED, JobOutcome
from layergraft.commands.study.paper import can_draw
from layergraft.commands.study.pool import LOG, Pool
from layergraft.commands.study.precision import precision_lines, settled_mark, with_precision
from layergraft.commands.study.settings import Settings, contrastive_view
from layergraft.commands.study.statistics import check_scores, distributions
from layergraft.commands.study.study_file import FILE, as_study
from layergraft.commands.study.study_recipe import study_recipe
from layergraft.config import EvaluateConfig, Recipe
from layergraft.config.data import DataConfig, ViewConfig
from layergraft.config.loading import load_recipe, recipe_hash
from layergraft.errors import UserError
from layergraft.runs.announce import announce
from layergraft.runs.atomic import write_text
from layergraft.runs.interruption import SignalGuard, check
from layergraft.runs.json_files import read_json
from layergraft.runs.lock import waited_for
from layergraft.runs.readable import counted

FROZEN: tuple[Literal["knn", "logistic"], ...] = ("knn", "logistic")
TRAINED: tuple[Literal["linear", "finetune"], ...] = ("linear", "finetune")
Source = str | Path | Mapping[str, Any]


def ablate_study(
    recipe: Source,
    vary: Path,
    changes: Mapping[str, Any],
    seeds: int,
    out: Path,
    jobs: int | None,
    *,
    costs: bool,
    retry: bool = False,
) -> AblationFiles:
    """Search, train and measure every arm; goes on where an earlier start ended, beside others that do the same.

    Args:
        recipe: that the arms change.
        vary: the file of arms.
        changes: dotted key -> value, for all arms.
        seeds: how many pre-training seeds.
        out: directory of the study.
        jobs: how many jobs at a time; None is one a core, or one on a GPU.
        costs: only say what it would cost.
        retry: do again what diverged in an earlier start.

    Raises:
        Stopped: a signal came; everything is saved.
        UserError: file, images or directory do not serve, or every run diverged.
    """
    check_numbers(seeds, jobs)
    distributions()  # before hours of training
    varied = read_vary(vary)
    if varied.scores:
        check_scores()
    base = load_recipe(recipe, changes)
    recipes = arm_recipes(varied, _loader(recipe, base, changes))
    settings = replace(_settings(varied, base), view=_view(varied, recipes))
    _check_block(settings.evaluate.block, varied, recipes)
    size = jobs or default_jobs()
    working = nullcontext() if costs else Pool(size, out / LOG)
    with SignalGuard(), alone(), working as pool:
        mark = _mark(base, recipes, out)
        base, recipes = with_precision(base, mark), {name: with_precision(r, mark) for name, r in recipes.items()}
        refuse_another(out, mark)
        source = str(base.data.source)
        settings, images = _possible(settings, base.data)
        check()
        arms = connect(varied, recipes)
        study = Ablation(varied, arms, study_recipe(base), settings, list(range(seeds)), out, images)
        if not costs:
            retry_diverged(study, removed=not retry)
        outcomes: dict[str, JobOutcome] = {}
        read_outcomes(study, outcomes)
        announce(*precision_lines(mark), *cost_lines(study, varied.reference, outcomes, size))
        if pool is None:
            return AblationFiles.of(out)
        if not can_draw():
            announce("figure.pdf is left out: pip install 'layergraft[figures]' draws it.")
        claim(out, mark, images_now(source, labelled=settings.labelled), announce)
        check()
        head = {
            "recipe": str(recipe) if isinstance(recipe, str | Path) else "of Python",
            "reference": varied.reference,
            "budgets": list(varied.budgets),
            "source": source,
            "seeds": study.seeds,
            "command": _command(recipe, vary, changes, seeds, out),
        }
        if _is_finished(study, outcomes, head):
            announce(f"The study in {out} is finished; nothing to do. Its report: {AblationFiles.of(out).report}")
            _say_diverged(study, outcomes)
            return AblationFiles.of(out)
        done = carry_out(study, outcomes, pool, announce)
        with waited_for(out, announce):
            text = json.dumps(head | _origin(out, done) | study.record(done.outcomes), indent=1)
            write_text(out / FILE, text + "\n")
            write_outcome(as_study(json.loads(text), MeasuredAblation), out)
    files = AblationFiles.of(out)
    announce(f"Study:  {files.study}\nTable:  {files.table}\nReport: {files.report}")
    _say_diverged(study, done.outcomes)
    return files


def _view(vary: Vary, recipes: Mapping[str, Recipe]) -> ViewConfig:
    """That of the reference, else of the first arm with a contrastive loss."""
    return contrastive_view([recipes[vary.reference], *recipes.values()])


def _possible(settings: Settings, data: DataConfig) -> tuple[Settings, int]:
    """The settings with the numbers of shots, or views, that there are images for, and how many images train."""
    assert data.source is not None
    held_out = (data.source, data.holdout, data.holdout_by, announce)
    found = None if settings.choose == "held_out" else with_possible_views(settings.evaluate, *held_out)
    if found is None or settings.labelled:
        found = with_possible_shots(settings.evaluate, *held_out)
    return replace(settings, evaluate=found[0]), found[1]


def _mark(base: Recipe, recipes: Mapping[str, Recipe], out: Path) -> dict[str, Any]:
    """What tells this study from others."""
    mark = {"study": "ablate", "recipe": recipe_hash(study_recipe(base)), "source": base.data.source}
    return mark | settled_mark([base, *recipes.values()], out)


def _origin(out: Path, found: CarriedOut) -> dict[str, Any]:
    """Time, commit and machine; those of before where no job was done and only the words changed."""
    now = {"seconds": found.seconds} | origin()
    if found.jobs or not (out / FILE).is_file():
        return now
    return now | {key: value for key, value in read_json(out / FILE).items() if key in now}


def _say_diverged(study: Ablation, outcomes: dict[str, JobOutcome]) -> None:
    """Name the runs that have no numbers.

    Raises:
        UserError: there are no others.
    """
    trained = [name for name in outcomes if "/seed-" in name and study.arm(name.partition("/")[0]).trained]
    lost = [name for name in trained if DIVERGED in outcomes[name]]
    if lost and len(lost) == len(trained):
        raise UserError(
            f"Every run of the study in {str(study.out)!r} diverged: there is nothing to compare. "
            f"{lost[0]}: {outcomes[lost[0]][DIVERGED]}",
            "Lower optimizer.base_lr or lengthen warmup_epochs, in another --out; --retry does the same runs again.",
        )
    if lost:
        announce(
            f"{len(lost)} of {counted(len(trained), 'run')} diverged, and no mean knows of them: {', '.join(lost)}. "
            "The report says why; --retry does them again."
        )


def _loader(
    recipe: Source, base: Recipe, changes: Mapping[str, Any]
) -> Callable[[str | None, Mapping[str, Any]], Recipe]:
    """How the recipe of an arm is read: its own keys over those of the command."""

    def load(other: str | None, keys: Mapping[str, Any]) -> Recipe:
        if other is None:
            return study_recipe(load_recipe(recipe, {**changes, **keys}))
        same = {"data.source": base.data.source, "data.holdout": base.data.holdout}
        same |= {"data.holdout_by": base.data.holdout_by}
        same |= {} if base.start is None else {"start": base.start}
        shared = {key: value for key, value in changes.items() if not key.startswith(("stages.", "evaluate."))}
        return study_recipe(load_recipe(other, {**shared, **same, **keys}))

    return load


def _settings(vary: Vary, recipe: Recipe) -> Settings:
    """Search and measurements.

    Raises:
        UserError: there are no images, none are held out, or what is measured would have to be chosen.
    """
    if recipe.data.source is None:
        raise UserError("The recipe names no images.", "Give --data FOLDER.")
    if not recipe.data.holdout:
        raise UserError("No images are held out, and all choices are made on them.", "Give --data.holdout 0.1.")
    evaluate = recipe.evaluate or EvaluateConfig()
    left_out = [name for name in evaluate.protocols if name not in (*FROZEN, *TRAINED)]
    if left_out:
        announce(f"Not measured in a study: {', '.join(left_out)}.")
    if "auto" in evaluate.pooling or evaluate.chooses:
        raise UserError(
            "What is measured would be chosen for each encoder by itself.",
            "Give one --evaluate.pooling (not auto), one --evaluate.k and one --evaluate.temperature.",
        )
    if evaluate.keep is not None:
        raise UserError(
            "A study measures whole images.", "Leave --evaluate.keep out; `evaluate --keep` measures parts."
        )
    if len(evaluate.pooling) > 1 or evaluate.variant != ("published",):
        evaluate = structs.replace(evaluate, pooling=evaluate.pooling[:1], variant=("published",))
        announce(f"Measured with pooling {evaluate.pooling[0]} and variant published alone.")
    labelled = vary.choose == "held_out" or is_labelled(recipe.data.source)
    if not labelled:
        announce("No labels, or no test images beside these: accuracy is that of recognising single images by views.")
        if vary.scores:
            announce("Without labels nothing judges other scores: they are not measured.")
    protocols = tuple(name for name in FROZEN if name == "logistic" or name in evaluate.protocols)
    if not any(isinstance(shots, int) for shots in evaluate.frozen_shots):
        raise UserError("Arms are compared by their accuracy with few labels.", "Give --evaluate.shots 1 5 10.")
    return Settings(
        evaluate=structs.replace(evaluate, protocols=protocols),
        trained=tuple(name for name in TRAINED if name in evaluate.protocols and labelled),
        factors=vary.factors,
        trial=vary.trial,
        goes_on=True,
        choose=vary.choose,
        labelled=labelled,
        scores=vary.scores and labelled,
    )


def _check_block(block: int | None, vary: Vary, recipes: Mapping[str, Recipe]) -> None:
    """Refuse a block to measure that an arm's encoder has not, before anything is trained."""
    for arm in vary.arms:
        depth = recipes[arm.name].encoder.depth
        if block is not None and depth is not None and block >= depth:
            raise UserError(
                f"Arm {arm.title!r} has no block {block}.", f"--evaluate.block is below its depth, {depth}."
            )


def _command(recipe: Source, vary: Path, changes: Mapping[str, Any], seeds: int, out: Path) -> str:
    name = str(recipe) if isinstance(recipe, str | Path) else "…"
    words = ["layergraft", "ablate", "--recipe", name, "--vary", str(vary), "--seeds", str(seeds)]
    words += options({"data" if key == "data.source" else key: value for key, value in changes.items()})
    return shlex.join([*words, "--out", str(out)])


def _is_finished(study: Ablation, outcomes: dict[str, JobOutcome], head: dict[str, Any]) -> bool:
    """Whether an earlier start has written what this one would."""
    written = (study.out / FILE).is_file() and (study.out / OUTCOME).is_file()
    if not written or next(study.due(outcomes), None) is not None:
        return False
    record = read_json(study.out / FILE)
    now = {key: value for key, value in head.items() if key not in ("command", "recipe")} | study.record(outcomes)
    return all(record.get(key) == value for key, value in json.loads(json.dumps(now)).items())
