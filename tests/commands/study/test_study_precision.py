"""`engine.precision: auto` in a study: what its first start found holds for all."""

from __future__ import annotations

from pathlib import Path

import pytest

from layergraft.commands.study import precision
from layergraft.commands.study.directory import claim, refuse_another
from layergraft.commands.study.precision import settled_mark, with_precision
from layergraft.config import load_recipe
from layergraft.errors import UserError

AUTO = load_recipe("fashion_paper", {"engine.precision": "auto"})


def test_a_later_start_takes_what_the_first_one_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(precision, "fastest_precision", lambda device: ("bf16-mixed", 1.0))
    mark = {"study": "ablate"} | settled_mark([load_recipe("fashion_paper"), AUTO], tmp_path)
    claim(tmp_path, mark, {}, print)
    monkeypatch.setattr(precision, "fastest_precision", lambda device: ("32-true", 1.0))
    assert settled_mark([AUTO], tmp_path) == {"precision": "bf16-mixed"}
    assert with_precision(AUTO, mark).engine.precision == "bf16-mixed"
    assert settled_mark([AUTO], tmp_path / "new") == {"precision": "32-true"}


def test_a_precision_that_is_named_stays(tmp_path: Path) -> None:
    named = load_recipe("fashion_paper", {"engine.precision": "64-true"})
    assert settled_mark([named], tmp_path) == {}
    assert with_precision(named, {"precision": "bf16-mixed"}) is named
    claim(tmp_path, {"study": "ablate"}, {}, print)
    with pytest.raises(UserError, match="another study"):
        refuse_another(tmp_path, {"study": "ablate", "precision": "32-true"})
