from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

from layergraft.config import load_recipe
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError
from layergraft.graft import build_plan
from layergraft.graft.apply import count_parameters, set_frozen, stage_rows
from layergraft.graft.optimizer_groups import parameter_groups
from layergraft.objectives import create_objective

ROWS = {"patch_embed": 10, "positions": 5, "tokens": 2} | {f"blocks.{i}": 100 for i in range(6)}
ROWS |= {"norm": 4, "heads.projector": 30}


def stage(plan: dict[str, object], **more: object) -> object:
    content = {"objective": {"name": "moco"}, "plan": plan, "batch_size": 512, "optimizer": {"base_lr": 1.0}}
    return load_recipe({"stages": {"graft": content | more}}).stages["graft"]


def scales(plan: dict[str, object]) -> list[float]:
    return [row.lr_scale for row in build_plan(stage(plan), "graft", ROWS, 6).rows]  # type: ignore[arg-type]


def test_thirds() -> None:
    assert scales({"lr_scale": [0.1, 0.2, 1]}) == [0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.2, 1, 1, 1, 1]


def test_explicit_blocks() -> None:
    assert scales({"lr_scale": {"blocks": [1, 2, 3, 4, 5, 6]}}) == [1, 1, 1, 1, 2, 3, 4, 5, 6, 6, 6]


def test_geometric() -> None:
    r = 0.5
    expected = [r**7, r**7, r**7, r**6, r**5, r**4, r**3, r**2, r, 1, 1]
    assert scales({"lr_scale": {"decay": r}}) == pytest.approx(expected, rel=1e-12)


def test_freeze_and_peak_lr() -> None:
    plan = build_plan(stage({"lr_scale": 0.5, "freeze": {"blocks": 2}}), "graft", ROWS, 6)  # type: ignore[arg-type]
    assert [row.frozen for row in plan.rows] == [True] * 5 + [False] * 6
    assert plan["blocks.2"].lr == 1.0 * 512 / 256 * 0.5
    assert plan["blocks.1"].lr == 0


