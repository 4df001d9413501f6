"""Send the rows of metrics.jsonl to a tracker as well: TensorBoard, Weights & Biases, MLflow, trackio.

Each stage is a run of the tracker's. Its name depends on the output directory alone, so that a run that goes on is the
same one there. Where a tracker cannot be used (not installed, no network, not logged in), training goes on without it.
"""

from __future__ import annotations

import hashlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec

from layergraft.training.stage import StageRun

P = ParamSpec("P")


class Tracker(ABC):
    """Where the rows of metrics.jsonl go besides the file.

    Args:
        stage: what is trained.
    """

    @abstractmethod
    def __init__(self, stage: StageRun) -> None: ...

    @abstractmethod
    def log(self, numbers: dict[str, float], step: int) -> None:
        """Numbers of one step."""

    @abstractmethod
    def close(self) -> None:
        """Send what is left."""


def _names(stage: StageRun) -> tuple[Path, str, str]:
    """(the run's directory, a name for people, an identifier) of a stage."""
    run = stage.directory.resolve().parents[1]
    digest = hashlib.blake2b(str(stage.directory.resolve()).encode(), digest_size=8).hexdigest()
    return run, f"{run.name}-{stage.name}", digest


class TensorBoard(Tracker):
    def __init__(self, stage: StageRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        run, _, _ = _names(stage)
        self.writer: Any = SummaryWriter(run / "tensorboard" / stage.name)

    def log(self, numbers: dict[str, float], step: int) -> None:
        for name, number in numbers.items():
            self.writer.add_scalar(name, number, step)

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases(Tracker):
    def __init__(self, stage: StageRun) -> None:
        import wandb

        run, name, identifier = _names(stage)
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "layergraft"),
            name=name,
            id=identifier,
            group=run.name,
            dir=run,
            resume="allow",
        )

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.run.log(numbers, step=step)

    def close(self) -> None:
        self.run.finish()


class Mlflow(Tracker):
    def __init__(self, stage: StageRun) -> None:
        import mlflow

        run, name, identifier = _names(stage)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run / 'mlflow.db'}"
        self.client = mlflow.MlflowClient(uri)
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", "layergraft")
        found = self.client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else self.client.create_experiment(project)
        same = self.client.search_runs([experiment], f"tags.stage = '{identifier}'")
        made = same[0] if same else self.client.create_run(experiment, tags={"stage": identifier}, run_name=name)
        self.run = made.info.run_id

    def log(self, numbers: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.run, [Metric(name, value, now, step) for name, value in numbers.items()])

    def close(self) -> None:
        self.client.set_terminated(self.run)


class Trackio(Tracker):
    def __init__(self, stage: StageRun) -> None:
        import trackio

        _, name, identifier = _names(stage)
        self.run: Any = trackio.init(project="layergraft", name=f"{name}-{identifier}", resume="allow")

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.run.log(numbers, step=step)

    def close(self) -> None:
        self.run.finish()


TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": Mlflow,
    "trackio": Trackio,
}


class Trackers:
    """All trackers of a stage; one that fails is named and left out.

    Args:
        names: which ones.
        stage: what is trained.
        say: called with a sentence that the user should see.
    """

    def __init__(self, names: Sequence[str], stage: StageRun, say: Callable[[str], None]) -> None:
        self.say = say
        self.open: dict[str, Tracker] = {}
        for name in names:
            self._try(name, self._start, stage, name)

    def _start(self, stage: StageRun, name: str) -> None:
        self.open[name] = TRACKERS[name](stage)

    def _try(self, tracker: str, act: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            act(*args, **kwargs)
        except Exception as error:  # a tracker may fail in any way; the run does not depend on it
            self.open.pop(tracker, None)
            hint = " Install it: pip install 'layergraft[tracking]'." if isinstance(error, ImportError) else ""
            self.say(
                f"{tracker} tracks no further: {type(error).__name__}: {error}.{hint} metrics.jsonl has everything."
            )

    def log(self, row: dict[str, Any]) -> None:
        """Send a row of the metrics."""
        numbers = {name: float(value) for name, value in row.items() if isinstance(value, (int, float))}
        step = int(numbers.pop("step"))
        numbers.pop("time")  # trackers have their own
        for name, tracker in list(self.open.items()):
            self._try(name, tracker.log, numbers, step)

    def close(self) -> None:
        """Send what is left."""
        for name, tracker in list(self.open.items()):
            self._try(name, tracker.close)
