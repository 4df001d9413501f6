"""What all configuration has in common: frozen, keyword-only, no unknown field."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

PositiveInt = Annotated[int, Meta(ge=1)]
NonNegativeInt = Annotated[int, Meta(ge=0)]
NonNegativeFloat = Annotated[float, Meta(ge=0)]
PositiveFloat = Annotated[float, Meta(gt=0)]
NonNegativeNumber = NonNegativeInt | NonNegativeFloat
PositiveNumber = PositiveInt | PositiveFloat
Fraction = Annotated[float, Meta(ge=0, le=1)]
PositiveFraction = Annotated[float, Meta(gt=0, le=1)]
FractionBelowOne = Annotated[float, Meta(ge=0, lt=1)]
Widths = Annotated[tuple[PositiveInt, ...], Meta(min_length=1)]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen record whose values are checked when it is read (each subclass adds `kw_only=True`).

    A msgspec Struct rather than a dataclass: it checks types strictly, names the path of a wrong value and tells the
    members of a union apart by a tag (`objective: {name: moco}`).
    """