# The whole table by hand, for a plan of each kind: (row, source, lr scale, decay, decay of 1-D, frozen, anchor).
F, T = False, True
L1, L2 = {"norm": "l1", "weight": 1e-5}, {"norm": "l2", "weight": 0.1}
TABLES: dict[str, tuple[dict[str, object], list[tuple[object, ...]]]] = {
    "lower third frozen, upper third from elsewhere": (
        {"freeze": {"blocks": 2}, "source": {"blocks.[45]": "other.pth", "norm": "other.pth"}},
        [
            ("patch_embed", "previous", 1.0, 0.1, 0.0, T, None),
            ("positions", "previous", 1.0, 0.1, 0.0, T, None),
            ("tokens", "previous", 1.0, 0.1, 0.0, T, None),
            ("blocks.0", "previous", 1.0, 0.1, 0.0, T, None),
            ("blocks.1", "previous", 1.0, 0.1, 0.0, T, None),
            ("blocks.2", "previous", 1.0, 0.1, 0.0, F, None),
            ("blocks.3", "previous", 1.0, 0.1, 0.0, F, None),
            ("blocks.4", "other.pth", 1.0, 0.1, 0.0, F, None),
            ("blocks.5", "other.pth", 1.0, 0.1, 0.0, F, None),
            ("norm", "other.pth", 1.0, 0.1, 0.0, F, None),
            ("heads.projector", "previous", 1.0, 0.1, 0.0, F, None),
        ],
    ),
    "slow below and anchored, upper blocks new, 1-D decayed": (
        {
            "lr_scale": [0.1, 0.2, 1],
            "freeze": ["patch_embed", "positions"],
            "source": {"blocks.4": "previous", "blocks.[345]": "fresh"},  # the first match wins
            "anchor": {"norm": "l1", "weight": 1e-5, "blocks": 3},
            "weight_decay_1d": None,
        },
        [
            ("patch_embed", "previous", 0.1, 0.1, 0.1, T, L1),
            ("positions", "previous", 0.1, 0.1, 0.1, T, L1),
            ("tokens", "previous", 0.1, 0.1, 0.1, F, L1),
            ("blocks.0", "previous", 0.1, 0.1, 0.1, F, L1),
            ("blocks.1", "previous", 0.1, 0.1, 0.1, F, L1),
            ("blocks.2", "previous", 0.2, 0.1, 0.1, F, L1),
            ("blocks.3", "fresh", 0.2, 0.1, 0.1, F, None),
            ("blocks.4", "previous", 1, 0.1, 0.1, F, None),
            ("blocks.5", "fresh", 1, 0.1, 0.1, F, None),
            ("norm", "previous", 1, 0.1, 0.1, F, None),
            ("heads.projector", "previous", 1, 0.1, 0.1, F, None),
        ],
    ),
    "heads apart": (
        {
            "lr_scale": {"decay": 0.5},
            "freeze": ["positions"],
            "source": {"patch_embed": "other.pth", "positions": "other.pth"},
            "anchor": {"norm": "l2", "weight": 0.1, "rows": ["norm", "heads.*"]},
            "heads": {"lr_scale": 3.0, "weight_decay": 1e-5, "source": "fresh"},
        },
        [
            ("patch_embed", "other.pth", 0.5**7, 0.1, 0.0, F, None),
            ("positions", "other.pth", 0.5**7, 0.1, 0.0, T, None),
            ("tokens", "previous", 0.5**7, 0.1, 0.0, F, None),
            ("blocks.0", "previous", 0.5**6, 0.1, 0.0, F, None),
            ("blocks.1", "previous", 0.5**5, 0.1, 0.0, F, None),
            ("blocks.2", "previous", 0.5**4, 0.1, 0.0, F, None),
            ("blocks.3", "previous", 0.5**3, 0.1, 0.0, F, None),
            ("blocks.4", "previous", 0.5**2, 0.1, 0.0, F, None),
            ("blocks.5", "previous", 0.5, 0.1, 0.0, F, None),
            ("norm", "previous", 1.0, 0.1, 0.0, F, L2),
            ("heads.projector", "fresh", 3.0, 1e-5, 0.0, F, L2),
        ],
    ),
    "heads alone": (
        {
            "lr_scale": {"blocks": [1, 2, 3, 4, 5, 6]},
            "freeze": ["patch_embed", "positions", "tokens", "blocks.*", "norm"],
            "anchor": {"norm": "l2", "weight": 0.1},
            "source": {"heads.projector": "other.pth"},
            "heads": {"source": "fresh"},  # what names the row goes before what names all heads
        },
        [
            ("patch_embed", "previous", 1, 0.1, 0.0, T, L2),
            ("positions", "previous", 1, 0.1, 0.0, T, L2),
            ("tokens", "previous", 1, 0.1, 0.0, T, L2),
            ("blocks.0", "previous", 1, 0.1, 0.0, T, L2),
            ("blocks.1", "previous", 2, 0.1, 0.0, T, L2),
            ("blocks.2", "previous", 3, 0.1, 0.0, T, L2),
            ("blocks.3", "previous", 4, 0.1, 0.0, T, L2),
            ("blocks.4", "previous", 5, 0.1, 0.0, T, L2),
            ("blocks.5", "previous", 6, 0.1, 0.0, T, L2),
            ("norm", "previous", 6, 0.1, 0.0, T, L2),
            ("heads.projector", "other.pth", 6, 0.1, 0.0, F, None),
        ],
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_whole_table(kind: str) -> None:
    """base_lr 1 at a batch of 512: the peak is twice the scale, 0 where frozen."""
    plan, expected = TABLES[kind]
    settings = {"base_lr": 1.0, "weight_decay": 0.1}
    table = build_plan(stage(plan, optimizer=settings), "graft", ROWS, 6)  # type: ignore[arg-type]
    found = [(r.name, r.source, r.lr_scale, r.weight_decay, r.weight_decay_1d, r.frozen, r.anchor) for r in table.rows]
    assert found == expected
    assert [row.lr for row in table.rows] == [0.0 if row[5] else 2 * row[2] for row in expected]  # type: ignore[operator]
    assert [row.parameters for row in table.rows] == list(ROWS.values())


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"lr_scale": [1, 1, 1, 1]}, "do not divide the encoder's 6 blocks"),
        ({"lr_scale": {"blocks": [1, 2]}}, "2 numbers, but the encoder has 6 blocks"),
        ({"freeze": ["patch_embd"]}, "'patch_embed'"),
        ({"freeze": ["*"]}, "freezes every layer"),
        ({"source": {"positions": "fresh"}}, "different encoders"),
        ({"anchor": {"rows": ["block.0"]}}, "'blocks.0'"),
        ({"anchor": {"blocks": 7}}, "`stages.graft.plan.anchor.blocks` is 7"),
        ({"source": {"head.*": "fresh"}}, "no layer is called so"),
    ],
)
def test_plans_that_do_not_fit(plan: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_plan(stage(plan), "graft", ROWS, 6)  # type: ignore[arg-type]


def test_positions_from_elsewhere_by_force() -> None:
    plan = {"source": {"positions": "fresh"}, "force_positions": True}
    assert build_plan(stage(plan), "graft", ROWS, 6)["positions"].source == "fresh"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "plan", [{"anchor": {"blocks": 1, "rows": ["norm"]}}, {"lr_scale": {"decay": 0.5, "blocks": [1] * 6}}]
)
def test_forms_exclude_each_other(plan: dict[str, object]) -> None:
    with pytest.raises(UserError, match="give either"):
        stage(plan)


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "vit_large_patch16_224"])
@pytest.mark.parametrize(
    ("form", "plan"),
    [("thirds", {"lr_scale": [1.5e-5, 1.5e-5, 1.5e-4]}), ("geometric_0.65", {"lr_scale": {"decay": 0.65}})],
)
def test_layerwise_lr_golden(fixtures: Path, name: str, form: str, plan: dict[str, object]) -> None:
    """The published code's lr scale and weight decay for every parameter."""
    expected = json.loads((fixtures / "layerwise_lr" / "expected.json").read_text())[f"{name}/{form}"]
    with torch.device("meta"):
        vit = timm.create_model(name, num_classes=0)
    from layergraft.encoders.vit import Encoder

    encoder = Encoder(vit, name, {}, (0.5,) * 3, (0.5,) * 3)
    names = {parameter: f"base_encoder.{key}" for key, parameter in vit.named_parameters()}
    heads = {key: torch.nn.Parameter(torch.empty(*shape, device="meta")) for key, shape in HEADS.items()}
    names |= {parameter: key for key, parameter in heads.items()}
    rows = encoder.layers() | {"heads.projector": list(heads.values())}
    settings = {"base_lr": 1.0, "weight_decay": 0.1}
    config = stage(plan | {"freeze": ["patch_embed", "positions"]}, batch_size=256, optimizer=settings)
    table = build_plan(config, "graft", count_parameters(rows), encoder.depth)  # type: ignore[arg-type]
    found = {
        names[parameter]: (group["peak_lr"], group["weight_decay"])
        for group in parameter_groups(rows, table)
        for parameter in group["params"]
    }
    assert found.keys() == expected.keys()
    for key, (scale, decay) in expected.items():
        assert found[key] == (pytest.approx(scale, rel=1e-9), decay), key


