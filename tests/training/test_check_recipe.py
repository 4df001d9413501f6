"""What a run checks before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import TINY

from layergraft.config import load_recipe
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError
from layergraft.training.check_recipe import check_recipe
from layergraft.training.run_data import load_data


@pytest.mark.parametrize("out", ["run", "{here}/run", "../{name}/run"])
@pytest.mark.parametrize("source", ["run/stages/0-mae?encoder=online", "{here}/run/stages/0-mae", "./run/stages/0-mae"])
def test_a_source_may_be_a_stage_that_this_run_will_make(
    out: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the two paths are written."""
    monkeypatch.chdir(tmp_path)
    place, stage = (text.format(here=tmp_path, name=tmp_path.name) for text in (out, source))
    recipe = load_recipe("fashion_tiny", TINY | {"stages.graft.plan.source": {"blocks.0": stage}})
    data, encoder = load_data(recipe), create_encoder(recipe.encoder, 0)
    check_recipe(recipe, encoder, data, Path(place))
    with pytest.raises(UserError, match="There is no encoder"):
        check_recipe(recipe, encoder, data, Path("another"))
