"""The guard of a stage: it measures the encoder on held-out images, keeps the best point, and acts when it falls.

Without labels the best point is the farthest one on the line from the start to the weights of now that is still near
the start: the mean of two such networks keeps what the first one knew and has most of what the second one learned
(WiSE-FT: Wortsman et al., CVPR 2022).

What it keeps is part of a checkpoint's state, as what `best_epoch` keeps: a run that goes on from an earlier step must
also go back to what was kept then. The first process measures; all of them keep the weights and decide alike.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import nn

from layergraft.config.guard import GuardConfig
from layergraft.data.randomness import Randomness
from layergraft.encoders.distributed import is_distributed
from layergraft.encoders.vit import Encoder
from layergraft.evaluation.features import NonFiniteFeatures
from layergraft.evaluation.held_out import Figures, HeldOut, figures_of
from layergraft.training.checkpoints import State, host_copy
from layergraft.training.monitor import stratified_sample
from layergraft.training.run_data import RunData
from layergraft.training.signals import together

Act = Literal["soften", "end"]
HALVINGS = 3  # of the way from the start to now: the farthest near point is found to an eighth


class Guard:
    """Looks of a stage, what was kept, and what follows.

    Args:
        config: where a fall begins, and what it leads to.
        data: training and held-out images.
        seed: the recipe's seed.
        steps: of the stage.
    """

    def __init__(self, config: GuardConfig, data: RunData, seed: int, steps: int) -> None:
        self.config, self.steps = config, steps
        random = Randomness(seed=seed, scope="guard")  # the same images in every stage
        self.images = HeldOut(*(stratified_sample(part, config.images, random) for part in (data.train, data.holdout)))
        self.start: Figures | None = None
        self.kept: Figures | None = None
        self.kept_step = 0
        self.kept_part = 1.0  # of the way from the start to the weights of that step
        self.weights: State = {}
        self.origin: State = {}  # without labels: the weights of the start
        self.looks: list[dict[str, float]] = []
        self.softened: int | None = None
        self.ended: int | None = None
        self.act: Act | None = None  # what is still to be done about the last look

    def begin(self, encoder: Encoder, modules: State) -> None:
        """Measure the start and keep it; all processes call.

        Args:
            encoder: with the weights that the stage starts from.
            modules: name -> what is kept: encoder, objective and running average.

        Raises:
            NonFiniteFeatures: the start has diverged already.
        """
        self.start = self._measured(encoder)
        if self.start is None:
            raise NonFiniteFeatures(len(self.images.holdout), "what the stage starts from")
        self.looks.append({"step": 0, **self._numbers(self.start)})
        self._keep(0, self.start, states(modules))
        self.origin = {} if self.images.labelled else self.weights

    @property
    def at_start(self) -> bool:
        """Whether nothing later than the start was kept."""
        return self.kept_step == 0

    def look(self, step: int, encoder: Encoder, modules: State) -> dict[str, float]:
        """Measure the encoder, and keep it or decide what follows; all processes call.

        Args:
            step: steps done.
            encoder: as it is now.
            modules: as for `begin`.

        Returns:
            Numbers for the row of the metrics.
        """
        if self.act is not None:  # it has fallen already: its steps were not finite
            return {}
        figures = self._measured(encoder)
        numbers = {} if figures is None else self._numbers(figures)
        self.looks.append({"step": step, **numbers})
        if not self.images.labelled:
            self._keep_farthest(step, figures, encoder, modules)
        elif figures is not None and self._is_better(figures):
            self._keep(step, figures, states(modules))
        elif figures is None or self._has_fallen(figures):
            self.fall(step)
        return {f"guard_{name}": value for name, value in numbers.items()}

    def _keep_farthest(self, step: int, now: Figures | None, encoder: Encoder, modules: State) -> None:
        """Keep the farthest point on the way from the start to now that is near the start; where none is, it fell."""
        if now is not None and self._is_near(now):
            self._keep(step, now, states(modules))
            self.kept_part = self.looks[-1]["part"] = 1.0
            return
        farthest: Figures | None = None
        near, far = 0.0, 1.0
        for _ in range(HALVINGS if now is not None else 0):
            middle = (near + far) / 2
            figures = self._measured_between(middle, encoder)
            if figures is not None and self._is_near(figures):
                near, farthest = middle, figures
            else:
                far = middle
        if farthest is None:
            self.fall(step)
            return
        self._keep(step, farthest, between(self.origin, states(modules), near))
        self.kept_part = self.looks[-1]["part"] = near

    def _measured_between(self, part: float, encoder: Encoder) -> Figures | None:
        """Figures of the encoder a part of the way from the start; it is left as it is."""
        now = host_copy(encoder.state_dict())
        encoder.load_state_dict(between(self.origin["encoder"], now, part))
        try:
            return self._measured(encoder)
        finally:
            encoder.load_state_dict(now)

    def fall(self, step: int) -> None:
        """Decide what follows a fall: the learning rates are softened once, where the recipe says so; else it ends."""
        if self.config.soften is None or self.softened is not None or step >= self.steps:
            self.act, self.ended = "end", step
        else:
            self.act, self.softened = "soften", step

    def _measured(self, encoder: Encoder) -> Figures | None:
        """The encoder's figures, the first process's for all; None where its features are not finite."""
        figures: list[Figures | None] = [None]
        with together():
            if not is_distributed() or dist.get_rank() == 0:
                try:
                    figures = [self.images.measure(encoder)]
                except NonFiniteFeatures:
                    figures = [None]
        if is_distributed():
            dist.broadcast_object_list(figures)
        return figures[0]

    def _numbers(self, figures: Figures) -> dict[str, float]:
        if self.images.labelled:
            return figures.numbers
        assert self.start is not None
        return figures.numbers | {"agreement": figures.agreement(self.start)}

    def _is_better(self, figures: Figures) -> bool:
        """With labels: whether a later point takes the place of what was kept."""
        assert self.start is not None
        assert self.kept is not None
        lead, error = figures.lead(self.start)
        not_below = all(value >= self.start.numbers[name] for name, value in figures.numbers.items())
        return lead > error and not_below and figures.mean > self.kept.mean

    def _has_fallen(self, figures: Figures) -> bool:
        """With labels: whether it is below what was kept."""
        assert self.kept is not None
        lead, error = figures.lead(self.kept)
        return -lead > max(self.config.margin, 2 * error)

    def _is_near(self, figures: Figures) -> bool:
        """Without labels: whether it still finds the start's neighbours, and spreads its features as widely."""
        assert self.start is not None
        wide = figures.numbers["rankme"] >= self.config.rankme * self.start.numbers["rankme"]
        return wide and figures.agreement(self.start) >= self.config.agreement

    def _keep(self, step: int, figures: Figures, weights: State) -> None:
        self.kept_step, self.kept, self.weights = step, figures, weights

    def give_back(self, modules: dict[str, nn.Module]) -> None:
        """Put what was kept into modules that are not split."""
        for name, module in modules.items():
            module.load_state_dict(self.weights[name])

    def lr_factor(self, step: int, warmup_steps: int) -> float:
        """Factor of the learning rates at a step: after a softening they rise again from 0 to the part they keep.

        Args:
            step: steps done.
            warmup_steps: of the stage.
        """
        if self.softened is None or self.config.soften is None:
            return 1.0
        # Of the stage's length it is no matter: branches of a trunk have others.
        return self.config.soften * min(1.0, (step - self.softened) / max(1, warmup_steps))

    def state_dict(self) -> State:
        return {
            "start": self.start.state_dict() if self.start else None,
            "kept": self.kept.state_dict() if self.kept else None,
            "kept_step": self.kept_step,
            "kept_part": self.kept_part,
            "weights": self.weights,
            "origin": self.origin,
            "looks": self.looks,
            "softened": self.softened,
            "ended": self.ended,
        }

    def load_state_dict(self, state: State) -> None:
        self.start, self.kept = figures_of(state["start"]), figures_of(state["kept"])
        self.kept_step, self.kept_part = int(state["kept_step"]), float(state.get("kept_part", 1))
        # A checkpoint of an earlier version has no start: the way begins at what was kept then, which was near it.
        self.weights = state["weights"]
        self.origin = state.get("origin", self.weights)
        self.looks = list(state["looks"])
        self.softened, self.ended = state["softened"], state["ended"]
        self.act = None

    def what_follows(self) -> str:
        """A sentence about the act that is due."""
        part = "what it was at" if self.kept_part == 1 else f"{self.kept_part:.0%} of the way from its start to"
        back = "its start" if self.at_start else f"{part} step {self.kept_step}"
        if self.act == "soften":
            return f"it fell on held-out images; it goes back to {back}, and on at {self.config.soften} × its rates."
        return f"it fell on held-out images, and ends here; it leaves {back}."

    def summary(self, name: str) -> dict[str, Any]:
        """What the files of a stage and the report say of its guard; `name` is the stage's."""
        assert self.start is not None
        assert self.kept is not None
        held = f"{len(self.images.holdout):,} held-out images"
        ended = "" if self.ended is None else f" It was ended at step {self.ended} of {self.steps}."
        softened = "" if self.softened is None else f" Its rates were softened at step {self.softened}."
        if self.at_start:
            why = "led it by more than chance" if self.images.labelled else "stayed near enough to it"
            sentence = f"Stage {name} leaves the weights that it started from: on {held} nothing later {why}."
        elif self.images.labelled:
            before, after = self.start.numbers, self.kept.numbers
            change = f"kNN {before['knn']:.1f} → {after['knn']:.1f} %"
            change += f", 5-shot {before['five_shot']:.1f} → {after['five_shot']:.1f} %"
            sentence = f"Stage {name} leaves step {self.kept_step} of {self.steps}: on {held} {change}."
        else:
            shared = f"shares {self.kept.agreement(self.start):.0%} of the nearest neighbours with its start"
            ratio = self.kept.numbers["rankme"] / self.start.numbers["rankme"]
            blind = "with so few labels" if self.images.has_labels else "without labels"
            way = "" if self.kept_part == 1 else f"{self.kept_part:.0%} of the way from its start to "
            sentence = (
                f"Stage {name} leaves {way}step {self.kept_step} of {self.steps}, which {shared} and has {ratio:.0%} "
                f"of its RankMe on {held}; {blind} nobody can tell whether it is better."
            )
        return {
            "sentence": sentence + softened + ended,
            "labels": self.images.labelled,
            "at_start": self.at_start,
            "kept_step": self.kept_step,
            "kept_part": self.kept_part,
            "softened": self.softened,
            "ended": self.ended,
            "looks": self.looks,
        }


def states(modules: State) -> State:
    """A copy of the weights of modules, in host memory."""
    return cast(State, host_copy({name: part.state_dict() for name, part in modules.items()}))


def between(start: State, end: State, part: float) -> State:
    """Weights a part of the way from one state to another; what is no fraction, as counts of batches, is the end's.

    Args:
        start: name -> tensor, or such states by name.
        end: likewise, of the same names.
        part: 0 to 1.
    """
    mixed: State = {}
    for name, value in end.items():
        if isinstance(value, dict):
            mixed[name] = between(start[name], value, part)
        else:
            mixed[name] = torch.lerp(start[name], value, part) if value.is_floating_point() else value
    return mixed
