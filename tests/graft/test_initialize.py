"""Starting weights: which network each row comes from, online and momentum."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from msgspec import structs

from layergraft.config import EncoderConfig, MocoConfig, load_recipe
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.errors import UserError
from layergraft.graft.apply import stage_plan
from layergraft.graft.donors import Donors, first_encoder
from layergraft.graft.initialize import Donor, start_weights
from layergraft.graft.plan import Plan
from layergraft.objectives import Objective, create_objective

CONFIG = EncoderConfig(
    name="vit_tiny_patch16_224", img_size=8, in_chans=1, patch_size=4, embed_dim=16, depth=3, num_heads=2
)
MOCO = {"name": "moco", "projector": [8, 4], "predictor": [4]}
FREEZE = ["patch_embed", "positions"]


def network(value: float, depth: int = 3) -> Encoder:
    """An encoder all of whose numbers are the same, so that one tells where a row is from."""
    encoder = create_encoder(
        EncoderConfig(**{f: getattr(CONFIG, f) for f in CONFIG.__struct_fields__} | {"depth": depth}), 0
    )
    for parameter in encoder.parameters():
        parameter.data.fill_(value)
    return encoder


def values(encoder: Encoder) -> dict[str, float]:
    """Row -> the number it is filled with."""
    return {name: float(parameters[0].detach().flatten()[0]) for name, parameters in encoder.layers().items()}


def heads(value: float, projector: tuple[int, ...] = (8, 4)) -> dict[str, torch.Tensor]:
    """The heads of a stage that was trained, momentum copies 0.5 above."""
    objective = create_objective(MocoConfig(projector=projector, predictor=(4,)), network(0))
    found = {}
    for name, tensor in objective.state_dict().items():
        name = name.removeprefix("heads.")
        found[name] = torch.full_like(tensor, value)
        if name.startswith("projector."):
            found[f"momentum.{name}"] = torch.full_like(tensor, value + 0.5)
    return found


def start(plan: dict[str, object], donors: dict[str, Donor]) -> tuple[Encoder, Objective, Plan, list[str]]:
    stage = load_recipe({"stages": {"graft": {"objective": MOCO, "plan": plan}}}).stages["graft"]
    encoder, said = network(1.0), []
    objective = create_objective(stage.objective, encoder)
    _, table = stage_plan(stage, "graft", encoder, objective)
    start_weights(encoder, objective, table, lambda source: donors.get(source, Donor()), said.append)
    return encoder, objective, table, said


def weight(objective: Objective, place: str, head: str) -> float:
    module = (objective.heads if place == "heads" else objective.momentum_copies)[head]
    return float(next(module.parameters()).detach().flatten()[0])


def test_rows_from_three_networks() -> None:
    donors = {"fresh": Donor(encoder=network(2.0)), "other": Donor(encoder=network(3.0), momentum=network(4.0))}
    donors["previous"] = Donor(momentum=network(5.0))
    plan = {"source": {"blocks.1": "fresh", "blocks.2": "other", "norm": "other"}, "freeze": [*FREEZE, "tokens"]}
    encoder, objective, _, _ = start(plan, donors)
    expected = {"patch_embed": 1.0, "positions": 1.0, "tokens": 1.0, "blocks.0": 1.0, "blocks.1": 2.0, "blocks.2": 3.0}
    assert values(encoder) == expected | {"norm": 3.0}
    slow = objective.momentum_copies["encoder"]
    assert isinstance(slow, Encoder)
    # The momentum weights of `previous` go on where a row does; a frozen row has its own, a new one starts equal.
    assert values(slow) == expected | {"norm": 3.0, "blocks.0": 5.0}


def test_momentum_starts_equal_where_there_was_none() -> None:
    encoder, objective, _, _ = start({}, {})
    slow = objective.momentum_copies["encoder"]
    assert isinstance(slow, Encoder)
    assert values(slow) == values(encoder) == dict.fromkeys(values(encoder), 1.0)
    assert weight(objective, "momentum_copies", "projector") == weight(objective, "heads", "projector")


def test_heads_go_on_with_statistics_and_momentum() -> None:
    _, objective, _, said = start({}, {"previous": Donor(heads=heads(7.0))})
    assert weight(objective, "heads", "projector") == 7.0
    assert weight(objective, "heads", "predictor") == 7.0
    assert weight(objective, "momentum_copies", "projector") == 7.5
    assert float(objective.state_dict()["heads.projector.1.running_mean"][0]) == 7.0
    assert not said


def test_heads_from_elsewhere_and_fresh() -> None:
    donors = {"previous": Donor(heads=heads(7.0)), "other": Donor(encoder=network(3.0), heads=heads(9.0))}
    plan = {"source": {"heads.projector": "other"}, "heads": {"source": "fresh"}}
    encoder, objective, _, _ = start(plan, donors)
    assert weight(objective, "heads", "projector") == weight(objective, "momentum_copies", "projector") == 9.0
    assert abs(weight(objective, "heads", "predictor")) < 2.0  # as torch draws it
    assert set(values(encoder).values()) == {1.0}


def test_heads_of_another_shape() -> None:
    wide = heads(7.0, projector=(16, 4))
    _, objective, _, said = start({}, {"previous": Donor(heads=wide)})
    assert abs(weight(objective, "heads", "projector")) < 2.0
    assert weight(objective, "heads", "predictor") == 7.0
    assert said == ["heads.projector starts fresh: before, it had another shape."]
    with pytest.raises(UserError, match="'other' has another shape"):
        start({"source": {"heads.projector": "other"}}, {"other": Donor(encoder=network(3.0), heads=wide)})
    _, _, _, said = start({"source": {"heads.projector": "other"}}, {"other": Donor(encoder=network(3.0))})
    assert said == ["heads.projector starts fresh: 'other' has none."]


def recipe(depth: int, **more: object) -> dict[str, object]:
    encoder = structs.asdict(structs.replace(CONFIG, depth=depth))
    return {"encoder": encoder, "stages": {"graft": {"objective": MOCO} | more}}


def test_appended_blocks(tmp_path: Path) -> None:
    save_encoder(network(3.0), tmp_path / "shallow", {})
    content = recipe(5, plan={"source": {"blocks.[34]": "fresh"}}) | {"start": str(tmp_path / "shallow")}
    found = values(first_encoder(load_recipe(content), (0.5,), (0.25,)))
    assert [found[f"blocks.{i}"] for i in range(3)] == [3.0, 3.0, 3.0]
    assert found["patch_embed"] == found["norm"] == 3.0
    assert 3.0 not in (found["blocks.3"], found["blocks.4"])
    with pytest.raises(UserError, match=r"nothing says where blocks.3 comes from"):
        first_encoder(load_recipe(recipe(5) | {"start": str(tmp_path / "shallow")}), (0.5,), (0.25,))
    with pytest.raises(UserError, match=r"has 3 blocks, the encoder 2"):
        first_encoder(load_recipe(recipe(2) | {"start": str(tmp_path / "shallow")}), (0.5,), (0.25,))


def test_upper_blocks_from_a_deeper_encoder(tmp_path: Path) -> None:
    save_encoder(network(3.0, depth=4), tmp_path / "deep", {})
    like = network(1.0)
    config = load_recipe(recipe(3))
    donor = Donors(recipe=config, stage="graft", like=like, before=None).load(str(tmp_path / "deep"))
    encoder, _, _, _ = start({"source": {"blocks.2": "deep"}}, {"deep": donor})
    assert values(encoder)["blocks.2"] == 3.0
    with pytest.raises(UserError, match=r"'shallow' has no blocks.2: it has 2 blocks"):
        start({"source": {"blocks.2": "shallow"}}, {"shallow": Donor(encoder=network(3.0, depth=2))})


def test_layers_that_no_head_reaches() -> None:
    nnclr = {"name": "nnclr", "blocks": [0], "queue": 4, "projector": [4], "predictor": [4]}
    content = {"stages": {"refine": {"objective": nnclr}}}
    encoder = network(1.0)
    stage = load_recipe(content).stages["refine"]
    with pytest.raises(UserError, match=r"No head of stage 'refine' depends on blocks.1, blocks.2"):
        stage_plan(stage, "refine", encoder, create_objective(stage.objective, encoder))
    content["stages"]["refine"]["plan"] = {"freeze": [*FREEZE, "blocks.1", "blocks.2"]}  # type: ignore[assignment]
    stage = load_recipe(content).stages["refine"]
    _, plan = stage_plan(stage, "refine", encoder, create_objective(stage.objective, encoder))
    assert [row.name for row in plan.rows if row.name.startswith("heads")] == ["heads.nnclr.0"]
