"""The time of a whole run, by its parts: as it was told when the run began, for the progress, `status` and the end."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from layergraft.errors import UserError
from layergraft.runs.atomic import write_text
from layergraft.runs.json_files import read_json_as
from layergraft.runs.readable import duration

FILE = "time.json"
_LONGEST = 1e10  # seconds; more is damage
_TRUST = (1 / 3, 3.0)  # how far the speed so far corrects what was told of the parts to come


@dataclass(frozen=True, kw_only=True)
class RunTime:
    """Seconds that were told.

    Args:
        stages: of each stage, online evaluation included.
        evaluation: of few labels.
        analyses: of the pictures.
        recipe: hash of the recipe that it was told of; empty where that is not known.
    """

    stages: dict[str, float] = field(default_factory=dict)
    evaluation: float = 0.0
    analyses: float = 0.0
    recipe: str = ""

    @property
    def training(self) -> float:
        return sum(self.stages.values())

    @property
    def whole(self) -> float:
        return self.training + self.evaluation + self.analyses

    def seconds(self) -> dict[str, Any]:
        """The parts as `run.json` has them."""
        return {"stages": self.stages, "evaluation": self.evaluation, "analyses": self.analyses}

    def parts(self) -> str:
        """All parts in one line."""
        parts = [f"{name} {duration(seconds)}" for name, seconds in self.stages.items()]
        parts += [f"evaluation {duration(self.evaluation)}"] if self.evaluation else []
        parts += [f"analyses {duration(self.analyses)}"] if self.analyses else []
        return ", ".join(parts)

    def sentence(self) -> str:
        """What is told before a run."""
        return f"About {duration(self.whole)} in all: {self.parts()}."

    def left(self, stage: str, stage_left: float, pace: float = 1.0) -> float:
        """Seconds that are left of the whole run while a stage trains.

        Args:
            stage: which one.
            stage_left: seconds that are left of it.
            pace: what the stage took so far over what was told for as much of it.
        """
        names = list(self.stages)
        later = names[names.index(stage) + 1 :] if stage in names else []
        rest = sum(self.stages[name] for name in later) + self.evaluation + self.analyses
        return stage_left + rest * min(max(pace, _TRUST[0]), _TRUST[1])

    def write(self, run: Path) -> None:
        """Keep it in a run's directory."""
        write_text(run / FILE, json.dumps(asdict(self), indent=1) + "\n")


def read_run_time(run: Path) -> RunTime | None:
    """What was told when a run began; None where nothing was, or where it cannot be read."""
    file = run / FILE
    try:
        told = read_json_as(file, RunTime) if file.is_file() else None
    except UserError:
        return None
    seconds = [*told.stages.values(), told.evaluation, told.analyses] if told else []
    return told if all(0 <= part < _LONGEST for part in seconds) else None


def taken_sentence(taken: RunTime, told: RunTime | None) -> str:
    """What is said after a run."""
    before = f", {duration(told.whole)} were told" if told else ""
    return f"{duration(taken.whole)} in all ({taken.parts()}){before}."
