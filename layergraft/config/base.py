"""What all configuration has in common: frozen, keyword-only, no unknown field."""

from __future__ import annotations

import msgspec


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen record whose values are checked when it is read (each subclass adds `kw_only=True`).

    A msgspec Struct rather than a dataclass: it checks types strictly, names the path of a wrong value and tells the
    members of a union apart by a tag (`objective: {name: moco}`).
    """
