"""Rivals of `bench quality`: their loops learn, go on to the bits, and are counted like ours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY

from layergraft.commands.bench.quality import rival_loop
from layergraft.commands.bench.quality.rival_loop import RivalTraining, rival_pilot, train_rival
from layergraft.commands.bench.quality.rivals import RIVALS, check_network
from layergraft.commands.study.accuracy import SeedImages
from layergraft.config import load_recipe
from layergraft.encoders.products import OneDnnLinear, has_onednn
from layergraft.encoders.vit import create_encoder
from layergraft.errors import Stopped, UserError

pytest.importorskip("lightly")


SMALL = {"data.source": "builtin:fashion-canvas?fraction=0.01", "encoder.depth": 2}


@pytest.fixture(scope="module")
def images() -> SeedImages:
    return SeedImages(load_recipe("fashion_paper", TINY | SMALL))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", list(RIVALS))
def test_its_loss_falls(name: str, precision: str) -> None:
    """On the images as they are, without chance: the same batch again and again."""
    images = SeedImages(load_recipe("fashion_paper", TINY | SMALL | {"engine.precision": precision}))
    training = RivalTraining(name, images, 30, 1.0)
    views = [torch.stack(view) for view in zip(*(training.dataset[row] for row in range(24)), strict=True)]
    training.dataset = [[view[row] for view in views] for row in range(24)]  # type: ignore[assignment]
    training.batch_size = 24
    training.run()
    losses = torch.tensor(training.losses)
    assert torch.isfinite(losses).all()
    assert losses[-5:].mean() < 0.97 * losses[:5].mean()
    assert training.optimizer.param_groups[0]["lr"] < 1e-5  # the schedule has ended


@pytest.mark.skipif(not has_onednn(), reason="this torch has no oneDNN")
def test_it_multiplies_as_the_recipe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else ours are faster by what both could have."""
    images = SeedImages(load_recipe("fashion_paper", TINY | SMALL | {"engine.products": "onednn"}))
    training = RivalTraining("simclr", images, 1, 1.0)
    entered: list[int] = []
    training.module.register_forward_hook(lambda *_: entered.append(OneDnnLinear.entered))
    training.run()
    assert entered == [1]


def test_a_training_that_is_stopped_goes_on_to_the_bits(
    images: SeedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = train_rival("moco", images, 1.0, 6, tmp_path / "whole")
    calls = [0]

    def told() -> None:
        calls[0] += 1
        if calls[0] == 3:
            raise Stopped("Stopped.")

    monkeypatch.setattr(rival_loop, "check", told)
    with pytest.raises(Stopped):
        train_rival("moco", images, 1.0, 6, tmp_path / "parts")
    parts, found = train_rival("moco", images, 1.0, 100, tmp_path / "parts")  # its own number of steps counts
    assert found["steps"] == {"train": 6}
    for (name, ours), theirs in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    trained_again, again = train_rival("moco", images, 1.0, 6, tmp_path / "parts")  # stopped while it was measured
    assert again["steps"] == {"train": 6}
    assert calls[0] == 5  # no step more
    assert torch.equal(next(trained_again.parameters()), next(parts.parameters()))


class _Runs:
    """A pickle of it would make a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("kind", ["code", "other", "cut"])
def test_a_foreign_state_runs_nothing_and_is_refused(kind: str, images: SeedImages, tmp_path: Path) -> None:
    file, made = tmp_path / "run" / "checkpoints" / "state.pt", tmp_path / "made"
    file.parent.mkdir(parents=True)
    torch.save({"steps": _Runs(made)} if kind == "code" else {"steps": 6, "step": 3, "rate": 1.0}, file)
    if kind == "cut":
        file.write_bytes(file.read_bytes()[:100])
    (tmp_path / "run.seconds.json").write_text('{"at_work": false, "seconds": {}}')
    with pytest.raises(UserError, match=re.escape(str(file))):
        train_rival("moco", images, 1.0, 6, tmp_path / "run")
    assert not made.exists()


def test_a_pilot_counts_warm_steps(images: SeedImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of a second a step; the first ones take three."""
    steps = [0]

    def clock() -> float:
        steps[0] += 1
        return steps[0] + 2 * min(steps[0], 4)

    monkeypatch.setattr(rival_loop, "cpu_seconds", clock)
    assert rival_pilot("simclr", images) == {"train": 1.0}


def test_the_encoder_that_is_measured_is_what_was_trained(images: SeedImages, tmp_path: Path) -> None:
    (tmp_path / "run.seconds.json").write_text('{"at_work": false, "seconds": {"train": 1000.0}}')
    encoder, found = train_rival("mae", images, 1.0, 2, tmp_path / "run")
    assert found["core_seconds"] < 1000  # of a training whose state is gone
    assert not encoder.training
    first: Any = create_encoder(images.recipe.encoder, 0)
    assert set(encoder.state_dict()) == set(first.state_dict())


@pytest.mark.parametrize("changes", [{"encoder.stem": "conv"}, {"encoder.in_chans": 4}])
def test_a_network_that_lightly_does_not_train_is_refused(changes: dict[str, Any]) -> None:
    sides = {"encoder.img_size": 32, "encoder.patch_size": 16, "encoder.depth": 1} | changes
    encoder = create_encoder(load_recipe("fashion_paper", TINY | sides).encoder, 0)
    with pytest.raises(UserError, match="lightly trains a plain ViT"):
        check_network(encoder)
