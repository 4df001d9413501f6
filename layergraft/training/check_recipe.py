"""What a recipe is refused for before a run begins: `train` and `plan` both ask here."""

from __future__ import annotations

from pathlib import Path

from layergraft.config.objectives import ObjectiveConfig
from layergraft.config.paths import expanded
from layergraft.config.recipe import EvaluateConfig, Recipe
from layergraft.config.stage import StageConfig
from layergraft.config.supervised import ClassifyConfig, SegmentConfig
from layergraft.data.sources.open import default_test_source
from layergraft.data.sources.source import Source
from layergraft.encoders.batchnorm import BatchNorm
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.evaluation.features import check_block
from layergraft.evaluation.labels import few_images
from layergraft.evaluation.selection import holdout_tasks
from layergraft.evaluation.splits import draw_splits
from layergraft.graft.apply import stage_plan
from layergraft.graft.donors import load_donor
from layergraft.objectives.base import Objective
from layergraft.objectives.create import create_objective, know_classes
from layergraft.runs.layout import stage_directory
from layergraft.training.branch import branch_in, find_branch
from layergraft.training.gradients import check_micro_batch
from layergraft.training.run_data import RunData, with_source


def check_recipe(recipe: Recipe, encoder: Encoder, data: RunData | None, out: Path | None) -> None:
    """Refuse what would stop the run later, before anything is written.

    Args:
        recipe: what to do.
        encoder: what its first stage begins with.
        data: training and held-out images; None where they are not known, and nothing that depends on them is checked.
        out: the run's directory; None where it is not known.

    Raises:
        UserError: a plan does not fit the encoder, an ENC of it cannot be read or has another shape, a stage does not
            fit its images, there are more shots than images of a class, or something is to be chosen on held-out images
            that are too few.
    """
    sources: set[str] = set()
    for name, stage in recipe.stages.items():
        config = know_classes(stage.objective, data.train if data else None, name)
        objective = create_objective(config, encoder)
        sources |= {row.source for row in stage_plan(stage, name, encoder, objective)[1].rows}
        check_batch(name, stage.batch_size, objective, data)
        if data is not None:
            check_heads(name, config, data.holdout)
            check_guard(name, stage, data.holdout)
            steps_per_epoch = stage.steps_per_epoch(len(data.train))
            settled = with_source(recipe, data.train.spec)  # as it is read once the run begins
            branch_in(out, settled, name, steps_per_epoch) if out else find_branch(settled, name, steps_per_epoch)
    for source in sorted(sources - {"previous", "fresh"}):
        if not is_own_stage(source, recipe, out) and not (data is None and is_missing(source)):
            load_donor(source, recipe.encoder)
    if recipe.evaluate is not None:
        check_block(recipe.evaluate.block, encoder, "`evaluate.block`: the encoder")
    check_micro_batch(recipe.engine.micro_batch, encoder)
    if recipe.evaluate is not None and data is not None:
        check_shots(recipe.evaluate, data.train)
        if recipe.evaluate.draws_tasks and data.train.labels is not None and default_test_source(data.train.spec):
            holdout_tasks(data.holdout, 1)


def check_batch(name: str, batch_size: int, objective: Objective, data: RunData | None) -> None:
    """Refuse to normalise over a batch of one image."""
    images = batch_size if data is None else min(batch_size, len(data.train))
    if images < 2 and any(isinstance(part, BatchNorm) for part in objective.modules()):
        raise UserError(
            f"The batch of stage {name!r} has one image, and its heads normalise over the batch (BatchNorm).",
            f"Use at least two images, and --stages.{name}.batch_size 2 or more.",
        )


def check_heads(name: str, config: ObjectiveConfig, holdout: Source) -> None:
    """Refuse to choose among heads without held-out images."""
    if isinstance(config, ClassifyConfig) and config.grid is not None and not len(holdout):
        raise UserError(
            f"Stage {name!r} chooses one of its {len(config.linears())} heads on held-out images, and there are none.",
            "Set data.holdout, or objective.grid to null.",
        )


def check_guard(name: str, stage: StageConfig, holdout: Source) -> None:
    """Refuse to guard without held-out images; of one alone nobody can tell how widely features spread."""
    if stage.guard is not None and len(holdout) < 2:
        found = "there is one alone" if len(holdout) else "there are none"
        raise UserError(
            f"Stage {name!r} has a guard, which measures held-out images, and {found}.",
            f"{'Raise' if len(holdout) else 'Set'} data.holdout, or stages.{name}.guard to null.",
        )


def check_shots(config: EvaluateConfig, train: Source) -> None:
    """Refuse more shots than there are images of a class, for protocols on frozen features and trained ones."""
    if train.labels is not None and config.frozen_protocols:
        draw_splits(train, config.frozen_shots, 1)
    stages = [getattr(config, name).objective for name in config.trained_stages]
    if any((train.masks if isinstance(part, SegmentConfig) else train.labels) is not None for part in stages):
        for shots in config.trained_shots:
            few_images(train, shots, 0)


def is_missing(enc: str) -> bool:
    """Whether an ENC is a path where nothing lies."""
    return not enc.startswith("timm:") and not expanded(enc.partition("?")[0]).exists()


def is_own_stage(source: str, recipe: Recipe, out: Path | None) -> bool:
    """Whether an ENC is a stage of this run, which is still to be made, however its path is written.

    Args:
        source: the ENC.
        recipe: the run's recipe.
        out: the run's directory; None where it is not known: any path that ends like a stage's will do.
    """
    path = expanded(source).resolve()
    if out is not None:
        return path.is_relative_to((out / "stages").resolve())
    stages = {stage_directory(Path(), recipe, name) for name in recipe.stages}
    folders = Path(source.partition("?")[0]).parts
    ends = {Path(*folders[index : index + 2]) for index in range(len(folders) - 1)}
    return is_missing(source) and bool(stages & ends)
