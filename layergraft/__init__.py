"""layergraft: from a folder of unlabelled images to a Vision Transformer that needs few labels, and how few.

The public functions are the commands: same names, same arguments. They are loaded when first used, so importing the
package is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from layergraft.commands.api import (
        ablate,
        analyze,
        audit,
        bench,
        demo,
        embed,
        evaluate,
        export,
        inspect,
        label,
        look,
        pack,
        pick,
        plan,
        predict,
        report,
        reproduce,
        status,
        train,
    )
    from layergraft.encoders.checkpoint import load_encoder

__all__ = [
    "ablate",
    "analyze",
    "audit",
    "bench",
    "demo",
    "embed",
    "evaluate",
    "export",
    "inspect",
    "label",
    "load_encoder",
    "look",
    "pack",
    "pick",
    "plan",
    "predict",
    "report",
    "reproduce",
    "status",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "load_encoder":
        from layergraft.encoders.checkpoint import load_encoder

        return load_encoder
    if name in __all__:
        import layergraft.commands.api

        return getattr(layergraft.commands.api, name)
    raise AttributeError(f"module 'layergraft' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name what is loaded when first used, for editors and `dir`."""
    return sorted({*globals(), *__all__})
