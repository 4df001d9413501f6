"""Before and after a stage: its start from the one before, and the files it leaves."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import load_file, save

from layergraft.config.recipe import Recipe
from layergraft.config.stage import StageConfig
from layergraft.config.supervised import ClassifyConfig, SegmentConfig
from layergraft.data.loader import TrainLoader
from layergraft.data.randomness import Randomness
from layergraft.data.skipped import SkippedImages
from layergraft.encoders.checkpoint import announce, load_encoder, save_encoder
from layergraft.encoders.conv_stem import ConvStem
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.graft.apply import hold_statistics, set_frozen, stage_plan
from layergraft.graft.donors import Origins
from layergraft.graft.initialize import start_weights
from layergraft.objectives.create import create_objective, know_classes
from layergraft.runs.atomic import write_bytes, write_text
from layergraft.runs.layout import stage_directory
from layergraft.runs.metrics import read_metrics, training_seconds
from layergraft.training.best import Best
from layergraft.training.inputs import RunData
from layergraft.training.launch import ALONE, Process
from layergraft.training.monitor import Monitor
from layergraft.training.stage_run import StageRun

SLOW_ENCODER = "slow.encoder."


def prepare_stage(
    recipe: Recipe, name: str, run: Path, encoder: Encoder, data: RunData, process: Process = ALONE
) -> StageRun:
    """Build everything that a stage needs, with the weights it starts from.

    Args:
        recipe: the run's recipe.
        name: which stage.
        run: the run's directory.
        encoder: as the stage before left it; it becomes the stage's own.
        data: training and held-out images.
        process: which of the run's processes this is.

    Raises:
        UserError: the stage does not fit the images, the processes or the weights it starts from.
    """
    config = _complete(recipe.stages[name], name, data, process)
    random = Randomness(seed=recipe.seed, scope=name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random.torch_seed("heads"))
        objective = create_objective(config.objective, encoder)
    rows, plan = stage_plan(config, name, encoder, objective, config.batch_size)

    names = list(recipe.stages)
    position = names.index(name)
    before = str(stage_directory(run, recipe, names[position - 1])) if position else recipe.start
    start_weights(encoder, objective, plan, Origins(recipe=recipe, stage=name, like=encoder, before=before), announce)
    set_frozen(rows, plan)
    hold_statistics(encoder, objective, plan)
    stem = encoder.vit.patch_embed
    if isinstance(stem, ConvStem) and stem.frozen and stem.is_new:
        announce(f"Stage {name} freezes a convolutional stem whose BatchNorm has seen no image: it will not normalise.")

    loader = TrainLoader(
        data.train,
        config.views,
        size=encoder.img_size,
        channels=encoder.in_chans,
        batch_size=config.batch_size,
        random=random,
        skipped=SkippedImages(recipe.data.max_bad, run / "skipped.jsonl", announce),
        rank=process.rank,
        world_size=process.world_size,
        workers=recipe.data.workers,
        augment=recipe.data.augment,
        masks=isinstance(config.objective, SegmentConfig),
        finish=not recipe.data.finishes_on(process.device),
        pin=process.device == "cuda",
    )
    return StageRun(
        name=name,
        config=config,
        engine=recipe.engine,
        encoder=encoder,
        objective=objective,
        ema=copy.deepcopy(encoder) if config.ema is not None else None,
        rows=rows,
        plan=plan,
        loader=loader,
        directory=stage_directory(run, recipe, name),
        monitor=Monitor(recipe.monitor, data.train, data.holdout, recipe.seed, config.epochs),
        best=Best(encoder, objective),
    )


def _complete(config: StageConfig, name: str, data: RunData, process: Process) -> StageConfig:
    """The stage with the batch that its images allow and the number of classes that they have."""
    batch_size = min(config.batch_size, len(data.train))
    if batch_size % process.world_size:
        raise UserError(
            f"The batch of {batch_size} images does not divide over {process.world_size} processes.",
            f"Change --stages.{name}.batch_size.",
        )
    objective = know_classes(config.objective, data.train, name)
    if isinstance(objective, ClassifyConfig) and objective.grid is not None and not len(data.holdout):
        heads = len(objective.linears())
        raise UserError(
            f"Stage {name!r} chooses one of its {heads} heads on held-out images, and there are none.",
            "Set data.holdout, or objective.grid to null.",
        )
    return msgspec.structs.replace(config, batch_size=batch_size, objective=objective)


def stage_json(stage: StageRun, step_flops: int | None) -> dict[str, Any]:
    """One element of `stages` of plan.json.

    Args:
        stage: trained.
        step_flops: operations of a step, or None where they were not counted.
    """
    rows = read_metrics(stage.directory / "metrics.jsonl")
    notes = {
        "memory_bytes": "not measured; `layergraft plan` estimates it",
        "seconds": "of the steps, by metrics.jsonl; looks and checkpoints are not in it",
        "flops": "products, attention and convolutions of all steps, by their shapes"
        if step_flops is not None
        else "not counted; `layergraft plan` counts them",
    }
    return {
        "name": stage.name,
        "objective": msgspec.to_builtins(stage.config.objective)["name"],
        "layers": stage.plan.to_json(),
        "steps": stage.steps,
        "epochs": stage.config.epochs,
        "batch_size": stage.config.batch_size,
        "memory_bytes": None,
        "seconds": training_seconds(rows, stage.config.batch_size),
        "flops": None if step_flops is None else step_flops * stage.steps,
        "notes": notes,
    }


def _public_name(name: str) -> str:
    """Name in heads.safetensors of an objective's parameter or buffer."""
    return name.removeprefix("heads.") if name.startswith("heads.") else name.replace("slow.", "momentum.", 1)


def restore_stage(stage: StageRun) -> None:
    """Give a prepared stage the weights that it left when it was done; it has no momentum copies."""
    stage.encoder.load_state_dict(load_encoder(stage.directory).state_dict())
    heads = load_file(stage.directory / "heads.safetensors")
    stage.objective.load_state_dict({name: heads[_public_name(name)] for name in stage.objective.state_dict()})


def save_stage(stage: StageRun, provenance: dict[str, Any], step_flops: int | None = None) -> None:
    """Write what a stage leaves: encoders, heads and, last of all, its plan.

    Args:
        stage: trained.
        provenance: where the weights come from.
        step_flops: operations of a step, where they were counted.
    """
    directory = stage.directory
    save_encoder(stage.encoder, directory / "encoder", provenance)
    slow = dict(stage.objective.slow.named_children()).get("encoder")
    if isinstance(slow, Encoder):
        save_encoder(slow, directory / "encoder_momentum", provenance)
    if stage.ema:
        save_encoder(stage.ema, directory / "encoder_ema", provenance)
    heads = {
        _public_name(name): value.detach().cpu().contiguous()
        for name, value in stage.objective.state_dict().items()
        if not name.startswith(SLOW_ENCODER)
    }
    write_bytes(directory / "heads.safetensors", save(heads))
    write_text(
        directory / "heads.json",
        json.dumps(
            {
                "objective": msgspec.to_builtins(stage.config.objective),
                "embed_dim": stage.encoder.embed_dim,
                "classes": stage.loader.source.classes if stage.objective.figure else [],
            },
            indent=2,
        ),
    )
    stage.best.write(directory)
    write_text(directory / "plan.json", json.dumps(stage_json(stage, step_flops), indent=1) + "\n")
