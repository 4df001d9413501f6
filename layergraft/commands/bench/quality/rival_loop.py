"""The training loop of a rival: a plain loop over a `DataLoader`, counted like ours."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from layergraft.commands.bench.quality.core_seconds import CoreSeconds
from layergraft.commands.bench.quality.recipes import PILOT, WARM
from layergraft.commands.bench.quality.rivals import RIVALS, Rival
from layergraft.commands.study.accuracy import SeedImages
from layergraft.data.sources.source import Source
from layergraft.encoders.safe_load import read_file
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.graft.donors import first_encoder
from layergraft.runs.atomic import write_bytes
from layergraft.runs.cpu_time import cpu_seconds
from layergraft.runs.interruption import check
from layergraft.training.divergence import Diverged
from layergraft.training.precision import attention_of, linear_products_of, products_of

PART = "train"  # what its only part is called where ours have stages
WARM_UP = 0.1  # of the steps


class _Views(Dataset[list[Tensor]]):
    """Images of a source as PIL images, through a transform."""

    def __init__(self, source: Source, channels: int, transform: Callable[[Any], list[Tensor]]) -> None:
        self.source, self.channels, self.transform = source, channels, transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> list[Tensor]:
        pixels = self.source.images.load(int(self.source.keys[index]), self.channels)
        return self.transform(Image.fromarray(pixels[:, :, 0] if self.channels == 1 else pixels))


class RivalTraining:
    """A rival on the images and the first weights of a recipe.

    Args:
        name: of the rival.
        images: of a recipe and a seed.
        steps: of the whole training, at whose end the schedule ends.
        rate: factor of its learning rate.
    """

    def __init__(self, name: str, images: SeedImages, steps: int, rate: float) -> None:
        from lightly.models.utils import get_weight_decay_parameters
        from lightly.utils.scheduler import CosineWarmupScheduler

        rival: Rival = RIVALS[name]
        recipe, data = images.recipe, images.data
        self.seed, self.rate, self.steps, self.step = recipe.seed, rate, steps, 0
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(recipe.seed)
        self.encoder: Encoder = first_encoder(recipe, data.mean, data.std).train()
        # In the recipe's precision, by its products and its way of attention, which are no merit of a method.
        self.low = products_of(recipe.engine)
        self.products = linear_products_of(recipe.engine, torch.device("cpu"))
        self.attention = attention_of(recipe.engine, self.encoder, torch.device("cpu"))
        self.module = rival.build(self.encoder, recipe.start is None, steps).train()
        statistics = {"mean": list(data.mean), "std": list(data.std)}
        transform = rival.transform(self.encoder.img_size, statistics)
        self.dataset = _Views(data.train, self.encoder.in_chans, transform)
        self.batch_size = min(rival.batch_size, len(data.train))
        decayed, others = get_weight_decay_parameters([self.module])
        groups = [
            {"params": [p for p in parameters if p.requires_grad], "weight_decay": decay}
            for parameters, decay in ((decayed, rival.weight_decay), (others, 0.0))
        ]
        peak = rate * rival.base_lr * self.batch_size / 256
        self.optimizer = torch.optim.AdamW(groups, lr=peak, betas=rival.betas)
        warm_up = max(1, round(WARM_UP * steps)) if steps > 1 else 0
        self.scheduler = CosineWarmupScheduler(self.optimizer, warmup_epochs=warm_up, max_epochs=steps, end_value=0.0)
        self.losses: list[float] = []

    def batches(self) -> list[list[int]]:
        """Rows of every batch that is left: whole batches of a new order each epoch."""
        per_epoch = len(self.dataset) // self.batch_size
        rows: list[list[int]] = []
        order = torch.empty(0)
        for step in range(self.step, self.steps):
            epoch, place = divmod(step, per_epoch)
            if place == 0 or not len(order):
                generator = torch.Generator().manual_seed(epoch + 10**6 * self.seed)
                order = torch.randperm(len(self.dataset), generator=generator)
            rows.append(order[place * self.batch_size : (place + 1) * self.batch_size].tolist())
        return rows

    def run(self, report: Callable[[int], None] = lambda step: None) -> None:
        """Train to the end.

        Args:
            report: called after each step with its number.

        Raises:
            Stopped: a signal came.
            Diverged: the loss is not finite.
        """
        # A loader takes a number from its generator when it begins: not from torch's own, which would part a training
        # that goes on from one that was never stopped.
        loader = DataLoader(self.dataset, batch_sampler=self.batches(), generator=torch.Generator())
        for views in loader:
            with self.products(), self.attention(self.module):
                with torch.autocast("cpu", self.low or torch.bfloat16, enabled=self.low is not None):
                    loss = self.module(views, self.step)
                self.optimizer.zero_grad()
                loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            self.step += 1
            self.losses.append(loss.item())
            if not np.isfinite(self.losses[-1]):
                raise Diverged(f"The loss of step {self.step} is not finite.", "Give a lower --rates.")
            report(self.step)
            if self.step < self.steps:
                check()

    def save(self, file: Path) -> None:
        """Everything that a later start needs to go on with the same bits."""
        name, keys, *rest = np.random.get_state(legacy=True)
        state = {
            "step": self.step,
            "steps": self.steps,
            "rate": self.rate,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": (random.getstate(), (name, np.asarray(keys).tolist(), *rest), torch.get_rng_state()),
        }
        content = io.BytesIO()
        torch.save(state, content)
        write_bytes(file, content.getvalue())

    def load(self, state: Mapping[str, Any]) -> None:
        """What `save` kept."""
        self.step = state["step"]
        for part in ("module", "optimizer", "scheduler"):
            getattr(self, part).load_state_dict(state[part])
        python, numpy, torchs = state["random"]
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torchs)


def rival_pilot(name: str, images: SeedImages) -> dict[str, float]:
    """Core-seconds of a step, once warm."""
    at: dict[int, float] = {}

    def report(step: int) -> None:
        at[step] = cpu_seconds()

    RivalTraining(name, images, PILOT, 1.0).run(report)
    return {PART: (at[PILOT] - at[WARM]) / (PILOT - WARM)}


def _begun(file: Path, name: str, images: SeedImages, rate: float) -> RivalTraining | None:
    """The training whose state a start before has left; None where it had another learning rate.

    Raises:
        UserError: the file is damaged.
    """
    state = read_file(file)
    try:
        if state["rate"] != rate:  # the search has found another one since
            return None
        training = RivalTraining(name, images, state["steps"], rate)
        training.load(state)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
        raise UserError(f"{str(file)!r} holds no state of this training.", "Remove it: it begins anew.") from None
    return training


def train_rival(name: str, images: SeedImages, rate: float, steps: int, run: Path) -> tuple[Encoder, dict[str, Any]]:
    """Train a rival, or go on with it.

    Args:
        name: of the rival.
        images: of a recipe and a seed.
        rate: factor of its learning rate.
        steps: that fit the budget.
        run: directory for its state.

    Returns:
        (the encoder that is measured, `core_seconds`, `steps` and `per_step`).

    Raises:
        Stopped: a signal came; everything is saved.
        UserError: the file of a start before is damaged.
    """
    counted, file = CoreSeconds(run.with_name(f"{run.name}.seconds.json")), run / "checkpoints" / "state.pt"
    if counted.lost:
        file.unlink(missing_ok=True)
    training = _begun(file, name, images, rate) if file.is_file() else None
    if training is None:  # also where somebody removed it: what it took then is of a training that is gone
        counted.forget(PART)
        training = RivalTraining(name, images, steps, rate)
    with counted.of(PART):
        try:
            training.run()
        finally:  # a signal may come once it is trained, too
            training.save(file)
    found = {
        "core_seconds": counted.total,
        "steps": {PART: training.steps},
        "per_step": {PART: counted.total / training.steps},
    }
    return training.encoder.eval(), found
