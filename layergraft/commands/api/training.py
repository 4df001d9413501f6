"""Commands that train, and what comes before and after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from layergraft.commands.api.loading import loading
from layergraft.commands.paths import optional_path
from layergraft.config.loading import Overrides, load_recipe
from layergraft.config.paths import expanded
from layergraft.config.recipe import Recipe
from layergraft.errors import UserError
from layergraft.runs.announce import announce

if TYPE_CHECKING:
    from layergraft.commands.ablate.files import AblationFiles
    from layergraft.commands.look.run import Look
    from layergraft.commands.pack import Packed
    from layergraft.runs.layout import Run
    from layergraft.runs.status import Status


def _recipe(
    recipe: str | Path | Mapping[str, Any], data: str | None, start: str | None, overrides: Overrides | None
) -> Recipe:
    changes = dict(overrides or {})
    if data is not None:
        changes["data.source"] = data
    if start is not None:
        changes["start"] = start
    return load_recipe(recipe, changes)


def _time(recipe: object, data: str | None, minutes: float | None, hours: float | None) -> float | None:
    """Minutes of a run whose recipe is chosen; None is the usual time."""
    if recipe is not None:
        if minutes is not None or hours is not None:
            raise UserError(
                "--minutes and --hours fit a recipe to a time, and this one was given.",
                "Leave --recipe out, or set lengths: --stages.NAME.steps.",
            )
        return None
    if data is None:
        raise UserError("There are neither images nor a recipe.", "Give --data FOLDER.")
    if minutes is not None and hours is not None:
        raise UserError("--minutes and --hours say the same.", "Give one of them.")
    return minutes if hours is None else 60 * hours


def demo(*, out: str = "runs/demo", baseline: bool = False) -> Run:
    """Train the built-in recipe on built-in images and write a report, in a few minutes on a laptop.

    Args:
        out: directory of the run.
        baseline: also train the contrastive stage from scratch, for comparison.

    Returns:
        The files of the run.

    Raises:
        UserError: the directory holds something else.
        Stopped: a signal came; everything so far is saved and the same call goes on.
    """
    with loading():
        from layergraft.commands.demo import run_demo

    return run_demo(expanded(out), baseline)


def train(
    *,
    recipe: str | Path | Mapping[str, Any] | None = None,
    data: str | None = None,
    out: str | Path,
    start: str | None = None,
    minutes: float | None = None,
    hours: float | None = None,
    resume: Literal["auto", "never", "must"] = "auto",
    during: float | None = None,
    replay: str | None = None,
    overrides: Overrides | None = None,
) -> Run:
    """Train on a folder of images, measure the encoders and write a report.

    Without a recipe one is chosen for the images and this machine, and written into the run with a reason beside each
    choice. Any key of the recipe can be set: --stages.mae.epochs 100 --encoder.img_size 96.

    Args:
        recipe: name of a recipe, or a YAML file; by default one is chosen.
        data: a folder of images, or a built-in set; sets data.source.
        out: directory of the run; the same command resumes a run that was interrupted.
        start: weights to start from: a checkpoint of MAE, DINO or the like, timm:NAME, or another run; sets start.
        minutes: of the whole run, evaluation and pictures included, where the recipe is chosen.
        hours: likewise.
        resume: auto: resume if the directory holds this run, else start; never: fail if it does; must: fail if not.
        during: measure kNN and ridge regression on held-out images every this many epochs of training.
        replay: the file that a diverged run left; recomputes its last steps and reports what is not finite.
        overrides: any key of the recipe, dotted, and its value, as the command line takes them:
            {"stages.mae.epochs": 100, "encoder.img_size": 96, "evaluate.shots": [1, 5]}. A key that does not exist is
            refused, with the nearest one that does.

    Returns:
        The files of the run.

    Raises:
        UserError: a wrong recipe, images that cannot be read, a directory that holds another run, or divergence.
        Stopped: a signal came; everything so far is saved and the same call goes on.
    """
    watched = {} if during is None else {"monitor.every": during, "monitor.protocols": ["knn", "ridge"]}
    changes = watched | dict(overrides or {})
    time = _time(recipe, data, minutes, hours)
    if recipe is not None:
        complete = _recipe(recipe, data, start, changes)
        announce(f"Training {complete.data.source} into {out} …")
        with loading():
            from layergraft.commands.train import train_run

        return train_run(complete, expanded(out), resume, optional_path(replay))
    assert data is not None
    announce(f"Looking at {data} and at this machine …")
    with loading():
        from layergraft.commands.own_recipe import own_recipe
        from layergraft.commands.train import train_run

    chosen = own_recipe(data, expanded(out), time, changes, start)
    return train_run(chosen.recipe, expanded(out), resume, optional_path(replay), chosen.comments, chosen.time)


def look(*, data: str, out: str | Path | None = None, channels: int | None = None, images: int = 100) -> Look:
    """Say what the package sees of a source: kinds, sizes, channels, numbers, and what is left out.

    Args:
        data: a folder of images, or any other SOURCE.
        out: a directory for look.html: images as they are decoded, views beside them, and their numbers.
        channels: of the encoder to be trained; by default 3 where images have colours, else as many as they have.
        images: how many to look at.

    Returns:
        What was printed, and the page.

    Raises:
        UserError: there are no such images, or the options of the SOURCE do not fit them.
    """
    with loading():
        from layergraft.commands.look.run import look_command

    return look_command(data=data, out=optional_path(out), channels=channels, images=images)


def plan(
    *,
    recipe: str | Path | None = None,
    data: str | None = None,
    out: str | Path | None = None,
    start: str | None = None,
    minutes: float | None = None,
    hours: float | None = None,
    stage: str | None = None,
    json: bool = False,
    overrides: Overrides | None = None,
) -> dict[str, Any]:
    """Show what `train` would do, without training: the recipe, the graft plan of every stage, and the time.

    Without a recipe, one is chosen for the images; without images, the recipes are listed.

    Args:
        recipe: name of a recipe, or a YAML file.
        data: a folder of images, or a built-in set; sets data.source, and the number of steps.
        out: a YAML file to write the recipe to.
        start: weights to start from; sets start.
        minutes: of the whole run, where the recipe is chosen.
        hours: likewise.
        stage: show only this stage.
        json: print JSON instead of tables.
        overrides: any key of the recipe, dotted, and its value, as the command line takes them:
            {"stages.mae.epochs": 100, "encoder.img_size": 96, "evaluate.shots": [1, 5]}. A key that does not exist is
            refused, with the nearest one that does.

    Returns:
        What `--json` prints: the stages with their layers, or name -> first line of each recipe.

    Raises:
        UserError: a wrong recipe, or one that does not fit its encoder.
    """
    if recipe is None and data is None:
        from layergraft.commands.recipe_list import list_recipes

        return list_recipes(as_json=json)
    time = _time(recipe, data, minutes, hours)
    if recipe is not None:
        complete = _recipe(recipe, data, start, overrides)
        with loading():
            from layergraft.commands.plan import show_plan

        return show_plan(complete, stage, as_json=json, out=optional_path(out))
    assert data is not None
    announce(f"Looking at {data} and at this machine …")
    with loading():
        from layergraft.commands.own_recipe import own_recipe
        from layergraft.commands.plan import show_plan

    chosen = own_recipe(data, None, time, dict(overrides or {}), start)
    return show_plan(chosen.recipe, stage, as_json=json, out=optional_path(out), chosen=chosen)


def status(*, run: str, watch: bool = False, json: bool = False) -> Status:
    """Say where a run stands: stage, step, time left of the whole run, last kNN, warnings and exit code.

    Args:
        run: directory of the run.
        watch: go on until it does not run any more.
        json: print one JSON object a line.

    Returns:
        What was printed last.

    Raises:
        UserError: the directory holds no run.
    """
    from layergraft.commands.status import show_status

    return show_status(expanded(run), watch, as_json=json)


def pack(
    *, data: str, out: str | Path, resize: int | None = None, channels: int = 3, shard_images: int = 1000
) -> Packed:
    """Pack images into tar shards with an index, which are faster to read and to copy than many files.

    Args:
        data: the images.
        out: an empty or new directory.
        resize: shrink the shorter side to this many pixels and save as JPEG; by default files are kept unchanged.
        channels: channels of resized images: 3 for colour, 1 for grey.
        shard_images: images per shard.

    Returns:
        The shards and the index, and how many images could not be read.

    Raises:
        UserError: no image can be read, `out` is not empty, or cannot be written.
    """
    with loading():
        from layergraft.commands.pack import pack as write

    return write(data, expanded(out), resize, channels, shard_images)


def report(*, runs: list[str], out: str | Path | None = None, figures: str | Path | None = None) -> Path:
    """Rebuild report.html and the model card from a run directory, or compare several runs on one page.

    Args:
        runs: directories of the runs; or the directory of one study, whose claims.json is rebuilt as well.
        out: the page to write; by default report.html in the first directory.
        figures: a new directory for a PDF of each figure, for a paper; needs layergraft[figures].

    Returns:
        The page.

    Raises:
        UserError: a directory holds neither a run nor a study, a study is among several, or figures is not empty.
    """
    with loading():
        from layergraft.commands.report import write_page

    return write_page([expanded(run) for run in runs], optional_path(out), optional_path(figures))


def reproduce(
    *,
    scale: Literal["smoke", "tiny", "colour", "small"] = "tiny",
    data: str | None = None,
    seeds: int = 3,
    out: str | Path,
    jobs: int | None = None,
    costs: bool = False,
    overrides: Overrides | None = None,
) -> Path:
    """Test the claims of layer grafting: tune every method alike, train it with several seeds, and compare.

    --costs says what it takes. The same command resumes a study that was interrupted. Keys of `engine` and `encoder`
    can be set for all methods: --engine.precision bf16-mixed; --encoder.in_chans 3 for images in colour.

    Args:
        scale: smoke (a minute, proves nothing), tiny (built-in images), colour (the same in colour), small (images of
            your own, hours).
        data: labelled images, a folder with train/ and val/; by default those of the scale.
        seeds: pre-training seeds; beyond three (tiny, colour: five) only of what claims speak of.
        out: directory of the study.
        jobs: runs at a time, each on one core; by default one per core, or one on a GPU.
        costs: only say what the study would cost, and what would decide the claims that it has left open so far.
        overrides: dotted recipe key -> value, for all methods.

    Returns:
        study.json.

    Raises:
        UserError: the images do not suit the scale, or the directory holds another study, or a key is not all methods'.
        Stopped: a signal came; everything so far is saved and the same call goes on.
    """
    with loading():
        from layergraft.commands.reproduce.study import reproduce_study

    return reproduce_study(scale, data, dict(overrides or {}), seeds, expanded(out), jobs, costs=costs)


def ablate(
    *,
    recipe: str | Path | Mapping[str, Any],
    vary: str | Path,
    data: str | None = None,
    start: str | None = None,
    seeds: int = 5,
    out: str | Path,
    jobs: int | None = None,
    costs: bool = False,
    retry: bool = False,
    overrides: Overrides | None = None,
) -> AblationFiles:
    """Compare variants of a recipe: the same search for each, several seeds, what is better and how sure that is.

    --vary names a YAML file: `arms: {even: {}, slow: {stages.graft.plan.lr_scale: [0.3, 0.3, 1]}}`, or a `grid`.
    Any recipe key can be set for all arms: --stages.mae.epochs 3. The same command goes on where it was interrupted;
    started several times, or by srun, its processes share the work. A run that diverges is named, and the others go on.

    Args:
        recipe: name or file of the recipe that the arms change.
        vary: file of the arms: `arms`, `list` or `grid`; `reference`, `search`, `equal`.
        data: labelled images, a folder with train/ and val/; by default the recipe's.
        start: weights that all arms start from: a run, a checkpoint, or timm:NAME.
        seeds: pre-training seeds of every arm.
        out: directory of the study.
        jobs: runs at a time, each on one core; by default one per core, or one on a GPU.
        costs: only say what the study would cost.
        retry: do again what diverged in an earlier start.
        overrides: dotted recipe key -> value, for all arms.

    Returns:
        The files of the study, with `measured()`, `frame()`, and a table in a notebook.

    Raises:
        UserError: file, arm or images do not serve, the directory holds another study, or every run diverged.
        Stopped: a signal came; everything so far is saved and the same call goes on.
    """
    with loading():
        from layergraft.commands.ablate.run import ablate_study

    changes = dict(overrides or {})
    changes |= {} if data is None else {"data.source": data}
    changes |= {} if start is None else {"start": start}
    return ablate_study(recipe, expanded(vary), changes, seeds, expanded(out), jobs, costs=costs, retry=retry)