# What the recorded table has above the blocks: a head's matrix and bias, and anything outside the encoder.
HEADS = {
    "base_encoder.head.weight": (3, 3),
    "base_encoder.head.bias": (3,),
    "predictor.0.weight": (3, 3),
    "predictor.1.weight": (3,),
    "predictor.1.bias": (3,),
}


def test_one_step_follows_the_plan() -> None:
    """AdamW's first step moves each number by its row's lr; frozen rows stay bit-identical."""
    recipe = load_recipe(
        "fashion_paper",
        {
            "stages.graft.plan.lr_scale": [0.25, 0.5, 1],
            "stages.graft.plan.freeze": ["patch_embed", "positions", "blocks.1"],
        },
    )
    config = recipe.stages["graft"]
    encoder = create_encoder(recipe.encoder, 0)
    objective = create_objective(config.objective, encoder)
    rows = stage_rows(encoder, objective)
    plan = build_plan(config, "graft", count_parameters(rows), encoder.depth)
    objective.begin_stage(encoder)
    set_frozen(rows, plan)
    groups = parameter_groups(rows, plan)
    for group in groups:
        group["weight_decay"] = 0.0
    optimizer = torch.optim.AdamW(groups, eps=1e-30)
    before = {name: [p.detach().clone() for p in parameters] for name, parameters in rows.items()}
    x = torch.randn(8, 1, 36, 36, generator=torch.Generator().manual_seed(0))
    features = encoder(x)
    objective.heads["predictor"](objective.heads["projector"](features)).square().mul(
        torch.rand(8, 128)
    ).sum().backward()
    optimizer.step()
    assert 0 < sum(row.frozen for row in plan.rows) < len(plan.rows)
    for row in plan.rows:
        moved = [(p.detach() - old).abs().max().item() for p, old in zip(rows[row.name], before[row.name], strict=True)]
        if row.frozen:
            assert moved == [0.0] * len(moved), row.name
        else:
            assert max(moved) == pytest.approx(row.lr, rel=1e-3), row.name
