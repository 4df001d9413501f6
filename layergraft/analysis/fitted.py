"""The fitted heads that a stage leaves beside its encoder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import msgspec
from safetensors.torch import load_file

from layergraft.checkpoints.encoder import load_encoder
from layergraft.config.objectives import ObjectiveConfig
from layergraft.models.vit import Encoder
from layergraft.objectives.base import Objective, create_objective


@dataclass(frozen=True, kw_only=True)
class FittedStage:
    """A stage directory with heads.

    Args:
        name: the stage's name.
        directory: RUN/stages/<n>-<name>.
        objective: what its heads were trained for.
    """

    name: str
    directory: Path
    objective: ObjectiveConfig

    def encoder(self) -> Encoder:
        """The encoder that the heads were trained with."""
        return load_encoder(self.directory).requires_grad_(False)

    def load(self, encoder: Encoder) -> Objective:
        """The objective with its fitted heads and momentum copies; what has no file is copied from the encoder."""
        objective = create_objective(self.objective, encoder)
        objective.start(encoder)
        weights = {}
        for name, value in load_file(self.directory / "heads.safetensors").items():
            slow = name.startswith("momentum.")
            weights[f"slow.{name.removeprefix('momentum.')}" if slow else f"heads.{name}"] = value
        momentum = self.directory / "encoder_momentum" / "model.safetensors"
        if momentum.is_file():
            weights |= {f"slow.encoder.vit.{name}": value for name, value in load_file(momentum).items()}
        objective.load_state_dict(objective.state_dict() | weights)
        return objective.eval()


def fitted_stages(run: Path) -> list[FittedStage]:
    """The finished stages of a run that left heads, in order."""
    directories = sorted((run / "stages").glob("*-*"), key=lambda path: int(path.name.partition("-")[0]))
    return [
        FittedStage(
            name=path.name.partition("-")[2],
            directory=path,
            objective=msgspec.convert(json.loads((path / "heads.json").read_text())["objective"], ObjectiveConfig),
        )
        for path in directories
        if (path / "plan.json").is_file() and (path / "heads.json").is_file()
    ]
