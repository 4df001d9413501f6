from __future__ import annotations

import pytest
import torch
from msgspec import structs
from test_batches import ENCODER, MAE, MOCO, NNCLR, START, batch, build

from layergraft.config import JointConfig, load_recipe
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError
from layergraft.objectives import create_objective
from layergraft.objectives.joint import Joint

BOTH = JointConfig(parts={"mae": MAE, "moco": MOCO}, weights={"moco": 0.25})


def test_weighted_sum_of_its_parts() -> None:
    encoder, objective = build(BOTH)
    assert isinstance(objective, Joint)
    images = batch(BOTH, slice(0, 16))
    losses, _ = objective.losses(objective.encode(encoder, images), START)
    alone = {
        name: part.losses(part.encode(encoder, images), START)[0]["loss"] for name, part in objective.parts.items()
    }
    assert losses.keys() == {"loss", "mae", "moco"}
    torch.testing.assert_close(losses["loss"], alone["mae"] + 0.25 * alone["moco"])
    torch.testing.assert_close(losses["mae"], alone["mae"])


def test_state_has_the_names_of_the_parts_alone() -> None:
    """So that the stage before and the one after can hand heads and momentum encoder on."""
    encoder, objective = build(BOTH)
    alone = set()
    for part in (MAE, MOCO):
        _, single = build(part)
        alone |= single.state_dict().keys()
    assert set(objective.state_dict()) == alone
    assert list(objective.heads) == ["decoder", "projector", "predictor"]
    assert objective.before_step(encoder, START)["momentum"] == pytest.approx(0.99, abs=1e-4)


def test_buffers_change_after_the_step_alone() -> None:
    encoder, objective = build(BOTH)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    _, pending = objective.losses(objective.encode(encoder, batch(BOTH, slice(0, 16))), START)
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    objective.after_step(pending)
    tracked = "heads.projector.1.num_batches_tracked"
    assert int(objective.state_dict()[tracked]) == int(before[tracked]) + 2


def test_views_of_the_parts_together() -> None:
    content = {"name": "joint", "parts": {"mae": {"name": "mae"}, "moco": {"name": "moco"}}}
    stage = load_recipe({"stages": {"both": {"objective": content, "views": {"second": {"flip": 0.0}}}}}).stages["both"]
    assert stage.views.keys() == {"image", "first", "second"}
    assert stage.views["second"].flip == 0.0
    assert stage.views["second"].solarize == 0.2


def test_what_cannot_be_joined() -> None:
    encoder = create_encoder(ENCODER, 0)
    with pytest.raises(UserError, match="'projector'"):
        create_objective(JointConfig(parts={"one": MOCO, "two": MOCO}), encoder)
    content = {"name": "joint", "parts": {"mae": {"name": "mae"}}, "weights": {"moco": 1.0}}
    with pytest.raises(UserError, match="`weights` names 'moco'"):
        load_recipe({"stages": {"both": {"objective": content}}})


def test_rows_that_no_part_depends_on() -> None:
    low, lower = structs.replace(NNCLR, blocks=(1,)), structs.replace(NNCLR, blocks=(0,))
    encoder = create_encoder(ENCODER, 0)
    parts = {"low": low, "mae": MAE}
    assert create_objective(JointConfig(parts=parts), encoder).unused_layers(encoder) == []
    assert create_objective(JointConfig(parts={"lower": lower}), encoder).unused_layers(encoder) == [
        "blocks.1",
        "blocks.2",
    ]
