"""The file of arms: three kinds of arms, and what is wrong with it is said with arm and key."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from layergraft.commands.ablate.arms import arm_recipes, connect, own_stage
from layergraft.commands.ablate.vary import Vary, parse_vary, read_vary
from layergraft.commands.study.study_recipe import study_recipe
from layergraft.config import Recipe, load_recipe
from layergraft.errors import UserError

SCALE = "stages.graft.plan.lr_scale"
RATIO = "stages.mae.objective.mask_ratio"


def load(other: str | None, changes: Any) -> Recipe:
    return study_recipe(load_recipe(other or "fashion_paper", changes))


def recipes(vary: Vary) -> dict[str, Recipe]:
    return arm_recipes(vary, load)


def test_named_arms_a_list_and_a_grid(tmp_path: Path) -> None:
    file = tmp_path / "plans.yaml"
    file.write_text(
        f"arms: {{even: {{}}, slow lower: {{{SCALE}: [0.3, 0.3, 1]}}}}\n"
        f"list: [{{{SCALE}: {{decay: 0.65}}}}]\n"
        f"grid: {{{SCALE}: [0.1, 0.5], {RATIO}: [0.6, 0.9]}}\n"
        "search: 1\nequal: [compute, epochs]\n"
    )
    vary = read_vary(file)
    assert [arm.title for arm in vary.arms] == [
        *("even", "slow lower", "lr_scale decay 0.65"),
        *("lr_scale 0.1, mask_ratio 0.6", "lr_scale 0.1, mask_ratio 0.9"),
        *("lr_scale 0.5, mask_ratio 0.6", "lr_scale 0.5, mask_ratio 0.9"),
    ]
    assert (vary.reference, vary.factors, vary.budgets) == ("even", (1.0,), ("epochs", "compute"))
    found = recipes(vary)
    assert found["slow-lower"].stages["graft"].plan.lr_scale == (0.3, 0.3, 1)
    assert [found[arm.name].stages["mae"].objective.mask_ratio for arm in vary.arms[3:]] == [0.6, 0.9, 0.6, 0.9]  # type: ignore[union-attr]


def test_shared_stages_stand_once_and_what_ends_there_is_gone_on_from() -> None:
    """Grid of two masks and two plans: two first stages; with `mae alone`, the plans start from that arm."""
    vary = parse_vary({"grid": {SCALE: [1.0, 0.5], RATIO: [0.6, 0.9]}}, "f")
    arms = connect(vary, recipes(vary))
    shared = [arm for arm in arms.values() if arm.shared]
    assert len(shared) == 2
    assert sorted(arms[name].first for name in recipes(vary)) == sorted(2 * [arm.name for arm in shared])  # type: ignore[type-var]
    vary = parse_vary({"arms": {"slow": {SCALE: 0.5}, "even": {}, "mae alone": {"stages.graft": None}}}, "f")
    arms = connect(vary, recipes(vary))
    assert [arm.name for arm in arms.values()] == ["mae-alone", "slow", "even", "random", "pixels"]
    assert (arms["slow"].first, arms["mae-alone"].first, arms["mae-alone"].shared) == ("mae-alone", None, False)
    vary = parse_vary({"arms": {"even": {}, "mae": {"stages.graft": None}}, "equal": "compute"}, "f")
    assert connect(vary, recipes(vary))["even"].first not in (None, "mae")  # whose length is another one


def test_an_arm_trains_its_last_stage_with_factor_and_length() -> None:
    vary = parse_vary({"arms": {"even": {}, "vicreg": {"recipe": "fashion_vicreg"}}}, "f")
    found = recipes(vary)
    arm = connect(vary, found)["even"]
    own = own_stage(arm, 3, 2.0, 0.5)  # type: ignore[arg-type]
    whole = found["even"].stages["graft"]
    assert list(own.stages) == ["graft"]
    assert own.seed == 3
    assert own.stages["graft"].epochs == whole.epochs / 2  # type: ignore[operator]
    assert own.stages["graft"].warmup_epochs == whole.warmup_epochs / 2
    assert own.stages["graft"].optimizer.base_lr == 2 * whole.optimizer.base_lr
    assert found["vicreg"].stages["graft"].objective != whole.objective


WRONG: list[tuple[Any, str]] = [
    ([], "no arms"),
    ({"arms": {"even": {}}}, "one arm"),
    ({"arm": {"even": {}}}, "unknown key `arm`"),
    ({"arms": {"a": {}, "b": {}}, "search": []}, "`search`"),
    *[({"arms": {"a": {}, "b": {}}, "search": bad}, "`search`") for bad in (0, math.nan, [1, math.inf], [1, 1])],
    ({"arms": {"a": {}, "b": {}}, "trial": 2}, "`trial`"),
    ({"arms": {"a": {}, "b": {}}, "equal": []}, "`equal` in 'plans.yaml' is empty"),
    ({"arms": {"a": {}, "b": {}}, "equal": "time"}, "Invalid enum value 'time'"),
    ({"arms": {"a": {}, "b": {}}, "reference": "c"}, "'c', which is no arm"),
    ({"arms": {"a b": {}, "a-b": {SCALE: 2}}}, "share a directory"),
    ({"arms": {"a": {}, "pixels": {SCALE: 2}}}, "No arm can be called 'pixels'"),
    ({"arms": {"a": {}, "b": {"seed": 1}}}, "Arm 'b' cannot change `seed`"),
    ({"arms": {"a": {}, "b": {"data.source": "x"}}}, "Arm 'b' cannot change `data.source`"),
    ({"arms": {"a": {}, "b": {"stages": {}}}}, "Arm 'b' cannot change `stages`"),
    ({"arms": {"a": {}, "b": {"stages.graft": {}}}}, "whole stage"),
    ({"arms": {"a": {}, "b": {}}}, "'a' and 'b' are the same recipe"),
    ({"arms": {"a": {}, "b": {"stages.graft.plan.lr_scales": 2}}}, "Arm 'b': .*lr_scales"),
    ({"arms": {"a": {}, "b": {"stages.grafts.epochs": 2}}}, "Arm 'b': .*grafts"),
    ({"arms": {"a": {}, "b": {"stages.graft.epochs": "two"}}}, "Arm 'b': `stages.graft.epochs`"),
    ({"arms": {"a": {}, "b": {"stages.grafts": None}}}, "Arm 'b': there is no stage 'grafts'"),
    ({"arms": {"a": {}, "b": {"recipe": "fashion_tinny"}}}, "Arm 'b': There is no recipe"),
]


@pytest.mark.parametrize(("content", "message"), WRONG)
def test_what_is_wrong_is_said_with_arm_and_key(content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipes(parse_vary(content, "plans.yaml"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_vary(tmp_path / "none.yaml")
    (tmp_path / "plans.yaml").write_text("arms: {a: {}, a: {}}")
    with pytest.raises(UserError, match="a second time"):
        read_vary(tmp_path / "plans.yaml")
    (tmp_path / "plans.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="UTF-8"):
        read_vary(tmp_path / "plans.yaml")
