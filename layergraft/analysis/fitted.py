"""The fitted heads that a stage leaves beside its encoder, and fitting them to another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from layergraft.config.data import ViewConfig
from layergraft.config.objectives import JointConfig, ObjectiveConfig, PartConfig
from layergraft.config.recipe import Recipe
from layergraft.data.batch import Batch, Normalize
from layergraft.data.loader import TrainLoader
from layergraft.data.randomness import Randomness
from layergraft.data.skipped import SkippedImages
from layergraft.data.sources.source import Source
from layergraft.encoders.checkpoint import load_encoder
from layergraft.encoders.vit import Encoder
from layergraft.objectives.base import Objective, Progress
from layergraft.objectives.create import create_objective
from layergraft.runs.json_files import read_json_as
from layergraft.runs.layout import HeadsFile

FIT_STEPS, FIT_BATCH, FIT_LR = 100, 64, 1e-3


@dataclass(frozen=True, kw_only=True)
class FittedStage:
    """A stage directory with heads.

    Args:
        name: the stage's name.
        directory: RUN/stages/<n>-<name>.
        objective: what its heads were trained for.
        views: its augmentations.
    """

    name: str
    directory: Path
    objective: ObjectiveConfig
    views: Mapping[str, ViewConfig]

    def encoder(self) -> Encoder:
        """The encoder that the heads were trained with."""
        return load_encoder(self.directory).requires_grad_(False)

    def parts(self) -> list[FittedPart]:
        """Its objective, or the parts of a joint one."""
        if isinstance(self.objective, JointConfig):
            return [FittedPart(stage=self, name=name, config=part) for name, part in self.objective.parts.items()]
        return [FittedPart(stage=self, name=self.name, config=self.objective)]


@dataclass(frozen=True, kw_only=True)
class FittedPart:
    """An objective with fitted heads: a stage's, or a part of its joint one.

    Args:
        stage: where its heads are.
        name: the part's name, or the stage's.
        config: the objective.
    """

    stage: FittedStage
    name: str
    config: PartConfig | ObjectiveConfig

    def load(self, encoder: Encoder) -> Objective:
        """The objective with its fitted heads and momentum copies; what has no file is copied from the encoder."""
        objective = create_objective(self.config, encoder)
        objective.begin_stage(encoder)
        state = objective.state_dict()
        for name, value in load_file(self.stage.directory / "heads.safetensors").items():
            slow = name.startswith("momentum.")
            full = f"momentum_copies.{name.removeprefix('momentum.')}" if slow else f"heads.{name}"
            if full in state:  # the heads of a joint stage's other parts stand in the same file
                state[full] = value
        momentum = self.stage.directory / "encoder_momentum" / "model.safetensors"
        if momentum.is_file():
            slow_weights = {f"momentum_copies.encoder.vit.{name}": value for name, value in load_file(momentum).items()}
            state |= {name: value for name, value in slow_weights.items() if name in state}
        objective.load_state_dict(state)
        return objective.to(encoder.device).requires_grad_(False).eval()


def fitted_stages(run: Path, recipe: Recipe) -> list[FittedStage]:
    """The finished stages of a run that left heads, in order."""
    stages = []
    for index, (name, stage) in enumerate(recipe.stages.items()):
        directory = run / "stages" / f"{index}-{name}"
        if (directory / "plan.json").is_file() and (directory / "heads.json").is_file():
            objective = read_json_as(directory / "heads.json", HeadsFile)["objective"]
            stages.append(FittedStage(name=name, directory=directory, objective=objective, views=stage.views))
    return stages


def _loader(encoder: Encoder, part: FittedPart, source: Source, batch_size: int, random: Randomness) -> TrainLoader:
    wanted = part.config.views
    return TrainLoader(
        source,
        {name: view for name, view in part.stage.views.items() if name in wanted},
        size=encoder.img_size,
        channels=encoder.in_chans,
        batch_size=batch_size,
        random=random,
        skipped=SkippedImages(1.0),
    )


def _normalised(encoder: Encoder, batch: Batch) -> Batch:
    normalize = Normalize(mean=encoder.mean, std=encoder.std)
    device = encoder.device
    return batch.prepared(lambda pixels: pixels.to(device), normalize)


def objective_batch(encoder: Encoder, part: FittedPart, source: Source, random: Randomness) -> Batch:
    """All images of a source as one batch of the views that an objective is trained on."""
    return _normalised(encoder, _loader(encoder, part, source, len(source), random).batch(0))


def fit_heads(
    objective: Objective, encoder: Encoder, part: FittedPart, source: Source, random: Randomness
) -> list[float]:
    """Train an objective's heads, from where they are, on an encoder that stands still; returns the losses.

    Its momentum encoder becomes the encoder itself, which is what a momentum encoder comes to be where nothing moves.
    """
    if "encoder" in objective.momentum_copies:
        objective.momentum_copies["encoder"].load_state_dict(encoder.state_dict())
    loader = _loader(encoder, part, source, min(FIT_BATCH, len(source)), random)
    objective.heads.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(objective.heads.parameters(), lr=FIT_LR)
    losses = []
    for step in range(FIT_STEPS):
        progress = Progress(step=step, steps=FIT_STEPS)
        objective.before_step(encoder, progress)
        with torch.no_grad():
            features = objective.encode(encoder, _normalised(encoder, loader.batch(step)))
        loss = objective.losses(features, progress)[0]["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    objective.heads.requires_grad_(False).eval()
    return losses
