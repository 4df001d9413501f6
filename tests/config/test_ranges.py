"""Numbers that cannot be meant end with a sentence, before anything is built; so does what contradicts itself."""

from __future__ import annotations

import pytest

from layergraft.commands.cli import main
from layergraft.config import load_recipe
from layergraft.errors import UserError

GRAFT, MAE = "stages.graft.objective", "stages.mae.objective"
OUT_OF_RANGE: dict[str, list[dict[str, object]]] = {
    "fashion_paper": [
        {f"{MAE}.mask_ratio": 0},
        {f"{MAE}.mask_ratio": 1.5},
        {f"{MAE}.decoder.depth": 0},
        {f"{MAE}.decoder.num_heads": 3},
        {f"{MAE}.decoder.embed_dim": 62, f"{MAE}.decoder.num_heads": 2},
        {f"{GRAFT}.projector": "[]"},
        {f"{GRAFT}.projector": "[512, 0, 128]"},
        {f"{GRAFT}.predictor": "[512, 64]"},
        {f"{GRAFT}.temperature": 0},
        {f"{GRAFT}.keep_ratio": -1},
        {f"{GRAFT}.momentum": 2},
        {f"{GRAFT}.gate.experts": 0},
        {f"{GRAFT}.gate.temperature": "[0, 1]"},
        {f"{GRAFT}.gate.cooling": 0},
        {"stages.graft.plan.lr_scale": -1},
        {"stages.graft.plan.lr_scale": "[1, -1]"},
        {"stages.graft.plan.lr_scale": "{decay: 0}"},
        {"stages.graft.plan.freeze": "{blocks: -1}"},
        {"stages.graft.plan.weight_decay": "{norm: -1}"},
        {"stages.graft.plan.anchor.weight": -1},
        {"stages.graft.plan.heads.lr_scale": -1},
        {"stages.graft.optimizer.base_lr": -1},
        {"stages.graft.optimizer.min_lr": 1e-6, "stages.graft.optimizer.base_lr": 0},
        {"stages.graft.optimizer.betas": "[0.9, 1]"},
        {"stages.graft.optimizer.weight_decay": -1},
        {"stages.graft.ema": 2},
        {"stages.graft.views.first.size": 0},
        {"stages.graft.views.first.flip": 2},
        {"stages.graft.views.first.crop_scale": "[0.5, 0.2]"},
        {"encoder.embed_dim": 34, "encoder.num_heads": 2},
        {"encoder.embed_dim": 0},
        {"encoder.depth": 0},
        {"encoder.num_heads": 0},
        {"encoder.num_heads": 3},
        {"encoder.patch_size": 0},
        {"data.mean": "[0.5, 0.5, 0.5]"},
        {"data.std": 0},
        {"monitor.images": 0},
        {"evaluate.finetune.objective.smoothing": 2},
        {"evaluate.segment.objective.zoom": 0.5},
    ],
    "fashion_refiner": [
        {"stages.refine.objective.queue": 0},
        {"stages.refine.objective.topk": 0},
        {"stages.refine.objective.local_views": -1},
        {"stages.refine.objective.predictor": "[64]"},
        {"stages.refine.objective.blocks": "[-1]"},
    ],
    "fashion_vicreg": [{"stages.graft.objective.expander": "[]"}, {"stages.graft.objective.variance": -1}],
    "fashion_simclr": [{"stages.graft.objective.temperature": 0}],
    "fashion_joint": [{"stages.joint.objective.weights": "{mae: -1}"}],
}
CASES = [(recipe, changes) for recipe, several in OUT_OF_RANGE.items() for changes in several]


@pytest.mark.parametrize(("recipe", "changes"), CASES, ids=[" ".join(changes) for _, changes in CASES])
def test_what_is_out_of_range_is_named(
    recipe: str, changes: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for key, value in changes.items() for word in (f"--{key}", str(value))]
    assert main(["plan", "--recipe", recipe, *words]) == 2
    said = capsys.readouterr().err
    assert next(iter(changes)).rpartition(".")[2] in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("key", "value", "path"),
    [
        ("stages.graft.plan.heads.lr_scale", -1, "stages.graft.plan.heads.lr_scale"),
        ("stages.mae.views.image.size", 0, "stages.mae.views.image.size"),
        (
            "stages.graft.plan.weight_decay",
            {"norm": 0, "blocks.[45]": -1},
            "stages.graft.plan.weight_decay.blocks.[45]",
        ),
        ("stages.graft.plan.source", {1: "fresh"}, "stages.graft.plan.source"),
        ("data.std", [0], "data.std[0]"),
        ("data.mean", [127], "data.mean[0]"),
    ],
)
def test_a_path_has_all_its_names(key: str, value: object, path: str) -> None:
    """Of stages, views and patterns, too."""
    with pytest.raises(UserError) as found:
        load_recipe("fashion_paper", {key: value})
    assert found.value.problem.startswith(f"`{path}` in the recipe is wrong: expected ")
