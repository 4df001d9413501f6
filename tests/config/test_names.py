"""Names of objectives that are no names: refused, whatever stands there."""

from __future__ import annotations

import pytest

from layergraft.config import load_recipe
from layergraft.errors import UserError


@pytest.mark.parametrize("name", [[1], {"x": 1}, 3, True, None, [[]]])
def test_what_is_no_name(name: object) -> None:
    with pytest.raises(UserError, match="name"):
        load_recipe({"stages": {"mae": {"objective": {"name": name}}}})


def test_half_a_character() -> None:
    with pytest.raises(UserError, match="half a character"):
        load_recipe("fashion_paper", {"data.augment": "\ud800"})
