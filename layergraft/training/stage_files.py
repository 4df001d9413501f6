"""The files that a stage leaves: encoders, heads and, last of all, its plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import load_file, save

from layergraft.config.stage import StageConfig
from layergraft.encoders.checkpoint import load_encoder, save_encoder
from layergraft.encoders.vit import Encoder
from layergraft.runs.atomic import write_bytes, write_text
from layergraft.runs.metrics import read_metrics, training_seconds
from layergraft.training.stage import StageRun

MOMENTUM_ENCODER = "momentum_copies.encoder."


def stage_json(stage: StageRun, step_flops: int | None) -> dict[str, Any]:
    """One element of `stages` of plan.json.

    Args:
        stage: trained.
        step_flops: operations of a step, or None where they were not counted.
    """
    rows = read_metrics(stage.directory / "metrics.jsonl")
    notes = {
        "memory_bytes": "not measured; `layergraft plan` estimates it",
        "seconds": "training steps only, from metrics.jsonl; excludes online evaluation and checkpointing",
        "flops": "products, attention and convolutions of all steps, by their shapes"
        if step_flops is not None
        else "not counted; `layergraft plan` counts them",
    }
    return {
        "name": stage.name,
        "objective": msgspec.to_builtins(stage.config.objective)["name"],
        "layers": stage.plan.to_json(),
        "steps": stage.steps_done,
        "epochs": round(stage.epochs * stage.steps_done / stage.steps, 2),
        "batch_size": stage.config.batch_size,
        "memory_bytes": None,
        "threads": torch.get_num_threads(),
        "seconds": training_seconds(rows, stage.config.batch_size),
        "flops": None if step_flops is None else step_flops * stage.steps_done,
        "notes": notes,
        "guard": None if stage.guard is None else stage.guard.summary(stage.name),
    } | progressive_json(stage.config, stage.steps)


def progressive_json(config: StageConfig, steps: int | None) -> dict[str, Any]:
    """`progressive` of an element of `stages`: the first parts of a stage that has any, by the step they end before.

    Args:
        config: the stage.
        steps: how many it has, where that is known.
    """
    parts = [
        {
            "until": phase.until,
            "steps": None if steps is None else round(phase.until * steps),
            "size": msgspec.to_builtins(phase.size),
            "keep_ratio": phase.keep_ratio,
        }
        for phase in config.progressive
    ]
    return {"progressive": parts} if parts else {}


def _public_name(name: str) -> str:
    """Name in heads.safetensors of an objective's parameter or buffer."""
    return (
        name.removeprefix("heads.") if name.startswith("heads.") else name.replace("momentum_copies.", "momentum.", 1)
    )


def restore_stage(stage: StageRun) -> None:
    """Give a prepared stage the weights that it left when it was done; it has no momentum copies."""
    stage.encoder.load_state_dict(load_encoder(stage.directory).state_dict())
    heads = load_file(stage.directory / "heads.safetensors")
    stage.objective.load_state_dict({name: heads[_public_name(name)] for name in stage.objective.state_dict()})


def save_weights(stage: StageRun, directory: Path, provenance: dict[str, Any]) -> None:
    """Write the encoders and heads of a stage as they are now.

    Args:
        stage: its own modules hold the weights.
        directory: the stage's, or that of a snapshot.
        provenance: where the weights come from.
    """
    save_encoder(stage.encoder, directory / "encoder", provenance)
    slow = dict(stage.objective.momentum_copies.named_children()).get("encoder")
    if isinstance(slow, Encoder):
        save_encoder(slow, directory / "encoder_momentum", provenance)
    if stage.ema:
        save_encoder(stage.ema, directory / "encoder_ema", provenance)
    heads = {
        _public_name(name): value.detach().cpu().contiguous()
        for name, value in stage.objective.state_dict().items()
        if not name.startswith(MOMENTUM_ENCODER)
    }
    write_bytes(directory / "heads.safetensors", save(heads))
    write_text(
        directory / "heads.json",
        json.dumps(
            {
                "objective": msgspec.to_builtins(stage.config.objective),
                "embed_dim": stage.encoder.embed_dim,
                "classes": stage.loader.source.classes if stage.objective.selection_metric else [],
            },
            indent=2,
        ),
    )


def save_stage(stage: StageRun, provenance: dict[str, Any], step_flops: int | None = None) -> None:
    """Write what a stage leaves: encoders, heads and, last of all, its plan.

    Args:
        stage: trained.
        provenance: where the weights come from.
        step_flops: operations of a step, where they were counted.
    """
    save_weights(stage, stage.directory, provenance)
    stage.best.write(stage.directory)
    write_text(stage.directory / "plan.json", json.dumps(stage_json(stage, step_flops), indent=1) + "\n")
