"""The weights at the best held-out epoch, kept beside those of the last.

They are part of a checkpoint's state rather than a file of their own: a run that goes on from an earlier step, or from
before a bad one, must also go back to the best of that time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from layergraft.encoders.safe_load import read_noted
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.objectives.base import Objective
from layergraft.runs.atomic import write_bytes

FILE = "best.safetensors"


class Best:
    """What is trained, and every buffer of the objective, at the online evaluation with the highest selection metric.

    Args:
        encoder: of the stage.
        objective: of the stage; one without a selection metric keeps nothing.
    """

    def __init__(self, encoder: Encoder, objective: Objective) -> None:
        self.module, self.metric = _both(encoder, objective), objective.selection_metric
        self.step, self.value = 0, float("-inf")
        self.weights: dict[str, Tensor] = {}

    def offer(self, step: int, numbers: dict[str, Any]) -> None:
        """Keep the weights of now if their selection metric is higher than any before."""
        if self.metric is not None and numbers.get(self.metric, float("-inf")) > self.value:
            self.step, self.value = step, float(numbers[self.metric])
            trained: dict[str, Tensor] = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
            trained |= {name: buffer for name, buffer in self.module.named_buffers() if name.startswith("objective.")}
            self.weights = {name: value.detach().cpu().clone() for name, value in trained.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "value": self.value, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.value, self.weights = int(state["step"]), float(state["value"]), dict(state["weights"])

    def write(self, directory: Path) -> None:
        """Write `best.safetensors` of a stage, if anything was kept."""
        if self.weights:
            # One entry: safetensors writes several in an order that changes from process to process.
            note = {"best": json.dumps({"step": self.step, self.metric: self.value})}
            write_bytes(directory / FILE, save(self.weights, metadata=note))


def _both(encoder: Encoder, objective: Objective) -> nn.Module:
    return nn.ModuleDict({"encoder": encoder, "objective": objective})


def load_best(encoder: Encoder, objective: Objective, directory: Path) -> tuple[int, float] | None:
    """Put the weights of a finished stage's best epoch into encoder and objective.

    Returns:
        (steps done at that epoch, its selection metric), or None where nothing was kept.

    Raises:
        UserError: the file is damaged, or holds something else.
    """
    file = directory / FILE
    if not file.is_file():
        return None
    hint = f"Restore it, or remove {str(directory)!r} and run the command again: it trains that anew."
    weights, note = read_noted(file, "best", dict[str, float], hint)
    module = _both(encoder, objective)
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    strange = [name for name, value in weights.items() if shapes.get(name) != value.shape]
    if strange or not {"step", objective.selection_metric} <= set(note):
        raise UserError(f"{str(file)!r} holds something else than the weights of {str(directory)!r}.", hint)
    module.load_state_dict(weights, strict=False)
    return int(note["step"]), note[str(objective.selection_metric)]
