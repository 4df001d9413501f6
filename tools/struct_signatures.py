"""An extension of the documentation's parser: configuration records show the types and defaults of their fields.

They are msgspec Structs, which have no `__init__` that a parser of source code could read.
"""

from __future__ import annotations

from typing import Any

import griffe


class StructSignatures(griffe.Extension):
    """Gives every subclass of `Config` an `__init__` made of its annotated attributes."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        if "Config" not in {str(base) for base in cls.bases}:
            return
        fields = [
            griffe.Parameter(
                name, annotation=member.annotation, kind=griffe.ParameterKind.keyword_only, default=member.value
            )
            for name, member in cls.members.items()
            if isinstance(member, griffe.Attribute)
            and member.annotation is not None
            and "ClassVar" not in str(member.annotation)
        ]
        self_parameter = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
        cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(self_parameter, *fields)))
